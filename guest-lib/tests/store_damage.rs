//! Every way to find a store not as it was left: detected, named, and nothing
//! valid lost.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

mod store_common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk, Directory};
use hvckpt::store::{
    Compression, DamageKind, Durability, Page, PageWrite, Store, StoreError, StoreOptions, examine,
    verify,
};
use store_common::Scratch;

const PAGES: u64 = 70;

fn options() -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.image_bytes = 4 << 10;
    options.keep = 3;
    options
}

fn reading() -> StoreOptions {
    let mut options = options();
    options.read_only = true;
    options
}

fn contents(store: &Store, version: Option<u64>) -> Result<Vec<Page>, StoreError> {
    let view = store.view(version)?;
    (0..PAGES).map(|page| view.page(0, page)).collect()
}

/// A store with a base image and increments, and what its versions hold.
fn build(backend: Arc<dyn Backend>) -> BTreeMap<u64, Vec<Page>> {
    let mut known = BTreeMap::new();
    let mut now = vec![Page::ZERO; PAGES as usize];
    for round in 0..3_u64 {
        let mut options = options();
        options.compression = [Compression::None, Compression::Lz4, Compression::Zstd(3)]
            [usize::try_from(round).unwrap()];
        let store = Store::open_on(backend.clone(), options).unwrap();
        let area = store.area("main", 0x10_0000, PAGES).unwrap();
        for turn in 0..3_u64 {
            let page = usize::try_from((round * 31 + turn * 2) % PAGES).unwrap();
            let old = now[page];
            let mut new = old;
            // Some commits change little, some a page which compresses badly.
            let noise = |n: u64| (n + round * 7 + turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let words = if turn == 2 { 60 } else { 2 };
            new.0[..words]
                .iter_mut()
                .zip(0..)
                .for_each(|(word, n)| *word = noise(n));
            let write = PageWrite::new(area, page as u64, &new).old(&old);
            let version = store.commit(&[write], Durability::Sync).unwrap();
            now[page] = new;
            known.insert(version, now.clone());
        }
        if round == 1 {
            store.compact(|_| {}).unwrap();
        }
    }
    known
}

#[test]
fn every_flipped_bit_is_found() {
    let disk = CrashDisk::new();
    let known = build(Arc::new(disk.clone()));
    let (newest, expected) = known.last_key_value().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let clean = verify(&backend, |_| {}).unwrap();
    assert!(
        clean.sound() && clean.problems.is_empty(),
        "{:?}",
        clean.problems
    );
    let (mut refused, mut lived) = (0, 0);
    for name in disk.list().unwrap() {
        let bytes = disk.contents(&name).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let what = format!("{name} byte {at}");
            let damaged = disk.copy();
            damaged.put(&name, &flipped);
            let backend: Arc<dyn Backend> = Arc::new(damaged.clone());
            let opened = Store::open_on(backend.clone(), reading());
            match opened.and_then(|store| Ok((store.newest(), contents(&store, None)?))) {
                Ok((version, found)) => {
                    lived += 1;
                    assert_eq!(version, *newest, "{what}");
                    assert!(found == *expected, "{what}");
                    let examined = verify(&backend, |_| {}).unwrap();
                    assert!(!examined.problems.is_empty(), "{what}");
                    continue;
                }
                Err(StoreError::Damaged(_) | StoreError::Future { .. }) => refused += 1,
                Err(error) => panic!("{what}: {error:?}"),
            }
            let mut options = reading();
            options.accept_loss = true;
            if let Ok(store) = Store::open_on(backend, options)
                && let Some(expected) = known.get(&store.newest())
                && let Ok(found) = contents(&store, None)
            {
                assert!(found == *expected, "{what}");
            }
        }
    }
    assert!(
        refused > 500 && lived > 500,
        "{refused} refused, {lived} unharmed"
    );
}

