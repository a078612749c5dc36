// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls without `errno`, thread-local storage or libc.
//!
//! Everything here may run in a signal handler, on a stack of four pages, and in a thread
//! whose FS base is zero.

use core::arch::asm;
use core::ffi::CStr;
use core::sync::atomic::AtomicU32;

/// What a system call refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A system call with six arguments, as the kernel answers it.
///
/// # Safety
/// The call must be one that is sound with these arguments.
#[inline(always)]
pub unsafe fn syscall6(
    number: libc::c_long,
    [a, b, c, d, e, f]: [usize; 6],
) -> Result<usize, Errno> {
    let answer: isize;
    // SAFETY: the caller vouches for the call; rcx and r11 are what the instruction destroys.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    check(answer)
}

/// Tells an answer from a refusal.
#[inline(always)]
pub fn check(answer: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&answer) {
        Err(Errno(-(answer as i32)))
    } else {
        Ok(answer.cast_unsigned())
    }
}

/// `call!(number, arguments…)`: up to six, each cast to `usize`.
macro_rules! call {
    ($n:expr) => { $crate::raw::syscall6($n, [0; 6]) };
    ($n:expr, $a:expr) => { $crate::raw::syscall6($n, [$a as usize, 0, 0, 0, 0, 0]) };
    ($n:expr, $a:expr, $b:expr) => {
        $crate::raw::syscall6($n, [$a as usize, $b as usize, 0, 0, 0, 0])
    };
    ($n:expr, $a:expr, $b:expr, $c:expr) => {
        $crate::raw::syscall6($n, [$a as usize, $b as usize, $c as usize, 0, 0, 0])
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr) => {
        $crate::raw::syscall6($n, [$a as usize, $b as usize, $c as usize, $d as usize, 0, 0])
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr) => {
        $crate::raw::syscall6(
            $n,
            [$a as usize, $b as usize, $c as usize, $d as usize, $e as usize, $f as usize],
        )
    };
}
pub(crate) use call;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` outlives the call.
    let _ = unsafe { call!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned()
}

/// Sleeps, or returns earlier.
pub fn sleep(ns: u64) {
    let t = timespec(ns);
    // SAFETY: `t` outlives the call.
    let _ = unsafe { call!(libc::SYS_nanosleep, &raw const t, 0) };
}

/// Lets another thread run.
pub fn pause_briefly() {
    // SAFETY: no arguments.
    let _ = unsafe { call!(libc::SYS_sched_yield) };
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000).cast_signed(),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    }
}

/// Waits until `word` is no longer `old`, or `ns` have passed (0: for ever). May return early.
pub fn wait(word: &AtomicU32, old: u32, ns: u64) {
    let t = timespec(ns);
    let limit = if ns == 0 {
        core::ptr::null()
    } else {
        &raw const t
    };
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: word and limit outlive the call.
    let _ = unsafe { call!(libc::SYS_futex, word.as_ptr(), op, old, limit) };
}

/// Wakes up to `n` who wait for `word`.
pub fn wake(word: &AtomicU32, n: i32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: a wake writes nothing.
    let _ = unsafe { call!(libc::SYS_futex, word.as_ptr(), op, n) };
}

/// The calling thread's number.
pub fn gettid() -> i32 {
    // SAFETY: no arguments.
    unsafe { call!(libc::SYS_gettid) }.map_or(0, |t| t as i32)
}

/// The process's number.
pub fn getpid() -> i32 {
    // SAFETY: no arguments.
    unsafe { call!(libc::SYS_getpid) }.map_or(0, |t| t as i32)
}

/// A descriptor which is closed when it goes out of scope.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    /// Opens `path` with `flags` and `O_CLOEXEC`.
    ///
    /// # Errors
    /// What `openat` says.
    pub fn open(path: &CStr, flags: i32) -> Result<Self, Errno> {
        // SAFETY: the path ends with a zero.
        unsafe {
            call!(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                flags | libc::O_CLOEXEC,
                0
            )
        }
        .map(|fd| Self(fd as i32))
    }

    /// Its number.
    pub fn raw(&self) -> i32 {
        self.0
    }

    /// Reads on from where it is.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read(&self, to: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the buffer is as long as said.
        unsafe { call!(libc::SYS_read, self.0, to.as_mut_ptr(), to.len()) }
    }

    /// Reads the whole of a small file of `/proc`, or as much as fits.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read_all(&self, to: &mut [u8]) -> Result<usize, Errno> {
        let mut have = 0;
        while let Some(rest) = to.get_mut(have..) {
            match self.read(rest)? {
                0 => break,
                n => have += n,
            }
        }
        Ok(have)
    }

    /// The number of links; of a `task` directory: threads + 2.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn links(&self) -> Result<u64, Errno> {
        Ok(self.stat()?.st_nlink)
    }

    /// What `fstat` says.
    ///
    /// # Errors
    /// The same.
    pub fn stat(&self) -> Result<libc::stat, Errno> {
        // SAFETY: all zeroes are a `stat`.
        let mut stat: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: `stat` outlives the call.
        unsafe { call!(libc::SYS_fstat, self.0, &raw mut stat) }?;
        Ok(stat)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's.
        let _ = unsafe { call!(libc::SYS_close, self.0) };
    }
}

/// A path put together without an allocation.
#[derive(Debug)]
pub struct Path {
    text: [u8; 64],
    len: usize,
}

impl Path {
    /// `/proc/PID/what`; 0 for this process.
    pub fn proc(pid: i32, what: &str) -> Self {
        let mut path = Self {
            text: [0; 64],
            len: 0,
        };
        path.push(b"/proc/");
        if pid == 0 {
            path.push(b"self");
        } else {
            path.number(pid);
        }
        path.push(b"/");
        path.push(what.as_bytes());
        path
    }

    /// `/proc/self/task/TID/what`
    pub fn task(tid: i32, what: &str) -> Self {
        let mut path = Self::proc(0, "task/");
        path.number(tid);
        path.push(b"/");
        path.push(what.as_bytes());
        path
    }

    fn push(&mut self, more: &[u8]) {
        for &b in more {
            if self.len + 1 < self.text.len() {
                self.text[self.len] = b;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, n: i32) {
        let (mut digits, mut at, mut n) = ([0u8; 10], 10, n.unsigned_abs());
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    /// As the kernel takes it.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.text).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together() {
        assert_eq!(Path::proc(0, "maps").as_c_str(), c"/proc/self/maps");
        assert_eq!(Path::proc(120, "mem").as_c_str(), c"/proc/120/mem");
        assert_eq!(
            Path::task(i32::MAX, "stat").as_c_str(),
            c"/proc/self/task/2147483647/stat"
        );
    }

    #[test]
    fn refusals_are_told_from_answers() {
        assert_eq!(check(-1), Err(Errno(1)));
        assert_eq!(check(-4095), Err(Errno(4095)));
        assert!(check(-4096).is_ok());
        assert_eq!(
            Fd::open(c"/nonexistent", libc::O_RDONLY).unwrap_err(),
            Errno(libc::ENOENT)
        );
    }
}
