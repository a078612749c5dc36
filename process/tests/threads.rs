// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads which ended come back as what they were.

mod common;

use common::{Worker, alone, apart, drop_rights, mutex, undone};
use hvckpt_process::{Speculation, raw, rollback};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, mpsc};
use std::{fs, mem, thread};

/// The calling thread's processors.
fn affinity() -> [u64; 16] {
    let mut set = [0; 16];
    // SAFETY: the set is as long as said.
    unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, 128, set.as_mut_ptr()) };
    set
}

/// Name, the processor that it is bound to, nice, policy.
fn identity() -> (String, [u64; 16], i32, i32) {
    let tid = raw::gettid();
    let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
    // SAFETY: asks.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, tid.cast_unsigned());
        (name, affinity(), nice, libc::sched_getscheduler(0))
    }
}

#[test]
fn name_processors_nice_policy() {
    let _alone = alone();
    let all = affinity();
    let word = all.iter().position(|&w| w != 0).unwrap();
    let mut one = [0; 16];
    one[word] = all[word] & all[word].wrapping_neg();
    let (say, said) = mpsc::channel();
    let report = say.clone();
    let worker = Worker::new(
        move || {
            // SAFETY: what is set is this thread's; zeroes are a set.
            unsafe {
                libc::syscall(libc::SYS_sched_setaffinity, 0, 128, one.as_ptr());
                let tid = raw::gettid().cast_unsigned();
                assert_eq!(libc::setpriority(libc::PRIO_PROCESS, tid, 13), 0);
                let none: libc::sched_param = mem::zeroed();
                assert_eq!(
                    libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none),
                    0
                );
                libc::prctl(libc::PR_SET_NAME, c"somebody".as_ptr());
            }
            say.send(identity()).unwrap();
        },
        move || report.send(identity()).unwrap(),
    );
    let before = said.recv().unwrap();
    assert_eq!(before.1, one);
    assert_eq!(
        (&*before.0, before.2, before.3),
        ("somebody\n", 13, libc::SCHED_BATCH)
    );
    let made = rollback::counts().unwrap().remade;
    let mut worker = Some(worker);
    undone(|| worker.take().unwrap().end());
    assert_eq!(rollback::counts().unwrap().remade, made + 1);
    worker.take().unwrap().end();
    assert_eq!(said.recv().unwrap(), before);
}

#[test]
fn signals_that_wait_for_it() {
    static TAKEN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn take(_: i32) {
        TAKEN.fetch_add(1, SeqCst);
    }
    let _alone = alone();
    let mask = |how| {
        // SAFETY: this thread's mask; zeroes are a set.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGUSR2);
            libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
        }
    };
    // SAFETY: the handler counts.
    unsafe { libc::signal(libc::SIGUSR2, take as *const () as usize) };
    let first = move || {
        mask(libc::SIG_BLOCK);
        // SAFETY: a signal to the calling thread.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
    };
    let mut worker = Some(Worker::new(first, move || mask(libc::SIG_UNBLOCK)));
    undone(|| {
        worker.take().unwrap().end();
        assert_eq!(TAKEN.load(SeqCst), 1);
    });
    assert_eq!(TAKEN.load(SeqCst), 0);
    worker.take().unwrap().end();
    assert_eq!(TAKEN.load(SeqCst), 1);
}

/// What a signal mask and an alternate stack are, as the kernel says.
fn mask_and_stack() -> (u64, usize, usize) {
    // SAFETY: the structures outlive the calls.
    unsafe {
        let mut mask = 0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, 0, 0, &raw mut mask, 8);
        let mut stack: libc::stack_t = mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut stack);
        (mask, stack.ss_sp as usize, stack.ss_size)
    }
}

#[test]
fn registers_errno_and_storage() {
    thread_local! { static OWN: AtomicU64 = const { AtomicU64::new(0) } }
    static PHASE: AtomicU64 = AtomicU64::new(0);
    let _alone = alone();
    let worker = thread::spawn(|| {
        OWN.with(|own| own.store(77, SeqCst));
        // SAFETY: this thread's mask and error number; zeroes are a set.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            *libc::__errno_location() = 4321;
        }
        let before = mask_and_stack();
        PHASE.store(1, SeqCst);
        let (mut low, mut high) = (0u64, 0u64);
        // Spins with known vector registers until the phase is over.
        // SAFETY: reads the phase; what is written is declared.
        unsafe {
            std::arch::asm!(
                "movq xmm6, {a}",
                "movq xmm7, {b}",
                "2:",
                "pause",
                "cmp qword ptr [{phase}], 1",
                "je 2b",
                "movq {a}, xmm6",
                "movq {b}, xmm7",
                a = inout(reg) 0x1234_5678_9abc_def0u64 => low,
                b = inout(reg) 0x0fed_cba9_8765_4321u64 => high,
                phase = in(reg) PHASE.as_ptr(),
                out("xmm6") _, out("xmm7") _,
            );
        }
        // SAFETY: this thread's.
        assert_eq!(unsafe { *libc::__errno_location() }, 4321);
        assert_eq!((low, high), (0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321));
        assert_eq!(OWN.with(|own| own.load(SeqCst)), 77);
        assert_eq!(mask_and_stack(), before);
    });
    while PHASE.load(SeqCst) != 1 {
        thread::yield_now();
    }
    let mut worker = Some(worker);
    for _ in 0..3 {
        undone(|| {
            PHASE.store(2, SeqCst);
            worker.take().unwrap().join().unwrap();
        });
        assert_eq!(PHASE.load(SeqCst), 1);
    }
    // It runs again, and somebody waits for its end while that is undone once more.
    let (done, joined) = (Arc::new(AtomicUsize::new(0)), worker.take().unwrap());
    let count = done.clone();
    let joiner = thread::spawn(move || {
        joined.join().unwrap();
        count.fetch_add(1, SeqCst);
    });
    undone(|| {
        PHASE.store(2, SeqCst);
        while done.load(SeqCst) == 0 {
            thread::yield_now();
        }
    });
    assert_eq!((PHASE.load(SeqCst), done.load(SeqCst)), (1, 0));
    PHASE.store(2, SeqCst);
    joiner.join().unwrap();
    assert_eq!(done.load(SeqCst), 1);
}

