// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image which is gone, or whose header is damaged, takes away what needs
//! it, and neither older nor newer versions.

#[path = "../../tests/store_common/bad.rs"]
mod bad;
#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use bad::Bad;
use hvckpt::store::backend::{Backend, CrashDisk};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, Version, verify,
};
use serde_json::Value;
use store_common::Scratch;
use zeroize::Zeroizing;

const PAGES: u64 = 18;
const RUNS: u64 = 6;

type History = BTreeMap<u64, Vec<Page>>;

/// How the versions of a store hang together.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Each needs all older images.
    Deep,
    /// Each image has all that its last versions need.
    Flat,
    /// Deep, with a base in the middle.
    Compacted,
}

const SHAPES: [Shape; 3] = [Shape::Deep, Shape::Flat, Shape::Compacted];

/// What happens to an image.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Removed,
    Flipped(usize),
    Emptied,
    Unreadable,
}

const HARMS: [Harm; 4] = [
    Harm::Removed,
    Harm::Flipped(140),
    Harm::Emptied,
    Harm::Unreadable,
];

fn options(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.create = false;
    options.keep = 1000;
    options.key = key.cloned();
    options
}

fn lenient(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = options(key);
    options.accept_loss = true;
    options
}

fn contents(store: &Store, version: Option<u64>) -> Result<Vec<Page>, StoreError> {
    let view = store.view(version)?;
    (0..PAGES).map(|page| view.page(0, page)).collect()
}

fn commit(store: &Store, pages: impl Iterator<Item = u64>, value: u64) -> u64 {
    let page = Page([value; 512]);
    let writes: Vec<_> = pages
        .map(|number| PageWrite::new(0, number, &page))
        .collect();
    store.commit(&writes, Durability::Sync).unwrap()
}

fn build(disk: &CrashDisk, shape: Shape, key: Option<&StoreKey>) -> (Vec<Version>, History) {
    let mut history = History::new();
    for run in 0..RUNS {
        let mut options = options(key);
        options.create = true;
        let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
        store.area("main", 0x10_0000, PAGES).unwrap();
        for n in 0..3 {
            let value = 1 + run * 10 + n;
            let version = match shape {
                Shape::Flat => commit(&store, 0..PAGES, value),
                _ => commit(&store, [(run * 3 + n) * 9 % PAGES].into_iter(), value),
            };
            history.insert(version, contents(&store, None).unwrap());
        }
        if run == 2 && matches!(shape, Shape::Compacted) {
            store.compact(|_| {}).unwrap();
        }
    }
    let store = Store::open_on(Arc::new(disk.clone()), options(key)).unwrap();
    let mut versions = store.versions();
    // The area alone was a version, too.
    versions.retain(|version| history.contains_key(&version.number));
    (versions, history)
}

fn images(disk: &CrashDisk) -> Vec<(u64, String)> {
    let names = disk.list().unwrap().into_iter();
    let number = |name: String| Some((u64::from_str_radix(name.get(6..12)?, 16).ok()?, name));
    names
        .filter(|name| name.ends_with(".hvck"))
        .filter_map(number)
        .collect()
}

/// The disk after that; and what is read from it.
fn harmed(disk: &CrashDisk, name: &str, harm: Harm) -> (CrashDisk, Arc<dyn Backend>) {
    let disk = disk.copy();
    match harm {
        Harm::Removed => disk.remove(name).unwrap(),
        Harm::Flipped(at) => {
            let mut bytes = disk.contents(name).unwrap();
            bytes[at] ^= 1;
            disk.put(name, &bytes);
        }
        Harm::Emptied => disk.put(name, &[]),
        Harm::Unreadable => {}
    }
    let backend = read(&disk, name, harm);
    (disk, backend)
}

fn read(disk: &CrashDisk, name: &str, harm: Harm) -> Arc<dyn Backend> {
    match harm {
        Harm::Unreadable => Arc::new(Bad {
            disk: disk.clone(),
            name: name.to_owned(),
            bytes: 0..512,
        }),
        _ => Arc::new(disk.clone()),
    }
}

/// Whether a version needs nothing of an image.
fn spared(version: &Version, image: u64) -> bool {
    version.image < image || version.floor > image
}

