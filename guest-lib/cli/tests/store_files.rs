// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of a store: what they may be, who may read them, what is left of
//! what failed.

#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, verify,
};
use hvckpt::{TrackerKind, explain};
use store_common::{Scratch, builder};

fn commit(path: &Path) {
    let store = Store::open(path, StoreOptions::default()).unwrap();
    let area = store.area("main", 0x10_0000, 4).unwrap();
    for n in 0..3 {
        let page = Page([n + 1; 512]);
        let write = PageWrite::new(area, n, &page);
        store.commit(&[write], Durability::Sync).unwrap();
    }
}

fn everything(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            everything(&entry, found);
        }
        found.push(entry);
    }
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn only_the_owner_may_read_a_store() {
    let scratch = Scratch::new("modes");
    let store = scratch.path().join("a/b/store");
    commit(&store);
    let opened = Store::open(&store, StoreOptions::default()).unwrap();
    opened.compact(|_| {}).unwrap();
    drop(opened);
    let out = scratch.path().join("out");
    let restored = Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(["restore", store.to_str().unwrap(), "--output"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(restored.success());
    let mut found = Vec::new();
    everything(scratch.path(), &mut found);
    assert!(found.len() > 6, "{found:?}");
    for path in found {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
    }
}

type Make = fn(&Path);

/// A pipe would wait for its other end for ever.
#[test]
fn what_is_no_file_hangs_nobody() {
    let scratch = Scratch::new("irregular");
    let kept = scratch.path().join("kept");
    commit(&kept);
    let names: Vec<String> = fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .chain(["replica".to_owned(), "image-000009.hvck".to_owned()])
        .collect();
    let kinds: [(&str, Make); 6] = [
        ("pipe", fifo),
        ("socket", |path| drop(UnixListener::bind(path).unwrap())),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("loop", |path| {
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
        ("device", |path| {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        }),
        ("nowhere", |path| {
            std::os::unix::fs::symlink("/nonexistent/file", path).unwrap();
        }),
    ];
    for name in &names {
        for (kind, make) in kinds {
            let what = format!("{kind} as {name}");
            let path = scratch.path().join(format!("{kind}-{name}"));
            fs::create_dir(&path).unwrap();
            for entry in fs::read_dir(&kept).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
            let _none = fs::remove_file(path.join(name));
            make(&path.join(name));
            let backend: Arc<dyn Backend> = Arc::new(Directory::new(&path));
            let image = name.starts_with("image-");
            let sound = verify(&backend, None, |_| {}).is_ok_and(|found| found.sound());
            assert!(!image || !sound, "{what}");
            // A stray name beside the images is one of those, too.
            let opened = Store::open(&path, StoreOptions::default());
            assert!(opened.is_err() || image, "{what}");
            let mut reading = StoreOptions::default();
            reading.read_only = true;
            reading.accept_loss = true;
            if let Ok(store) = Store::open(&path, reading) {
                let _damaged = store.view(None);
            }
        }
    }
    // Whoever locks a file through a link finds another one at its name.
    let elsewhere = scratch.path().join("elsewhere");
    fs::write(&elsewhere, b"").unwrap();
    fs::remove_file(kept.join("lock")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, kept.join("lock")).unwrap();
    let refused = Store::open(&kept, StoreOptions::default()).unwrap_err();
    assert!(explain(&refused).contains("regular"), "{refused}");
    let pipe = scratch.path().join("key");
    fifo(&pipe);
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(StoreKey::load(&pipe).is_err());
}

/// What is left behind by an opening that fails.
#[test]
fn a_failed_open_leaves_nothing() {
    let scratch = Scratch::new("failed-open");
    let empty = |what: &str| {
        let mut found = Vec::new();
        everything(scratch.path(), &mut found);
        assert!(found.is_empty(), "{what}: {found:?}");
    };
    let path = scratch.path().join("a/b/c");
    let mut options = StoreOptions::default();
    options.at = Some(7);
    let refused = Store::open(&path, options);
    assert!(matches!(refused, Err(StoreError::NoVersion { version: 7 })));
    empty("a version which is not there");
    let open = |name: &str, pages| builder(name, TrackerKind::Sim).pages(pages).open(&path);
    assert!(open("main", 0).is_err());
    empty("no pages");
    assert!(open(&"long".repeat(40), 1).is_err());
    empty("a name which is too long");
    assert!(builder("main", TrackerKind::Sim).open(&path).is_err());
    empty("no size");
    let taken = Box::new([0_u64; 4096]);
    let address = (std::ptr::from_ref(&*taken) as usize).next_multiple_of(4096);
    let builder = builder("main", TrackerKind::Sim).pages(2).address(address);
    assert!(builder.open(&path).is_err());
    empty("an address which is taken");
    let mut options = StoreOptions::default();
    options.create = false;
    assert!(matches!(
        Store::open(&path, options.clone()),
        Err(StoreError::NotAStore(_))
    ));
    empty("nothing there");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("notes"), b"mine").unwrap();
    assert!(matches!(
        Store::open(&path, options),
        Err(StoreError::NotAStore(_))
    ));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    let mut options = StoreOptions::default();
    options.at = Some(7);
    assert!(Store::open(&path, options).is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    // What was there stays.
    commit(&path);
    let before = fs::read_dir(&path).unwrap().count();
    let mut options = StoreOptions::default();
    options.at = Some(70);
    assert!(Store::open(&path, options).is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), before);
    commit(&path);
}
