// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stopping everybody: a transaction, which either parks every thread or lets all run on.
//!
//! The signal carries a serial and a slot. Who takes it claims the slot; the handler of
//! an attempt that was given up finds another serial and returns. The set of threads is
//! what has *parked*: listings of `/proc/self/task` can miss living threads, parked ones are
//! surely alive, and the directory's link count says how many there are.

use crate::error::{Error, Holdout};
use crate::park;
use crate::raw::{self, Errno, Fd, Path, call};
use crate::state::{
    CLAIMED, OFF, PARKED, PLACES, Queued, SIGNALLED, SLOTS, Slot, State, Stopped, release,
};
use core::sync::atomic::Ordering::SeqCst;

/// How long a stop may be tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// So many times.
    pub attempts: u32,
    /// Not longer than so many nanoseconds altogether.
    pub ns: u64,
}

impl Patience {
    /// Before anything was done, giving up costs nothing.
    pub const BEGIN: Self = Self {
        attempts: 8,
        ns: 2_000_000_000,
    };
    /// A rollback is worth waiting for.
    pub const ABORT: Self = Self {
        attempts: 40,
        ns: 15_000_000_000,
    };

    /// As often as it takes, for `deadline`.
    pub fn within(deadline: core::time::Duration) -> Self {
        let ns = u64::try_from(deadline.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        Self {
            attempts: u32::MAX,
            ns,
        }
    }
}

/// Parks every thread of the process except the caller.
///
/// # Errors
/// [`Error::NotStopped`] names who did not stop; everybody runs again then.
///
/// # Safety
/// The caller is the agent.
pub unsafe fn stop(state: &State, patience: Patience) -> Result<Stopped<'_>, Error> {
    let refused = |e: Errno| Error::Refused {
        what: "a look at the threads",
        errno: e.0,
    };
    let tasks = Fd::open(
        Path::proc(0, "task").as_c_str(),
        libc::O_RDONLY | libc::O_DIRECTORY,
    )
    .map_err(refused)?;
    let limit = raw::now().saturating_add(patience.ns);
    let (mut wait, mut rest) = (10_000_000u64, 1_000_000u64);
    let mut tried = 0;
    loop {
        let until = raw::now().saturating_add(wait).min(limit);
        let failed = match attempt(state, &tasks, until) {
            Ok(()) => return Ok(Stopped { state, tasks }),
            Err(e) => e,
        };
        tried += 1;
        let hopeless = !matches!(failed, Error::NotStopped { .. });
        if hopeless || tried >= patience.attempts || raw::now().saturating_add(rest) >= limit {
            return Err(failed);
        }
        raw::sleep(rest);
        (wait, rest) = (
            (wait * if tried > 1 { 2 } else { 1 }).min(400_000_000),
            (rest * 2).min(16_000_000),
        );
    }
}

/// Calls `f` with each number in the directory.
fn list(
    state: &State,
    tasks: &Fd,
    mut f: impl FnMut(i32) -> Result<(), Error>,
) -> Result<(), Error> {
    let refused = |e: Errno| Error::Refused {
        what: "a list of the threads",
        errno: e.0,
    };
    // SAFETY: the agent's own buffer; the directory is the agent's, too.
    let entries = unsafe {
        call!(libc::SYS_lseek, tasks.raw(), 0, libc::SEEK_SET).map_err(refused)?;
        state.entries.get()
    };
    loop {
        // SAFETY: the buffer is as long as said.
        let got = unsafe {
            call!(
                libc::SYS_getdents64,
                tasks.raw(),
                entries.as_mut_ptr(),
                entries.len()
            )
        }
        .map_err(refused)?;
        if got == 0 {
            return Ok(());
        }
        // Each record: inode and offset (16 octets), its length (2), a type, the name.
        let mut rest = &entries[..got];
        while rest.len() > 19 {
            let length =
                usize::from(u16::from_ne_bytes([rest[16], rest[17]])).clamp(20, rest.len());
            let digits = rest[19..length].iter().take_while(|b| b.is_ascii_digit());
            let tid = digits.fold(0i32, |n, b| {
                n.wrapping_mul(10).wrapping_add(i32::from(b - b'0'))
            });
            rest = &rest[length..];
            if tid != 0 && tid != state.agent.load(SeqCst) {
                f(tid)?;
            }
        }
    }
}