fn right(store: &Store, wanted: &[u64], history: &History, what: &str) {
    let kept: Vec<u64> = store.versions().iter().map(|kept| kept.number).collect();
    for version in wanted {
        assert!(kept.contains(version), "{what}: {version} of {kept:?}");
    }
    for version in kept {
        match contents(store, Some(version)) {
            Ok(found) => {
                let expected = history.get(&version);
                assert!(expected.is_none_or(|all| *all == found), "{what}");
            }
            Err(StoreError::Damaged(_)) if !wanted.contains(&version) => {}
            Err(error) => panic!("{what}: {version}: {error}"),
        }
    }
}

/// As for who accepted no loss: what is not tied to the newest version is not
/// listed, and not denied either.
fn told(store: &Store, wanted: &[u64], history: &History, what: &str) -> usize {
    let kept: Vec<u64> = store.versions().iter().map(|kept| kept.number).collect();
    let (listed, hidden): (Vec<u64>, Vec<u64>) =
        wanted.iter().partition(|version| kept.contains(version));
    right(store, &listed, history, what);
    for version in &hidden {
        match store.view(Some(*version)) {
            Err(StoreError::Damaged(damage)) => {
                assert_eq!(damage.intact, Some(*version), "{what}: {damage}");
                assert!(damage.file.starts_with("image-"), "{what}: {damage}");
            }
            other => panic!("{what}: {version}: {other:?}"),
        }
    }
    hidden.len()
}

fn each(shape: Shape, key: Option<&StoreKey>, harms: &[Harm]) {
    let disk = CrashDisk::new();
    let (versions, history) = build(&disk, shape, key);
    let images = images(&disk);
    assert!(images.len() >= 4, "{images:?}");
    for (image, name) in &images {
        let spared = versions.iter().filter(|version| spared(version, *image));
        let spared: Vec<u64> = spared.map(|version| version.number).collect();
        for &harm in harms {
            let what = format!("{shape:?} {name} {harm:?}");
            let (damaged, backend) = harmed(&disk, name, harm);
            let examined = verify(&backend, key, |_| {}).unwrap();
            for version in &spared {
                assert!(examined.whole.contains(version), "{what}: {version}");
            }
            if spared.is_empty() {
                continue;
            }
            let mut reading = lenient(key);
            reading.read_only = true;
            let store = Store::open_on(backend, reading).unwrap();
            right(&store, &spared, &history, &what);
            drop(store);
            for read_only in [true, false] {
                let mut strict = options(key);
                strict.read_only = read_only;
                let disk = damaged.copy();
                match Store::open_on(read(&disk, name, harm), strict) {
                    Ok(store) => {
                        told(&store, &spared, &history, &what);
                    }
                    // The newest is lost: it says what is not.
                    Err(StoreError::Damaged(damage)) => {
                        assert!(damage.intact.is_some(), "{what}: {damage}");
                        assert!(damage.to_string().contains("--accept-loss"), "{damage}");
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
            }
            for at in [spared[0], spared[spared.len() - 1]] {
                let what = format!("{what}, back to {at}");
                let disk = damaged.copy();
                go_back(&disk, name, harm, key, (at, &spared[..], &history), &what);
            }
        }
    }
}

fn go_back(
    disk: &CrashDisk,
    name: &str,
    harm: Harm,
    key: Option<&StoreKey>,
    (at, spared, history): (u64, &[u64], &History),
    what: &str,
) {
    let backend = || read(disk, name, harm);
    let mut back = lenient(key);
    back.at = Some(at);
    let store = Store::open_on(backend(), back).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(contents(&store, None).unwrap() == history[&at], "{what}");
    let number = commit(&store, 5..6, 99);
    drop(store);
    // The loss was accepted once.
    let mut expected = history[&at].clone();
    expected[5] = Page([99; 512]);
    let mut history = history.clone();
    history.insert(number, expected);
    let older = spared.iter().copied().filter(|version| *version <= at);
    let wanted: Vec<u64> = older.chain([number]).collect();
    let open = |disk: &CrashDisk, options| {
        let store = Store::open_on(read(disk, name, harm), options);
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.newest(), number, "{what}");
        store
    };
    right(&open(&disk.copy(), lenient(key)), &wanted, &history, what);
    let hidden = told(&open(disk, options(key)), &wanted, &history, what);
    // What is lost in the middle does not part the copies; and who accepts the
    // loss has them tied together.
    for (options, hidden) in [(options(key), hidden), (lenient(key), 0)] {
        let disk = disk.copy();
        let store = open(&disk, options);
        if let Err(error) = store.compact(|_| {}) {
            assert!(!matches!(harm, Harm::Removed), "{what}: {error}");
            continue;
        }
        drop(store);
        let what = format!("{what}, compacted");
        let store = open(&disk, self::options(key));
        assert_eq!(told(&store, &wanted, &history, &what), hidden, "{what}");
    }
}

#[test]
fn a_lost_image_takes_only_what_needs_it() {
    for shape in SHAPES {
        each(shape, None, &HARMS);
    }
}

#[test]
fn so_it_is_in_an_encrypted_store() {
    let key = StoreKey::new(Zeroizing::new([0x42; 32]));
    each(Shape::Compacted, Some(&key), &HARMS[..2]);
}

fn hvckpt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(arguments)
        .output()
        .unwrap()
}

