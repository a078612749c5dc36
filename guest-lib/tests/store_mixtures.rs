// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of two copies of a store which went on separately never make a state
//! which neither had.

mod store_common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk};
use hvckpt::store::{
    DamageKind, Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, verify,
};
use zeroize::Zeroizing;

const PAGES: u64 = 8;

type History = BTreeMap<u64, Vec<Page>>;

fn options(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.keep = 3;
    options.key = key.cloned();
    options
}

fn reading(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = options(key);
    options.read_only = true;
    options
}

fn contents(store: &Store, version: u64) -> Result<Vec<Page>, StoreError> {
    let view = store.view(Some(version))?;
    (0..PAGES).map(|page| view.page(0, page)).collect()
}

/// One run of a program: a few commits, and what the versions hold.
fn run(
    disk: &CrashDisk,
    key: Option<&StoreKey>,
    history: &mut History,
    (seed, commits, compact): (u64, u64, bool),
) {
    let store = Store::open_on(Arc::new(disk.clone()), options(key)).unwrap();
    let area = store.area("main", 0x10_0000, PAGES).unwrap();
    for n in 0..commits {
        let page = (seed + n * 3) % PAGES;
        let new = Page([seed * 1000 + n + 1; 512]);
        let write = PageWrite::new(area, page, &new);
        store.commit(&[write], Durability::Sync).unwrap();
        if compact && n == commits / 2 {
            store.compact(|_| {}).unwrap();
        }
        let newest = store.newest();
        history.insert(newest, contents(&store, newest).unwrap());
    }
}

fn files(disk: &CrashDisk) -> Vec<String> {
    let names = disk.list().unwrap();
    names.into_iter().filter(|name| name != "lock").collect()
}

/// What is in a store, up to a version, is a part of one of these histories.
fn of_one(store: &Store, histories: &[&History], most: u64, what: &str) {
    let kept = store.versions();
    let kept: Vec<u64> = kept.iter().map(|kept| kept.number).collect();
    let matching = |history: &&History| {
        let known = kept.iter().filter(|version| **version < most);
        known
            .copied()
            .all(|version| match contents(store, version) {
                // The area alone was a version, too.
                Ok(found) => history.get(&version).is_none_or(|pages| *pages == found),
                Err(StoreError::Damaged(_)) => true,
                Err(error) => panic!("{what}: {error:?}"),
            })
    };
    assert!(histories.iter().any(matching), "{what}: {kept:?}");
}

/// Each version of a store is of one of these histories: who accepts a loss is
/// also given what no hash ties together, because what was between is gone.
fn each_of_one(store: &Store, histories: &[&History], what: &str) {
    for version in store.versions() {
        let number = version.number;
        let found = match contents(store, number) {
            Ok(found) => found,
            Err(StoreError::Damaged(_)) => continue,
            Err(error) => panic!("{what}: {error:?}"),
        };
        let mut known = histories
            .iter()
            .filter_map(|all| all.get(&number))
            .peekable();
        // The area alone was a version, too.
        let right = known.peek().is_none() || known.any(|pages| *pages == found);
        assert!(right, "{what}: {number}");
    }
}

