// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads which commit at the same time share syncs, nobody else waits for
//! the disk or for the backup, and a refused version takes with it what was
//! built on it.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

#[path = "store_common/gate.rs"]
#[allow(dead_code)]
mod gate;
mod store_common;

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use gate::{Gate, at_once, eventually};
use hvckpt::TrackerKind;
use hvckpt::arena::{Arena, ArenaRoot, UpdateError};
use hvckpt::backup::{Key, Replication, Require};
use hvckpt::store::{
    Durability, Durable, DurableError, DurableTransaction, Page, PageWrite, Store, StoreError,
    StoreOptions,
};
use store_common::builder;

const THREADS: u64 = 8;
const ROUNDS: u64 = 20;

fn store(gate: &Gate, change: impl FnOnce(&mut StoreOptions)) -> Arc<Store> {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.group_delay = Duration::ZERO;
    // Nobody but the threads which wait writes.
    options.interval = Duration::from_secs(3600);
    change(&mut options);
    Arc::new(Store::open_on(Arc::new(gate.clone()), options).unwrap())
}

fn region(store: &Arc<Store>, name: &str) -> Arc<Durable> {
    let builder = builder(name, TrackerKind::Pt).pages(8);
    Arc::new(builder.open_in(store).unwrap())
}

fn word(region: &Durable, at: usize) -> u64 {
    region.atomics_u64()[at].load(Relaxed)
}

fn set(region: &Durable, at: usize, value: u64) {
    region.atomics_u64()[at].store(value, Relaxed);
}

/// Begins as soon as no other thread has a transaction open.
fn begin(region: &Durable) -> DurableTransaction<'_> {
    loop {
        match region.begin() {
            Err(DurableError::AlreadyOpen) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn commit(
    region: &Durable,
    at: usize,
    value: u64,
    durability: Durability,
) -> Result<u64, DurableError> {
    let transaction = begin(region);
    set(region, at, value);
    transaction.commit(durability)
}

type Committing = JoinHandle<Result<u64, DurableError>>;

/// A thread which commits, once its commit is in the queue.
fn committing(region: &Arc<Durable>, at: usize, value: u64, durability: Durability) -> Committing {
    let before = region.store().newest();
    let thread = {
        let region = region.clone();
        std::thread::spawn(move || commit(&region, at, value, durability))
    };
    eventually("a commit in the queue", || {
        region.store().newest() > before || thread.is_finished()
    });
    thread
}

/// A region with a commit in it whose sync waits.
fn blocked(gate: &Gate) -> (Arc<Store>, Arc<Durable>, Committing) {
    let store = store(gate, |_| {});
    let region = region(&store, "main");
    commit(&region, 0, 1, Durability::Sync).unwrap();
    gate.close();
    let first = committing(&region, 0, 2, Durability::Sync);
    gate.until_blocked();
    (store, region, first)
}

struct Counts([u64; 8]);

// SAFETY: plain numbers.
unsafe impl ArenaRoot for Counts {
    const TAG: u64 = 1;
}

fn arena(store: &Arc<Store>) -> Arc<Arena<Counts>> {
    let durable = builder("arena", TrackerKind::Pt).pages(8).open_in(store);
    Arc::new(Arena::open(durable.unwrap(), |_| Counts([0; 8])).unwrap())
}

fn add(arena: &Arena<Counts>, at: usize, durability: Durability) -> u64 {
    let updated = arena.update(durability, |counts| {
        counts.0[at] += 1;
        Ok::<_, Infallible>(())
    });
    updated.unwrap().0
}

/// All commit while the sync of one of them waits: two syncs for all of them.
fn syncs(gate: &Gate, store: &Arc<Store>, act: impl Fn(usize) + Sync) -> u64 {
    let before = gate.syncs();
    for _ in 0..ROUNDS {
        let newest = store.newest();
        gate.close();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let act = &act;
                scope.spawn(move || act(thread as usize));
            }
            eventually("all in the queue", || store.newest() == newest + THREADS);
            gate.open();
        });
        assert_eq!(store.durable(), newest + THREADS);
    }
    gate.syncs() - before
}