#[test]
fn every_cut_is_found_and_leaves_whole_versions() {
    let disk = CrashDisk::new();
    let known = build(Arc::new(disk.clone()));
    let names: Vec<String> = disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("image-"))
        .collect();
    for name in names {
        let bytes = disk.contents(&name).unwrap();
        for len in (0..bytes.len()).step_by(7) {
            let damaged = disk.copy();
            damaged.put(&name, &bytes[..len]);
            let backend: Arc<dyn Backend> = Arc::new(damaged);
            let found = verify(&backend, |_| {});
            assert!(
                found.is_err() || !found.unwrap().problems.is_empty(),
                "{name} cut at {len}"
            );
            let mut options = reading();
            options.accept_loss = true;
            if let Ok(store) = Store::open_on(backend, options)
                && let Some(expected) = known.get(&store.newest())
                && let Ok(found) = contents(&store, None)
            {
                assert!(found == *expected, "{name} cut at {len}");
            }
        }
    }
}

#[test]
fn missing_files_are_named() {
    let disk = CrashDisk::new();
    build(Arc::new(disk.clone()));
    for name in disk.list().unwrap() {
        let damaged = disk.copy();
        damaged.remove(&name).unwrap();
        let backend: Arc<dyn Backend> = Arc::new(damaged);
        let examined = verify(&backend, |_| {}).unwrap();
        assert!(!examined.problems.is_empty(), "{name}");
        let opened = Store::open_on(backend, reading());
        let read = opened.and_then(|store| contents(&store, None));
        // Old images may be needed by old versions only.
        assert!(
            matches!(read, Ok(_) | Err(StoreError::Damaged(_))),
            "{name}: {read:?}"
        );
    }
    let empty: Arc<dyn Backend> = Arc::new(CrashDisk::new());
    assert!(matches!(
        verify(&empty, |_| {}),
        Err(StoreError::NotAStore(_))
    ));
}

