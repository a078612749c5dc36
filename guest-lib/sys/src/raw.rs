// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls without libc: no `errno`, no cancellation point.

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