#[test]
fn threads_share_syncs() {
    for durability in [Durability::Group, Durability::Sync] {
        let gate = Gate::default();
        let store = store(&gate, |_| {});
        let (arena, region) = (arena(&store), region(&store, "main"));
        let area = store.area("pages", 0, THREADS).unwrap();
        commit(&region, 0, 1, Durability::Sync).unwrap();
        let of_arena = syncs(&gate, &store, |thread| {
            add(&arena, thread, durability);
        });
        let of_region = syncs(&gate, &store, |thread| {
            commit(&region, thread, 2, durability).unwrap();
        });
        let of_store = syncs(&gate, &store, |thread| {
            let page = Page([7; 512]);
            let write = PageWrite::new(area, thread as u64, &page);
            store.commit(&[write], durability).unwrap();
        });
        let of_waits = syncs(&gate, &store, |thread| {
            let version = commit(&region, thread, 3, Durability::Async).unwrap();
            store.wait(version).unwrap();
        });
        for syncs in [of_arena, of_region, of_store, of_waits] {
            assert!(
                syncs <= 2 * ROUNDS,
                "{durability:?}: {syncs} for {} commits",
                ROUNDS * THREADS
            );
        }
        assert_eq!(arena.read(|counts| counts.0), [ROUNDS; 8]);
    }
}

/// A group commit goes on as soon as all are there who were there before, and
/// one which is alone waits for nobody.
#[test]
fn groups_wait_for_those_who_came_before() {
    let gate = Gate::default();
    let store = store(&gate, |options| {
        options.group_delay = Duration::from_secs(3600);
    });
    let arena = arena(&store);
    let before = gate.syncs();
    for _ in 0..ROUNDS {
        add(&arena, 0, Durability::Group);
    }
    assert_eq!(gate.syncs() - before, ROUNDS);
    // One leads, and eight come meanwhile: nine are expected from now on.
    gate.close();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            add(&arena, 0, Durability::Group);
            add(&arena, 0, Durability::Group);
        });
        gate.until_blocked();
        let newest = store.newest();
        for thread in 0..THREADS as usize {
            let arena = &arena;
            scope.spawn(move || add(arena, thread, Durability::Group));
        }
        eventually("all in the queue", || store.newest() == newest + THREADS);
        gate.open();
    });
    let before = gate.syncs();
    for _ in 0..ROUNDS {
        std::thread::scope(|scope| {
            for thread in 0..=THREADS as usize {
                let arena = &arena;
                scope.spawn(move || add(arena, thread % 8, Durability::Group));
            }
        });
    }
    assert_eq!(gate.syncs() - before, ROUNDS);
    // Who may not tarry does not.
    add(&arena, 0, Durability::Sync);
}

/// What may not wait while a commit does.
fn others_go_on(store: &Arc<Store>, region: &Arc<Durable>, arena: &Arc<Arena<Counts>>) {
    let (store, region, arena) = (store.clone(), region.clone(), arena.clone());
    at_once("a reader", {
        let (store, region, arena) = (store.clone(), region.clone(), arena.clone());
        move || {
            assert_eq!(arena.read(|counts| counts.0[1]), 1);
            assert!(arena.version() <= store.newest() && region.version() <= store.newest());
            let last = store.versions().pop().unwrap();
            assert_eq!(store.view(None).unwrap().version(), last);
            assert!(!store.view(Some(last.number)).unwrap().areas().is_empty());
            assert_eq!(store.find_area("main").unwrap().1.present, 1);
            let registry = hvckpt::metrics::Registry::new();
            registry.add("main", store.metrics());
            assert!(registry.prometheus().contains("lag_versions"));
        }
    });
    at_once("an asynchronous commit", move || {
        commit(&region, 600, 9, Durability::Memory).unwrap();
        commit(&region, 601, 9, Durability::Async).unwrap();
        add(&arena, 2, Durability::Async);
        let page = Page([7; 512]);
        let write = PageWrite::new(0, 7, &page);
        store.commit(&[write], Durability::Async).unwrap();
        let open = region.begin().unwrap();
        set(&region, 602, 9);
        open.abort();
    });
}

