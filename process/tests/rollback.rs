// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rollback in place, beside threads which are born and end.

use hvckpt_process::rollback::{counts, verify_every};
use hvckpt_process::{Error, Outcome, Speculation, raw, speculate};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A rollback concerns the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rounds(default: u64) -> u64 {
    std::env::var("HVCKPT_ROLLBACKS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

#[test]
fn memory_comes_back() {
    let _alone = alone();
    let mut area = vec![1u8; 1 << 20];
    let mut map = BTreeMap::new();
    for round in 1..20u8 {
        area.fill(round);
        map.insert(round, vec![round; 5000]);
        // SAFETY: nothing outside of memory is touched.
        let outcome = unsafe {
            speculate(|| -> Option<()> {
                area.fill(0xee);
                map.clear();
                std::hint::black_box(vec![3u8; 300_000]);
                None
            })
        };
        assert_eq!(outcome, Ok(Outcome::RolledBack));
        assert!(area.iter().all(|&b| b == round));
        assert!(map.len() == usize::from(round) && map.iter().all(|(k, v)| v[4999] == *k));
    }
    // SAFETY: as above.
    let outcome = unsafe {
        speculate(|| {
            area.fill(7);
            Some(1)
        })
    };
    assert_eq!(outcome, Ok(Outcome::Committed(1)));
    assert!(area.iter().all(|&b| b == 7));
}

#[test]
fn begin_counts_rollbacks() {
    let _alone = alone();
    let mut work = 0;
    // SAFETY: nothing outside of memory is touched.
    let open = unsafe { Speculation::begin() }.unwrap();
    assert_eq!(std::hint::black_box(work), 0);
    if open.rollbacks() < 5 {
        work += 1;
        std::hint::black_box(&mut work);
        panic!("{}", open.abort());
    }
    // SAFETY: as above.
    unsafe {
        open.commit().unwrap();
        let open = Speculation::begin().unwrap();
        assert_eq!(Speculation::begin().unwrap_err(), Error::Nested);
        open.commit().unwrap();
    }
}

fn churn(threads: usize) {
    static END: AtomicBool = AtomicBool::new(false);
    static BORN: AtomicU64 = AtomicU64::new(0);
    let _alone = alone();
    END.store(false, SeqCst);
    let workers: Vec<_> = (0..threads)
        .map(|id| {
            thread::spawn(move || {
                let (me, mut n) = (raw::gettid(), 0u64);
                while !END.load(SeqCst) {
                    n += 1;
                    let child = thread::spawn(move || {
                        if n.is_multiple_of(3) {
                            thread::sleep(Duration::from_micros(n % 7 * 400));
                        }
                        vec![n; 600].iter().sum::<u64>()
                    });
                    if !n.is_multiple_of(4) {
                        assert_eq!(child.join().unwrap(), n * 600);
                    }
                    assert_eq!(raw::gettid(), me, "worker {id}");
                    BORN.fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_micros(n % 5 * 200));
                }
            })
        })
        .collect();
    verify_every(50).unwrap();
    let before = counts().unwrap();
    let mut area = vec![0u8; 1 << 20];
    for round in 0..rounds(100) {
        let fill = (round % 200) as u8;
        area.fill(fill);
        // SAFETY: nothing outside of memory is touched.
        let outcome = unsafe {
            speculate(|| {
                area.fill(fill + 50);
                let more = std::hint::black_box(vec![3u8; 200_000]);
                thread::sleep(Duration::from_micros(round % 4 * 1000));
                round.is_multiple_of(8).then_some(more.len())
            })
        };
        let expected = match outcome.unwrap() {
            Outcome::Committed(n) => fill + 50 * u8::from(n == 200_000),
            Outcome::RolledBack => fill,
        };
        assert!(area.iter().all(|&b| b == expected), "round {round}");
    }
    END.store(true, SeqCst);
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(BORN.load(SeqCst) > 0);
    let after = counts().unwrap();
    if rounds(100) >= 100 {
        assert!(after.compared > before.compared + 50, "{after:?}");
    }
    assert_eq!(after.wrong, 0, "{after:?}");
    println!("{threads} threads: {after:?}");
}

#[test]
fn churn_of_1() {
    churn(1);
}

#[test]
fn churn_of_4() {
    churn(4);
}
