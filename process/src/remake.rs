// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that have ended are made again, on their scratch stacks, before anything else is
//! changed: whatever the kernel refuses, it refuses while there is a way back. They take over
//! what they were when they are told to go on.

use crate::error::Error;
use crate::open::Open;
use crate::park;
use crate::raw::{self, Errno, call};
use crate::state::{EXIT, PARKED, Queued, SCRATCH, Slot, State};
use crate::undo::Undo;
use core::sync::atomic::Ordering::SeqCst;

/// As `clone3` takes them.
#[derive(Debug, Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[unsafe(naked)]
unsafe extern "C" fn clone3(
    args: *const CloneArgs,
    size: usize,
    slot: &Slot,
    state: &State,
) -> isize {
    core::arch::naked_asm!(
        "push r12",
        "push r13",
        "mov r12, rdx",
        "mov r13, rcx",
        "mov eax, 435",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "xor ebp, ebp",
        "mov rdi, r12",
        "mov rsi, r13",
        "call {reborn}",
        "hlt",
        "2:",
        "pop r13",
        "pop r12",
        "ret",
        reborn = sym park::reborn,
    );
}

/// Makes a thread for each that `open` has and that was not found: how many. They wait.
///
/// # Errors
/// Why not all; those that were made end again.
pub fn make(state: &State, open: &mut Open, undo: &Undo<'_>) -> Result<u64, Error> {
    let mut made = 0;
    for k in 0..open.threads {
        open.remade[k] = None;
        if open.found[k] {
            continue;
        }
        match one(state, open, undo, k) {
            Ok(slot) => open.remade[k] = Some(slot as u32),
            Err(e) => {
                for slot in open.remade[..k].iter_mut().filter_map(Option::take) {
                    state.slots[slot as usize].give(EXIT);
                }
                return Err(e);
            }
        }
        made += 1;
    }
    Ok(made)
}

fn one(state: &State, open: &mut Open, undo: &Undo<'_>, k: usize) -> Result<usize, Error> {
    let number = open.thread[k].tid;
    let i = state.take_slot().ok_or(Error::TooManyThreads)?;
    let slot = &state.slots[i];
    // SAFETY: the slot is the agent's until the thread runs.
    unsafe { *slot.target.get() = open.thread[k] };
    slot.adopts.store(true, SeqCst);
    slot.tid.store(number, SeqCst);
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM) as u64,
        stack: (state.scratch_top(i) - SCRATCH) as u64,
        stack_size: SCRATCH as u64,
        set_tid: &raw const number as u64,
        // A leader's number stays its own until the process ends.
        set_tid_size: u64::from(!open.no_set_tid && number != state.pid.load(SeqCst)),
        ..CloneArgs::default()
    };
    let began = raw::now();
    loop {
        let exact = args.set_tid_size != 0;
        if !exact {
            args.set_tid = 0;
            if let Err(e) = undo.may_renumber(&open.thread[..open.threads], number) {
                slot.free();
                return Err(e);
            }
        }
        // SAFETY: the new thread runs on its slot's scratch stack and waits there.
        let tried =
            raw::check(unsafe { clone3(&raw const args, size_of::<CloneArgs>(), slot, state) });
        let waited = raw::now() - began;
        match tried {
            Ok(tid) => {
                if let Err(e) = queue(state, tid, open.thread[k].pending) {
                    slot.give(EXIT);
                    return Err(e);
                }
                open.counts.remade += 1;
                open.counts.renumbered += u64::from(!exact);
                return Ok(i);
            }
            // Still being taken down: the number is free in a moment.
            Err(Errno(libc::EEXIST)) if exact && waited < 1_000_000_000 => raw::sleep(50_000),
            Err(Errno(libc::EAGAIN)) if waited < 300_000_000 => raw::sleep(50_000),
            Err(Errno(e @ (libc::EEXIST | libc::EPERM))) if exact => {
                open.no_set_tid |= e == libc::EPERM;
                args.set_tid_size = 0;
            }
            Err(Errno(errno)) => {
                slot.free();
                return Err(Error::Refused {
                    what: "a thread in place of one that ended (see RLIMIT_NPROC, pids.max)",
                    errno,
                });
            }
        }
    }
}

/// Sends thread `tid`, which blocks all signals yet, those of `set`.
fn queue(state: &State, tid: usize, set: u64) -> Result<(), Error> {
    let tid = i32::try_from(tid).unwrap_or(0);
    for signo in (1..=64).filter(|n| set >> (n - 1) & 1 != 0) {
        Queued::send(state, tid, signo, 0).map_err(|e| Error::Refused {
            what: "a signal for a thread in place of one that ended (RLIMIT_SIGPENDING)",
            errno: e.0,
        })?;
    }
    Ok(())
}

/// From now on those who were made go on with everybody else.
pub fn join(state: &State, open: &Open) {
    let parked = state.serial.load(SeqCst) << 2 | PARKED;
    for slot in open.remade[..open.threads].iter().flatten() {
        state.slots[*slot as usize].state.store(parked, SeqCst);
    }
}

/// Ends the process: it is neither here nor there.
pub fn fatal(why: &[u8]) -> ! {
    // SAFETY: the text is as long as said.
    unsafe {
        let _ = call!(libc::SYS_write, 2, why.as_ptr(), why.len());
        loop {
            let _ = call!(libc::SYS_kill, raw::getpid(), libc::SIGKILL);
        }
    }
}
