// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk which refuses syncs, or has no room: nothing is built on what it may
//! not have, nothing that was refused comes back, and nothing is left behind.

mod store_common;

use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, verify,
};

const PAGES: u64 = 5000;

fn options(key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.key = key.cloned();
    options.auto_compact = false;
    options
}

fn open(disk: &CrashDisk, key: Option<&StoreKey>) -> Result<Store, StoreError> {
    Store::open_on(Arc::new(disk.clone()), options(key))
}

/// Writes `number` to a page of its own, and to the first one.
fn commit(store: &Store, number: u64) -> Result<u64, StoreError> {
    let area = store.area("main", 0x10_0000, PAGES)?;
    let page = Page([number; 512]);
    let writes = [
        PageWrite::new(area, 0, &page),
        PageWrite::new(area, 1 + number * 67, &page),
    ];
    store.commit(&writes, Durability::Sync)
}

/// The newest commit, of which and of all before everything must be there.
fn newest(store: &Store) -> u64 {
    let view = store.view(None).unwrap();
    let number = view.page(0, 0).unwrap().0[0];
    for n in 1..=number {
        assert_eq!(view.page(0, 1 + n * 67).unwrap(), Page([n; 512]), "{n}");
    }
    number
}

fn keys() -> [Option<StoreKey>; 2] {
    [None, Some(StoreKey::generate().unwrap())]
}

#[test]
fn what_a_failed_sync_left_in_memory_is_written_again() {
    for key in keys() {
        for seed in 0..60 {
            let errno = if seed % 2 == 0 {
                libc::EIO
            } else {
                libc::ENOSPC
            };
            // In an image which is there, or in one which is made for it.
            let reopened = seed % 4 < 2;
            let disk = CrashDisk::new();
            let mut store = open(&disk, key.as_ref()).unwrap();
            for number in 1..=9 {
                commit(&store, number).unwrap();
            }
            if reopened {
                drop(store);
                store = open(&disk, key.as_ref()).unwrap();
            }
            disk.fail_syncs(Some(errno), 1, seed + 1);
            let refused = commit(&store, 10);
            assert!(refused.is_err(), "{refused:?}");
            drop(store);
            disk.fail_syncs(None, 1, 1);
            // The same kernel shows what the disk may not have.
            let store = open(&disk, key.as_ref()).unwrap();
            let first = newest(&store) + 1;
            assert_eq!(first, 10);
            for number in first..first + 5 {
                commit(&store, number).unwrap();
            }
            drop(store);
            let disk = disk.after_crash(seed);
            let store = open(&disk, key.as_ref()).unwrap();
            assert_eq!(newest(&store), first + 4);
        }
    }
}

#[test]
fn a_program_which_died_before_it_heard_of_the_sync_loses_nothing_either() {
    for key in keys() {
        for seed in 0..60 {
            let disk = CrashDisk::new();
            let store = open(&disk, key.as_ref()).unwrap();
            for number in 1..=9 {
                commit(&store, number).unwrap();
            }
            // The write and the sync of the next commit, but not what follows a
            // sync which fails.
            disk.fail_syncs(Some(libc::EIO), 1, seed + 1);
            disk.cut_after(if seed % 2 == 0 { 2 } else { 1 });
            assert!(commit(&store, 10).is_err());
            drop(store);
            disk.cut_after(u64::MAX);
            disk.fail_syncs(None, 1, 1);
            let store = open(&disk, key.as_ref()).unwrap();
            let first = newest(&store) + 1;
            assert_eq!(first, 11, "it is visible, and nobody was told of it");
            for number in first..first + 5 {
                commit(&store, number).unwrap();
            }
            drop(store);
            let disk = disk.after_crash(seed);
            let store = open(&disk, key.as_ref()).unwrap();
            assert_eq!(newest(&store), first + 4);
        }
    }
}

#[test]
fn a_sync_without_space_is_told_as_such_and_leaves_nothing() {
    for key in keys() {
        for seed in 0..12 {
            let disk = CrashDisk::new();
            let store = open(&disk, key.as_ref()).unwrap();
            commit(&store, 1).unwrap();
            // Every second one: what was refused can be taken back, or not.
            disk.fail_syncs(Some(libc::ENOSPC), 2, seed + 1);
            let mut number = 2;
            let mut settled = true;
            for _ in 0..20 {
                match commit(&store, number) {
                    Ok(_) => {
                        number += 1;
                        settled = true;
                    }
                    Err(StoreError::Full { source, .. }) => {
                        assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
                        // What came before was taken back first.
                        settled = true;
                    }
                    Err(StoreError::Unsettled { .. }) => settled = false,
                    Err(StoreError::Poisoned { .. }) => assert!(!settled),
                    Err(error) => panic!("{}", hvckpt::explain(&error)),
                }
                if settled {
                    // Whenever the power fails now.
                    let disk = disk.after_crash(seed);
                    let store = open(&disk, key.as_ref()).unwrap();
                    assert_eq!(newest(&store), number - 1);
                }
            }
            disk.fail_syncs(None, 1, 1);
            drop(store);
            let store = open(&disk, key.as_ref()).unwrap();
            assert_eq!(newest(&store), number - 1);
            let backend: Arc<dyn Backend> = Arc::new(disk.after_crash(seed));
            assert!(verify(&backend, key.as_ref(), |_| {}).unwrap().sound());
        }
    }
}

