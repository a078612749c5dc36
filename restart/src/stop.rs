// SPDX-License-Identifier: MIT OR Apache-2.0
//! All threads of a program, stopped by ptrace with a way back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Instant;

use crate::remote::{self, DEADLINE, OPTIONS, ORIG_RAX, RAX, RIP, Regs};
use crate::sys::{self, ptrace};
use crate::{Context, Error};

/// Calls which a stop interrupts with EINTR where the kernel does not restart
/// them itself: the program would not have had that error.
const LEAK_EINTR: [i64; 16] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
];

/// What must be given back to a thread before it runs on.
#[derive(Debug)]
pub struct Held {
    pub regs: Regs,
    pub blocked: u64,
}

/// A stopped program. Dropping it lets all threads run on as they were.
#[derive(Debug)]
pub struct Stopped {
    pub pid: i32,
    pub threads: BTreeMap<i32, Held>,
}

fn tids(pid: i32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    Ok(entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect())
}

/// A word of /proc/PID/status or of one thread's.
pub fn status(of: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{of}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

impl Stopped {
    /// Stops every thread, or resumes those it has stopped and names the one
    /// that did not.
    pub fn new(pid: i32) -> Result<Self, Error> {
        let until = Instant::now() + DEADLINE;
        let mut stopped = Self {
            pid,
            threads: BTreeMap::new(),
        };
        loop {
            let mut fresh = Vec::new();
            for tid in tids(pid).context(|| format!("process {pid} has ended"))? {
                if stopped.threads.contains_key(&tid) {
                    continue;
                }
                match ptrace(libc::PTRACE_SEIZE, tid, 0, OPTIONS) {
                    Ok(()) => fresh.push(tid),
                    // It is ending, or is traced by somebody else; the count tells.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {}
                    Err(e) => return Err(Error::Io(format!("cannot trace thread {tid}"), e)),
                }
            }
            for tid in &fresh {
                // Fails for a thread that has just ended.
                let _ = ptrace(libc::PTRACE_INTERRUPT, *tid, 0, 0);
            }
            for tid in &fresh {
                stopped.settle(*tid, until)?;
            }
            let living = status(&pid.to_string(), "Threads").and_then(|n| n.parse().ok());
            if living == Some(stopped.threads.len()) && stopped.threads.contains_key(&pid) {
                return Ok(stopped);
            }
            if Instant::now() > until {
                return Err(Error::refused(format!(
                    "{} of {} threads of process {pid} could be stopped (a debugger on them?); try again",
                    stopped.threads.len(),
                    living.unwrap_or(0)
                )));
            }
        }
    }

    fn settle(&mut self, tid: i32, until: Instant) -> Result<(), Error> {
        let cannot = || format!("thread {tid} does not stop; all were resumed, try again");
        loop {
            let stop = match remote::next_stop(tid, until) {
                Ok(Some(stop)) => stop,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
                    return Err(Error::Io(cannot(), error));
                }
            };
            match stop >> 8 {
                // A signal on its way: the thread takes it, and stops then.
                0 => {
                    let signal = u64::from(stop.cast_unsigned());
                    ptrace(libc::PTRACE_CONT, tid, 0, signal).context(cannot)?;
                }
                libc::PTRACE_EVENT_STOP if stop & 0xff == libc::SIGTRAP => break,
                libc::PTRACE_EVENT_STOP => {
                    let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
                    return Err(Error::refused(format!(
                        "process {} is stopped by a signal; continue it first (kill -CONT)",
                        self.pid
                    )));
                }
                _ => ptrace(libc::PTRACE_CONT, tid, 0, 0).context(cannot)?,
            }
        }
        let regs = remote::get_regs(tid).context(cannot)?;
        let blocked = remote::get_blocked(tid).context(cannot)?;
        self.threads.insert(tid, Held { regs, blocked });
        Ok(())
    }

    /// Lets all threads go on.
    fn resume(&mut self) {
        for (tid, held) in std::mem::take(&mut self.threads) {
            // A thread which was killed meanwhile needs nothing any more.
            let _ = remote::set_blocked(tid, held.blocked);
            let pending = pending(self.pid, tid) & !held.blocked;
            let mut regs = held.regs;
            if pending == 0 && leaks(&regs) {
                again(&mut regs);
            }
            let _ = remote::set_regs(tid, &regs);
            let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.resume();
    }
}

fn mask(of: &str, name: &str) -> u64 {
    status(of, name)
        .and_then(|m| u64::from_str_radix(&m, 16).ok())
        .unwrap_or(0)
}

/// Signals that wait for the thread or for the whole process.
pub fn pending(pid: i32, tid: i32) -> u64 {
    own_pending(pid, tid) | mask(&pid.to_string(), "ShdPnd")
}

pub fn own_pending(pid: i32, tid: i32) -> u64 {
    mask(&format!("{pid}/task/{tid}"), "SigPnd")
}

pub fn shared_pending(pid: i32) -> u64 {
    mask(&pid.to_string(), "ShdPnd")
}

fn leaks(regs: &Regs) -> bool {
    regs[RAX].cast_signed() == -i64::from(libc::EINTR)
        && LEAK_EINTR.contains(&regs[ORIG_RAX].cast_signed())
}

/// Executes the interrupted system call from its beginning.
fn again(regs: &mut Regs) {
    regs[RAX] = regs[ORIG_RAX];
    regs[RIP] -= 2;
    regs[ORIG_RAX] = !0;
}

/// The registers with which a new thread goes on where this one was: what the
/// kernel knew of an interrupted call is lost, so the call begins anew.
pub fn elsewhere(mut regs: Regs) -> Regs {
    let restarts = matches!(regs[RAX].cast_signed(), -514..=-512 | -516);
    if regs[ORIG_RAX].cast_signed() >= 0 && (restarts || leaks(&regs)) {
        again(&mut regs);
    }
    regs[ORIG_RAX] = !0;
    regs
}

/// The process is of this user and not ours to harm: only its end is awaited.
pub fn reap(pid: i32) {
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = sys::wait(pid, 0);
}
