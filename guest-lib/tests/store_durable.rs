// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions which survive: transactions, recovery, addresses.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

mod store_common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hvckpt::store::backend::CrashDisk;
use hvckpt::store::{
    Durability, Durable, DurableError, MapError, Page, PageWrite, Store, StoreError, StoreOptions,
};
use hvckpt::{SimGate, TrackerKind};
use proptest::prelude::*;
use store_common::{Scratch, builder, trackers};

fn word(region: &Durable, at: usize) -> u64 {
    region.atomics_u64()[at].load(Relaxed)
}

fn set(region: &Durable, at: usize, value: u64) {
    region.atomics_u64()[at].store(value, Relaxed);
}

#[test]
fn commits_survive_and_aborts_do_not() {
    for tracker in trackers() {
        let scratch = Scratch::new(&format!("survive-{tracker}"));
        let open = || {
            builder("main", tracker)
                .pages(8)
                .open(scratch.path())
                .unwrap()
        };
        let region = open();
        assert!(region.recovery().created);
        let address = region.address();
        let transaction = region.begin().unwrap();
        set(&region, 0, 1);
        set(&region, 513, 2);
        let version = transaction.commit(Durability::Sync).unwrap();
        let transaction = region.begin().unwrap();
        set(&region, 0, 10);
        set(&region, 4000, 11);
        transaction.abort();
        assert_eq!([word(&region, 0), word(&region, 4000)], [1, 0], "{tracker}");
        let open_one = region.begin().unwrap();
        set(&region, 513, 20);
        std::mem::forget(open_one);
        drop(region);

        let region = open();
        assert!(!region.recovery().created);
        assert_eq!(
            (region.address(), region.version()),
            (address, version),
            "{tracker}"
        );
        assert_eq!(
            [word(&region, 0), word(&region, 513), word(&region, 4000)],
            [1, 2, 0]
        );
    }
}

#[test]
fn a_panic_aborts_and_a_second_begin_is_refused() {
    let scratch = Scratch::new("panic");
    let region = builder("main", TrackerKind::Pt)
        .pages(2)
        .open(scratch.path())
        .unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _transaction = region.begin().unwrap();
        set(&region, 5, 5);
        assert!(matches!(region.begin(), Err(DurableError::AlreadyOpen)));
        panic!("in the middle");
    }));
    assert!(result.is_err());
    assert_eq!(word(&region, 5), 0);
    region.begin().unwrap().commit(Durability::Async).unwrap();
}

#[test]
fn commits_in_memory_are_what_abort_restores_and_go_with_the_next() {
    let scratch = Scratch::new("memory");
    let open = || {
        builder("main", TrackerKind::Pt)
            .pages(4)
            .open(scratch.path())
            .unwrap()
    };
    let region = open();
    let commit = |at: usize, value: u64, durability| {
        let transaction = region.begin().unwrap();
        set(&region, at, value);
        transaction.commit(durability).unwrap()
    };
    commit(0, 1, Durability::Sync);
    commit(0, 2, Durability::Memory);
    let transaction = region.begin().unwrap();
    set(&region, 0, 3);
    transaction.abort();
    assert_eq!(word(&region, 0), 2);
    commit(1024, 4, Durability::Memory);
    let version = commit(0, 5, Durability::Group);
    commit(0, 6, Durability::Memory);
    drop(region);
    let region = open();
    assert_eq!(region.version(), version);
    assert_eq!([word(&region, 0), word(&region, 1024)], [5, 4]);
}