/// The slot of `tid` in this serial, a new one if need be, and whether it is new.
fn slot_of(state: &State, tid: i32, serial: u32) -> Result<(usize, bool), Error> {
    // SAFETY: the agent's own table.
    let places = unsafe { state.places.get() };
    let mut at = tid.unsigned_abs().wrapping_mul(0x9e37_79b1) as usize % PLACES;
    for _ in 0..PLACES {
        let (of, slot) = ((places[at] >> 32) as u32, places[at] as u32 as usize);
        if of != serial {
            let i = state.take_slot().ok_or(Error::TooManyThreads)?;
            places[at] = u64::from(serial) << 32 | i as u64;
            state.slots[i].tid.store(tid, SeqCst);
            state.slots[i].state.store(serial << 2 | SIGNALLED, SeqCst);
            return Ok((i, true));
        }
        if slot < SLOTS && state.slots[slot].tid.load(SeqCst) == tid {
            return Ok((slot, false));
        }
        at = (at + 1) % PLACES;
    }
    Err(Error::TooManyThreads)
}

/// `State` of a thread: a letter, or 0 where it is gone.
fn letter(tid: i32) -> u8 {
    let mut text = [0u8; 128];
    let Ok(file) = Fd::open(Path::task(tid, "stat").as_c_str(), libc::O_RDONLY) else {
        return 0;
    };
    let n = file.read(&mut text).unwrap_or(0);
    let end = text[..n].iter().rposition(|&b| b == b')').unwrap_or(n);
    text.get(end + 2).copied().unwrap_or(0)
}

/// Does the thread's mask have the signal?
fn blocks(state: &State, tid: i32) -> bool {
    signals(state, tid, b"\nSigBlk:") >> (state.signal.load(SeqCst) - 1) & 1 != 0
}

/// Signals which wait for this thread alone.
pub fn pending_of(state: &State, tid: i32) -> u64 {
    signals(state, tid, b"\nSigPnd:")
}

/// A set of signals from a thread's `status`; nothing where that cannot be read.
fn signals(state: &State, tid: i32, name: &[u8; 8]) -> u64 {
    // SAFETY: no listing is going on: the agent's own buffer is free.
    let text = unsafe { &mut state.entries.get()[..4096] };
    let Ok(file) = Fd::open(Path::task(tid, "status").as_c_str(), libc::O_RDONLY) else {
        return 0;
    };
    let n = file.read_all(text).unwrap_or(0);
    let Some(at) = text[..n].windows(8).position(|w| w == name) else {
        return 0;
    };
    let set = text[at + 8..n]
        .iter()
        .skip_while(|b| b.is_ascii_whitespace());
    set.map_while(|b| char::from(*b).to_digit(16))
        .fold(0u64, |m, d| m << 4 | u64::from(d))
}

/// Signals of the serial which nobody has taken yet, by threads that were just listed.
fn pending(state: &State, serial: u32, round: u32) -> impl Iterator<Item = &Slot> {
    state.used().iter().filter(move |s| {
        let now = s.state.load(SeqCst);
        s.in_use.load(SeqCst) != 0
            && now >> 2 == serial
            && now & 3 != PARKED
            && s.seen.load(SeqCst) == round
    })
}

