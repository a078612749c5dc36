// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cannot be undone is refused while the program can still run on.

mod common;

use common::{PAGE, Pages, Worker, alone, apart, drop_rights, mutex, try_undone, undone};
use hvckpt_process::{Error, Outcome, Speculation, raw};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::{fs, thread};

fn limit(what: libc::__rlimit_resource_t, soft: u64) {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit outlives the calls.
    unsafe {
        assert_eq!(libc::getrlimit(what, &raw mut now), 0);
        now.rlim_cur = soft.min(now.rlim_max);
        assert_eq!(libc::setrlimit(what, &raw const now), 0);
    }
}

#[test]
fn no_descriptors() {
    apart("no_descriptors", || {
        let path = std::env::current_exe().unwrap();
        let file = fs::File::open(path).unwrap();
        let first_free = fs::File::open("/dev/null").unwrap().as_raw_fd();
        let (mut refused, mut undone) = (0, 0);
        for free in 0..9 {
            limit(libc::RLIMIT_NOFILE, 10_000);
            let null = std::ptr::null_mut();
            let map = Pages::map(null, 2, libc::MAP_PRIVATE, file.as_raw_fd());
            // SAFETY: just mapped.
            let first = unsafe { map.at.read() };
            let outcome = try_undone(|| {
                map.unmap();
                limit(
                    libc::RLIMIT_NOFILE,
                    u64::try_from(first_free).unwrap() + free,
                );
            });
            match outcome {
                Ok(Outcome::RolledBack) => {
                    // SAFETY: mapped again.
                    assert_eq!(unsafe { map.at.read() }, first);
                    map.unmap();
                    undone += 1;
                }
                Err(Error::Refused {
                    errno: libc::EMFILE,
                    ..
                }) => refused += 1,
                other => panic!("{free}: {other:?}"),
            }
        }
        assert!(refused > 3 && undone > 0, "{refused} {undone}");
    });
}

#[test]
fn no_room_for_a_thread() {
    apart("no_room_for_a_thread", || {
        drop_rights(true);
        let area = Pages::new(4);
        area.fill(1);
        let worker = Worker::new(|| (), || ());
        // SAFETY: nothing outside of memory is touched.
        let open = unsafe { Speculation::begin() }.unwrap();
        if open.rollbacks() == 0 {
            worker.end();
            area.fill(2);
            limit(libc::RLIMIT_NPROC, 1);
            let refused = open.abort();
            assert!(
                matches!(refused, Error::Refused { what, errno: libc::EAGAIN }
                    if what.contains("RLIMIT_NPROC")),
                "{refused}"
            );
            assert!(area.all(2));
            // With what was short it works: no younger thread has been ended in the meantime.
            limit(libc::RLIMIT_NPROC, u64::MAX);
            panic!("{}", open.abort());
        }
        assert!(area.all(1));
        open.commit().unwrap();
        worker.end();
    });
}

#[test]
fn no_slots() {
    apart("no_slots", || {
        let many = |n| {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
            let threads: Vec<_> = (0..n)
                .map(|_| {
                    let ended = ended.clone();
                    let small = thread::Builder::new().stack_size(32 << 10);
                    small
                        .spawn(move || _ = ended.lock().unwrap().recv())
                        .unwrap()
                })
                .collect();
            (end, threads)
        };
        let (end, old) = many(1500);
        let mut young = None;
        let outcome = try_undone(|| {
            drop(end);
            old.into_iter().for_each(|t| t.join().unwrap());
            young = Some(many(2700));
        });
        assert_eq!(outcome, Err(Error::TooManyThreads));
        let (end, threads) = young.unwrap();
        drop(end);
        threads.into_iter().for_each(|t| t.join().unwrap());
        undone(|| ());
    });
}

#[test]
fn too_many_pieces_of_memory() {
    apart("too_many_pieces_of_memory", || {
        let area = Pages::new(132_000);
        area.advise(libc::MADV_NOHUGEPAGE);
        let outcome = try_undone(|| {
            (0..area.len).step_by(2 * PAGE).for_each(|at| {
                // SAFETY: the pages are the test's own.
                unsafe { area.at.add(at).write_volatile(1) }
            });
        });
        assert!(
            matches!(
                outcome,
                Err(Error::Refused {
                    errno: libc::E2BIG,
                    ..
                })
            ),
            "{outcome:?}"
        );
        area.unmap();
        undone(|| ());
    });
}

#[test]
fn no_room_for_a_mapping() {
    apart("no_room_for_a_mapping", || {
        let area = Pages::new(1 << 18);
        let outcome = try_undone(|| {
            area.unmap();
            limit(libc::RLIMIT_AS, 1 << 20);
        });
        limit(libc::RLIMIT_AS, u64::MAX);
        assert!(
            matches!(
                outcome,
                Err(Error::Refused {
                    errno: libc::ENOMEM,
                    ..
                })
            ),
            "{outcome:?}"
        );
        undone(|| ());
    });
}