#[test]
fn an_address_which_is_taken_is_named() {
    let scratch = Scratch::new("taken");
    let open = || {
        builder("main", TrackerKind::Pt)
            .pages(3)
            .open(scratch.path())
    };
    let region = open().unwrap();
    let (copy, address) = (Scratch::new("taken-copy"), region.address());
    region.store().flush().unwrap();
    for entry in std::fs::read_dir(scratch.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    match builder("main", TrackerKind::Pt).open(copy.path()) {
        Err(DurableError::Map(MapError::Taken {
            address: taken,
            bytes,
        })) => {
            assert_eq!((taken as usize, bytes), (address, 3 * 4096));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        open(),
        Err(DurableError::Store(StoreError::Locked { .. }))
    ));
    drop(region);
    assert_eq!(
        builder("main", TrackerKind::Pt)
            .open(copy.path())
            .unwrap()
            .address(),
        address
    );
}

#[test]
fn several_regions_share_a_store_and_grow() {
    let scratch = Scratch::new("several");
    let open = || Arc::new(Store::open(scratch.path(), StoreOptions::default()).unwrap());
    let store = open();
    let region = |store: &Arc<Store>, name: &str, pages| {
        builder(name, TrackerKind::Pt)
            .pages(pages)
            .open_in(store)
            .unwrap()
    };
    let regions: Vec<Durable> = (0..4)
        .map(|n| region(&store, &format!("r{n}"), 2))
        .collect();
    assert!(matches!(
        builder("r0", TrackerKind::Pt).open_in(&store),
        Err(DurableError::InUse(_))
    ));
    std::thread::scope(|scope| {
        for (n, region) in regions.iter().enumerate() {
            scope.spawn(move || {
                for round in 1..=20 {
                    let transaction = region.begin().unwrap();
                    set(region, n, round);
                    transaction.commit(Durability::Group).unwrap();
                }
            });
        }
    });
    drop((regions, store));
    let store = open();
    for n in 0..4 {
        let region = region(&store, &format!("r{n}"), 100);
        assert_eq!([word(&region, n), word(&region, 99 * 512)], [20, 0]);
        let transaction = region.begin().unwrap();
        set(&region, 99 * 512, 7);
        transaction.commit(Durability::Sync).unwrap();
    }
    drop(store);
    let region = builder("r3", TrackerKind::Pt).open(scratch.path()).unwrap();
    assert_eq!((region.region().pages(), word(&region, 99 * 512)), (100, 7));
}

#[test]
fn a_full_disk_aborts_the_commit_and_loses_nothing() {
    let disk = CrashDisk::new();
    let store = Arc::new(Store::open_on(Arc::new(disk.clone()), StoreOptions::default()).unwrap());
    let region = builder("main", TrackerKind::Pt)
        .pages(4)
        .open_in(&store)
        .unwrap();
    let commit = |value| {
        let transaction = region.begin().unwrap();
        set(&region, 0, value);
        transaction.commit(Durability::Sync)
    };
    let version = commit(1).unwrap();
    for space in [0, 100, 200] {
        disk.space(Some(space));
        let refused = commit(2);
        assert!(
            matches!(refused, Err(DurableError::Store(StoreError::Full { .. }))),
            "{refused:?}"
        );
        assert_eq!((word(&region, 0), region.version()), (1, version));
    }
    disk.space(None);
    commit(3).unwrap();
    disk.fail_sync(true);
    let refused = commit(4);
    assert!(
        matches!(
            refused,
            Err(DurableError::Store(StoreError::Unsettled { .. }))
        ),
        "{refused:?}"
    );
    let refused = commit(5);
    assert!(
        matches!(
            refused,
            Err(DurableError::Store(StoreError::Poisoned { .. }))
        ),
        "{refused:?}"
    );
    disk.fail_sync(false);
    // First it takes back what was refused.
    assert_eq!(word(&region, 0), 3);
    commit(6).unwrap();
    drop((region, store));
    let disk = disk.after_crash(1);
    let store = Arc::new(Store::open_on(Arc::new(disk), StoreOptions::default()).unwrap());
    let region = builder("main", TrackerKind::Pt).open_in(&store).unwrap();
    assert_eq!(word(&region, 0), 6);
}

#[test]
fn group_commits_share_syncs() {
    // Each alone takes a write, a sync and an acknowledgement.  On a busy
    // machine they may miss each other, but not always.
    let mut last = 0;
    let shared = (0..50).any(|_| {
        last = operations_of_80_group_commits();
        last < 3 * 80 / 2
    });
    assert!(shared, "{last} operations for 80 commits");
}

fn operations_of_80_group_commits() -> u64 {
    let disk = CrashDisk::new();
    let mut options = StoreOptions::default();
    options.group_delay = std::time::Duration::from_millis(5);
    let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
    let area = store.area("main", 0, 8).unwrap();
    let before = disk.operations();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 1..=10 {
                    let page = Page([round; 512]);
                    store
                        .commit(&[PageWrite::new(area, n, &page)], Durability::Group)
                        .unwrap();
                }
            });
        }
    });
    disk.operations() - before
}

