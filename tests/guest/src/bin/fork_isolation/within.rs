// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a thread of the parent can do while a fork is under way: one which needs
//! none of the memory that the fork copies, so that it does not wait for it.
//!
//! It writes to pages under grants of the hypervisor's, protects them again by
//! commits, or has the kernel move them.  The last takes a page's entry away,
//! notes whether it was writable, and puts it back, without the lock that a fork
//! holds.  If that began after the fork copied the entry, under a grant, and
//! ended after the child's tables were in use, it would put back a way to write
//! to the child's page.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hvckpt::abi::cda_register;

use super::WORDS;
use hvckpt_guest_tests::{Area, Checks, PAGE, Rng, Session, wait};

/// Bytes which a fork copies after the area, so that it takes milliseconds.
const BALLAST: usize = 64 << 20;
const PAGES: usize = 128;
/// How many times as many forks as asked for a series may take.
const AT_MOST: usize = 50;

/// No fork is under way.
const IDLE: u64 = 0;

/// References to the pages of an area, which keep the kernel from moving them:
/// it tries all the same, and longer.  Otherwise it would lose a frame each time.
struct Held([i32; 2]);

impl Held {
    fn new(area: &Area) -> Self {
        let mut ends = [-1; 2];
        let all = libc::iovec {
            iov_base: area.start as *mut libc::c_void,
            iov_len: area.bytes,
        };
        let room = i32::try_from(area.bytes).expect("a small area");
        // SAFETY: fills two numbers; then one vector of memory that stays.
        let held = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0, "pipe");
            assert!(libc::fcntl(ends[1], libc::F_SETPIPE_SZ, room) >= room);
            libc::vmsplice(ends[1], &raw const all, 1, libc::SPLICE_F_NONBLOCK)
        };
        assert_eq!(held.cast_unsigned(), area.bytes, "vmsplice");
        Self(ends)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for end in self.0 {
            // SAFETY: ours.
            unsafe { libc::close(end) };
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Binds the calling thread to a processor: the fork's must not be the mover's.
fn on_cpu(number: usize) {
    // SAFETY: plain data, filled by the macros; of this thread.
    let bound = unsafe {
        let mut set = std::mem::zeroed();
        libc::CPU_SET(number, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    assert_eq!(
        bound,
        0,
        "needs two processors: {}",
        std::io::Error::last_os_error()
    );
}

/// Keeps the calling thread's stack, where its variables are, out of forks: it
/// would wait for the end of a fork at its next store there.
fn keep_stack() {
    // SAFETY: this thread's attributes, into variables of ours.
    let stack = unsafe {
        let mut attributes = std::mem::zeroed();
        let (mut start, mut bytes) = (std::ptr::null_mut(), 0);
        assert_eq!(
            libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes),
            0
        );
        libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut bytes);
        libc::pthread_attr_destroy(&raw mut attributes);
        let start = start as usize;
        let bytes = (start + bytes).next_multiple_of(PAGE) - start;
        Area { start, bytes }
    };
    assert!(stack.advise(libc::MADV_DONTFORK), "{stack:?}");
}

/// A fork child by the system call alone: glibc would look at the stacks of the
/// other threads, and one of them is not there.
fn bare_fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child is one thread, which allocates nothing and leaves at once.
    unsafe {
        match i32::try_from(libc::syscall(libc::SYS_fork)).unwrap_or(-1) {
            0 => libc::_exit(body()),
            pid => {
                assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
                pid
            }
        }
    }
}

/// What the thread does with a page, after a store to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Write,
    Commit,
    Move,
}

/// What it works with.
struct Thread<'a> {
    s: &'a Session,
    range: i64,
    area: &'a Area,
    what: Meanwhile,
    clock: Instant,
    /// When to begin: nanoseconds since `clock`; `IDLE`; or `u64::MAX`, to end.
    phase: &'a AtomicU64,
    /// How often it did, told between forks.
    done: &'a AtomicUsize,
}

