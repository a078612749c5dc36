// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls done by a stopped thread of another process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys::{self, ptrace, ptrace_with, regset};

const NOTE_REGS: u64 = 1;
const NOTE_XSTATE: u64 = 0x202;
/// With PTRACE_O_TRACESYSGOOD: stopped at a system call.
const AT_SYSCALL: i32 = libc::SIGTRAP | 0x80;
/// Events of forks and clones, and no more.
pub const OPTIONS: u64 = 1 | 2 | 4 | 8;
/// A thread which does not get there in this time stays where it is.
pub const DEADLINE: Duration = Duration::from_secs(2);

// Words of struct user_regs_struct.
pub const RBX: usize = 5;
pub const RAX: usize = 10;
pub const ORIG_RAX: usize = 15;
pub const RIP: usize = 16;
pub const RSP: usize = 19;
const ARGUMENTS: [usize; 6] = [14, 13, 12, 7, 9, 8];

/// Ends which were told while a stop was awaited: pid and wait status.
pub static ENDED: Mutex<Vec<(i32, i32)>> = Mutex::new(Vec::new());

pub type Regs = [u64; 27];

pub fn get_regs(tid: i32) -> io::Result<Regs> {
    let mut octets = [0; 216];
    regset(libc::PTRACE_GETREGSET, tid, NOTE_REGS, &mut octets)?;
    Ok(words(&octets))
}

pub fn words<const N: usize>(octets: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, eight) in words.iter_mut().zip(octets.chunks_exact(8)) {
        *word = eight.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b));
    }
    words
}

pub fn octets(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

pub fn set_regs(tid: i32, regs: &Regs) -> io::Result<()> {
    regset(libc::PTRACE_SETREGSET, tid, NOTE_REGS, &mut octets(regs)).map(drop)
}

pub fn get_xstate(tid: i32) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; 32 << 10];
    let length = regset(libc::PTRACE_GETREGSET, tid, NOTE_XSTATE, &mut octets)?;
    octets.truncate(length);
    Ok(octets)
}

pub fn set_xstate(tid: i32, state: &[u8]) -> io::Result<()> {
    regset(
        libc::PTRACE_SETREGSET,
        tid,
        NOTE_XSTATE,
        &mut state.to_vec(),
    )
    .map(drop)
}

pub fn get_blocked(tid: i32) -> io::Result<u64> {
    let mut octets = [0; 8];
    ptrace_with(libc::PTRACE_GETSIGMASK, tid, 8, &mut octets)?;
    Ok(u64::from_le_bytes(octets))
}

pub fn set_blocked(tid: i32, mask: u64) -> io::Result<()> {
    ptrace_with(libc::PTRACE_SETSIGMASK, tid, 8, &mut mask.to_le_bytes()).map(drop)
}

/// Waits for the next stop of a thread. `Ok(None)`: it has ended.
pub fn next_stop(tid: i32, until: Instant) -> io::Result<Option<i32>> {
    let mut tries = 0;
    loop {
        match sys::wait(tid, libc::WNOHANG) {
            Ok(Some((_, status))) if libc::WIFSTOPPED(status) => return Ok(Some(status >> 8)),
            Ok(Some(end)) => {
                if let Ok(mut ended) = ENDED.lock() {
                    ended.push(end);
                }
                return Ok(None);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(error) => return Err(error),
            Ok(None) => {}
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tries += 1;
        if tries < 50 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// A stopped thread that works for us. Its registers and mask are the
/// caller's to save, and to set again.
#[derive(Debug)]
pub struct Worker<'a> {
    pub tid: i32,
    /// Where a `syscall` instruction is.
    pub gadget: u64,
    pub memory: &'a File,
    /// A thread or process which the last call made; stopped, and traced.
    pub born: Option<i32>,
    regs: Regs,
}

fn ended() -> io::Error {
    io::Error::other("it ended meanwhile")
}

impl<'a> Worker<'a> {
    /// Blocks all signals of the thread.
    pub fn new(tid: i32, gadget: u64, memory: &'a File) -> io::Result<Self> {
        let regs = get_regs(tid)?;
        set_blocked(tid, !0)?;
        Ok(Self {
            tid,
            gadget,
            memory,
            born: None,
            regs,
        })
    }

    /// Does one system call. An error of the call itself is an error here.
    pub fn call(&mut self, number: i64, arguments: &[u64]) -> io::Result<u64> {
        let mut regs = self.regs;
        regs[RAX] = number.cast_unsigned();
        regs[ORIG_RAX] = !0;
        regs[RIP] = self.gadget;
        for (register, value) in ARGUMENTS.iter().zip(arguments) {
            regs[*register] = *value;
        }
        set_regs(self.tid, &regs)?;
        let until = Instant::now() + DEADLINE;
        let mut stops = 0;
        while stops < 2 {
            ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            let stop = next_stop(self.tid, until)?.ok_or_else(ended)?;
            if stop == AT_SYSCALL {
                stops += 1;
            } else if matches!(stop >> 8, 1..=3) {
                let mut born = [0; 8];
                ptrace_with(libc::PTRACE_GETEVENTMSG, self.tid, 0, &mut born)?;
                self.born = i32::try_from(u64::from_le_bytes(born)).ok();
            }
        }
        let result = get_regs(self.tid)?[RAX];
        match result.cast_signed() {
            n @ -4095..=-1 => Err(io::Error::from_raw_os_error(i32::try_from(-n).unwrap_or(0))),
            _ => Ok(result),
        }
    }

    pub fn read<const N: usize>(&self, address: u64) -> io::Result<[u8; N]> {
        let mut octets = [0; N];
        self.memory.read_exact_at(&mut octets, address)?;
        Ok(octets)
    }

    /// Starts the thread at `rip` with `rbx`, and waits for its breakpoint.
    /// Returns the registers there.
    pub fn run(&mut self, rip: u64, rbx: u64, until: Instant) -> io::Result<Regs> {
        let mut regs = self.regs;
        (regs[RIP], regs[RBX], regs[ORIG_RAX]) = (rip, rbx, !0);
        set_regs(self.tid, &regs)?;
        // A blocked SIGTRAP would have its action changed by the kernel.
        set_blocked(self.tid, !sys::bit(libc::SIGTRAP))?;
        ptrace(libc::PTRACE_CONT, self.tid, 0, 0)?;
        loop {
            let stop = next_stop(self.tid, until)?.ok_or_else(ended)?;
            if stop == libc::SIGTRAP {
                break;
            }
            if stop >> 8 == 0 {
                return Err(io::Error::other(format!(
                    "signal {stop} in the middle of it"
                )));
            }
            ptrace(libc::PTRACE_CONT, self.tid, 0, 0)?;
        }
        set_blocked(self.tid, !0)?;
        get_regs(self.tid)
    }
}
