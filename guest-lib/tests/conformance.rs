// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every tracker must do, on every tracker that works here.
//!
//! `HVCKPT_RACING_ROUNDS` (2,000) and `HVCKPT_RANDOM_PROGRAMS` (60) change the
//! runs, for slow machines; `HVCKPT_EXPECT_TRACKERS` names those which must
//! work.

mod common;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Rng, Stop, builder, number, region, trackers};
use hvckpt::{
    AttachError, CycleError, GateError, PAGE_SIZE, RawPages, Region, RegionError, TrackError,
    TrackerKind,
};
use proptest::prelude::*;

const WORDS: usize = PAGE_SIZE / 8;

fn write(region: &Region, page: usize) {
    region.atomics_u64()[page * WORDS + 3].fetch_add(1, Ordering::Relaxed);
}

fn sorted(list: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut list: Vec<_> = list.into_iter().collect();
    list.sort_unstable();
    list
}

#[test]
fn reports_what_was_written_and_nothing_else() {
    for kind in trackers() {
        let region = region(kind, 600);
        assert_eq!(region.tracker(), kind);
        for pages in [
            vec![],
            vec![0],
            vec![599],
            vec![0, 599],
            vec![63, 64, 65, 128, 511, 512],
        ] {
            let transaction = region.begin().unwrap();
            pages.iter().for_each(|&page| write(&region, page));
            let dirty = transaction.commit().unwrap();
            assert!(!dirty.lost(), "{kind}");
            assert_eq!(dirty.len(), pages.len(), "{kind}");
            assert_eq!(dirty.is_empty(), pages.is_empty(), "{kind}");
            assert_eq!(sorted(&dirty), pages, "{kind}");
            assert_eq!(sorted(dirty.runs().flatten()), pages, "{kind}");
        }
    }
}

#[test]
fn first_and_last_byte_of_a_page() {
    for kind in trackers() {
        let region = region(kind, 4);
        let transaction = region.begin().unwrap();
        region.atomics_u8()[2 * PAGE_SIZE - 1].store(1, Ordering::Relaxed);
        region.atomics_u8()[2 * PAGE_SIZE].store(1, Ordering::Relaxed);
        assert_eq!(sorted(&transaction.commit().unwrap()), [1, 2], "{kind}");
    }
}

/// Who checks the alignment of its accesses (EFLAGS.AC) writes like others.
#[test]
fn a_writer_with_alignment_checks() {
    for kind in trackers() {
        let region = region(kind, 4);
        for round in 1..4_u64 {
            let transaction = region.begin().unwrap();
            let word = &region.atomics_u64()[2 * WORDS + 5];
            // SAFETY: one aligned store into the region, with the flag set
            // for as long.
            unsafe {
                core::arch::asm!(
                    "pushfq",
                    "or dword ptr [rsp], {check}",
                    "popfq",
                    "mov [{at}], {value}",
                    "pushfq",
                    "and dword ptr [rsp], {keep}",
                    "popfq",
                    check = const 1_i32 << 18,
                    keep = const !(1_i32 << 18),
                    at = in(reg) word.as_ptr(),
                    value = in(reg) round,
                );
            }
            assert_eq!(word.load(Ordering::Relaxed), round, "{kind}");
            assert_eq!(sorted(&transaction.commit().unwrap()), [2], "{kind}");
        }
    }
}

#[test]
fn reading_makes_nothing_dirty() {
    for kind in trackers() {
        let region = region(kind, 64);
        let transaction = region.begin().unwrap();
        let sum: u64 = region
            .atomics_u64()
            .iter()
            .map(|w| w.load(Ordering::Relaxed))
            .sum();
        assert_eq!(sum, 0);
        assert!(transaction.commit().unwrap().is_empty(), "{kind}");
    }
}

