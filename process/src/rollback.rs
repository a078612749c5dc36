// SPDX-License-Identifier: MIT OR Apache-2.0
//! Begin, commit, abort: what the agent does.

use crate::agent;
use crate::error::Error;
use crate::frozen;
pub use crate::open::Counts;
use crate::open::Open;
use crate::park;
use crate::raw::{self, Errno, call};
use crate::state::{EXIT, PARKED, Reply, SLOTS, State, Stopped};
use crate::stop::{self, Patience};
use crate::undo::{self, Undo};
use core::arch::naked_asm;
use core::sync::atomic::Ordering::SeqCst;

/// The counters.
///
/// # Errors
/// As [`agent::init`].
pub fn counts() -> Result<Counts, Error> {
    // SAFETY: a copy of numbers; one that is being written may be late by one.
    Ok(unsafe { (&raw const (*agent::init(0)?.open.as_ptr()).counts).read_volatile() })
}

/// At each `n`th abort every page of the process is compared with the pre-image; 0: never.
///
/// # Errors
/// As [`agent::init`].
pub fn verify_every(n: u32) -> Result<(), Error> {
    agent::init(0)?.verify.store(n, SeqCst);
    Ok(())
}

/// See [`speculate`](crate::speculate).
pub unsafe fn begin(state: &'static State, _: usize) -> Reply {
    let mut stopped = None;
    // SAFETY: the caller is the agent.
    let result = unsafe { do_begin(state, &mut stopped) };
    (result, stopped)
}

unsafe fn do_begin(
    state: &'static State,
    all: &mut Option<Stopped<'static>>,
) -> Result<u64, Error> {
    // SAFETY: the agent's.
    let open = unsafe { state.open.get() };
    if open.child != 0 && open.rollbacks == 0 {
        return Err(Error::Nested);
    }
    discard(open);
    state.leave_rseq.store(false, SeqCst);
    // SAFETY: this is the agent.
    let stopped = &*all.insert(unsafe { stop::stop(state, Patience::BEGIN) }?);
    open.threads = 0;
    for thread in stopped.threads() {
        open.thread[open.threads] = *thread;
        open.threads += 1;
    }
    // SAFETY: asks.
    open.end_of_heap = unsafe { call!(libc::SYS_brk, 0) }.unwrap_or(0);
    open.forks = undo::forks(state);
    open.rollbacks = 0;
    open.child = frozen::freeze().map_err(|e| Error::Refused {
        what: "a copy of the process",
        errno: e.0,
    })?;
    Ok(0)
}

fn discard(open: &mut Open) {
    if open.child != 0 {
        frozen::discard(open.child);
        open.child = 0;
    }
}

/// See [`Speculation::commit`](crate::Speculation::commit).
pub unsafe fn commit(state: &'static State, _: usize) -> Reply {
    // SAFETY: the agent's.
    let open = unsafe { state.open.get() };
    let result = if open.child == 0 {
        Err(Error::NotSpeculating)
    } else {
        Ok(0)
    };
    discard(open);
    (result, None)
}

/// See [`Speculation::abort`](crate::Speculation::abort).
pub unsafe fn abort(state: &'static State, _: usize) -> Reply {
    let mut stopped = None;
    // SAFETY: the caller is the agent.
    let result = unsafe { do_abort(state, &mut stopped) };
    (result, stopped)
}