fn held_mutex(robust: bool, inherit: bool, kind: i32) {
    let mutex = mutex(robust, inherit, kind);
    let recursive = kind == libc::PTHREAD_MUTEX_RECURSIVE;
    let lock = move || {
        assert_eq!(mutex.lock(), 0);
        assert!(!recursive || mutex.lock() == 0);
    };
    let unlock = move || {
        assert_eq!(mutex.unlock(), 0);
        assert!(!recursive || mutex.unlock() == 0);
        // A recursive one is free now; the owner was known by its number.
        assert!(!recursive || mutex.unlock() == libc::EPERM);
    };
    let mut holder = Some(Worker::new(lock, unlock));
    let order = Arc::new((std::sync::Mutex::new(0), Condvar::new()));
    let (say, said) = mpsc::channel();
    let waiting = order.clone();
    let waiter = thread::spawn(move || {
        say.send(raw::gettid()).unwrap();
        assert_eq!(mutex.lock(), 0);
        *waiting.0.lock().unwrap() += 1;
        waiting.1.notify_all();
        assert_eq!(mutex.unlock(), 0);
    });
    // Until it sleeps in `futex` (202).
    let call = format!("/proc/self/task/{}/syscall", said.recv().unwrap());
    while !fs::read_to_string(&call).is_ok_and(|c| c.starts_with("202 ")) {
        thread::yield_now();
    }
    let mut waiter = Some(waiter);
    for _ in 0..3 {
        undone(|| {
            holder.take().unwrap().end();
            waiter.take().unwrap().join().unwrap();
            assert_eq!(*order.0.lock().unwrap(), 1);
        });
        assert_eq!(*order.0.lock().unwrap(), 0);
        assert_eq!(mutex.try_lock(), libc::EBUSY);
    }
    holder.take().unwrap().end();
    waiter.take().unwrap().join().unwrap();
    assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
}

#[test]
fn mutexes_are_held_again() {
    let _alone = alone();
    let normal = libc::PTHREAD_MUTEX_NORMAL;
    for (robust, inherit) in [(false, false), (true, false), (false, true), (true, true)] {
        held_mutex(robust, inherit, normal);
    }
    held_mutex(false, false, libc::PTHREAD_MUTEX_RECURSIVE);
}

#[test]
fn owner_of_a_robust_mutex_died() {
    let _alone = alone();
    for inherit in [false, true] {
        let mutex = mutex(true, inherit, libc::PTHREAD_MUTEX_NORMAL);
        let lock = move || assert_eq!(mutex.lock(), 0);
        let mut holder = Some(Worker::new(lock, || ()));
        undone(|| {
            holder.take().unwrap().end();
            assert_eq!(mutex.lock(), libc::EOWNERDEAD);
        });
        assert_eq!(mutex.try_lock(), libc::EBUSY);
        holder.take().unwrap().end();
        assert_eq!(mutex.lock(), libc::EOWNERDEAD);
    }
}

#[test]
fn plain_mutexes_without_rights() {
    apart("plain_mutexes_without_rights", || {
        drop_rights(true);
        held_mutex(false, false, libc::PTHREAD_MUTEX_NORMAL);
        held_mutex(false, false, libc::PTHREAD_MUTEX_RECURSIVE);
        assert!(rollback::counts().unwrap().renumbered > 0);
    });
}

#[test]
fn the_thread_that_began_ends() {
    let _alone = alone();
    // Another thread aborts, after the one that began has ended.
    let (say, said) = mpsc::channel();
    let rollbacks = thread::spawn(move || {
        // SAFETY: nothing outside of memory is touched.
        let open = unsafe { Speculation::begin() }.unwrap();
        let n = open.rollbacks();
        if n < 3 {
            say.send(open).unwrap();
        } else {
            open.commit().unwrap();
        }
        n
    });
    let open = said.recv();
    if let Ok(open) = open {
        // It may be ending yet, or have ended.
        panic!("{}", open.abort());
    }
    assert_eq!(rollbacks.join().unwrap(), 3);
}