#[test]
fn the_same_page_again_in_the_next_cycle() {
    for kind in trackers() {
        let region = region(kind, 16);
        let mut transaction = region.begin().unwrap();
        for round in 0..20 {
            write(&region, 7);
            write(&region, round % 3);
            let want = sorted([round % 3, 7]);
            assert_eq!(
                sorted(&transaction.commit_and_continue().unwrap()),
                want,
                "{kind}"
            );
        }
        assert!(transaction.commit().unwrap().is_empty(), "{kind}");
    }
}

#[test]
fn peek_takes_nothing_away() {
    for kind in trackers() {
        let region = region(kind, 16);
        let mut transaction = region.begin().unwrap();
        write(&region, 3);
        assert_eq!(sorted(&transaction.peek().unwrap()), [3], "{kind}");
        write(&region, 9);
        assert_eq!(sorted(&transaction.peek().unwrap()), [3, 9], "{kind}");
        write(&region, 3);
        assert_eq!(sorted(&transaction.commit().unwrap()), [3, 9], "{kind}");
        assert!(
            region.begin().unwrap().commit().unwrap().is_empty(),
            "{kind}"
        );
    }
}

#[test]
fn ending_and_dropping_forget_the_list() {
    for kind in trackers() {
        let region = region(kind, 16);
        let transaction = region.begin().unwrap();
        write(&region, 1);
        transaction.end().unwrap();
        let transaction = region.begin().unwrap();
        write(&region, 2);
        drop(transaction);
        let transaction = region.begin().unwrap();
        write(&region, 3);
        assert_eq!(sorted(&transaction.commit().unwrap()), [3], "{kind}");
    }
}

#[test]
fn nested_and_late_operations_are_refused() {
    for kind in trackers() {
        let region = region(kind, 16);
        let transaction = region.begin().unwrap();
        assert!(
            matches!(region.begin(), Err(CycleError::AlreadyOpen)),
            "{kind}"
        );
        std::thread::scope(|scope| {
            let other = scope.spawn(|| matches!(region.begin(), Err(CycleError::AlreadyOpen)));
            assert!(other.join().unwrap(), "{kind}");
        });
        write(&region, 5);
        let dirty = transaction.commit().unwrap();
        // The list lies where the next one will.
        assert!(matches!(region.begin(), Err(CycleError::InUse)), "{kind}");
        assert_eq!(sorted(&dirty), [5], "{kind}");
        drop(dirty);
        region.begin().unwrap().end().unwrap();
    }
}

#[test]
fn writes_between_transactions_work_and_do_not_disturb() {
    for kind in trackers() {
        let region = region(kind, 64);
        region.begin().unwrap().end().unwrap();
        (0..64).for_each(|page| write(&region, page));
        let transaction = region.begin().unwrap();
        write(&region, 8);
        let dirty = transaction.commit().unwrap().to_vec();
        assert!(dirty.contains(&8), "{kind}: {dirty:?}");
    }
}

#[test]
fn several_regions_at_once() {
    for kind in trackers() {
        let regions: Vec<Region> = (1..20).map(|pages| region(kind, pages)).collect();
        let open: Vec<_> = regions
            .iter()
            .map(|region| region.begin().unwrap())
            .collect();
        regions
            .iter()
            .for_each(|region| write(region, region.pages() - 1));
        for transaction in open {
            let last = transaction.region().pages() - 1;
            assert_eq!(sorted(&transaction.commit().unwrap()), [last], "{kind}");
        }
    }
}

#[test]
fn regions_come_and_go() {
    for kind in trackers() {
        let kept = region(kind, 8);
        let transaction = kept.begin().unwrap();
        for pages in 1..40 {
            let region = region(kind, pages);
            let transaction = region.begin().unwrap();
            write(&region, pages / 2);
            assert_eq!(
                sorted(&transaction.commit().unwrap()),
                [pages / 2],
                "{kind}"
            );
        }
        write(&kept, 4);
        assert_eq!(sorted(&transaction.commit().unwrap()), [4], "{kind}");
    }
}

