// SPDX-License-Identifier: MIT OR Apache-2.0
//! What commits cost, counted.
//!
//! An asynchronous one copies each dirty page once, and nothing else of that
//! size: comparing, compressing, sealing and writing happen elsewhere, and
//! without memory of their own for each page.  A synchronous one is one write
//! and one sync.

mod store_common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hvckpt::store::backend::CrashDisk;
use hvckpt::store::{
    Compression, Durability, Durable, Page, PageWrite, Store, StoreKey, StoreOptions,
};
use hvckpt::{PAGE_SIZE, TrackerKind};
use store_common::{Scratch, builder};

const PAGES: usize = 256;
const WORDS: usize = PAGE_SIZE / 8;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks for: whoever copies a page needs room for it.
struct Counting;

// SAFETY: hands everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the one needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open(scratch: &Scratch, key: Option<StoreKey>) -> Durable {
    let mut options = StoreOptions::default();
    // Nobody writes before we say so.
    options.interval = Duration::from_secs(3600);
    options.queue_bytes = 1 << 30;
    options.key = key;
    builder("main", TrackerKind::Pt)
        .pages(PAGES)
        .options(options)
        .open(scratch.path())
        .unwrap()
}

/// Writes to so many pages and commits; bytes allocated by the commit.
fn commit(region: &Durable, dirty: usize, value: u64, durability: Durability) -> usize {
    let transaction = region.begin().unwrap();
    for page in 0..dirty {
        region.atomics_u64()[page * WORDS + 7].store(value, Relaxed);
    }
    let before = ALLOCATED.get();
    transaction.commit(durability).unwrap();
    ALLOCATED.get() - before
}

#[test]
fn each_dirty_page_is_copied_once() {
    for sealed in [false, true] {
        let scratch = Scratch::new(&format!("copies-{sealed}"));
        let region = open(&scratch, sealed.then(|| StoreKey::generate().unwrap()));
        let metrics = region.store().metrics();
        for durability in [Durability::Async, Durability::Memory] {
            for dirty in [1, 16, PAGES] {
                // The first ones make what later ones use again.
                for round in 0..4 {
                    let copied = metrics.copied_bytes();
                    let allocated = commit(&region, dirty, round + 1, durability);
                    let copied = metrics.copied_bytes() - copied;
                    assert_eq!(copied, (dirty * PAGE_SIZE) as u64);
                    // A page, and what tells which one it is.
                    let most = dirty * (PAGE_SIZE + 512) + 2048;
                    assert!(
                        allocated < most,
                        "{dirty} pages, {durability:?}: {allocated} bytes, {most} allowed"
                    );
                }
            }
        }
        // What waits is written by somebody else, as it was committed.
        assert!(region.store().waiting() > PAGES * PAGE_SIZE);
        let transaction = region.begin().unwrap();
        region.atomics_u64()[7].store(99, Relaxed);
        transaction.abort();
        assert_eq!(region.atomics_u64()[7].load(Relaxed), 4);
        region.store().flush().unwrap();
        let view = region.store().view(None).unwrap();
        for page in 0..PAGES as u64 {
            assert_eq!(view.page(0, page).unwrap().0[7], 4, "page {page}");
        }
    }
}

/// Writes what waits; bytes allocated by that.
fn flush(region: &Durable) -> usize {
    let before = ALLOCATED.get();
    region.store().flush().unwrap();
    ALLOCATED.get() - before
}

#[test]
fn writing_pages_needs_no_memory_for_their_encodings() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1)] {
        let scratch = Scratch::new("encodings");
        let mut options = StoreOptions::default();
        options.interval = Duration::from_secs(3600);
        options.queue_bytes = 1 << 30;
        options.auto_compact = false;
        options.compression = compression;
        let region = builder("main", TrackerKind::Pt)
            .pages(PAGES)
            .options(options)
            .open(scratch.path())
            .unwrap();
        let mut last = 1_u64;
        let mut noise = || {
            last = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            last.rotate_left(32)
        };
        for round in 0..12 {
            // A word, runs of words, whole pages: each way to write one.
            let words = [1, 60, 200, WORDS][round % 4];
            let transaction = region.begin().unwrap();
            for page in 0..PAGES {
                for word in 0..words {
                    region.atomics_u64()[page * WORDS + word].store(noise(), Relaxed);
                }
            }
            transaction.commit(Durability::Async).unwrap();
            let allocated = flush(&region);
            // The first rounds make room; what is left is the index.
            let most = PAGES * 256;
            assert!(
                round < 4 || allocated < most,
                "{compression:?}, {words} words: {allocated} bytes, {most} allowed"
            );
        }
    }
}

#[test]
fn pages_which_did_not_change_are_not_written() {
    let scratch = Scratch::new("same");
    let region = open(&scratch, None);
    let records = |durability| {
        commit(&region, 8, 5, durability);
        region.store().flush().unwrap();
        region.store().versions().last().map(|last| last.records)
    };
    assert_eq!(records(Durability::Sync), Some(8));
    // The tracker lists them, the store sees that they are the same.
    assert_eq!(records(Durability::Async), Some(0));
    let transaction = region.begin().unwrap();
    region.atomics_u64()[9 * WORDS].store(0, Relaxed);
    transaction.commit(Durability::Sync).unwrap();
    let last = region.store().versions().pop().unwrap();
    assert_eq!((last.records, last.bytes), (0, 128 + 104), "still zero");
}

#[test]
fn a_synchronous_commit_is_one_write_and_one_sync() {
    for key in [None, Some(StoreKey::generate().unwrap())] {
        let disk = CrashDisk::new();
        let mut options = StoreOptions::default();
        options.key = key;
        let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
        let area = store.area("main", 0x10_0000, 64).unwrap();
        let mut page = Page::ZERO;
        // The first one makes an image.
        for n in 0..20_usize {
            let old = page;
            page.0[n] = 1 + n as u64;
            let before = disk.operations();
            let write = PageWrite::new(area, 5, &page).old(&old);
            store.commit(&[write], Durability::Sync).unwrap();
            let operations = disk.operations() - before;
            // And the hint which says what was acknowledged, which nobody
            // waits for.
            assert!(n == 0 || operations == 3, "commit {n}: {operations}");
        }
    }
}
