// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies of stores, also of one which is written and compacted meanwhile.

#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, copy, verify,
};
use store_common::Scratch;

const PAGES: u64 = 4;

fn options(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.image_bytes = 3 << 10;
    options.keep = 4;
    options.key = key.cloned();
    options
}

/// Every commit writes its number to all pages.
fn commit(store: &Store, n: u64) {
    let area = store.area("main", 0x10_0000, PAGES).unwrap();
    let page = Page([n; 512]);
    let writes: Vec<_> = (0..PAGES)
        .map(|at| PageWrite::new(area, at, &page))
        .collect();
    store.commit(&writes, Durability::Sync).unwrap();
}

/// The number which all pages of the newest version have.
fn holds(path: &Path, key: Option<&StoreKey>) -> u64 {
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(path));
    let found = verify(&backend, key, |_| {}).unwrap();
    assert!(
        found.sound() && found.problems.is_empty(),
        "{:?}",
        found.problems
    );
    assert_eq!(found.whole.len(), found.versions.len());
    let mut reading = options(key);
    reading.read_only = true;
    let store = Store::open(path, reading).unwrap();
    let view = store.view(None).unwrap();
    let values: Vec<u64> = (0..PAGES)
        .map(|at| view.page(0, at).unwrap().0[9])
        .collect();
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    values[0]
}

fn copies_of_a_live_store(key: Option<&StoreKey>) {
    let scratch = Scratch::new(&format!("copy-{}", key.is_some()));
    let path = scratch.path().join("store");
    let store = Store::open(&path, options(key)).unwrap();
    commit(&store, 1);
    let (told, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let compactions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 2.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                commit(&store, n);
                told.store(n, Ordering::Release);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                store.compact(|_| {}).unwrap();
                compactions.fetch_add(1, Ordering::AcqRel);
            }
        });
        let mut last = 0;
        // Some copies, and some compactions beside them.
        for turn in 0.. {
            if turn >= 30 && compactions.load(Ordering::Acquire) >= 30 {
                break;
            }
            let to = scratch.path().join("copy");
            let before = told.load(Ordering::Acquire);
            let copied = copy(&path, &to, key, None);
            if copied.is_err() {
                stop.store(true, Ordering::Release);
            }
            copied.unwrap();
            let found = holds(&to, key);
            let after = told.load(Ordering::Acquire) + 1;
            if !(before..=after).contains(&found) || found < last {
                stop.store(true, Ordering::Release);
                panic!("{before} {found} {after}");
            }
            last = found;
            if turn % 8 == 0 {
                // It goes on by itself.
                let other = Store::open(&to, options(key)).unwrap();
                commit(&other, 1_000_000);
                drop(other);
                assert_eq!(holds(&to, key), 1_000_000);
            }
            fs::remove_dir_all(&to).unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    let last = told.load(Ordering::Acquire);
    drop(store);
    assert_eq!(holds(&path, key), last);
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        1,
        "nothing is left"
    );
}

#[test]
fn copies_of_a_live_store_are_whole() {
    copies_of_a_live_store(None);
}

#[test]
fn so_are_those_of_an_encrypted_one() {
    copies_of_a_live_store(Some(&StoreKey::generate().unwrap()));
}

#[test]
fn a_copy_is_shared_where_it_can_be_and_is_its_own() {
    let scratch = Scratch::new("copy-links");
    let (path, to) = (scratch.path().join("store"), scratch.path().join("x/copy"));
    let store = Store::open(&path, options(None)).unwrap();
    for n in 1..=20 {
        commit(&store, n);
    }
    let copied = copy(&path, &to, None, None).unwrap();
    assert!(
        copied.linked > 0 && copied.linked < copied.images,
        "{copied:?}"
    );
    let shared = fs::read_dir(&to).unwrap().filter(|entry| {
        let data = entry.as_ref().unwrap().metadata().unwrap();
        data.nlink() > 1
    });
    assert_eq!(shared.count(), copied.linked);
    // Each goes on without the other.
    let other = Store::open(&to, options(None)).unwrap();
    for n in 100..=120 {
        commit(&other, n);
        commit(&store, n + 100);
    }
    other.compact(|_| {}).unwrap();
    store.compact(|_| {}).unwrap();
    drop((other, store));
    assert_eq!((holds(&path, None), holds(&to, None)), (220, 120));
    assert!(copy(&path, &to, None, None).is_err(), "it exists");
    assert_eq!(holds(&to, None), 120);
}