/// Stores to one page after the other while a fork is under way.
fn meanwhile(t: &Thread) {
    let Thread { area, clock, .. } = *t;
    on_cpu(1);
    keep_stack();
    // Or the moment that matters is seldom met.
    hvckpt_guest_tests::before_all_others();
    let (mut page, mut count, mut told) = (0, 0, 0);
    loop {
        match t.phase.load(Ordering::SeqCst) {
            u64::MAX => return,
            at if at != IDLE && nanos(clock.elapsed()) >= at => {
                // Granted, if the fork does not have the authority yet; else the
                // kernel's affair, which waits for the end of the fork.
                area.word(page * WORDS + 4).fetch_add(1, Ordering::SeqCst);
                match t.what {
                    Meanwhile::Write => {}
                    // Both threads do: one may find the other there.
                    Meanwhile::Commit => drop(t.s.commit(t.range)),
                    Meanwhile::Move => {
                        area.part(page, 1).advise(libc::MADV_SOFT_OFFLINE);
                    }
                }
                count += 1;
                // Not the same again: it cannot be moved at once.
                page = (page + 1) % PAGES;
            }
            at if at != IDLE => std::hint::spin_loop(),
            // Only now: the counter is in memory which a fork copies.
            _ if told != count => {
                t.done.store(count, Ordering::SeqCst);
                told = count;
            }
            _ => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    leaks: usize,
    died: usize,
    /// What a commit answered, if it failed.
    refused: i64,
}

/// At least so many forks, and more until there was a store within each, on
/// average: where the other thread seldom gets a processor in time.
fn series(s: &Session, area: &Area, range: i64, forks: usize, what: Meanwhile) -> (Found, bool) {
    let (phase, clock, done) = (AtomicU64::new(IDLE), Instant::now(), AtomicUsize::new(0));
    let thread = Thread {
        s,
        range,
        area,
        what,
        clock,
        phase: &phase,
        done: &done,
    };
    let mut found = Found::default();
    let mut rng = Rng::new(5);
    let mut usual = Duration::from_millis(10);
    let flag = Area::map(0, PAGE, libc::MAP_SHARED, -1);
    thread::scope(|scope| {
        on_cpu(0);
        scope.spawn(|| meanwhile(&thread));
        let mut number = 0_u64;
        while (number < forks as u64 || done.load(Ordering::SeqCst) <= forks)
            && number < (forks * AT_MOST) as u64
        {
            number += 1;
            let write = |value| {
                for page in 0..PAGES {
                    area.word(page * WORDS + 1).store(value, Ordering::SeqCst);
                }
            };
            // The kernel's authority, taken away by the commit.
            write(number);
            let mut answer = s.commit(range);
            while answer == hvckpt_guest_tests::no(libc::EAGAIN) {
                answer = s.commit(range);
            }
            if answer < 0 {
                // No panic here: it would wait for the other thread.
                found.refused = answer;
                break;
            }
            flag.set(0, 0);
            let held = (what == Meanwhile::Move).then(|| Held::new(area));
            let start = Instant::now();
            let delay = nanos(usual) * rng.below(100) as u64 / 100;
            let now = nanos(clock.elapsed());
            phase.store(now + delay + 1, Ordering::SeqCst);
            let pid = bare_fork(|| {
                let look = |word| {
                    let value = |p| area.word(p * WORDS + word).load(Ordering::SeqCst);
                    std::array::from_fn::<u64, PAGES, _>(value)
                };
                let before = look(4);
                while flag.get(0) == 0 {
                    thread::sleep(Duration::from_micros(100));
                }
                // What the parent wrote before the fork, and what it had written
                // when the child began.
                i32::from(look(1) != [number; PAGES] || look(4) != before)
            });
            phase.store(IDLE, Ordering::SeqCst);
            usual = (usual * 7 + start.elapsed()) / 8;
            drop(held);
            write(!number);
            flag.set(0, 1);
            match wait(pid) {
                0 => {}
                1 => found.leaks += 1,
                _ => found.died += 1,
            }
        }
        phase.store(u64::MAX, Ordering::SeqCst);
        println!("{number} forks, {usual:?} each");
    });
    flag.unmap();
    let done = done.into_inner();
    println!("{done} stores within them");
    (found, done > forks)
}

/// The checks.
pub fn within(c: &mut Checks, s: &Session, forks: usize, mode: (&str, u32, usize)) {
    let (mode_name, mode, part) = mode;
    let forks = forks.div_ceil(part);
    let all = Area::map(0, PAGES * PAGE + BALLAST, 0, -1);
    all.advise(libc::MADV_NOHUGEPAGE);
    for page in 0..all.pages() {
        all.set(page * PAGE, 1);
    }
    let area = all.part(0, PAGES);
    let log = area.private_log();
    let range = s.register(&cda_register {
        mode,
        ..area.registration(&log)
    });
    assert!(range >= 0 && s.begin(range) == 0, "range {range}");
    for (name, what) in [
        ("pages are written to within forks", Meanwhile::Write),
        ("and protected by commits", Meanwhile::Commit),
        ("and moved by the kernel", Meanwhile::Move),
    ] {
        let (found, done) = series(s, &area, range, forks, what);
        c.equal(&format!("{mode_name}: {name}"), found, Found::default());
        c.check("there were stores within forks", done, || {
            format!("not in {} forks", forks * AT_MOST)
        });
    }
    assert_eq!(s.unregister(range), 0);
    all.unmap();
    log.unmap();
}