#[test]
fn nobody_waits_for_the_sync_of_another() {
    for durability in [Durability::Group, Durability::Sync] {
        let gate = Gate::default();
        let store = store(&gate, |_| {});
        let (region, arena) = (region(&store, "main"), arena(&store));
        commit(&region, 0, 1, Durability::Sync).unwrap();
        gate.close();
        let waiting = {
            let arena = arena.clone();
            std::thread::spawn(move || add(&arena, 1, durability))
        };
        gate.until_blocked();
        others_go_on(&store, &region, &arena);
        assert!(!waiting.is_finished());
        gate.open();
        assert!(waiting.join().unwrap() <= store.durable());
    }
}

#[test]
fn nobody_waits_for_the_backup_of_another() {
    // Takes connections, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let scratch = store_common::Scratch::new("deaf");
    let key: Key = hvckpt::backup::add_key(&scratch.path().join("keys"), "deaf").unwrap();
    for require in [Require::Both, Require::Backup] {
        let gate = Gate::default();
        let store = store(&gate, |options| {
            let mut replication = Replication::new(address.clone(), key.clone());
            replication.require = require;
            replication.timeout = Duration::from_millis(1);
            replication.degrade = true;
            options.replication = Some(replication.into());
        });
        let (region, arena) = (region(&store, "main"), arena(&store));
        commit(&region, 0, 1, Durability::Sync).unwrap();
        drop((region, arena, store));
        let store = self::store(&gate, |options| {
            let mut replication = Replication::new(address.clone(), key.clone());
            replication.require = require;
            replication.timeout = Duration::from_secs(3600);
            options.replication = Some(replication.into());
        });
        let region = self::region(&store, "main");
        let durable = builder("arena", TrackerKind::Pt).open_in(&store).unwrap();
        let arena = Arc::new(Arena::open(durable, |_| Counts([0; 8])).unwrap());
        let waiting = {
            let arena = arena.clone();
            std::thread::spawn(move || add(&arena, 1, Durability::Sync))
        };
        eventually("committed", || arena.read(|counts| counts.0[1]) == 1);
        store.flush().unwrap();
        others_go_on(&store, &region, &arena);
        assert!(!waiting.is_finished());
        // It waits until the process ends.
        std::mem::forget((store, region, arena));
    }
}

#[test]
fn a_failed_sync_takes_back_what_was_built_on_it() {
    let gate = Gate::default();
    let (_store, region, first) = blocked(&gate);
    let before = region.version() - 1;
    let second = committing(&region, 512, 3, Durability::Sync);
    let open = begin(&region);
    set(&region, 1024, 4);
    assert_eq!([word(&region, 0), word(&region, 512)], [2, 3]);
    gate.open_failing();
    for thread in [first, second] {
        let refused = thread.join().unwrap();
        assert!(
            matches!(refused, Err(DurableError::Store(_))),
            "{refused:?}"
        );
    }
    // Its memory is not changed under an open transaction …
    assert_eq!([word(&region, 0), word(&region, 1024)], [2, 4]);
    // … which cannot be committed.
    let refused = open.commit(Durability::Async);
    assert!(
        matches!(refused, Err(DurableError::Store(_))),
        "{refused:?}"
    );
    let words = [word(&region, 0), word(&region, 512), word(&region, 1024)];
    assert_eq!((words, region.version()), ([1, 0, 0], before));
    gate.open();
    // Whether the store goes on or must be opened again: none of it is there.
    let value = commit(&region, 0, 5, Durability::Sync).map_or(1, |_| 5);
    assert_eq!(word(&region, 0), value);
    assert_eq!([word(&region, 512), word(&region, 1024)], [0, 0]);
}