#[test]
fn an_older_version_can_be_the_newest_of_the_copy() {
    let scratch = Scratch::new("copy-old");
    let (path, to) = (scratch.path().join("store"), scratch.path().join("copy"));
    let store = Store::open(&path, options(None)).unwrap();
    for n in 1..=6 {
        commit(&store, n);
    }
    let versions = store.versions();
    let old = versions[versions.len() - 3].number.to_string();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_hvckpt"))
            .arg("copy")
            .arg(&path)
            .args(arguments)
            .output()
            .unwrap()
    };
    let done = run(&[to.to_str().unwrap(), "--version", &old, "--json"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(holds(&to, None), 4);
    drop(store);
    assert_eq!(holds(&path, None), 6, "the original is as it was");
    let nothing = scratch.path().join("a/b");
    let refused = run(&[nothing.to_str().unwrap(), "--version", "999"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(!scratch.path().join("a").exists());
    let refused = copy(scratch.path().join("none"), &nothing, None, None);
    assert!(
        matches!(refused, Err(StoreError::NotAStore(_))),
        "{refused:?}"
    );
    assert!(!scratch.path().join("a").exists());
    let refused = copy(&path, &nothing, Some(&StoreKey::generate().unwrap()), None);
    assert!(matches!(refused, Err(StoreError::NotEncrypted(_))));
    assert!(!scratch.path().join("a").exists());
}

fn hvckpt(arguments: &[&str]) -> (Option<i32>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(arguments)
        .output()
        .unwrap();
    (
        ran.status.code(),
        String::from_utf8(ran.stderr).unwrap() + &String::from_utf8(ran.stdout).unwrap(),
    )
}

#[test]
fn what_is_damaged_is_copied_by_who_accepts_the_loss() {
    let scratch = Scratch::new("copy-damaged");
    let (path, to) = (scratch.path().join("store"), scratch.path().join("copy"));
    let mut opening = options(None);
    opening.image_bytes = 1 << 20;
    let store = Store::open(&path, opening).unwrap();
    for n in 1..=6 {
        commit(&store, n);
    }
    let last = *store.versions().last().unwrap();
    drop(store);
    let image = path.join(format!("image-{:06x}.hvck", last.image));
    let mut bytes = fs::read(&image).unwrap();
    // Its table of areas, which is at the end.
    let at = usize::try_from(last.offset + last.bytes).unwrap() - 20;
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();
    let (from, new) = (path.to_str().unwrap(), to.to_str().unwrap());
    let out = scratch.path().join("out");
    let restored = hvckpt(&["restore", from, "--output", out.to_str().unwrap()]);
    let copied = hvckpt(&["copy", from, new]);
    assert_eq!(copied, restored, "the same words");
    assert_eq!(copied.0, Some(1));
    assert!(copied.1.contains("--accept-loss"), "{}", copied.1);
    assert!(!to.exists());
    let copied = hvckpt(&["copy", from, new, "--accept-loss"]);
    assert_eq!(copied.0, Some(0), "{}", copied.1);
    let mut reading = options(None);
    reading.read_only = true;
    let copy = Store::open(&to, reading).unwrap();
    assert_eq!(copy.view(None).unwrap().page(0, 1).unwrap(), Page([5; 512]));
    assert!(copy.newest() > last.number, "a lost number comes back");
    // Nothing was done to the original.
    let again = hvckpt(&["restore", from, "--output", out.to_str().unwrap()]);
    assert_eq!(again, restored);
}

#[test]
fn what_an_interrupted_copy_left_goes_unless_it_is_in_use() {
    let scratch = Scratch::new("copy-partial");
    let at = |name: &str| scratch.path().join(name);
    let store = Store::open(at("store"), options(None)).unwrap();
    commit(&store, 1);
    let leave = |of: &str, process: u32| {
        let path = at(&format!(".{of}.{process}.partial"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("image-000001.hvck"), "x").unwrap();
        path
    };
    // Some process which is gone, one which is there, and this one, which may
    // have the number of one which is gone.
    let mut gone = Command::new("true").spawn().unwrap();
    let number = gone.id();
    gone.wait().unwrap();
    let left = [leave("copy", number), leave("copy", std::process::id())];
    let others = [leave("copy", 1), leave("other", number)];
    let held = leave("held", number);
    let lock = fs::File::open(&held).unwrap();
    lock.lock().unwrap();
    copy(at("store"), at("copy"), None, None).unwrap();
    assert!(left.iter().all(|path| !path.exists()));
    assert!(others.iter().all(|path| path.exists()));
    assert_eq!(holds(&at("copy"), None), 1);
    // It belongs to a process which this one cannot see.
    copy(at("store"), at("held"), None, None).unwrap();
    assert!(held.exists());
    drop(lock);
    drop(Store::open(at("held"), options(None)).unwrap());
    assert!(!held.exists(), "opening cleans as well");
}

#[test]
fn what_is_wrong_with_the_target_is_not_laid_on_the_source() {
    let scratch = Scratch::new("copy-target");
    let path = scratch.path().join("store");
    drop(Store::open(&path, options(None)).unwrap());
    let (code, said) = hvckpt(&["copy", path.to_str().unwrap(), "/proc/hvckpt-copy"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("/proc/hvckpt-copy"), "{said}");
    assert!(!said.contains("store"), "{said}");
}
