// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `TrackerKind::limits` says, shown: writes which a tracker is said to
//! miss are missed, and what it is said to report is in the list.
//!
//! Prints a line for each.  Exit status: 0; 1 it is otherwise; 2 not possible
//! here.

mod overtaken;

use core::ptr;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use clap::Parser;
use hvckpt::{Coverage, LockPolicy, PAGE_SIZE, RawPages, Region, TrackerKind};
use hvckpt_guest_tests::Checks;

const PAGES: usize = 16;
const PAGE: usize = 5;

/// Shows the limits of a tracker.
#[derive(Parser, Debug)]
struct Args {
    /// Tracker.
    #[arg(long, default_value = "ptxen")]
    tracker: TrackerKind,
    /// Cycles of each.
    #[arg(long, default_value_t = 8)]
    cycles: u64,
    /// Only a write which a commit overtakes (root: it stops the kernel in
    /// the middle of a system call).
    #[arg(long)]
    overtaken: bool,
}

/// A mapping of its own, which stays for the rest of the program.
fn map(bytes: usize, flags: i32, fd: i32) -> *mut u8 {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping wherever there is room.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap");
    at.cast()
}

fn adopt(tracker: TrackerKind, memory: *mut u8) -> Region {
    // SAFETY: the mapping stays, and is this region's only.
    let memory = unsafe { RawPages::from_raw(memory, PAGES * PAGE_SIZE) };
    hvckpt::register_cda()
        .adopt(memory)
        .tracker(tracker)
        .lock(LockPolicy::IfAllowed)
        .register()
        .unwrap_or_else(|error| {
            eprintln!("{}", hvckpt::explain(&error));
            std::process::exit(2);
        })
}

fn word(memory: *mut u8) -> u64 {
    // SAFETY: within the mapping, aligned; the kernel may write there.
    unsafe { ptr::read_volatile(memory.add(PAGE * PAGE_SIZE).cast()) }
}

/// `write` changes the first word of the page in each cycle; how often that
/// page was in the list.
fn cycles(region: &Region, memory: *mut u8, count: u64, mut write: impl FnMut(u64)) -> u64 {
    let mut listed = 0;
    let mut transaction = region.begin().expect("begin");
    for value in 1..=count {
        write(value);
        assert_eq!(word(memory), value, "the write itself");
        let list = transaction.commit_and_continue().expect("commit");
        listed += u64::from(list.iter().any(|page| page == PAGE));
    }
    transaction.commit().expect("end");
    listed
}

fn judge(checks: &mut Checks, name: &str, says: Coverage, listed: u64, count: u64) {
    let want = if says == Coverage::Reported { count } else { 0 };
    checks.check(name, listed == want, || {
        format!("{listed} of {count} were listed, and it says {says:?}")
    });
    println!("{name}: {says:?}, {listed} of {count} were listed");
}

fn main() {
    let args = Args::parse();
    let limits = args.tracker.limits();
    let mut checks = Checks::default();
    let at = PAGE * PAGE_SIZE;

    if args.overtaken {
        let memory = map(
            PAGES * PAGE_SIZE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        );
        let region = adopt(args.tracker, memory);
        let listed = overtaken::cycles(&region, memory, args.cycles).unwrap_or_else(|error| {
            eprintln!("userfaultfd, which this needs of root: {error}");
            std::process::exit(2);
        });
        judge(
            &mut checks,
            "overtaken",
            limits.pinned_before,
            listed,
            args.cycles,
        );
        drop(region);
        checks.finish();
    }

    // A debugger's way past the protection of a page.
    let private = map(
        PAGES * PAGE_SIZE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        -1,
    );
    let region = adopt(args.tracker, private);
    let memory = OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")
        .expect("/proc/self/mem");
    let force = |value: u64| {
        let address = private as u64 + at as u64;
        memory
            .write_all_at(&value.to_ne_bytes(), address)
            .expect("forced write");
    };
    let listed = cycles(&region, private, args.cycles, force);
    judge(
        &mut checks,
        "forced-writes",
        limits.forced_writes,
        listed,
        args.cycles,
    );
    // SAFETY: a page of ours, and nothing but the kernel writes there.
    let read_only = unsafe { libc::mprotect(private.add(at).cast(), PAGE_SIZE, libc::PROT_READ) };
    assert_eq!(read_only, 0, "mprotect");
    force(0);
    let listed = cycles(&region, private, args.cycles, force);
    judge(
        &mut checks,
        "forced-into-readonly",
        limits.forced_into_readonly,
        listed,
        args.cycles,
    );
    drop(region);

    // The file that is mapped.
    // SAFETY: the name lives.
    let fd = unsafe { libc::memfd_create(c"limits".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create");
    // SAFETY: our descriptor.
    let sized = unsafe { libc::ftruncate(fd, (PAGES * PAGE_SIZE) as i64) };
    assert_eq!(sized, 0, "ftruncate");
    let shared = map(PAGES * PAGE_SIZE, libc::MAP_SHARED, fd);
    let region = adopt(args.tracker, shared);
    let listed = cycles(&region, shared, args.cycles, |value| {
        // SAFETY: eight bytes of ours.
        let written = unsafe { libc::pwrite(fd, (&raw const value).cast(), 8, at as i64) };
        assert_eq!(written, 8, "pwrite");
    });
    judge(
        &mut checks,
        "written-to-the-file",
        limits.other_mappings,
        listed,
        args.cycles,
    );
    drop(region);
    checks.finish();
}
