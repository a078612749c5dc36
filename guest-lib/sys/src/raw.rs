// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls without libc: no `errno`, no cancellation point. And the gate.

use core::arch::asm;

/// One system call; returns the value or −errno.  async-signal-safe.
///
/// # Safety
/// As the system call `nr` with these arguments.
#[inline]
pub unsafe fn syscall4(nr: i64, a: usize, b: usize, c: usize, d: usize) -> i64 {
    let result: i64;
    // SAFETY: the caller vouches for the call; the kernel clobbers rcx and
    // r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// `mprotect`; returns 0 or −errno.  async-signal-safe.
///
/// # Safety
/// The pages must belong to the caller, and code which counts on the old
/// protection must not run.
#[inline]
pub unsafe fn mprotect(start: usize, len: usize, prot: i32) -> i64 {
    #[allow(clippy::cast_sign_loss)] // PROT_* are small and positive
    // SAFETY: forwarded to the caller.
    unsafe {
        syscall4(libc::SYS_mprotect, start, len, prot as usize, 0)
    }
}

/// Executes `int 0x84`.
///
/// # Safety
/// As [`call`](super::gate::Transport::call).  Without the patch, and where the domain was not
/// admitted, the processor answers with #GP, that is SIGSEGV: ask
/// [`capabilities`](super::gate::capabilities) first.
#[inline]
pub unsafe fn int84(op: u64, args: [u64; 5]) -> i64 {
    #[allow(clippy::cast_possible_wrap)]
    let mut rax = op as i64;
    // SAFETY: the hypervisor preserves every register but rax; memory it
    // writes is named by the arguments, for which the caller vouches.  It may
    // execute the instruction several times.
    unsafe {
        asm!(
            "int 0x84",
            inlateout("rax") rax,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            options(nostack),
        );
    }
    rax
}