fn names(disk: &CrashDisk) -> Vec<String> {
    disk.list().unwrap()
}

#[test]
fn attempts_without_space_leave_nothing_behind() {
    for key in keys() {
        let disk = CrashDisk::new();
        let store = open(&disk, key.as_ref()).unwrap();
        commit(&store, 1).unwrap();
        drop(store);
        let before = names(&disk);
        for space in [0, 100, 200, 300] {
            disk.space(Some(space));
            // As a program does, or as one which opens it again each time.
            let store = open(&disk, key.as_ref()).unwrap();
            for _ in 0..5 {
                let refused = commit(&store, 2);
                assert!(
                    matches!(refused, Err(StoreError::Full { .. })),
                    "{space}: {refused:?}"
                );
                disk.space(Some(space));
            }
            assert!(store.compact(|_| {}).is_err());
            drop(store);
            assert_eq!(names(&disk), before, "{space}");
        }
        disk.space(None);
        commit(&open(&disk, key.as_ref()).unwrap(), 2).unwrap();
        assert_eq!(newest(&open(&disk, key.as_ref()).unwrap()), 2);
    }
    let disk = CrashDisk::new();
    disk.space(Some(50));
    assert!(open(&disk, None).is_err());
    assert_eq!(names(&disk), Vec::<String>::new());
}

#[test]
fn what_refused_syncs_cost_is_not_left_either() {
    for seed in 0..40 {
        let disk = CrashDisk::new();
        let store = open(&disk, None).unwrap();
        commit(&store, 1).unwrap();
        let before = names(&disk);
        disk.fail_syncs(Some(libc::ENOSPC), 1 + seed % 3, seed + 1);
        for _ in 0..10 {
            let _refused = commit(&store, 2).and_then(|_| store.compact(|_| {}));
        }
        disk.fail_syncs(None, 1, 1);
        commit(&store, 2).unwrap();
        store.compact(|_| {}).unwrap();
        drop(store);
        drop(open(&disk, None).unwrap());
        assert!(names(&disk).len() <= before.len() + 1, "{:?}", names(&disk));
        assert!(names(&disk).iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn empty_images_which_were_left_behind_go() {
    let disk = CrashDisk::new();
    let store = open(&disk, None).unwrap();
    commit(&store, 1).unwrap();
    drop(store);
    // As an attempt made it which then had no space.
    let other = disk.copy();
    let store = open(&other, None).unwrap();
    commit(&store, 2).unwrap();
    drop(store);
    let last = names(&other)
        .into_iter()
        .rfind(|name| name.starts_with("image-"));
    let mut header: Vec<u8> = other.contents(&last.unwrap()).unwrap()[..192].to_vec();
    for number in 3..40_u64 {
        header[32..40].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&header[..188]);
        header[188..].copy_from_slice(&crc.to_le_bytes());
        disk.put(&format!("image-{number:06x}.hvck"), &header);
    }
    let store = open(&disk, None).unwrap();
    assert_eq!(newest(&store), 1);
    commit(&store, 2).unwrap();
    drop(store);
    let images = names(&disk).len();
    assert!(images <= 5, "{:?}", names(&disk));
    assert_eq!(newest(&open(&disk.after_crash(1), None).unwrap()), 2);
}

#[test]
fn opening_costs_what_is_doubtful_and_not_what_there_is() {
    let cost = |commits: u64| {
        let disk = CrashDisk::new();
        let store = open(&disk, None).unwrap();
        for number in 1..=commits {
            commit(&store, number).unwrap();
        }
        drop(store);
        let before = disk.operations();
        drop(open(&disk, None).unwrap());
        disk.operations() - before
    };
    assert!(cost(70) <= cost(2), "{} and {}", cost(70), cost(2));
}

#[test]
fn a_reader_hears_what_is_not_known_to_be_on_the_disk() {
    let disk = CrashDisk::new();
    let store = open(&disk, None).unwrap();
    commit(&store, 1).unwrap();
    let version = store.newest();
    disk.fail_syncs(Some(libc::EIO), 1, 1);
    disk.cut_after(2);
    assert!(commit(&store, 2).is_err());
    drop(store);
    disk.cut_after(u64::MAX);
    disk.fail_syncs(None, 1, 1);
    let backend: Arc<dyn Backend> = Arc::new(disk.clone());
    let found = verify(&backend, None, |_| {}).unwrap();
    assert_eq!(
        (found.proven, found.unproven()),
        (version, Some(version + 1))
    );
    drop(open(&disk, None).unwrap());
    assert_eq!(verify(&backend, None, |_| {}).unwrap().unproven(), None);
}
