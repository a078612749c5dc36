// SPDX-License-Identifier: MIT OR Apache-2.0
//! No `EINTR` that the program would not have had.
//!
//! `SA_RESTART` begins most system calls anew, but not those which wait for a time. A frame
//! does not say which call it was, so the code before the `syscall` instruction is asked.

use crate::raw::call;

/// Calls which answer `EINTR` after a handler with `SA_RESTART`, and may be made again.
const CALLS: [libc::c_long; 30] = [
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_pause,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_io_getevents,
];

/// How far before the `syscall` instruction its number may have been loaded.
const LOOK_BACK: usize = 24;

/// The number of the call that `code` ends with: `mov $number, %eax … syscall`.
fn number(code: &[u8]) -> Option<i64> {
    let body = code.strip_suffix(&[0x0f, 0x05])?;
    (0..body.len().checked_sub(4)?).rev().find_map(|at| {
        let imm = body.get(at + 1..at + 5)?.try_into().ok()?;
        let number = i64::from(i32::from_le_bytes(imm));
        (body[at] == 0xb8 && CALLS.contains(&number)).then_some(number)
    })
}

/// Sets an interrupted call in `context` to be made again, and says whether there was one.
/// For a signal handler.
///
/// # Safety
/// `context` is the frame of the calling thread's handler.
pub unsafe fn repair(context: *mut libc::ucontext_t) -> bool {
    // SAFETY: the caller says so.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    if registers[libc::REG_RAX as usize] != -i64::from(libc::EINTR) {
        return false;
    }
    let rip = registers[libc::REG_RIP as usize].cast_unsigned() as usize;
    let mut code = [0u8; LOOK_BACK];
    // The page before may not be mapped, so the kernel reads; then what this page has must do.
    let mut usable = LOOK_BACK;
    loop {
        let to = libc::iovec {
            iov_base: code.as_mut_ptr().cast(),
            iov_len: usable,
        };
        let from = libc::iovec {
            iov_base: rip.wrapping_sub(usable) as *mut _,
            iov_len: usable,
        };
        let pid = crate::raw::getpid();
        // SAFETY: `code` is long enough; reading fails where nothing is mapped.
        let got = unsafe {
            call!(
                libc::SYS_process_vm_readv,
                pid,
                &raw const to,
                1,
                &raw const from,
                1,
                0
            )
        };
        if got == Ok(usable) {
            break;
        }
        let in_page = rip & 4095;
        if in_page == 0 || in_page >= usable {
            return false;
        }
        usable = in_page;
    }
    let Some(number) = number(&code[..usable]) else {
        return false;
    };
    registers[libc::REG_RAX as usize] = number;
    registers[libc::REG_RIP as usize] -= 2;
    true
}

/// Takes a repair back if a signal of the program's own waits for the calling thread: that
/// one would have interrupted the call.
///
/// # Safety
/// `context` is the frame of the calling thread, and was repaired.
pub unsafe fn reconsider(context: *mut libc::ucontext_t) {
    let mut pending = 0u64;
    // SAFETY: eight octets are written to `pending`.
    let asked = unsafe { call!(libc::SYS_rt_sigpending, &raw mut pending, 8) };
    // SAFETY: the kernel's mask has eight octets, at the start of `uc_sigmask`.
    let blocked = unsafe { (&raw const (*context).uc_sigmask).cast::<u64>().read() };
    if asked.is_ok() && pending & !blocked != 0 {
        // SAFETY: the caller says so.
        let registers = unsafe { &mut (*context).uc_mcontext.gregs };
        registers[libc::REG_RAX as usize] = -i64::from(libc::EINTR);
        registers[libc::REG_RIP as usize] += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found() {
        let poll = [0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0x05];
        assert_eq!(number(&poll), Some(libc::SYS_poll));
        assert_eq!(number(&poll[..8]), None);
        let close = [0xb8, 3, 0, 0, 0, 0x0f, 0x05];
        assert_eq!(number(&close), None);
        assert_eq!(number(&[0x0f, 0x05]), None);
        assert_eq!(number(&[]), None);
    }
}