#[test]
fn a_loss_must_be_accepted_and_numbers_are_not_used_again() {
    let disk = CrashDisk::new();
    let known = build(Arc::new(disk.clone()));
    let newest = *known.last_key_value().unwrap().0;
    let image = disk
        .list()
        .unwrap()
        .into_iter()
        .rfind(|n| n.starts_with("image-"))
        .unwrap();
    let mut bytes = disk.contents(&image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    disk.put(&image, &bytes);
    let backend: Arc<dyn Backend> = Arc::new(disk);
    match Store::open_on(backend.clone(), options()) {
        Err(StoreError::Damaged(damage)) => {
            let (acknowledged, found) = (newest, newest - 1);
            assert_eq!(
                damage.what,
                DamageKind::Acknowledged {
                    acknowledged,
                    found
                }
            );
        }
        other => panic!("{other:?}"),
    }
    let mut lenient = options();
    lenient.accept_loss = true;
    let store = Store::open_on(backend.clone(), lenient).unwrap();
    assert_eq!(store.newest(), newest - 1);
    assert!(contents(&store, None).unwrap() == known[&(newest - 1)]);
    let page = Page([9; 512]);
    let version = store
        .commit(&[PageWrite::new(0, 3, &page)], Durability::Sync)
        .unwrap();
    assert_eq!(version, newest + 1);
    drop(store);
    let store = Store::open_on(backend, options()).unwrap();
    assert_eq!(
        (
            store.newest(),
            store.view(None).unwrap().page(0, 3).unwrap()
        ),
        (version, page)
    );
}

#[test]
fn versions_from_the_future_are_named() {
    let disk = CrashDisk::new();
    build(Arc::new(disk.clone()));
    let name = disk
        .list()
        .unwrap()
        .into_iter()
        .find(|n| n.starts_with("image-"))
        .unwrap();
    let mut bytes = disk.contents(&name).unwrap();
    bytes[8] = 2;
    disk.put(&name, &bytes);
    match Store::open_on(Arc::new(disk), options()) {
        Err(StoreError::Future {
            name: found,
            format: 2,
        }) => assert_eq!(found, name),
        other => panic!("{other:?}"),
    }
}

#[test]
fn old_versions_stay_and_can_become_the_newest_again() {
    let disk = CrashDisk::new();
    let known = build(Arc::new(disk.clone()));
    let backend: Arc<dyn Backend> = Arc::new(disk);
    let store = Store::open_on(backend.clone(), reading()).unwrap();
    let kept: Vec<u64> = store
        .versions()
        .iter()
        .map(|version| version.number)
        .collect();
    assert!(kept.len() >= 3);
    for version in &kept {
        if let Some(expected) = known.get(version) {
            assert!(contents(&store, Some(*version)).unwrap() == *expected);
        }
    }
    assert!(matches!(
        store.view(Some(1)),
        Err(StoreError::NoVersion { version: 1 })
    ));
    let back = kept[kept.len() - 2];
    assert!(matches!(
        store.commit(&[], Durability::Sync),
        Err(StoreError::ReadOnly)
    ));
    drop(store);
    let mut options = options();
    options.at = Some(back);
    let store = Store::open_on(backend, options).unwrap();
    assert!(contents(&store, None).unwrap() == known[&back]);
    assert!(store.newest() > *kept.last().unwrap());
    assert!(contents(&store, Some(*kept.last().unwrap())).is_ok());
    store.compact(|_| {}).unwrap();
    assert!(contents(&store, None).unwrap() == known[&back]);
}

#[test]
fn a_disk_which_cannot_be_written_is_named_and_can_be_read() {
    let disk = CrashDisk::new();
    let known = build(Arc::new(disk.clone()));
    disk.read_only(true);
    let backend: Arc<dyn Backend> = Arc::new(disk);
    assert!(matches!(
        Store::open_on(backend.clone(), options()),
        Err(StoreError::ReadOnlyDisk { .. })
    ));
    let store = Store::open_on(backend, reading()).unwrap();
    assert!(contents(&store, None).unwrap() == *known.last_key_value().unwrap().1);
}

#[test]
fn a_full_disk_stops_asynchronous_commits_until_there_is_space() {
    let disk = CrashDisk::new();
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    let area = store.area("main", 0, 4).unwrap();
    disk.space(Some(600));
    let page = |n| Page([n; 512]);
    let mut accepted = Vec::new();
    let refused = (1..1000).find_map(|n| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        match store.commit(&[PageWrite::new(area, 0, &page(n))], Durability::Async) {
            Ok(version) => {
                accepted.push((version, n));
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(
        matches!(refused, Some(StoreError::Full { .. })),
        "{refused:?}"
    );
    disk.space(None);
    store.flush().unwrap();
    let (version, n) = *accepted.last().unwrap();
    assert_eq!((store.durable(), store.waiting()), (version, 0));
    assert_eq!(store.view(None).unwrap().page(0, 0).unwrap(), page(n));
}

/// Written by version 0.1.0, format 1.
#[test]
fn a_store_of_the_first_format_opens() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-1");
    if std::env::var_os("HVCKPT_WRITE_TEST_DATA").is_some() {
        let directory = Directory::new(&kept);
        directory.create().unwrap();
        build(Arc::new(directory));
    }
    // Opening for writing needs a copy.
    let scratch = Scratch::new("kept");
    for entry in fs::read_dir(&kept).unwrap() {
        let entry = entry.unwrap();
        let to = scratch.path().join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let known = build(Arc::new(CrashDisk::new()));
    let store = Store::open(scratch.path(), options()).unwrap();
    assert!(!store.recovery().created && store.recovery().problems.is_empty());
    assert_eq!(store.newest(), *known.last_key_value().unwrap().0);
    for (version, expected) in known {
        match contents(&store, Some(version)) {
            Ok(found) => assert!(found == expected, "version {version}"),
            Err(error) => assert!(matches!(error, StoreError::NoVersion { .. }), "{error:?}"),
        }
    }
    drop(store);
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(scratch.path()));
    let examined = examine(&backend, |_| {}).unwrap();
    assert!(examined.sound() && examined.areas[0].name == "main");
}