#[test]
fn threads_inside_one_transaction() {
    for kind in trackers() {
        let region = region(kind, 512);
        for round in 0..20 {
            let transaction = region.begin().unwrap();
            let start = Barrier::new(8);
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let (region, start) = (&region, &start);
                    scope.spawn(move || {
                        start.wait();
                        // All of them to the same page first.
                        write(region, 100 + round);
                        write(region, thread * 7);
                    });
                }
            });
            let want = sorted((0..8).map(|thread| thread * 7).chain([100 + round]));
            assert_eq!(sorted(&transaction.commit().unwrap()), want, "{kind}");
            assert_eq!(
                region.atomics_u64()[(100 + round) * WORDS + 3].load(Ordering::Relaxed),
                8,
                "{kind}: a write was lost"
            );
        }
    }
}

/// Threads do not stop for the commits: what changed between two copies is in
/// the list between them or in the next.
#[test]
fn threads_racing_with_commits() {
    const PAGES: usize = 96;
    for kind in trackers() {
        let region = region(kind, PAGES);
        let stop = AtomicBool::new(false);
        let look = || -> Vec<u64> {
            (0..PAGES)
                .map(|p| region.atomics_u64()[p * WORDS + 3].load(Ordering::Relaxed))
                .collect()
        };
        let mut transaction = region.begin().unwrap();
        let mut copy = look();
        let mut owed: BTreeSet<usize> = BTreeSet::new();
        let mut seen = 0;
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            for seed in 0..4 {
                let (region, stop) = (&region, &stop);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    while !stop.load(Ordering::Relaxed) {
                        write(region, rng.below(PAGES));
                    }
                });
            }
            let enough = number("HVCKPT_RACING_ROUNDS", 2000);
            let mut rounds = 0;
            // However seldom the writers run.
            while rounds < enough || seen < enough / 2 {
                rounds += 1;
                let list: BTreeSet<usize> =
                    transaction.commit_and_continue().unwrap().iter().collect();
                let missed: Vec<_> = owed.difference(&list).collect();
                assert!(
                    missed.is_empty(),
                    "{kind}: {missed:?} changed and was in neither list"
                );
                let now = look();
                let changed = (0..PAGES).filter(|&page| now[page] != copy[page]);
                let changed: BTreeSet<usize> = changed.collect();
                seen += changed.len();
                owed = changed.difference(&list).copied().collect();
                copy = now;
            }
        });
    }
}

/// One step of a random program.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, u8),
    WriteRun(usize, usize),
    Commit,
    Continue,
    Peek,
    End,
}

const MODEL_PAGES: usize = 200;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..MODEL_PAGES * PAGE_SIZE, any::<u8>()).prop_map(|(at, value)| Step::Write(at, value)),
        2 => (0..MODEL_PAGES, 1..40_usize).prop_map(|(page, count)| Step::WriteRun(page, count)),
        2 => Just(Step::Commit),
        3 => Just(Step::Continue),
        1 => Just(Step::Peek),
        1 => Just(Step::End),
    ]
}