#[test]
fn a_full_disk_takes_back_what_was_built_on_it_and_no_more() {
    let gate = Gate::default();
    let (store, region, first) = blocked(&gate);
    let waits = committing(&region, 0, 3, Durability::Group);
    // Built on it, and acknowledged in memory.
    commit(&region, 512, 4, Durability::Async).unwrap();
    commit(&region, 1024, 4, Durability::Memory).unwrap();
    // Not built on it, though it says what the page was.
    let (old, new) = (Page([7; 512]), Page([8; 512]));
    let write = PageWrite::new(0, 0, &new).old(&old);
    let direct = store.commit(&[write], Durability::Async).unwrap();
    gate.disk.space(Some(0));
    gate.open();
    first.join().unwrap().unwrap();
    let refused = waits.join().unwrap();
    assert!(
        matches!(refused, Err(DurableError::Store(StoreError::Full { .. }))),
        "{refused:?}"
    );
    let taken = region.begin();
    assert!(
        matches!(taken, Err(DurableError::TakenBack { .. })),
        "{taken:?}"
    );
    drop(taken);
    let words = || [word(&region, 0), word(&region, 512), word(&region, 1024)];
    assert_eq!(words(), [2, 0, 0]);
    assert!(matches!(store.wait(direct), Err(StoreError::Full { .. })));
    gate.disk.space(None);
    store.wait(direct).unwrap();
    assert!(store.view(None).unwrap().page(0, 0).unwrap() == new);
    let version = commit(&region, 512, 6, Durability::Sync).unwrap();
    assert_eq!((words(), region.version()), ([2, 6, 0], version));
    drop((region, store));
    let store = self::store(&gate, |_| {});
    assert!(store.view(None).unwrap().page(0, 1).unwrap().0[0] == 6);
    assert_eq!(store.view(None).unwrap().page(0, 2).unwrap().0[0], 0);
}

/// The disk refuses again while the region could not go back yet: what is older
/// than what was refused stays.
#[test]
fn what_came_before_a_refused_version_stays() {
    let gate = Gate::default();
    let (store, region, first) = blocked(&gate);
    commit(&region, 512, 7, Durability::Async).unwrap();
    let refused = committing(&region, 1024, 8, Durability::Sync);
    let open = begin(&region);
    gate.disk.space(Some(0));
    gate.open();
    first.join().unwrap().unwrap();
    let refused = refused.join().unwrap();
    assert!(
        matches!(refused, Err(DurableError::Store(StoreError::Full { .. }))),
        "{refused:?}"
    );
    for _ in 0..3 {
        assert!(store.flush().is_err());
    }
    open.abort();
    assert_eq!([word(&region, 512), word(&region, 1024)], [7, 0]);
    gate.disk.space(None);
    commit(&region, 0, 9, Durability::Sync).unwrap();
    let view = store.view(None).unwrap();
    let found = [0, 1, 2].map(|n| view.page(0, n).unwrap().0[0]);
    assert_eq!(found, [9, 7, 0]);
}

/// Of those which share a sync only what does not fit is refused.
#[test]
fn what_fits_is_not_refused_with_what_does_not() {
    let gate = Gate::default();
    let (store, main, first) = blocked(&gate);
    let page = |value| Page([value; 512]);
    let committing = |page: u64, content: Page| {
        let newest = store.newest();
        let thread = {
            let store = store.clone();
            std::thread::spawn(move || {
                store.commit(&[PageWrite::new(0, page, &content)], Durability::Sync)
            })
        };
        eventually("a commit in the queue", || store.newest() > newest);
        thread
    };
    let small = committing(5, page(1));
    let mut noise = Page::ZERO;
    let mut seed = 1_u64;
    for word in &mut noise.0 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *word = seed;
    }
    let large = committing(6, noise);
    let also_small = committing(7, page(2));
    gate.largest(Some(3000));
    gate.open();
    first.join().unwrap().unwrap();
    small.join().unwrap().unwrap();
    let refused = large.join().unwrap();
    assert!(
        matches!(refused, Err(StoreError::Full { .. })),
        "{refused:?}"
    );
    also_small.join().unwrap().unwrap();
    drop(main);
    let view = store.view(None).unwrap();
    let found = [5, 6, 7].map(|n| view.page(0, n).unwrap().0[0]);
    assert_eq!(found, [1, 0, 2]);
}

#[test]
fn an_update_which_is_refused_is_told_and_gone() {
    let gate = Gate::default();
    let store = store(&gate, |_| {});
    let arena = arena(&store);
    add(&arena, 0, Durability::Sync);
    gate.disk.space(Some(0));
    let refused = arena.update(Durability::Group, |counts| {
        counts.0[0] = 77;
        Ok::<_, Infallible>(())
    });
    assert!(
        matches!(
            refused,
            Err(UpdateError::Durable(DurableError::Store(
                StoreError::Full { .. }
            )))
        ),
        "{refused:?}"
    );
    assert_eq!(arena.read(|counts| counts.0[0]), 1);
    gate.disk.space(None);
    add(&arena, 0, Durability::Group);
    assert_eq!(arena.read(|counts| counts.0[0]), 2);
}
