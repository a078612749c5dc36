// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way to find a store not as it was left: detected, named, and nothing
//! valid lost.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

mod store_common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::slice;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk, Directory};
use hvckpt::store::{
    Compression, DamageKind, Durability, Page, PageWrite, Store, StoreError, StoreKey,
    StoreOptions, examine, verify,
};
use store_common::Scratch;
use zeroize::Zeroizing;

const PAGES: u64 = 70;

fn options() -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.image_bytes = 4 << 10;
    options.keep = 3;
    options
}

fn sealed() -> StoreKey {
    StoreKey::new(Zeroizing::new([0x42; 32]))
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
    build_with(backend, None, true)
}

fn build_with(
    backend: Arc<dyn Backend>,
    key: Option<StoreKey>,
    words: bool,
) -> BTreeMap<u64, Vec<Page>> {
    let mut known = BTreeMap::new();
    let mut now = vec![Page::ZERO; PAGES as usize];
    for round in 0..3_u64 {
        let mut options = options();
        options.compression = [Compression::None, Compression::Lz4, Compression::Zstd(3)]
            [usize::try_from(round).unwrap()];
        options.key = key.clone();
        let store = Store::open_on(backend.clone(), options).unwrap();
        let area = store.area("main", 0x10_0000, PAGES).unwrap();
        for turn in 0..3_u64 {
            let page = usize::try_from((round * 31 + turn * 2) % PAGES).unwrap();
            let old = now[page];
            let mut new = old;
            // Some commits change little, some a page which compresses badly.
            let noise = |n: u64| (n + round * 7 + turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let count = if turn == 2 { 60 } else { 2 };
            new.0[..count]
                .iter_mut()
                .zip(0..)
                .for_each(|(word, n)| *word = noise(n));
            let write = PageWrite::new(area, page as u64, &new).old(&old);
            let version = store.commit(&[write], Durability::Sync).unwrap();
            now[page] = new;
            known.insert(version, now.clone());
            if !words {
                continue;
            }
            // The same page again, by its words: a difference.
            let mut again = new;
            again.0[turn as usize] += 1;
            let at = turn as u16 * 8..turn as u16 * 8 + 8;
            let write = PageWrite::new(area, page as u64, &again).words(slice::from_ref(&at));
            let version = store.commit(&[write], Durability::Sync).unwrap();
            now[page] = again;
            known.insert(version, now.clone());
        }
        if round == 1 {
            store.compact(|_| {}).unwrap();
        }
    }
    known
}

/// Flips a bit in every `step`th byte.
fn flip(key: Option<&StoreKey>, step: usize) {
    let reading = || {
        let mut options = reading();
        options.key = key.cloned();
        options
    };
    let disk = CrashDisk::new();
    let known = build_with(Arc::new(disk.clone()), key.cloned(), true);
    let (newest, expected) = known.last_key_value().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let clean = verify(&backend, key, |_| {}).unwrap();
    assert!(
        clean.sound() && clean.problems.is_empty(),
        "{:?}",
        clean.problems
    );
    let (mut refused, mut lived) = (0, 0);
    for name in disk.list().unwrap() {
        let bytes = disk.contents(&name).unwrap();
        for at in (0..bytes.len()).step_by(step) {
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
                    let examined = verify(&backend, key, |_| {}).unwrap();
                    assert!(!examined.problems.is_empty(), "{what}");
                    continue;
                }
                Err(
                    StoreError::Damaged(_)
                    | StoreError::Future { .. }
                    | StoreError::Features { .. },
                ) => refused += 1,
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
        refused > 500 / step && lived > 500 / step,
        "{refused} refused, {lived} unharmed"
    );
}

#[test]
fn every_flipped_bit_is_found() {
    flip(None, 1);
}

#[test]
fn flipped_bits_of_an_encrypted_store_are_found() {
    flip(Some(&sealed()), 17);
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
            let found = verify(&backend, None, |_| {});
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
        let examined = verify(&backend, None, |_| {}).unwrap();
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
        verify(&empty, None, |_| {}),
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
    bytes[8] = 4;
    disk.put(&name, &bytes);
    match Store::open_on(Arc::new(disk), options()) {
        Err(StoreError::Future {
            name: found,
            format: 4,
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
    // Until the thread that writes has met the end of the disk; the queue
    // takes no more than so many.
    let refused = (1..1_000_000).find_map(|n| {
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

/// Opens a store which an earlier version wrote, and goes on with it.
fn kept_store_opens(name: &str, key: Option<StoreKey>, words: bool) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    // What exists is never written again.
    if std::env::var_os("HVCKPT_WRITE_TEST_DATA").is_some() && !kept.exists() {
        let directory = Directory::new(&kept);
        directory.create().unwrap();
        build_with(Arc::new(directory), key.clone(), words);
    }
    // Opening for writing needs a copy.
    let scratch = Scratch::new(name);
    for entry in fs::read_dir(&kept).unwrap() {
        let entry = entry.unwrap();
        let to = scratch.path().join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let known = build_with(Arc::new(CrashDisk::new()), None, words);
    let mut options = options();
    options.key = key.clone();
    let store = Store::open(scratch.path(), options.clone()).unwrap();
    assert!(!store.recovery().created && store.recovery().problems.is_empty());
    let newest = known.last_key_value().unwrap();
    assert_eq!(store.newest(), *newest.0);
    let mut found = 0;
    for (version, expected) in &known {
        match contents(&store, Some(*version)) {
            Ok(pages) => {
                found += 1;
                assert!(pages == *expected, "version {version}");
            }
            Err(error) => assert!(matches!(error, StoreError::NoVersion { .. }), "{error:?}"),
        }
    }
    assert!(found >= 3);
    let page = Page([5; 512]);
    let write = PageWrite::new(0, 1, &page).old(&newest.1[1]);
    store.commit(&[write], Durability::Sync).unwrap();
    store.compact(|_| {}).unwrap();
    drop(store);
    let store = Store::open(scratch.path(), options).unwrap();
    let mut expected = newest.1.clone();
    expected[1] = page;
    assert!(contents(&store, None).unwrap() == expected);
    drop(store);
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(scratch.path()));
    let examined = examine(&backend, key.as_ref(), |_| {}).unwrap();
    assert!(examined.sound() && examined.areas[0].name == "main");
}

/// Written by version 0.1.0, format 1.
#[test]
fn a_store_of_the_first_format_opens() {
    kept_store_opens("store-1", None, false);
}

/// Written by version 0.1.0, format 2: words, differences of nodes, a base.
#[test]
fn a_store_of_the_second_format_opens() {
    kept_store_opens("store-2", None, true);
}

#[test]
fn an_encrypted_store_of_the_second_format_opens() {
    kept_store_opens("store-2-sealed", Some(sealed()), true);
}

/// Written by version 0.1.0, format 3.
#[test]
fn a_store_of_the_third_format_opens() {
    kept_store_opens("store-3", None, true);
}

#[test]
fn an_encrypted_store_of_the_third_format_opens() {
    kept_store_opens("store-3-sealed", Some(sealed()), true);
}

#[test]
fn keys_which_are_wrong_missing_or_too_many_are_named() {
    let disk = CrashDisk::new();
    build_with(Arc::new(disk.clone()), Some(sealed()), true);
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let open = |backend: &Arc<dyn Backend>, key: Option<StoreKey>| {
        let mut options = options();
        options.key = key;
        Store::open_on(backend.clone(), options)
    };
    match open(&backend, None) {
        Err(StoreError::KeyNeeded { id, .. }) => assert_eq!(id, sealed().id()),
        other => panic!("{other:?}"),
    }
    let other = StoreKey::generate().unwrap();
    match open(&backend, Some(other.clone())) {
        Err(error @ StoreError::WrongKey { id, given, .. }) => {
            assert_eq!((id, given), (sealed().id(), other.id()));
            let text = error.to_string();
            assert!(text.contains(&id.to_string()) && text.contains(&given.to_string()));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        verify(&backend, None, |_| {}),
        Err(StoreError::KeyNeeded { .. })
    ));
    let plain: Arc<dyn Backend> = Arc::new({
        let disk = CrashDisk::new();
        build(Arc::new(disk.clone()));
        disk
    });
    assert!(matches!(
        open(&plain, Some(sealed())),
        Err(StoreError::NotEncrypted(_))
    ));
}

/// Nothing of the contents, the names or the places shows in the files.
#[test]
fn an_encrypted_store_shows_nothing() {
    let disk = CrashDisk::new();
    let mut options = options();
    options.key = Some(sealed());
    options.compression = Compression::None;
    let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
    let area = store.area("some secret name", 0x7700_1234_5000, 8).unwrap();
    let page = Page([u64::from_le_bytes(*b"mystery!"); 512]);
    for n in 0..3 {
        store
            .commit(&[PageWrite::new(area, n, &page)], Durability::Sync)
            .unwrap();
    }
    store.compact(|_| {}).unwrap();
    let address = 0x7700_1234_5000_u64.to_le_bytes();
    for name in disk.list().unwrap() {
        let bytes = disk.contents(&name).unwrap();
        let shows = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
        assert!(!shows(b"mystery!") && !shows(b"secret") && !shows(&address));
    }
}

/// Who can write the files but has no key changes something and sets the
/// checksums right.
#[test]
fn a_forgery_with_right_checksums_is_found() {
    let disk = CrashDisk::new();
    let known = build_with(Arc::new(disk.clone()), Some(sealed()), true);
    let newest = known.last_key_value().unwrap();
    let reading = || {
        let mut options = reading();
        options.key = Some(sealed());
        options
    };
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let view = |backend: &Arc<dyn Backend>| {
        let store = Store::open_on(backend.clone(), reading())?;
        Ok::<_, StoreError>((store.newest(), contents(&store, None)?))
    };
    let versions = Store::open_on(backend.clone(), reading())
        .unwrap()
        .versions();
    let mut tried = 0;
    for version in &versions {
        let name = format!("image-{:06x}.hvck", version.image);
        let bytes = disk.contents(&name).unwrap();
        let (from, body) = (version.offset as usize, version.bytes as usize - 128);
        for at in (0..body).step_by(61) {
            let mut bad = bytes.clone();
            let object = &mut bad[from + 128..][..body];
            object[at] ^= 0x10;
            // Checksums of all objects of the frame: each has its size.
            let mut next = 0;
            while next + 8 <= body {
                let size = u32::from_le_bytes(object[next + 4..next + 8].try_into().unwrap());
                let end = next + 24 + size as usize;
                let Some(part) = object.get_mut(next..end) else {
                    break;
                };
                let crc = crc32c::crc32c(&part[4..]);
                part[..4].copy_from_slice(&crc.to_le_bytes());
                next = end;
            }
            let crc = crc32c::crc32c(object);
            bad[from + 120..from + 124].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c::crc32c(&bad[from..from + 124]);
            bad[from + 124..from + 128].copy_from_slice(&crc.to_le_bytes());
            if bad == bytes {
                // It was a checksum.
                continue;
            }
            tried += 1;
            let damaged = disk.copy();
            damaged.put(&name, &bad);
            let backend: Arc<dyn Backend> = Arc::new(damaged);
            match view(&backend) {
                Ok((number, pages)) => {
                    assert!(number == *newest.0 && pages == *newest.1, "{name} {at}");
                }
                Err(StoreError::Damaged(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            let examined = verify(&backend, Some(&sealed()), |_| {}).unwrap();
            assert!(!examined.problems.is_empty(), "{name} {at}");
        }
    }
    assert!(tried > 30, "{tried}");
    let name = format!("image-{:06x}.hvck", versions[0].image);
    let mut bytes = disk.contents(&name).unwrap();
    bytes[40] ^= 1;
    let crc = crc32c::crc32c(&bytes[..188]);
    bytes[188..192].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, &bytes);
    let examined = verify(&backend, Some(&sealed()), |_| {}).unwrap();
    assert!(
        examined
            .problems
            .iter()
            .any(|damage| damage.what == DamageKind::Forged)
    );
}