/// Executes a program on a region; the model is a copy and a comparison.
fn execute(region: &Region, steps: &[Step]) {
    let kind = region.tracker();
    let bytes = region.atomics_u8();
    let words = region.atomics_u64();
    let look = || -> Vec<u64> { words.iter().map(|w| w.load(Ordering::Relaxed)).collect() };
    let changed = |from: &[u64], to: &[u64]| -> BTreeSet<usize> {
        let pages = from.chunks(WORDS).zip(to.chunks(WORDS)).enumerate();
        pages
            .filter(|(_, (from, to))| from != to)
            .map(|(page, _)| page)
            .collect()
    };
    let mut copy = look();
    let mut touched: BTreeSet<usize> = BTreeSet::new();
    let mut transaction = region.begin().unwrap();
    let judge = |list: BTreeSet<usize>, copy: &[u64], touched: &BTreeSet<usize>| {
        let missed: Vec<_> = changed(copy, &look()).difference(&list).copied().collect();
        assert!(missed.is_empty(), "{kind} missed {missed:?}");
        let over: Vec<_> = list.difference(touched).collect();
        assert!(
            over.is_empty(),
            "{kind} reports {over:?}, which nobody wrote to"
        );
    };
    for step in steps {
        match *step {
            Step::Write(at, value) => {
                bytes[at].store(value, Ordering::Relaxed);
                touched.insert(at / PAGE_SIZE);
            }
            Step::WriteRun(page, count) => {
                for page in page..(page + count).min(MODEL_PAGES) {
                    bytes[page * PAGE_SIZE].fetch_add(1, Ordering::Relaxed);
                    touched.insert(page);
                }
            }
            Step::Peek => judge(
                transaction.peek().unwrap().iter().collect(),
                &copy,
                &touched,
            ),
            Step::Continue => {
                let list = transaction.commit_and_continue().unwrap().iter().collect();
                judge(list, &copy, &touched);
                copy = look();
                touched.clear();
            }
            Step::Commit => {
                let list = transaction.commit().unwrap().iter().collect();
                judge(list, &copy, &touched);
                copy = look();
                touched.clear();
                transaction = region.begin().unwrap();
            }
            Step::End => {
                transaction.end().unwrap();
                copy = look();
                touched.clear();
                transaction = region.begin().unwrap();
            }
        }
    }
    transaction.end().unwrap();
}

#[test]
fn random_programs_against_a_byte_comparison() {
    let regions: Vec<Region> = trackers()
        .into_iter()
        .map(|kind| region(kind, MODEL_PAGES))
        .collect();
    let config = ProptestConfig {
        cases: u32::try_from(number("HVCKPT_RANDOM_PROGRAMS", 60)).unwrap(),
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        regions.iter().for_each(|region| execute(region, &steps));
    });
}

/// Those which take memory of the program; the others must say why not.
fn adopting() -> Vec<TrackerKind> {
    let mut kinds = trackers();
    kinds.retain(|&kind| kind != TrackerKind::Emul);
    kinds
}

#[test]
fn emul_refuses_adopted_memory() {
    let bytes = 2 * PAGE_SIZE;
    // SAFETY: a fresh private mapping.
    let start: *mut u8 = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0).cast()
    };
    let build = |kinds: &[TrackerKind]| {
        // SAFETY: private, anonymous, and mapped until the end of the test.
        let memory = unsafe { RawPages::from_raw(start, bytes) };
        let builder = hvckpt::register_cda().adopt(memory);
        let builder = builder.trackers(kinds.iter().copied());
        builder.lock(hvckpt::LockPolicy::IfAllowed).register()
    };
    assert!(matches!(
        build(&[TrackerKind::Emul]),
        Err(RegionError::Tracker {
            kind: TrackerKind::Emul,
            source: hvckpt::TrackError::NoAlias
        })
    ));
    // The next of a list gets the memory as it is.
    let region = build(&[TrackerKind::Emul, TrackerKind::Pt]).unwrap();
    assert_eq!(region.tracker(), TrackerKind::Pt);
    assert_eq!(region.as_ptr(), start);
    drop(region);
    // SAFETY: nobody uses it any more.
    unsafe { libc::munmap(start.cast(), bytes) };
}