unsafe fn do_abort(
    state: &'static State,
    all: &mut Option<Stopped<'static>>,
) -> Result<u64, Error> {
    // SAFETY: the agent's.
    let open = unsafe { state.open.get() };
    if open.child == 0 {
        return Err(Error::NotSpeculating);
    }
    state.leave_rseq.store(true, SeqCst);
    // SAFETY: this is the agent.
    let stopped = &*all.insert(unsafe { stop::stop(state, Patience::ABORT) }?);
    let there = stopped.count().map_err(|e| Error::Refused {
        what: "a count of the threads",
        errno: e.0,
    })?;
    // A leader that has exited, while others run on, is counted but cannot park.
    let gone_leader = there.saturating_sub(stopped.threads().count() as u64 + 1);
    let forked = undo::forks(state) != open.forks || open.rollbacks > 0;
    // SAFETY: everybody is parked.
    let mut undo = unsafe { Undo::prepare(state, open.child, forked) }?;

    // No way back from here: younger threads leave while their memory is untouched.
    open.found = [false; SLOTS];
    let mut kept = 0;
    for slot in state.parked_slots() {
        // SAFETY: parked.
        let tid = unsafe { slot.now.get() }.tid;
        if let Some(k) = open.thread[..open.threads]
            .iter()
            .position(|t| t.tid == tid)
        {
            open.found[k] = true;
            kept += 1;
            // SAFETY: the agent's until the order is given.
            unsafe { *slot.target.get() = open.thread[k] };
            slot.adopts.store(true, SeqCst);
        } else {
            slot.give(EXIT);
        }
    }
    let limit = raw::now() + 10_000_000_000;
    while stopped.count() != Ok(kept + 1 + gone_leader) {
        if raw::now() > limit {
            fatal(b"hvckpt: a thread which was to end did not; the process ends\n");
        }
        raw::pause_briefly();
    }
    // SAFETY: nobody younger is left.
    if unsafe { undo.run(open.end_of_heap) }.is_err() {
        fatal(b"hvckpt: memory could not be put back; the process ends\n");
    }
    open.aborts += 1;
    let verify = u64::from(state.verify.load(SeqCst));
    if verify != 0 && open.aborts.is_multiple_of(verify) {
        let threads = &open.thread[..open.threads];
        // The kernel itself wrote into the areas of restartable sequences.
        let rseq = |page| {
            threads
                .iter()
                .any(|t| t.rseq != 0 && t.rseq & !4095 == page)
        };
        if let Ok((looked, wrong)) = undo.verify(rseq) {
            open.counts.compared += looked;
            open.counts.wrong += wrong;
        }
    }
    drop(undo);
    for k in 0..open.threads {
        if !open.found[k] {
            recreate(state, open, k);
        }
    }
    open.rollbacks += 1;
    Ok(open.rollbacks)
}

/// Ends the process: it is neither here nor there.
fn fatal(why: &[u8]) -> ! {
    // SAFETY: the text is as long as said.
    unsafe {
        let _ = call!(libc::SYS_write, 2, why.as_ptr(), why.len());
        loop {
            let _ = call!(libc::SYS_kill, raw::getpid(), libc::SIGKILL);
        }
    }
}

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
    slot: &crate::state::Slot,
    state: &State,
) -> isize {
    naked_asm!(
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

fn recreate(state: &State, open: &mut Open, k: usize) {
    let target = open.thread[k];
    let Some(i) = state.take_slot() else {
        fatal(b"hvckpt: no room for a thread; the process ends\n")
    };
    let slot = &state.slots[i];
    // SAFETY: the slot is the agent's until the thread runs.
    unsafe { *slot.target.get() = target };
    slot.tid.store(target.tid, SeqCst);
    let before = state.parked.load(SeqCst);
    let word = state.serial.load(SeqCst) << 2 | PARKED;
    let number = target.tid;
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_SETTLS) as u64,
        tls: target.fs as u64,
        child_tid: target.clear_tid as u64,
        stack: (state.scratch_top(i) - crate::state::SCRATCH) as u64,
        stack_size: crate::state::SCRATCH as u64,
        ..CloneArgs::default()
    };
    if target.clear_tid != 0 {
        args.flags |= libc::CLONE_CHILD_CLEARTID as u64;
    }
    let limit = raw::now() + 1_000_000_000;
    let mut exact = !open.no_set_tid;
    loop {
        (args.set_tid, args.set_tid_size) = if exact {
            (&raw const number as u64, 1)
        } else {
            (0, 0)
        };
        // SAFETY: the new thread runs on its slot's scratch stack and waits there.
        let made =
            raw::check(unsafe { clone3(&raw const args, size_of::<CloneArgs>(), slot, state) });
        match made {
            Ok(_) => break,
            // Still being taken down: the number is free in a moment.
            Err(Errno(libc::EEXIST)) if exact && raw::now() < limit => raw::sleep(50_000),
            Err(Errno(libc::EAGAIN)) if raw::now() < limit => raw::sleep(50_000),
            Err(e) if exact => {
                open.no_set_tid |= e == Errno(libc::EPERM);
                exact = false;
            }
            Err(_) => fatal(b"hvckpt: a thread could not be made again; the process ends\n"),
        }
    }
    open.counts.remade += 1;
    open.counts.renumbered += u64::from(!exact);
    // It waits for its order before the next one is made.
    while state.parked.load(SeqCst) == before {
        raw::wait(&state.parked, before, 1_000_000);
    }
    slot.state.store(word, SeqCst);
}
