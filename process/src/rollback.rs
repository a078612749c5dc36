// SPDX-License-Identifier: MIT OR Apache-2.0
//! Begin, commit, abort: what the agent does.

use crate::agent;
use crate::error::Error;
use crate::frozen;
pub use crate::open::Counts;
use crate::open::Open;
use crate::preimage;
use crate::raw::{self, call};
use crate::remake::{self, fatal};
use crate::state::{EXIT, Reply, SLOTS, State, Stopped};
use crate::stop::{self, Patience};
use crate::undo::{self, Undo};
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
        let known = &mut open.thread[open.threads];
        *known = *thread;
        if known.pending != 0 {
            known.pending = stop::pending_of(state, known.tid);
        }
        open.threads += 1;
    }
    // SAFETY: asks.
    open.end_of_heap = unsafe { call!(libc::SYS_brk, 0) }.unwrap_or(0);
    open.forks = undo::forks(state);
    open.rollbacks = 0;
    open.child = preimage::copy(state, open)?;
    Ok(0)
}

/// Which of the pre-image's threads has this number.
fn place(open: &Open, tid: i32) -> Option<usize> {
    let mut all = open.thread[..open.threads].iter();
    all.position(|t| t.tid == tid)
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
    let mut undo = unsafe { Undo::prepare(state, open.child, &open.marks, forked) }?;
    open.found = [false; SLOTS];
    for thread in stopped.threads() {
        if let Some(k) = place(open, thread.tid) {
            open.found[k] = true;
        }
    }
    let mut kept = remake::make(state, open, &undo)?;

    // No way back from here: younger threads leave while their memory is untouched.
    for slot in state.parked_slots() {
        // SAFETY: parked.
        let tid = unsafe { slot.now.get() }.tid;
        if let Some(k) = place(open, tid) {
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
    if unsafe { undo.run(open.end_of_heap, &open.marks) }.is_err() {
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
    remake::join(state, open);
    open.rollbacks += 1;
    Ok(open.rollbacks)
}