#[test]
fn adopted_memory_keeps_its_contents_and_stays() {
    for kind in adopting() {
        let bytes = 8 * PAGE_SIZE;
        // SAFETY: a fresh private mapping.
        let start: *mut u8 = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0).cast()
        };
        // SAFETY: mapped, and nobody else's.
        unsafe { start.add(5).write(77) };
        // SAFETY: private, anonymous, and mapped until the end of the test.
        let memory = unsafe { RawPages::from_raw(start, bytes) };
        let region = hvckpt::register_cda()
            .adopt(memory)
            .tracker(kind)
            .register();
        let region = region.unwrap_or_else(|e| panic!("{}", hvckpt::explain(&e)));
        assert_eq!(region.as_ptr(), start);
        assert_eq!(region.atomics_u8()[5].load(Ordering::Relaxed), 77);
        let transaction = region.begin().unwrap();
        write(&region, 6);
        assert_eq!(sorted(&transaction.commit().unwrap()), [6], "{kind}");
        let open = region.begin().unwrap();
        drop(open);
        drop(region);
        // SAFETY: the region is gone, the memory is not, and can be written.
        unsafe {
            (0..8).for_each(|page| start.add(page * PAGE_SIZE).write(1));
            assert_eq!(start.add(5).read(), 77);
            libc::munmap(start.cast(), bytes);
        }
    }
}

/// Writers go on while adopted memory is registered and unregistered.
#[test]
fn adopted_memory_under_fire() {
    for kind in adopting() {
        // A session ends with its last region; this one keeps it.
        let _kept = region(kind, 1);
        let bytes = 32 * PAGE_SIZE;
        // SAFETY: a fresh private mapping.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) as usize
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            for seed in 0..3 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    while !stop.load(Ordering::Relaxed) {
                        let at = start + rng.below(32) * PAGE_SIZE;
                        // SAFETY: mapped until the scope ends, atomic.
                        unsafe { std::sync::atomic::AtomicU64::from_ptr(at as *mut u64) }
                            .fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..number("HVCKPT_RACING_ROUNDS", 2000).min(300) {
                // SAFETY: private, anonymous, mapped until the scope ends; the
                // writers are atomic.
                let memory = unsafe { RawPages::from_raw(start as *mut u8, bytes) };
                let region = hvckpt::register_cda().adopt(memory).tracker(kind);
                // Where dirty bits are used it must be.
                let region = region
                    .lock(hvckpt::LockPolicy::IfAllowed)
                    .register()
                    .unwrap();
                let mut transaction = region.begin().unwrap();
                transaction.commit_and_continue().unwrap();
            }
        });
        // SAFETY: nobody uses it any more.
        unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
    }
}

#[test]
fn impossible_regions_are_refused() {
    let refused = |builder: hvckpt::RegionBuilder| builder.register().unwrap_err();
    assert!(matches!(
        refused(builder(TrackerKind::Pt, 0)),
        RegionError::Empty
    ));
    for bytes in [usize::MAX, 1 << 47, usize::MAX - 4095] {
        let builder = hvckpt::register_cda().bytes(bytes).tracker(TrackerKind::Pt);
        assert!(
            matches!(refused(builder), RegionError::TooLarge { .. }),
            "{bytes:#x}"
        );
    }
    let builder = hvckpt::register_cda()
        .pages(usize::MAX)
        .tracker(TrackerKind::Pt);
    assert!(matches!(refused(builder), RegionError::TooLarge { .. }));
    for (start, bytes) in [(4096 + 8, 4096), (8192, 100)] {
        // SAFETY: never accessed, it is refused.
        let memory = unsafe { RawPages::from_raw(start as *mut u8, bytes) };
        let builder = hvckpt::register_cda()
            .adopt(memory)
            .tracker(TrackerKind::Pt);
        assert!(matches!(refused(builder), RegionError::Unaligned { .. }));
    }
}

#[test]
fn bytes_are_rounded_up() {
    let region = hvckpt::register_cda()
        .bytes(4097)
        .tracker(TrackerKind::Sim)
        .register()
        .unwrap();
    assert_eq!((region.pages(), region.bytes()), (2, 8192));
}

#[test]
fn a_large_region_begins_on_two_mebibytes() {
    let region = region(TrackerKind::Pt, 1024);
    assert_eq!(region.as_ptr() as usize % (2 << 20), 0);
}

