// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stop is not seen by system calls that a signal handler would end.

use hvckpt_process::{Patience, raw, stopped};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;

static ONE: Mutex<()> = Mutex::new(());

static WAIT: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 400_000_000,
};

fn later(clock: i32) -> libc::timespec {
    let mut t = WAIT;
    // SAFETY: `t` outlives the call.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t.tv_sec += 1;
    t
}

/// `EINTR` where the call failed with it, else 0.
fn interrupted(answer: i64) -> i32 {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    if answer < 0 && errno == libc::EINTR {
        errno
    } else {
        0
    }
}

unsafe extern "C" {
    // Not through `syscall`: what that one was called with is not seen in its code.
    fn semtimedop(id: i32, ops: *mut libc::sembuf, n: usize, limit: *const libc::timespec) -> i32;
}

type Call = (&'static str, i64, fn() -> i32);

/// Name, number in the kernel's table, and the call.
// SAFETY: each call gets what it wants, and memory that outlives it.
const CALLS: [Call; 10] = [
    ("nanosleep", libc::SYS_clock_nanosleep, || unsafe {
        interrupted(libc::nanosleep(&raw const WAIT, null_mut()).into())
    }),
    ("clock_nanosleep", libc::SYS_clock_nanosleep, || unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &later(1),
            null_mut(),
        )
    }),
    ("poll", libc::SYS_poll, || unsafe {
        interrupted(libc::poll(null_mut(), 0, 400).into())
    }),
    ("epoll_wait", libc::SYS_epoll_wait, || unsafe {
        let (fd, mut event) = (
            libc::epoll_create1(0),
            libc::epoll_event { events: 0, u64: 0 },
        );
        let answer = interrupted(libc::epoll_wait(fd, &raw mut event, 1, 400).into());
        libc::close(fd);
        answer
    }),
    ("select", libc::SYS_pselect6, || unsafe {
        let mut t = libc::timeval {
            tv_sec: 0,
            tv_usec: 400_000,
        };
        interrupted(libc::select(0, null_mut(), null_mut(), null_mut(), &raw mut t).into())
    }),
    ("sem_timedwait", libc::SYS_futex, || unsafe {
        let mut sem: libc::sem_t = std::mem::zeroed();
        libc::sem_init(&raw mut sem, 0, 0);
        interrupted(libc::sem_timedwait(&raw mut sem, &later(libc::CLOCK_REALTIME)).into())
    }),
    ("semtimedop", libc::SYS_semtimedop, || unsafe {
        let id = libc::semget(libc::IPC_PRIVATE, 1, 0o600);
        let mut op = libc::sembuf {
            sem_num: 0,
            sem_op: -1,
            sem_flg: 0,
        };
        let answer = interrupted(semtimedop(id, &raw mut op, 1, &raw const WAIT).into());
        libc::semctl(id, 0, libc::IPC_RMID);
        answer
    }),
    ("sigtimedwait", libc::SYS_rt_sigtimedwait, || unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR2);
        interrupted(libc::sigtimedwait(&raw const set, null_mut(), &raw const WAIT).into())
    }),
    ("recv with a timeout", libc::SYS_recvfrom, || unsafe {
        let (mut pair, mut byte) = ([0; 2], 0u8);
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr());
        let t = libc::timeval {
            tv_sec: 0,
            tv_usec: 400_000,
        };
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        libc::setsockopt(
            pair[0],
            level,
            option,
            (&raw const t).cast(),
            libc::socklen_t::try_from(size_of_val(&t)).unwrap(),
        );
        let answer = interrupted(libc::recv(pair[0], (&raw mut byte).cast(), 1, 0) as i64);
        libc::close(pair[0]);
        libc::close(pair[1]);
        answer
    }),
    ("ppoll", libc::SYS_ppoll, || unsafe {
        interrupted(libc::ppoll(null_mut(), 0, &raw const WAIT, null()).into())
    }),
];

fn is_in(tid: i32, number: i64) -> bool {
    let path = format!("/proc/self/task/{tid}/syscall");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Unreadable where the machine restricts tracing; `-1` in a restart that was set up.
    let first = text.split(' ').next().unwrap_or("");
    first == number.to_string() || (number == libc::SYS_clock_nanosleep && first == "219")
}

#[test]
fn no_call_is_interrupted() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, number, call) in CALLS {
        let tid = AtomicI32::new(0);
        thread::scope(|scope| {
            let caller = scope.spawn(|| {
                tid.store(raw::gettid(), SeqCst);
                call()
            });
            let (mut hit, mut tries) = (0, 0);
            while hit < 3 && !caller.is_finished() {
                tries += 1;
                if !is_in(tid.load(SeqCst), number) {
                    raw::sleep(100_000);
                    continue;
                }
                // SAFETY: does nothing while all are stopped.
                unsafe { stopped(Patience::ABORT, |_| 0) }.unwrap();
                hit += 1;
            }
            assert!(hit > 0, "{name}: never seen in its call ({tries} looks)");
            assert_eq!(caller.join().unwrap(), 0, "{name}: interrupted");
        });
    }
}

extern "C" fn nothing(_: i32) {}

#[test]
fn a_signal_of_the_programs_own_interrupts() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a handler that does nothing.
    unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as usize) };
    let tid = AtomicI32::new(0);
    let long = libc::timespec {
        tv_sec: 300,
        tv_nsec: 0,
    };
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            tid.store(raw::gettid(), SeqCst);
            // SAFETY: `long` outlives the call.
            interrupted(unsafe { libc::nanosleep(&raw const long, null_mut()) }.into())
        });
        while !is_in(tid.load(SeqCst), libc::SYS_clock_nanosleep) {
            raw::sleep(100_000);
        }
        let [pid, tid] = [raw::getpid(), tid.load(SeqCst)].map(i32::cast_unsigned);
        // The signal comes while the thread stands still, its call already set to begin anew.
        // SAFETY: sends a signal.
        unsafe {
            stopped(Patience::ABORT, move |_| {
                let number = libc::SYS_tgkill;
                let signal = libc::SIGUSR1 as usize;
                raw::syscall6(number, [pid as usize, tid as usize, signal, 0, 0, 0])
                    .map_or(1, |_| 0)
            })
        }
        .unwrap();
        assert_eq!(sleeper.join().unwrap(), libc::EINTR);
    });
}
