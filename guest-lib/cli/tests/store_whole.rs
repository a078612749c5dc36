// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damage to the newest version takes no older one away.

#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk, Directory};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, Version, verify,
};
use store_common::Scratch;
use zeroize::Zeroizing;

const PAGES: u64 = 70;

type History = BTreeMap<u64, Vec<Page>>;

fn options(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.create = false;
    options.keep = 8;
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

/// Three images: two of them increments after a base.
fn build(backend: &Arc<dyn Backend>, key: Option<&StoreKey>) -> History {
    let mut history = History::new();
    for run in 0..3 {
        let mut options = options(key);
        options.create = true;
        let store = Store::open_on(backend.clone(), options).unwrap();
        let area = store.area("main", 0x10_0000, PAGES).unwrap();
        for n in 0..3 {
            let page = Page([1 + run * 10 + n; 512]);
            let write = PageWrite::new(area, (run * 3 + n) * 9 % PAGES, &page);
            let version = store.commit(&[write], Durability::Sync).unwrap();
            history.insert(version, contents(&store, None).unwrap());
        }
        if run == 0 {
            store.compact(|_| {}).unwrap();
        }
    }
    let store = Store::open_on(backend.clone(), options(key)).unwrap();
    let kept: Vec<u64> = store.versions().iter().map(|kept| kept.number).collect();
    history.retain(|version, _| kept.contains(version));
    history
}

/// Whether a byte of the newest image is of no version up to this one.
fn behind(version: &Version, image: u64, at: usize) -> bool {
    version.image < image || (version.image == image && version.offset + version.bytes <= at as u64)
}

fn flips(key: Option<&StoreKey>, step: usize) {
    let disk = CrashDisk::new();
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let history = build(&backend, key);
    let store = Store::open_on(backend, options(key)).unwrap();
    let versions = store.versions();
    drop(store);
    let image = versions.last().unwrap().image;
    let name = format!("image-{image:06x}.hvck");
    let bytes = disk.contents(&name).unwrap();
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(step) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at / step % 8);
        let damaged = disk.copy();
        damaged.put(&name, &bad);
        let what = format!("{name} byte {at}");
        let whole: Vec<u64> = versions
            .iter()
            .filter(|version| at >= 192 || version.image < image)
            .filter(|version| behind(version, image, at))
            .map(|version| version.number)
            .filter(|version| history.contains_key(version))
            .collect();
        assert!(!whole.is_empty());
        every_way(&damaged, key, &whole, &history, &what);
        let backend: Arc<dyn Backend> = Arc::new(damaged.clone());
        if let Err(error) = Store::open_on(backend, options(key)) {
            refused += 1;
            if let StoreError::Damaged(damage) = error {
                let whole = whole.last().copied();
                assert!(damage.intact >= whole, "{what}: {damage}");
                assert!(damage.to_string().contains("--accept-loss"), "{damage}");
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

fn every_way(
    disk: &CrashDisk,
    key: Option<&StoreKey>,
    whole: &[u64],
    history: &History,
    what: &str,
) {
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let examined = verify(&backend, key, |_| {}).unwrap();
    assert!(!examined.problems.is_empty(), "{what}");
    for version in &examined.whole {
        // The area alone was a version, too.
        assert!(whole.contains(version) || !history.contains_key(version) || *version > whole[0]);
    }
    let mut reading = lenient(key);
    reading.read_only = true;
    let store = Store::open_on(backend, reading.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let listed: Vec<u64> = store.versions().iter().map(|kept| kept.number).collect();
    for version in whole {
        assert!(listed.contains(version), "{what}: {version} of {listed:?}");
        assert!(examined.whole.contains(version), "{what}: {version}");
        assert!(contents(&store, Some(*version)).unwrap() == history[version]);
    }
    let newest = store.newest();
    assert!(newest >= *whole.last().unwrap(), "{what}");
    if let Ok(found) = contents(&store, None)
        && let Some(expected) = history.get(&newest)
    {
        assert!(found == *expected, "{what}: {newest}");
    }
    for version in [whole[0], *whole.last().unwrap()] {
        let copy = disk.copy();
        let backend: Arc<dyn Backend> = Arc::new(copy);
        let mut back = lenient(key);
        back.at = Some(version);
        let store = Store::open_on(backend.clone(), back).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(
            contents(&store, None).unwrap() == history[&version],
            "{what}"
        );
        let page = Page([99; 512]);
        let write = PageWrite::new(0, 5, &page);
        let number = store.commit(&[write], Durability::Sync).unwrap();
        drop(store);
        // The loss was accepted once.
        let store = Store::open_on(backend, options(key)).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(store.newest(), number);
        let mut expected = history[&version].clone();
        expected[5] = page;
        assert!(contents(&store, None).unwrap() == expected, "{what}");
    }
}

#[test]
fn whole_versions_outlive_every_flip_in_the_newest_image() {
    flips(None, 8);
}

#[test]
fn those_of_an_encrypted_store_do() {
    let key = StoreKey::new(Zeroizing::new([0x42; 32]));
    flips(Some(&key), 40);
}

fn hvckpt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(arguments)
        .output()
        .unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The commands, for damage to a node which the newest version needs.
#[test]
fn the_commands_say_which_versions_are_whole_and_restore_them() {
    let scratch = Scratch::new("whole");
    let path = |name: &str| scratch.path().join(name);
    Directory::new(path("store")).create().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(path("store")));
    let history = build(&backend, None);
    let store = Store::open_on(backend, options(None)).unwrap();
    let versions = store.versions();
    drop(store);
    let newest = versions.last().unwrap();
    let name = format!("image-{:06x}.hvck", newest.image);
    let before = versions
        .iter()
        .rfind(|version| version.image == newest.image && version.number < newest.number)
        .unwrap();
    let bytes = fs::read(path("store").join(&name)).unwrap();
    let old = history.keys().next().unwrap().to_string();
    let mut tried = 0;
    for at in (before.offset..before.offset + before.bytes).step_by(24) {
        let mut bad = bytes.clone();
        bad[usize::try_from(at).unwrap()] ^= 4;
        let store = path(&format!("at-{at}"));
        copy(&path("store"), &store);
        fs::write(store.join(&name), bad).unwrap();
        let (dir, out) = (
            store.to_str().unwrap().to_owned(),
            path(&format!("out-{at}")),
        );
        let out = out.to_str().unwrap();
        let shown = hvckpt(&["verify", &dir]);
        assert_eq!(shown.status.code(), Some(1), "{at}: {shown:?}");
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains("whole"), "{text}");
        assert!(text.contains("--accept-loss"), "{text}");
        let plain = hvckpt(&["restore", &dir, "--output", out]);
        if plain.status.code() != Some(0) {
            tried += 1;
            let text = String::from_utf8(plain.stderr).unwrap();
            assert!(
                text.contains("--accept-loss") || text.contains("record"),
                "{text}"
            );
        }
        let output = [
            "restore",
            &dir,
            "--output",
            out,
            "--version",
            &old,
            "--accept-loss",
        ];
        let restored = hvckpt(&output);
        assert_eq!(restored.status.code(), Some(0), "{at}: {restored:?}");
        let expected: Vec<u8> = history
            .values()
            .next()
            .unwrap()
            .iter()
            .flat_map(Page::to_bytes)
            .collect();
        assert!(fs::read(out).unwrap() == expected, "{at}");
        let back = hvckpt(&[
            "restore",
            &dir,
            "--in-place",
            "--version",
            &old,
            "--accept-loss",
        ]);
        assert_eq!(back.status.code(), Some(0), "{at}: {back:?}");
    }
    assert!(tried > 2, "{tried}");
}