#[test]
fn the_choice_is_the_callers_and_reported() {
    // Nothing but what was asked for: no fallback behind the caller's back.
    let alone = builder(TrackerKind::PtXen, 1).register();
    let list = hvckpt::register_cda()
        .pages(1)
        .trackers([TrackerKind::PtXen, TrackerKind::Sim, TrackerKind::Pt])
        .register()
        .unwrap();
    match alone {
        Err(RegionError::Tracker {
            kind: TrackerKind::PtXen,
            ..
        }) => {
            assert_eq!(list.tracker(), TrackerKind::Sim);
            assert_eq!(list.attempts().len(), 1);
            assert_eq!(list.attempts()[0].kind, TrackerKind::PtXen);
            let both = [TrackerKind::PtXen, TrackerKind::PtXen];
            let none = hvckpt::register_cda().pages(1).trackers(both).register();
            assert!(matches!(none, Err(RegionError::NoTracker(list)) if list.len() == 2));
        }
        Err(other) => panic!("{}", hvckpt::explain(&other)),
        Ok(region) => {
            assert_eq!(region.tracker(), TrackerKind::PtXen);
            assert_eq!(list.tracker(), TrackerKind::PtXen);
            assert!(list.attempts().is_empty());
        }
    }
}

/// A tracker which is not there says so, and why, before it is used.
#[test]
fn what_does_not_work_is_not_available() {
    let works = trackers();
    let guest = std::fs::read_to_string("/sys/hypervisor/guest_type").unwrap_or_default();
    for kind in TrackerKind::ALL {
        if works.contains(&kind) || common::left_out(kind) {
            continue;
        }
        let error = match builder(kind, 1).register() {
            Err(RegionError::Tracker {
                kind: named,
                source,
            }) if named == kind => source,
            other => panic!("{kind}: {other:?}"),
        };
        let in_hypervisor = matches!(
            kind,
            TrackerKind::PtXen | TrackerKind::EmulXen | TrackerKind::ScanXen | TrackerKind::AutoXen
        );
        let fits = match (&error, in_hypervisor) {
            // Nobody knows whether an administrator gave a key.
            (TrackError::Attach(AttachError::Gate(reason)), true) => match guest.trim() {
                "" => matches!(reason, GateError::NotXen),
                "PV" => true,
                other => matches!(reason, GateError::GuestType(named) if named == other),
            },
            (TrackError::Attach(_) | TrackError::Mode | TrackError::NeedsLock(_), true) => true,
            (TrackError::Uffd(_), false) => {
                matches!(kind, TrackerKind::PagemapScan | TrackerKind::UffdWp)
            }
            (TrackError::SoftDirty(_), false) => kind == TrackerKind::SoftDirty,
            (TrackError::Memory(_), false) => kind == TrackerKind::Emul,
            _ => false,
        };
        assert!(fits, "{kind}: {}", hvckpt::explain(&error));
    }
}

#[test]
fn prepare_write_makes_dirty_and_changes_nothing() {
    for kind in trackers() {
        let region = region(kind, 8);
        region.atomics_u8()[PAGE_SIZE].store(9, Ordering::Relaxed);
        let transaction = region.begin().unwrap();
        region.prepare_write(PAGE_SIZE - 1..2 * PAGE_SIZE + 1);
        region.prepare_write(5..5);
        assert_eq!(region.atomics_u8()[PAGE_SIZE].load(Ordering::Relaxed), 9);
        let dirty = transaction.commit().unwrap().to_vec();
        if matches!(kind, TrackerKind::Sim | TrackerKind::EmulXen) {
            // One compares; the other performs stores, and none changed
            // anything.  What the kernel writes opens the page then.
            assert!(dirty.is_empty(), "{kind}");
        } else {
            assert_eq!(sorted(dirty), [0, 1, 2], "{kind}");
        }
    }
}
