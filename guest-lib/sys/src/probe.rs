// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trying `int 0x84` without danger to this process.
//!
//! Where there is no gate the instruction raises SIGSEGV.  A signal handler
//! of ours in this process could collide with other threads which set theirs,
//! so a child tries it: made by a bare `clone` (no `atfork` handlers run, no
//! lock matters), without an exit signal (the program's own `wait` and
//! SIGCHLD handler never see it), and with its own SIGSEGV handler (no core
//! dump, no line in the kernel log).  The answer comes through a pipe.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use super::raw::int84;
use crate::abi;

/// Not −errno and not a version: the instruction trapped.
const TRAPPED: i64 = i64::MIN;

static ANSWER_FD: AtomicI32 = AtomicI32::new(-1);

/// What the gate answers to `CDA_OP_version`; `None` if it trapped.
pub(crate) fn try_gate() -> io::Result<Option<i64>> {
    let mut fds = [-1_i32; 2];
    // SAFETY: two descriptors are written into the array.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [from, to] = fds;
    // SAFETY: as fork(2): no CLONE_VM, no new stack; the child calls only
    // async-signal-safe functions and never returns.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid == 0 {
        child(to);
    }
    let failed = (pid < 0).then(io::Error::last_os_error);
    // SAFETY: our descriptor.
    unsafe { libc::close(to) };
    let answer = match failed {
        Some(error) => Err(error),
        None => read_answer(from),
    };
    // SAFETY: our descriptor.
    unsafe { libc::close(from) };
    if let Ok(pid) = i32::try_from(pid)
        && pid > 0
    {
        reap(pid);
    }
    answer.map(|value| (value != TRAPPED).then_some(value))
}

fn read_answer(from: i32) -> io::Result<i64> {
    let mut bytes = [0_u8; 8];
    loop {
        // SAFETY: eight bytes fit; a pipe delivers a write this small whole.
        let got = unsafe { libc::read(from, bytes.as_mut_ptr().cast(), bytes.len()) };
        match got {
            8 => return Ok(i64::from_ne_bytes(bytes)),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            // The child died without a word, killed from outside.
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn reap(pid: i32) {
    loop {
        // SAFETY: no status is wanted.
        let got = unsafe { libc::waitpid(pid, core::ptr::null_mut(), libc::__WALL) };
        if got != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// Runs in the child.  async-signal-safe.
fn child(to: i32) -> ! {
    ANSWER_FD.store(to, Ordering::Relaxed);
    // SAFETY: the child has one thread and its own table of handlers; all
    // functions called are async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        let handler: extern "C" fn(i32) = trapped;
        action.sa_sigaction = handler as usize;
        libc::sigemptyset(&raw mut action.sa_mask);
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL] {
            libc::sigaction(signal, &raw const action, core::ptr::null_mut());
        }
        let mut none: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, core::ptr::null_mut());
        answer(int84(abi::CDA_OP_VERSION, [0; 5]))
    }
}

/// async-signal-safe.
extern "C" fn trapped(_signal: i32) {
    answer(TRAPPED);
}

/// async-signal-safe.
fn answer(value: i64) -> ! {
    let bytes = value.to_ne_bytes();
    // SAFETY: writes eight bytes, then leaves without running anything.
    unsafe {
        libc::write(
            ANSWER_FD.load(Ordering::Relaxed),
            bytes.as_ptr().cast(),
            bytes.len(),
        );
        libc::_exit(0)
    }
}