/// What an abort took away, written once more: a tracker that compares memory
/// sees no difference.
#[test]
fn the_same_write_is_aborted_twice_and_then_committed() {
    for tracker in trackers() {
        let disk = CrashDisk::new();
        let open = || {
            let store = Store::open_on(Arc::new(disk.clone()), StoreOptions::default()).unwrap();
            let builder = builder("main", tracker).pages(4);
            builder.open_in(&Arc::new(store)).unwrap()
        };
        let region = open();
        for _ in 0..2 {
            let transaction = region.begin().unwrap();
            set(&region, 700, 1);
            transaction.abort();
            assert_eq!(word(&region, 700), 0, "{tracker}");
        }
        let transaction = region.begin().unwrap();
        set(&region, 700, 1);
        transaction.commit(Durability::Sync).unwrap();
        drop(region);
        assert_eq!(word(&open(), 700), 1, "{tracker}");
    }
}

/// The domain is resumed elsewhere in the middle of things.
#[test]
fn a_lost_session_loses_nothing() {
    let gate = SimGate::default();
    let disk = CrashDisk::new();
    let store = Arc::new(Store::open_on(Arc::new(disk.clone()), StoreOptions::default()).unwrap());
    let region = builder("main", TrackerKind::Sim)
        .sim(gate.clone())
        .pages(4)
        .open_in(&store)
        .unwrap();
    let commit = |region: &Durable, at: usize, value: u64| {
        let transaction = region.begin().unwrap();
        set(region, at, value);
        transaction.commit(Durability::Sync).unwrap()
    };
    commit(&region, 0, 1);
    // Inside a transaction: the list is lost, every page is compared.
    let transaction = region.begin().unwrap();
    set(&region, 600, 2);
    gate.forget_session();
    set(&region, 1200, 3);
    transaction.commit(Durability::Sync).unwrap();
    // Between two: nobody watches until the next begins, which attaches anew.
    set(&region, 1800, 4);
    commit(&region, 1, 5);
    assert!(gate.attached());
    // Inside one which is aborted.
    let transaction = region.begin().unwrap();
    set(&region, 600, 9);
    gate.forget_session();
    set(&region, 1201, 9);
    transaction.abort();
    let version = commit(&region, 2, 6);
    let expected = [
        (0, 1),
        (600, 2),
        (1200, 3),
        (1800, 4),
        (1, 5),
        (2, 6),
        (1201, 0),
    ];
    for (at, value) in expected {
        assert_eq!(word(&region, at), value, "word {at}");
    }
    // From then on lists are short again: one page, not four.
    let pages = store.versions().last().unwrap().records;
    assert_eq!((pages, version), (1, region.version()));
    drop((region, store));
    let store = Arc::new(Store::open_on(Arc::new(disk), StoreOptions::default()).unwrap());
    let region = builder("main", TrackerKind::Sim).open_in(&store).unwrap();
    for (at, value) in expected {
        assert_eq!(word(&region, at), value, "word {at} after recovery");
    }
}