/// Every choice of each file from one of the two.
fn mix(one: &CrashDisk, other: &CrashDisk, key: Option<&StoreKey>, histories: &[&History]) {
    let names: BTreeSet<String> = files(one).into_iter().chain(files(other)).collect();
    let names: Vec<String> = names.into_iter().collect();
    let differ: Vec<&String> = names
        .iter()
        .filter(|name| one.contents(name) != other.contents(name))
        .collect();
    assert!(!differ.is_empty() && differ.len() < 12, "{differ:?}");
    let (mut whole, mut refused) = (0, 0);
    for choice in 0..1_u32 << differ.len() {
        let mixed = one.copy();
        for (n, name) in differ.iter().enumerate() {
            if choice & 1 << n == 0 {
                continue;
            }
            match other.contents(name) {
                Some(bytes) => mixed.put(name, &bytes),
                None => mixed.remove(name).unwrap(),
            }
        }
        let what = format!("choice {choice:b} of {differ:?}");
        let backend: Arc<dyn Backend> = Arc::new(mixed.clone());
        let sound = match verify(&backend, key, |_| {}) {
            Ok(found) => found.sound(),
            Err(StoreError::Damaged(_) | StoreError::NotAStore(_)) => false,
            Err(error) => panic!("{what}: {error:?}"),
        };
        match Store::open_on(backend.clone(), reading(key)) {
            Ok(store) => {
                whole += 1;
                of_one(&store, histories, u64::MAX, &what);
            }
            Err(error @ (StoreError::Damaged(_) | StoreError::NotAStore(_))) => {
                assert!(!sound, "{what}: {error}");
                assert!(
                    error.to_string().contains("image-") || choice == 0,
                    "{error}"
                );
                refused += 1;
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
        let mut lenient = options(key);
        lenient.accept_loss = true;
        lenient.create = false;
        let Ok(store) = Store::open_on(backend.clone(), lenient) else {
            continue;
        };
        each_of_one(&store, histories, &what);
        let page = Page([7; 512]);
        let write = PageWrite::new(0, 0, &page);
        if store.versions().is_empty() {
            continue;
        }
        let version = store.commit(&[write], Durability::Sync).unwrap();
        drop(store);
        // Nothing is asked twice.
        let store =
            Store::open_on(backend, reading(key)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.newest(), version, "{what}");
        assert_eq!(store.view(None).unwrap().page(0, 0).unwrap(), page);
        of_one(&store, histories, version, &what);
    }
    let images = differ.iter().filter(|name| name.starts_with("image-"));
    assert!(whole >= 2 && (refused > 0 || images.count() < 2), "{whole}");
}

fn two_copies(disk: &CrashDisk, key: Option<&StoreKey>, shared: &History) {
    // What each of the two did after they parted: runs, and which compact.
    let plans: [[&[(u64, bool)]; 2]; 5] = [
        [&[(2, false)], &[(2, false)]],
        [&[(2, false), (2, false)], &[(3, false), (1, false)]],
        [&[(3, true), (2, false)], &[(3, true), (2, false)]],
        [&[(4, true)], &[(1, false), (2, false), (1, false)]],
        [
            &[(1, false), (4, true), (1, false)],
            &[(2, true), (2, false)],
        ],
    ];
    for plans in plans {
        let mut ended = Vec::new();
        for (number, plan) in (1..).zip(plans) {
            let copy = disk.copy();
            let mut history = shared.clone();
            for (turn, (commits, compact)) in (1..).zip(plan) {
                let seed = number * 10 + turn;
                run(&copy, key, &mut history, (seed, *commits, *compact));
            }
            ended.push((copy, history));
        }
        let histories = [&ended[0].1, &ended[1].1];
        mix(&ended[0].0, &ended[1].0, key, &histories);
        // One which did not go on.
        mix(&ended[0].0, disk, key, &[&ended[0].1, shared]);
    }
}

fn shared(key: Option<&StoreKey>, compact: bool) -> (CrashDisk, History) {
    let disk = CrashDisk::new();
    let mut history = History::new();
    run(&disk, key, &mut history, (3, 2, compact));
    run(&disk, key, &mut history, (5, 2, false));
    (disk, history)
}

#[test]
fn files_of_two_copies_never_make_a_third_history() {
    for compact in [false, true] {
        let (disk, history) = shared(None, compact);
        two_copies(&disk, None, &history);
    }
}

#[test]
fn nor_do_those_of_encrypted_copies() {
    let key = StoreKey::new(Zeroizing::new([0x42; 32]));
    let (disk, history) = shared(Some(&key), true);
    two_copies(&disk, Some(&key), &history);
}

/// A store which an earlier version wrote, and which two copies go on with.
#[test]
fn nor_do_copies_of_a_store_of_an_older_format() {
    for kept in ["store-1", "store-2"] {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(kept);
        let disk = CrashDisk::new();
        for entry in fs::read_dir(data).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            disk.put(&name, &fs::read(entry.path()).unwrap());
        }
        let mut ended = Vec::new();
        for seed in [1, 2] {
            let copy = disk.copy();
            let mut history = History::new();
            let store = Store::open_on(Arc::new(copy.clone()), options(None)).unwrap();
            for version in store.versions() {
                let pages = contents(&store, version.number).unwrap();
                history.insert(version.number, pages);
            }
            let before = history.clone();
            for n in 0..2_u64 {
                let page = Page([seed * 10 + n; 512]);
                let write = PageWrite::new(0, n, &page);
                let version = store.commit(&[write], Durability::Sync).unwrap();
                history.insert(version, contents(&store, version).unwrap());
            }
            drop(store);
            let store = Store::open_on(Arc::new(copy.clone()), options(None)).unwrap();
            let page = Page([seed * 10 + 7; 512]);
            let write = PageWrite::new(0, 5, &page);
            let version = store.commit(&[write], Durability::Sync).unwrap();
            history.insert(version, contents(&store, version).unwrap());
            drop(store);
            ended.push((copy, history, before));
        }
        mix(&ended[0].0, &ended[1].0, None, &[&ended[0].1, &ended[1].1]);
        mix(&ended[0].0, &disk, None, &[&ended[0].1, &ended[0].2]);
    }
}

/// Two copies which append to the same image, and a file with blocks of both.
#[test]
fn an_image_with_frames_of_two_copies_ends_where_they_part() {
    let (disk, mut history) = shared(None, false);
    let other = disk.copy();
    let mut others = history.clone();
    run(&disk, None, &mut history, (11, 4, false));
    run(&other, None, &mut others, (12, 4, false));
    let store = Store::open_on(Arc::new(disk.clone()), reading(None)).unwrap();
    let last = store.versions().pop().unwrap();
    let name = format!("image-{:06x}.hvck", last.image);
    let (bytes, theirs) = (
        disk.contents(&name).unwrap(),
        other.contents(&name).unwrap(),
    );
    assert_eq!(bytes.len(), theirs.len(), "the same shape");
    let mut tried = 0;
    for version in store.versions() {
        let at = usize::try_from(version.offset).unwrap();
        if version.image != last.image || at == 192 {
            continue;
        }
        tried += 1;
        let mixed = disk.copy();
        mixed.put(&name, &[&bytes[..at], &theirs[at..]].concat());
        let backend: Arc<dyn Backend> = Arc::new(mixed);
        assert!(!verify(&backend, None, |_| {}).unwrap().sound(), "at {at}");
        assert!(Store::open_on(backend.clone(), reading(None)).is_err());
        let mut lenient = reading(None);
        lenient.accept_loss = true;
        let store = Store::open_on(backend, lenient).unwrap();
        assert_eq!(store.newest(), version.previous, "at {at}");
        of_one(&store, &[&history], u64::MAX, &format!("at {at}"));
    }
    assert!(tried >= 3, "{tried}");
}

#[test]
fn an_image_of_another_store_does_not_take_the_directory_over() {
    let (disk, history) = shared(None, false);
    let (foreign, _) = shared(None, false);
    let image = foreign.contents("image-000003.hvck").unwrap();
    let newest = *history.last_key_value().unwrap().0;
    for number in [3_u64, 4, 9] {
        let mut bytes = image.clone();
        bytes[32..40].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..188]);
        bytes[188..192].copy_from_slice(&crc.to_le_bytes());
        let name = format!("image-{number:06x}.hvck");
        for told in [true, false] {
            let mixed = disk.copy();
            mixed.put(&name, &bytes);
            if !told {
                mixed.remove("acknowledged").unwrap();
            }
            let backend: Arc<dyn Backend> = Arc::new(mixed);
            let examined = verify(&backend, None, |_| {}).unwrap();
            let problems = &examined.problems;
            assert!(
                !examined.sound() && problems.iter().any(|problem| problem.file == name),
                "{problems:?}"
            );
            match Store::open_on(backend.clone(), options(None)) {
                // It takes the place of one which is needed.
                Err(StoreError::Damaged(_)) if number == 3 => {}
                Err(StoreError::Damaged(damage)) => {
                    assert!(!told && damage.what == DamageKind::Ambiguous, "{damage}");
                }
                Ok(store) => {
                    assert!(told && number > 3);
                    assert_eq!(store.newest(), newest);
                    assert!(contents(&store, newest).unwrap() == history[&newest]);
                    let page = Page([9; 512]);
                    let write = PageWrite::new(0, 1, &page);
                    let version = store.commit(&[write], Durability::Sync).unwrap();
                    drop(store);
                    let store = Store::open_on(backend, options(None)).unwrap();
                    assert_eq!(store.newest(), version);
                    assert_eq!(store.view(None).unwrap().page(0, 1).unwrap(), page);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// The images of one copy, and the newest of another which has gone on: no hash
/// says that they are not of one history, since the one between is gone.  `whole`: each image has all pages.
fn below_a_lost_image(whole: bool) {
    let (disk, mut history) = shared(None, false);
    let other = disk.copy();
    let mut theirs = history.clone();
    let run = |disk: &CrashDisk, history: &mut History, seed: u64| {
        let store = Store::open_on(Arc::new(disk.clone()), options(None)).unwrap();
        for n in 0..2 {
            let page = Page([seed * 100 + n; 512]);
            let pages = if whole { 0..PAGES } else { n..n + 1 };
            let writes: Vec<_> = pages.map(|at| PageWrite::new(0, at, &page)).collect();
            let version = store.commit(&writes, Durability::Sync).unwrap();
            history.insert(version, contents(&store, version).unwrap());
        }
    };
    run(&disk, &mut history, 1);
    let kept: Vec<String> = files(&disk);
    for seed in [2, 3, 4] {
        run(&other, &mut theirs, seed);
    }
    let mut images = files(&other);
    images.retain(|name| name.starts_with("image-"));
    images.sort();
    let [.., lost, last] = &images[..] else {
        panic!("{images:?}");
    };
    assert!(!kept.contains(lost), "{kept:?}");
    disk.put(last, &other.contents(last).unwrap());
    disk.put("acknowledged", &other.contents("acknowledged").unwrap());
    let mine = *history.last_key_value().unwrap().0;
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let found = verify(&backend, None, |_| {}).unwrap();
    let named = |file: &str| found.problems.iter().any(|problem| problem.file == file);
    assert!(!found.sound() && named(lost), "{found:?}");
    assert!(kept.len() > 3 && found.whole.contains(&mine), "{found:?}");
    match Store::open_on(backend.clone(), options(None)) {
        Err(StoreError::Damaged(damage)) => {
            assert!(!whole, "{damage}");
            assert!(damage.file.starts_with("image-") && damage.intact.is_some());
        }
        Err(error) => panic!("{error:?}"),
        Ok(store) => {
            assert!(whole);
            // Of the one alone; nor does compaction bring the other in.
            for _ in 0..2 {
                of_one(&store, &[&theirs], u64::MAX, "plain");
                assert!(store.versions().iter().all(|it| it.number > mine));
                store.compact(|_| {}).unwrap();
            }
            let refused = store.view(Some(mine)).unwrap_err();
            let StoreError::Damaged(damage) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(damage.intact, Some(mine));
        }
    }
    let mut lenient = options(None);
    lenient.accept_loss = true;
    let store = Store::open_on(backend, lenient).unwrap();
    each_of_one(&store, &[&history, &theirs], "lenient");
    assert!(contents(&store, mine).unwrap() == history[&mine]);
}

#[test]
fn what_is_below_a_lost_image_is_given_to_who_accepts_the_loss() {
    below_a_lost_image(false);
    below_a_lost_image(true);
}
