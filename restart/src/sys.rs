// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls which the libraries here have no safe form of.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

pub fn ok(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// ptrace with plain numbers; `data` must be no address the kernel writes to.
pub fn ptrace(request: c_uint, tid: i32, addr: u64, data: u64) -> io::Result<()> {
    // SAFETY: requests with addresses go through ptrace_with, which checks lengths.
    ok(unsafe { libc::syscall(libc::SYS_ptrace, request as c_long, tid, addr, data) }).map(drop)
}

/// ptrace whose data are read from or written to `data`.
pub fn ptrace_with(request: c_uint, tid: i32, addr: u64, data: &mut [u8]) -> io::Result<c_long> {
    // SAFETY: the callers give as many octets as the request moves.
    ok(unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            request as c_long,
            tid,
            addr,
            data.as_mut_ptr(),
        )
    })
}

/// A register set, by its note type; returns how many octets moved.
pub fn regset(request: c_uint, tid: i32, note: u64, data: &mut [u8]) -> io::Result<usize> {
    let mut vector = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let at: *mut libc::iovec = &raw mut vector;
    // SAFETY: the vector tells the kernel the slice's length.
    ok(unsafe { libc::syscall(libc::SYS_ptrace, request as c_long, tid, note, at) })?;
    Ok(vector.iov_len)
}

/// waitpid; `None` when there is nothing to tell and WNOHANG was asked for.
pub fn wait(tid: i32, flags: c_int) -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: the kernel writes the status of one thread.
    let got = unsafe { libc::waitpid(tid, &raw mut status, flags | libc::__WALL) };
    match got {
        0 => Ok(None),
        n if n < 0 => Err(io::Error::last_os_error()),
        n => Ok(Some((n, status))),
    }
}

pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: touches no memory.
    ok(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

pub fn tgkill(pid: i32, tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: touches no memory.
    ok(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// Whether two descriptors of two processes are of one open file.
pub fn same_file(pid: i32, fd: RawFd, other: i32, other_fd: RawFd) -> bool {
    // SAFETY: touches no memory.
    unsafe { libc::syscall(libc::SYS_kcmp, pid, other, 0, fd, other_fd) == 0 }
}

/// A copy of another process's descriptor.
pub fn descriptor_of(pid: i32, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory.
    let process = ok(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let process = owned(process)?;
    // SAFETY: touches no memory.
    let got = ok(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    owned(got)
}

/// Takes a descriptor the kernel has just made.
pub fn owned(fd: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the callers got it new from the kernel, and pass it on here only.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn fcntl(fd: RawFd, command: c_int, value: c_int) -> io::Result<c_int> {
    // SAFETY: the commands used here take plain numbers.
    let got = unsafe { libc::fcntl(fd, command, value) };
    ok(got.into()).map(|_| got)
}

pub fn pipe(flags: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for both ends.
    ok(unsafe { libc::pipe2(ends.as_mut_ptr(), flags) }.into())?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// Blocks these signals for the calling thread, or sets the mask to them.
pub fn set_blocked(mask: u64, how: c_int) -> io::Result<u64> {
    let mut old = 0_u64;
    let (new, old_at): (*const u64, *mut u64) = (&raw const mask, &raw mut old);
    // SAFETY: both masks have the 8 octets told.
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old_at, 8) })?;
    Ok(old)
}

pub fn signal_fd(mask: u64, flags: c_int) -> io::Result<OwnedFd> {
    let at: *const u64 = &raw const mask;
    // SAFETY: the mask has the 8 octets told.
    owned(unsafe { libc::syscall(libc::SYS_signalfd4, -1, at, 8, flags) })
}

pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// clone3 as fork, with more flags and perhaps a pid of choice. 0 in the child.
///
/// # Safety
/// The caller has one thread, or does in the child only what may be done there.
pub unsafe fn fork(flags: u64, pid: Option<i32>) -> io::Result<i32> {
    let mut tid = pid.unwrap_or(0);
    let mut args = [0_u64; 11];
    args[0] = flags;
    args[4] = libc::SIGCHLD as u64;
    if pid.is_some() {
        args[8] = (&raw mut tid) as u64;
        args[9] = 1;
    }
    // SAFETY: the arguments have the length told; without CLONE_VM the child
    // goes on with a copy of the stack.
    let got = unsafe { libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), 88) };
    ok(got).map(|n| i32::try_from(n).unwrap_or(0))
}

/// Memory at a place of choice; readable and writable.
pub fn map_at(start: u64, length: u64) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE takes no memory from anybody.
    let got = unsafe {
        libc::mmap(
            start as *mut c_void,
            usize::try_from(length).unwrap_or(0),
            3,
            flags,
            -1,
            0,
        )
    };
    if got as u64 == start {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
