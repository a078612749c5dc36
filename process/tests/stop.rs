// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stopping and resuming, beside all that makes it hard.

use hvckpt_process::{Error, Holdout, Patience, raw, stopped};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Stops concern the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often, unless the environment says otherwise.
fn rounds(default: u64) -> u64 {
    std::env::var("HVCKPT_STOPS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn stop_patiently() -> u64 {
    // SAFETY: counts what is parked, nothing else.
    unsafe { stopped(Patience::ABORT, |all| all.threads().count() as u64) }.unwrap()
}

#[test]
fn who_is_stopped_stands_still() {
    let _alone = alone();
    static COUNT: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static END: AtomicBool = AtomicBool::new(false);
    thread::scope(|scope| {
        for count in &COUNT {
            scope.spawn(move || {
                while !END.load(SeqCst) {
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        let me = raw::gettid();
        for _ in 0..rounds(100) {
            let sum = || COUNT.iter().map(|c| c.load(SeqCst)).sum::<u64>();
            // SAFETY: atomics and system calls.
            let moved = unsafe {
                stopped(Patience::ABORT, move |all| {
                    if !all
                        .threads()
                        .any(|t| t.tid == me && t.fs != 0 && t.context != 0)
                    {
                        return u64::MAX;
                    }
                    let before = sum();
                    raw::sleep(1_000_000);
                    sum() - before
                })
            };
            assert_eq!(moved, Ok(0));
        }
        let before = COUNT[0].load(SeqCst);
        while COUNT[0].load(SeqCst) == before {
            thread::yield_now();
        }
        END.store(true, SeqCst);
    });
}

#[test]
fn threads_come_and_go() {
    let _alone = alone();
    let end = AtomicBool::new(false);
    let born = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut n = 0u64;
                while !end.load(SeqCst) {
                    n += 1;
                    let child = thread::spawn(move || {
                        if n.is_multiple_of(3) {
                            thread::sleep(Duration::from_micros(n % 7 * 300));
                        }
                        vec![n; 100].iter().sum::<u64>()
                    });
                    // Every fourth is detached: its end needs a lock of the C library.
                    if !n.is_multiple_of(4) {
                        assert_eq!(child.join().unwrap(), n * 100);
                    }
                    born.fetch_add(1, SeqCst);
                }
            });
        }
        for _ in 0..rounds(1000) {
            assert!(stop_patiently() >= 5);
        }
        end.store(true, SeqCst);
    });
    assert!(born.load(SeqCst) > 10);
}

#[test]
fn who_blocks_the_signal_is_named() {
    let _alone = alone();
    let (tid, end) = (AtomicI32::new(0), AtomicBool::new(false));
    let progress = AtomicU64::new(0);
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: changes the mask of this thread.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            }
            tid.store(raw::gettid(), SeqCst);
            ready.wait();
            while !end.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
                progress.fetch_add(1, SeqCst);
            }
            // Signals of attempts which were given up find nothing to do.
            // SAFETY: changes the mask of this thread.
            unsafe {
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            }
        });
        ready.wait();
        // A busy machine may have no turn for somebody else for so long.
        let mut within = Duration::from_millis(300);
        let (refused, took) = loop {
            let began = Instant::now();
            // SAFETY: returns a number.
            let refused = unsafe { stopped(Patience::within(within), |_| 0) };
            match refused {
                Err(Error::NotStopped {
                    why: Holdout::Late, ..
                }) if within < Duration::from_secs(20) => within *= 2,
                _ => break (refused, began.elapsed()),
            }
        };
        let before = progress.load(SeqCst);
        while progress.load(SeqCst) == before {
            thread::yield_now();
        }
        end.store(true, SeqCst);
        let tid = tid.load(SeqCst);
        assert_eq!(
            refused,
            Err(Error::NotStopped {
                tid,
                why: Holdout::Blocks
            })
        );
        // The deadline, and as long as a busy machine takes to hear of it.
        assert!(took < within + Duration::from_secs(20), "{took:?}");
    });
    assert!(stop_patiently() >= 1);
}

#[test]
fn vfork_is_waited_out() {
    let _alone = alone();
    let end = AtomicBool::new(false);
    let spawned = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(SeqCst) {
                // SAFETY: a constant command.
                assert_eq!(unsafe { libc::system(c"exit 3".as_ptr()) }, 3 << 8);
                let code = Command::new("/bin/sh")
                    .args(["-c", "exit 4"])
                    .status()
                    .unwrap()
                    .code();
                assert_eq!(code, Some(4));
                spawned.fetch_add(1, SeqCst);
            }
        });
        for _ in 0..rounds(100) {
            stop_patiently();
        }
        while spawned.load(SeqCst) < 3 {
            stop_patiently();
        }
        end.store(true, SeqCst);
    });
}
