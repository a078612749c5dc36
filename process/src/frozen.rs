// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pre-image: a copy-on-write child which never runs a line of the program.

use crate::raw::{self, Errno, call};
use core::arch::naked_asm;

/// The child has no stack (the caller's is not inherited), so registers must do. It dies with
/// its parent, holds no descriptor, has no exit signal and waits for the end.
#[unsafe(naked)]
unsafe extern "C" fn clone_frozen() -> isize {
    naked_asm!(
        "xor edi, edi", // no flags, no exit signal: `wait` does not see it
        "xor esi, esi",
        "xor edx, edx",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "mov eax, 56", // clone
        "syscall",
        "test rax, rax",
        "jz 2f",
        "ret",
        "2:",
        "mov eax, 157", // prctl(PR_SET_PDEATHSIG, SIGKILL)
        "mov edi, 1",
        "mov esi, 9",
        "syscall",
        "mov eax, 436", // close_range(0, ~0, 0)
        "xor edi, edi",
        "mov esi, 0xffffffff",
        "xor edx, edx",
        "syscall",
        "3:",
        "mov eax, 34", // pause
        "syscall",
        "jmp 3b",
    );
}

/// Takes the pre-image. For the agent, while everybody is parked.
///
/// # Errors
/// What `clone` says.
pub fn freeze() -> Result<i32, Errno> {
    // SAFETY: see there; the caller's stack is not used by the child.
    raw::check(unsafe { clone_frozen() }).map(|pid| pid as i32)
}

/// Ends and reaps it. If that takes longer than seconds (a debugger holds it), it is left.
pub fn discard(child: i32) {
    const WALL: i32 = 0x4000_0000;
    // SAFETY: the child is ours; nothing is written.
    unsafe {
        let _ = call!(libc::SYS_kill, child, libc::SIGKILL);
        let began = raw::now();
        let reap = || call!(libc::SYS_wait4, child, 0, WALL | libc::WNOHANG, 0);
        while matches!(reap(), Ok(0) | Err(Errno(libc::EINTR))) {
            match raw::now() - began {
                0..100_000 => raw::pause_briefly(),
                100_000..5_000_000_000 => raw::sleep(50_000),
                _ => break,
            }
        }
    }
}