fn attempt(state: &State, tasks: &Fd, until: u64) -> Result<(), Error> {
    let serial = (state.serial.load(SeqCst) + 1) & 0x3fff_ffff;
    let serial = serial.max(1);
    state.serial.store(serial, SeqCst);
    let (began, mut looked, mut asleep, mut round) = (raw::now(), 0, 0, 0);
    loop {
        round += 1;
        let parked_before = state.parked.load(SeqCst);
        let mut fresh = 0;
        let listed = list(state, tasks, |tid| {
            let (i, new) = slot_of(state, tid, serial)?;
            state.slots[i].seen.store(round, SeqCst);
            if new {
                fresh += 1;
                signal(state, i, serial);
            }
            Ok(())
        });
        if let Err(e) = listed {
            give_up(state, serial);
            return Err(e);
        }
        let pid = state.pid.load(SeqCst);
        let waiting = pending(state, serial, round).count();
        if waiting > 0
            && round > 20
            && pending(state, serial, round).any(|s| s.tid.load(SeqCst) == pid)
            && letter(pid) == b'Z'
        {
            give_up(state, serial);
            return Err(Error::LeaderEnded);
        }
        let parked = state.parked_slots().count();
        let links = tasks.links().unwrap_or(0);
        if fresh == 0 && waiting == 0 && links == (parked + 3) as u64 {
            // Nobody else exists: what was not claimed is of threads that died.
            for slot in state.used() {
                let now = slot.state.load(SeqCst);
                if slot.in_use.load(SeqCst) != 0 && now >> 2 == serial && now & 3 != PARKED {
                    slot.free();
                }
            }
            return Ok(());
        }
        let now = raw::now();
        if now > began + 2_000_000 && now > looked + 1_000_000 && waiting > 0 {
            looked = now;
            // All who are missing sleep though they were signalled: they block the signal, or
            // wait for a thread which is parked already. Waiting longer cannot help.
            let all = pending(state, serial, round).all(|s| letter(s.tid.load(SeqCst)) == b'S');
            asleep = if all { asleep + 1 } else { 0 };
        }
        if now > until || asleep >= 3 {
            let culprit = pending(state, serial, round)
                .next()
                .map(|s| s.tid.load(SeqCst));
            let why = culprit.map_or(Holdout::Late, |tid| match letter(tid) {
                _ if blocks(state, tid) => Holdout::Blocks,
                b'D' => Holdout::Sleeps,
                _ => Holdout::Late,
            });
            give_up(state, serial);
            return Err(Error::NotStopped {
                tid: culprit.unwrap_or(0),
                why,
            });
        }
        if fresh == 0 && waiting > 0 {
            raw::wait(&state.parked, parked_before, 200_000);
        } else if fresh == 0 {
            raw::pause_briefly();
        }
    }
}

fn signal(state: &State, i: usize, serial: u32) {
    let slot = &state.slots[i];
    let value = u64::from(serial) << 32 | i as u64;
    let (tid, signo) = (slot.tid.load(SeqCst), state.signal.load(SeqCst));
    let sent = Queued::send(state, tid, signo, value);
    // ESRCH: it has ended. Of EAGAIN, no room in the queue, the deadline makes a refusal.
    if sent == Err(Errno(libc::ESRCH)) {
        slot.seen.store(0, SeqCst);
    }
}

/// Takes the stop back. Who is in the handler already parks first, and goes on at once.
fn give_up(state: &State, serial: u32) {
    for slot in state.used() {
        if slot.in_use.load(SeqCst) == 0 || slot.state.load(SeqCst) >> 2 != serial {
            continue;
        }
        let (signalled, off) = (serial << 2 | SIGNALLED, OFF);
        if slot
            .state
            .compare_exchange(signalled, off, SeqCst, SeqCst)
            .is_ok()
        {
            slot.free();
            continue;
        }
        while slot.state.load(SeqCst) == serial << 2 | CLAIMED {
            raw::pause_briefly();
        }
    }
    release(state);
}

/// Installs the handler.
///
/// # Errors
/// The kernel refused, or the program has a handler of its own.
pub fn install(signal: i32) -> Result<(), Error> {
    // SAFETY: zeroes are a `sigaction`; the handler keeps to what one may do.
    let done = unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        let mut before: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = park::on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal, core::ptr::null(), &raw mut before);
        let before = before.sa_sigaction;
        if before != libc::SIG_DFL && before != action.sa_sigaction {
            return Err(Error::SignalInUse { signal });
        }
        libc::sigaction(signal, &raw const action, core::ptr::null_mut())
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::Refused {
            what: "the signal's handler",
            errno: libc::EINVAL,
        })
    }
}
