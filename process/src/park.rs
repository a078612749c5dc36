// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread's side of a stop. Everything here runs in a signal handler, with all signals
//! blocked, and touches no memory of the program but the frame and the rseq area.

use crate::raw;
use crate::repair;
use crate::state::{self, CLAIMED, EXIT, PARKED, Queued, SIGNALLED, SLOTS, Slot, State, WAIT};
use crate::threads::Thread;
use core::arch::naked_asm;
use core::sync::atomic::Ordering::SeqCst;

/// Back into the program by way of the frame at `context`; the slot is free from then on, so
/// nothing here may touch the stack afterwards.
///
/// # Safety
/// `context` is a frame of the calling thread, on memory which is mapped.
#[unsafe(naked)]
pub unsafe extern "C" fn leave(context: usize, in_use: *const u32) -> ! {
    // 15: rt_sigreturn
    naked_asm!(
        "mov rsp, rdi",
        "mov dword ptr [rsi], 0",
        "mov eax, 15",
        "syscall",
        "hlt"
    );
}

/// Ends the thread.
///
/// # Safety
/// It owns nothing that others wait for, and the kernel shall write nothing on its end.
#[unsafe(naked)]
pub unsafe extern "C" fn end(in_use: *const u32) -> ! {
    // 60: exit
    naked_asm!(
        "mov dword ptr [rdi], 0",
        "xor edi, edi",
        "mov eax, 60",
        "syscall",
        "hlt"
    );
}

#[unsafe(naked)]
unsafe extern "C" fn on_scratch(slot: &Slot, context: usize, top: usize, state: &State) -> ! {
    naked_asm!(
        "mov rsp, rdx",
        "mov rdx, rcx",
        "xor ebp, ebp",
        "call {park}",
        "hlt",
        park = sym park
    );
}

/// The handler of the signal that stops.
pub(crate) unsafe extern "C" fn on_signal(
    _: i32,
    info: *const Queued,
    context: *mut libc::ucontext_t,
) {
    let Some(state) = state::current() else {
        return;
    };
    // SAFETY: the kernel passes a whole siginfo.
    let (code, pid, value) = unsafe { ((*info).code, (*info).pid, (*info).value) };
    let (serial, i) = ((value >> 32) as u32, value as u32 as usize);
    if code != libc::SI_QUEUE || pid != state.pid.load(SeqCst) || i >= SLOTS {
        return;
    }
    let (slot, ours) = (&state.slots[i], serial << 2);
    if slot
        .state
        .compare_exchange(ours | SIGNALLED, ours | CLAIMED, SeqCst, SeqCst)
        .is_err()
    {
        // The stop was given up before this thread heard of it. What it interrupted, it has
        // interrupted all the same.
        // SAFETY: the frame of this handler.
        unsafe {
            if repair::repair(context) {
                repair::reconsider(context);
            }
        }
        return;
    }
    // SAFETY: the claimed slot and its scratch stack are this thread's now.
    unsafe { on_scratch(slot, context as usize, state.scratch_top(i), state) }
}

unsafe extern "C" fn park(slot: &Slot, context: usize, state: &State) -> ! {
    let frame = context as *mut libc::ucontext_t;
    // SAFETY: the frame of this thread's handler; the slot's `now` is this thread's until
    // it says PARKED.
    let me = unsafe {
        let repaired = repair::repair(frame);
        let now = slot.now.get();
        *now = Thread::observe(context, *state.rseq.as_ptr());
        now.repaired = repaired;
        *now
    };
    let left = state.leave_rseq.load(SeqCst);
    if left {
        // SAFETY: this thread's own area.
        unsafe { me.leave_rseq() };
    }
    let word = slot.state.load(SeqCst);
    slot.state.store(word & !3 | PARKED, SeqCst);
    state.parked.fetch_add(1, SeqCst);
    raw::wake(&state.parked, 1);
    obey(slot, &me, left)
}

/// Waits for the order and carries it out.
fn obey(slot: &Slot, me: &Thread, left: bool) -> ! {
    while slot.order.load(SeqCst) == WAIT {
        raw::wait(&slot.order, WAIT, 0);
    }
    let in_use = slot.in_use.as_ptr().cast_const();
    // SAFETY: the agent gave the order after it had put memory into the state in which the
    // frame to be left by is whole. A thread that ends leaves nothing for the kernel to write.
    unsafe {
        if slot.order.load(SeqCst) == EXIT {
            let _ = raw::call!(libc::SYS_set_tid_address, 0);
            let _ = raw::call!(libc::SYS_set_robust_list, 0, 24);
            end(in_use);
        }
        let mut to = *me;
        if slot.adopts.load(SeqCst) {
            to = *slot.target.get();
            to.become_from(me);
        }
        if left {
            to.join_rseq();
        }
        if to.repaired {
            repair::reconsider(to.context as *mut libc::ucontext_t);
        }
        leave(to.context, in_use)
    }
}

/// A thread which stands in for one that had ended begins here, on its scratch stack. It is
/// nobody (FS is zero, or the agent's) until it is told to go on.
pub(crate) unsafe extern "C" fn reborn(slot: &Slot, _: &State) -> ! {
    obey(slot, &Thread::default(), true)
}
