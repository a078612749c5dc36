// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long does an operation keep the processor?  A timer signal is due every
//! millisecond; the longest wait between two of them, while large areas are
//! begun, committed, forked, unregistered and detached, is what the hypervisor
//! did without looking up (and the kernel: see "nothing").  What unregistering
//! and detaching leave to RCU counts as well.
//!
//! `elsewhere` is what another CPU sees, if there is one: the longest gap between
//! two looks at its clock, with nothing to do and while ranges are registered
//! and unregistered in a loop.
//!
//! Prints one line of JSON.  Exit status 1 if a wait was longer than
//! --limit-ms, which means something only where time is counted in
//! instructions.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hvckpt::abi;
use hvckpt_guest_tests::{Area, PAGE, Session, in_child, need_gate};

/// How long an operation keeps the processor.
#[derive(Parser, Debug)]
struct Args {
    /// Size of the area in MiB.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// The longest wait that is good enough; 0: do not judge.
    #[arg(long, default_value_t = 0)]
    limit_ms: u64,
}

static LAST: AtomicU64 = AtomicU64::new(0);
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds; may be called in a signal handler.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure; async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Signal handler: atomics and the clock only.
extern "C" fn tick(_signal: i32) {
    let now = now();
    let last = LAST.swap(now, Ordering::Relaxed);
    LONGEST.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
}

fn timer(microseconds: i64) {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: microseconds,
    };
    let every = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: reads the structure.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const every, ptr::null_mut()) };
    assert_eq!(result, 0, "setitimer");
}

/// The longest wait for a signal during `body`, in ns.
fn waits(body: impl FnOnce()) -> u64 {
    LAST.store(now(), Ordering::Relaxed);
    LONGEST.store(0, Ordering::Relaxed);
    timer(1000);
    body();
    timer(0);
    LONGEST
        .load(Ordering::Relaxed)
        .max(now() - LAST.load(Ordering::Relaxed))
}

/// After what frees memory: until RCU has seen to that.
fn settle() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        core::hint::spin_loop();
    }
}

/// Keeps the thread on one of the CPUs.
fn stay_on(cpu: usize) {
    // SAFETY: an all-zero set is empty; the sizes agree.
    unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// The longest gap on the second CPU during `body` on the first, in ns.
fn elsewhere(body: impl FnOnce()) -> u64 {
    let over = AtomicBool::new(false);
    stay_on(0);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            stay_on(1);
            let (mut longest, mut last) = (0, now());
            while !over.load(Ordering::Relaxed) {
                let time = now();
                longest = longest.max(time - last);
                last = time;
            }
            longest
        });
        body();
        over.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher")
    })
}

/// Registers and unregisters in a loop, in the mode that needs most memory.
fn register_in_a_loop(session: &Session, area: &Area, log: &Area) -> u64 {
    let mut registration = area.registration(log);
    registration.mode = abi::CDA_MODE_AUTOXEN;
    let (start, mut made) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(500) {
        let range = session.register(&registration);
        if range == hvckpt_guest_tests::no(libc::EAGAIN) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        good("register", range);
        good("unregister", session.unregister(range));
        made += 1;
    }
    made
}

fn good(what: &str, answer: i64) {
    if answer < 0 {
        eprintln!("{what} answered {answer}");
        std::process::exit(2);
    }
}

fn main() {
    let args = Args::parse();
    need_gate();
    let handler: extern "C" fn(i32) = tick;
    // SAFETY: the handler is async-signal-safe; interrupted calls go on.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(
            libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()),
            0
        );
    }
    let session = Session::attach();
    let area = Area::chunks(args.mib.max(2) / 2);
    // Xen writes there only where the kernel lets it: not after a fork.
    let log = area.private_log();
    let touch = || {
        for page in 0..area.pages() {
            area.set(page * PAGE + 8, 1);
        }
    };
    let range = session.register(&area.registration(&log));
    good("register", range);
    let results = [
        ("nothing", waits(touch)),
        ("first begin", waits(|| good("begin", session.begin(range)))),
        ("first stores", waits(touch)),
        ("commit", waits(|| good("commit", session.commit(range)))),
        ("peek", waits(|| good("peek", session.peek(range)))),
        ("fork", {
            touch();
            waits(|| assert_eq!(in_child(|| 0), 0, "the child fails"))
        }),
        ("end", waits(|| good("end", session.end(range)))),
        ("begin", waits(|| good("begin", session.begin(range)))),
        ("unregister", {
            touch();
            waits(|| {
                good("unregister", session.unregister(range));
                settle();
            })
        }),
        ("detach", {
            let range = session.register(&area.registration(&log));
            good("register", range);
            good("begin", session.begin(range));
            touch();
            waits(|| {
                good("detach", session.detach());
                settle();
            })
        }),
    ];
    let several = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let elsewhere = several.then(|| {
        let session = Session::attach();
        let idle = elsewhere(|| std::thread::sleep(Duration::from_millis(500)));
        let mut made = 0;
        let busy = elsewhere(|| made = register_in_a_loop(&session, &area, &log));
        good("detach", session.detach());
        serde_json::json!({"idle_ns": idle, "registering_ns": busy, "registered": made})
    });
    let limit = args.limit_ms * 1_000_000;
    // A signal waits for the end of fork(2), most of which is the kernel's.
    let late: Vec<_> = results
        .iter()
        .filter(|(name, wait)| *name != "fork" && limit != 0 && *wait > limit)
        .map(|(name, _)| *name)
        .collect();
    let waits: serde_json::Map<_, _> = results
        .iter()
        .map(|(name, wait)| ((*name).to_owned(), (*wait).into()))
        .collect();
    let line = serde_json::json!({
        "program": "latency", "mib": args.mib, "longest_wait_ns": waits, "late": late,
        "elsewhere": elsewhere,
    });
    println!("{line}");
    std::process::exit(i32::from(!late.is_empty()));
}
