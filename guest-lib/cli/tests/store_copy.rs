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