#[test]
fn what_happens_is_counted() {
    let disk = CrashDisk::new();
    let mut options = StoreOptions::default();
    options.interval = std::time::Duration::from_secs(100);
    options.queue_bytes = 3 * 4096;
    let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
    let metrics = store.metrics();
    let area = store.area("main", 0, 8).unwrap();
    let page = Page([7; 512]);
    let commit = |durability| store.commit(&[PageWrite::new(area, 3, &page)], durability);
    commit(Durability::Sync).unwrap();
    let written = metrics.bytes();
    assert!(written > 128 + 4096 / 8);
    commit(Durability::Async).unwrap();
    commit(Durability::Async).unwrap();
    assert_eq!((metrics.lag(), metrics.bytes()), (2, written));
    // The queue is full: this one writes.
    commit(Durability::Async).unwrap();
    assert_eq!(metrics.lag(), 0);
    assert!(metrics.bytes() > written);
    disk.space(Some(0));
    commit(Durability::Group).unwrap_err();
    let count = |durability| metrics.commits(durability).count();
    let counts = [Durability::Sync, Durability::Group, Durability::Async].map(count);
    assert_eq!(counts, [1, 0, 3]);
    let registry = hvckpt::metrics::Registry::new();
    registry.add("main", metrics);
    let text = registry.prometheus();
    for line in [
        "hvckpt_store_commit_seconds_count{source=\"main\",durability=\"async\"} 3",
        "hvckpt_store_commits_failed_total{source=\"main\"} 1",
        "hvckpt_store_backpressure_total{source=\"main\"} 1",
        "hvckpt_store_written_pages_total{source=\"main\"} 4",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// As docs/spec-image.md says.
#[test]
fn one_word_of_a_gibibyte_takes_424_bytes() {
    let store = Store::open_on(Arc::new(CrashDisk::new()), StoreOptions::default()).unwrap();
    let area = store.area("main", 0, 1 << 18).unwrap();
    let mut page = Page([1; 512]);
    for n in 0..40_u64 {
        let old = page;
        page.0[n as usize] = n + 2;
        let write = PageWrite::new(area, 100_000, &page);
        let write = if n == 0 { write } else { write.old(&old) };
        store.commit(&[write], Durability::Sync).unwrap();
        let bytes = store.versions().last().unwrap().bytes;
        let most = 128 + 48 + 3 * 48 + 104;
        // Every ninth starts the nodes anew, every seventeenth the page.
        assert!(n % 9 == 0 || n % 17 == 0 || bytes == most, "{n}: {bytes}");
    }
    assert!(store.view(None).unwrap().page(0, 100_000).unwrap() == page);
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, u64),
    Commit(u8),
    Abort,
    Reopen,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    // Some words often: what is written there again may be what was there before.
    let at = prop_oneof![
        0..6 * 512_usize,
        (0..6_usize).prop_map(|page| page * 512 + 7)
    ];
    prop_oneof![
        8 => (at, any::<u64>()).prop_map(|(at, value)| Step::Write(at, value % 3)),
        3 => (0..4_u8).prop_map(Step::Commit),
        2 => Just(Step::Abort),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
    ]
}

/// A region does what a plain vector does which is copied at commit.
fn compare(tracker: TrackerKind, steps: &[Step]) {
    let disk = CrashDisk::new();
    let open = || {
        let mut options = StoreOptions::default();
        options.image_bytes = 8 << 10;
        options.keep = 3;
        let store = Arc::new(Store::open_on(Arc::new(disk.clone()), options).unwrap());
        builder("main", tracker).pages(6).open_in(&store).unwrap()
    };
    let mut region = open();
    let mut now = vec![0; 6 * 512];
    let (mut committed, mut stored) = (now.clone(), now.clone());
    let mut writes = Vec::new();
    for step in steps {
        match *step {
            Step::Write(at, value) => writes.push((at, value)),
            Step::Commit(level) => {
                let transaction = region.begin().unwrap();
                for (at, value) in writes.drain(..) {
                    set(&region, at, value);
                    now[at] = value;
                }
                let levels = [
                    Durability::Memory,
                    Durability::Async,
                    Durability::Group,
                    Durability::Sync,
                ];
                transaction.commit(levels[level as usize]).unwrap();
                committed.clone_from(&now);
                if level > 0 {
                    stored.clone_from(&now);
                }
            }
            Step::Abort => {
                let transaction = region.begin().unwrap();
                writes
                    .drain(..)
                    .for_each(|(at, value)| set(&region, at, value));
                transaction.abort();
            }
            Step::Reopen => {
                drop(region);
                region = open();
                committed.clone_from(&stored);
                now.clone_from(&stored);
            }
            Step::Compact => {
                region.store().compact(|_| {}).unwrap();
            }
        }
        let found: Vec<u64> = region
            .atomics_u64()
            .iter()
            .map(|word| word.load(Relaxed))
            .collect();
        assert!(found == committed, "{tracker} differs after {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn transactions_are_like_a_plain_model(steps in prop::collection::vec(step(), 1..40)) {
        for tracker in trackers() {
            compare(tracker, &steps);
        }
    }
}