fn lay_down(disk: &CrashDisk, to: &Path) -> String {
    fs::create_dir_all(to).unwrap();
    for name in disk.list().unwrap() {
        fs::write(to.join(&name), disk.contents(&name).unwrap_or_default()).unwrap();
    }
    to.to_str().unwrap().to_owned()
}

#[test]
fn the_commands_restore_what_is_above_and_below() {
    let scratch = Scratch::new("gap");
    let out = scratch.path().join("out");
    let out = out.to_str().unwrap();
    for shape in SHAPES {
        let disk = CrashDisk::new();
        let (versions, history) = build(&disk, shape, None);
        for (image, name) in images(&disk) {
            let spared: Vec<_> = versions.iter().filter(|it| spared(it, image)).collect();
            for harm in [Harm::Removed, Harm::Flipped(20)] {
                let (damaged, _) = harmed(&disk, &name, harm);
                for version in [spared.first(), spared.last()].into_iter().flatten() {
                    let what = format!("{shape:?} {name} {harm:?} {}", version.number);
                    let dir = lay_down(&damaged, &scratch.path().join(what.replace(' ', "-")));
                    let number = version.number.to_string();
                    let told = ["restore", &dir, "--version", &number, "--accept-loss"];
                    let pages = &history[&version.number];
                    let expected: Vec<u8> = pages.iter().flat_map(Page::to_bytes).collect();
                    // Who accepts nothing is told how, if it needs that.
                    let ran = hvckpt(&[&told[..4], &["--output", out]].concat());
                    let said = String::from_utf8(ran.stderr).unwrap();
                    assert!(
                        ran.status.success() || said.contains("--accept-loss"),
                        "{what}: {said}"
                    );
                    for command in ["verify", "inspect"] {
                        let ran = hvckpt(&[command, &dir, "--json"]);
                        let found: Value = serde_json::from_slice(&ran.stdout).unwrap();
                        let whole = found["whole"].as_array().unwrap();
                        assert!(whole.contains(&version.number.into()), "{what}: {found}");
                    }
                    let copy = format!("{dir}.copy");
                    let told_copy = ["copy", &dir, &copy, "--version", &number, "--accept-loss"];
                    for command in [&told_copy[..], &["restore", &copy, "--output", out]] {
                        let ran = hvckpt(command);
                        assert_eq!(ran.status.code(), Some(0), "{what}: {command:?} {ran:?}");
                    }
                    assert!(fs::read(out).unwrap() == expected, "{what}, copied");
                    fs::remove_dir_all(copy).unwrap();
                    for way in [&["--output", out][..], &["--in-place"]] {
                        let ran = hvckpt(&[&told[..], way].concat());
                        assert_eq!(ran.status.code(), Some(0), "{what}: {ran:?}");
                    }
                    assert!(fs::read(out).unwrap() == expected, "{what}");
                    // And goes on from there.
                    let ran = hvckpt(&["restore", &dir, "--output", out]);
                    assert_eq!(ran.status.code(), Some(0), "{what}: {ran:?}");
                    assert!(fs::read(out).unwrap() == expected, "{what}");
                    fs::remove_dir_all(dir).unwrap();
                }
            }
        }
    }
}