#[test]
fn shared_memory_without_a_name_is_gone() {
    let _alone = alone();
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let shared = Pages::map(std::ptr::null_mut(), 2, flags, -1);
    let outcome = try_undone(|| shared.unmap());
    assert_eq!(
        outcome,
        Err(Error::MappingLost {
            address: shared.at as usize
        })
    );
    undone(|| ());
}

#[test]
fn the_preimage_is_killed() {
    apart("the_preimage_is_killed", || {
        let area = Pages::new(2);
        let outcome = try_undone(|| {
            area.fill(1);
            let mut killed = 0;
            for task in fs::read_dir("/proc/self/task").unwrap() {
                let children = task.unwrap().path().join("children");
                for child in fs::read_to_string(children)
                    .unwrap_or_default()
                    .split_whitespace()
                {
                    // SAFETY: the library's child: the tests make no other.
                    unsafe { libc::kill(child.parse().unwrap(), libc::SIGKILL) };
                    let dead = || {
                        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
                        stat.contains(") Z")
                    };
                    while !dead() {
                        thread::yield_now();
                    }
                    killed += 1;
                }
            }
            assert_eq!(killed, 1);
        });
        assert_eq!(outcome, Err(Error::PreimageGone));
        assert!(area.all(1));
        undone(|| area.fill(2));
        assert!(area.all(1));
    });
}

fn held_by_number(robust: bool, inherit: bool, contended: bool) {
    drop_rights(false);
    let mutex = mutex(robust, inherit, libc::PTHREAD_MUTEX_NORMAL);
    let (tell_tid, tid) = mpsc::channel();
    let first = move || {
        assert_eq!(mutex.lock(), 0);
        tell_tid.send(raw::gettid()).unwrap();
    };
    let holder = Worker::new(first, move || _ = mutex.unlock());
    let holder_tid = tid.recv().unwrap();
    let waiter = contended.then(|| {
        let (tell_tid, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell_tid.send(raw::gettid()).unwrap();
            assert_eq!(mutex.lock(), 0);
            assert_eq!(mutex.unlock(), 0);
        });
        // Until it sleeps in that call (202, operation 6 or 13 with "private" and "realtime").
        let call = format!("/proc/self/task/{}/syscall", tid.recv().unwrap());
        while !fs::read_to_string(&call).is_ok_and(|c| c.starts_with("202 ")) {
            thread::yield_now();
        }
        thread
    });
    let outcome = try_undone(|| holder.end());
    if robust || contended {
        assert_eq!(outcome, Err(Error::HoldsMutex { tid: holder_tid }));
    }
    waiter.into_iter().for_each(|w| w.join().unwrap());
    assert_eq!(mutex.lock(), 0);
}

#[test]
fn robust_mutex_without_its_number() {
    apart("robust_mutex_without_its_number", || {
        held_by_number(true, false, false)
    });
}

#[test]
fn inheriting_mutex_without_its_number() {
    apart("inheriting_mutex_without_its_number", || {
        held_by_number(false, true, true)
    });
}

#[test]
fn plain_mutex_with_another_number() {
    apart("plain_mutex_with_another_number", || {
        drop_rights(false);
        let (mutex, before) = (
            mutex(false, false, libc::PTHREAD_MUTEX_NORMAL),
            raw::gettid(),
        );
        let holder = Worker::new(move || _ = mutex.lock(), move || _ = mutex.unlock());
        // SAFETY: nothing outside of memory is touched.
        let open = unsafe { Speculation::begin() }.unwrap();
        if open.rollbacks() == 0 {
            holder.end();
            panic!("{}", open.abort());
        }
        assert_eq!(open.rollbacks(), 1);
        assert_eq!(raw::gettid(), before);
        open.commit().unwrap();
        let counts = hvckpt_process::rollback::counts().unwrap();
        assert_eq!((counts.remade, counts.renumbered), (1, 1));
        // It holds the mutex, and ends when it is told to.
        assert_eq!(mutex.try_lock(), libc::EBUSY);
        holder.end();
        assert_eq!(mutex.lock(), 0);
    });
}

#[test]
fn the_leader_has_ended() {
    apart("the_leader_has_ended", || {
        let pid = std::process::id();
        extern "C" fn leave(_: i32) {
            // SAFETY: nothing on this thread's stack is needed.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        thread::spawn(move || {
            // The signal is for the leader: it ends there, in the handler.
            // SAFETY: the handler ends the thread, which waits for this one.
            unsafe {
                libc::signal(libc::SIGUSR1, leave as *const () as usize);
                libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1);
            }
            let stat = format!("/proc/self/task/{pid}/stat");
            while !std::fs::read_to_string(&stat).unwrap().contains(") Z") {
                thread::yield_now();
            }
            // SAFETY: nothing is changed by a refusal.
            let refused = unsafe { Speculation::begin() };
            assert_eq!(refused.err(), Some(Error::LeaderEnded));
            // Nobody else is left to say so.
            println!("1 passed");
            std::process::exit(0);
        });
        loop {
            thread::park();
        }
    });
}
