// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of rollback share.
#![allow(dead_code, reason = "each test uses some of it")]

use hvckpt_process::{Error, Outcome, speculate};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A rollback concerns the whole process: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `f` and undoes it.
pub fn undone(f: impl FnOnce()) {
    assert_eq!(try_undone(f), Ok(Outcome::RolledBack));
}

/// The same where a refusal is expected.
pub fn try_undone(f: impl FnOnce()) -> Result<Outcome<()>, Error> {
    // SAFETY: nothing outside of memory matters.
    unsafe {
        speculate(|| {
            f();
            None
        })
    }
}

const CASE: &str = "HVCKPT_CASE";

/// Runs `case` in a process of its own, which runs nothing but the test `name`.
pub fn apart(name: &str, case: impl FnOnce()) {
    if std::env::var_os(CASE).is_some_and(|n| n == *name) {
        return case();
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap();
    let (text, errors) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    print!("{text}");
    assert!(
        out.status.success() && text.contains("1 passed"),
        "{}\n{text}{errors}",
        out.status
    );
}

/// Pages from `mmap`.
#[derive(Clone, Copy)]
pub struct Pages {
    pub at: *mut u8,
    pub len: usize,
}

pub const PAGE: usize = 4096;

impl Pages {
    /// Private and anonymous, readable and writable.
    pub fn new(pages: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // Between pages of another protection, so that it is a mapping of its own.
        let all = Self::map(std::ptr::null_mut(), pages + 2, flags, -1);
        all.page(0).protect(libc::PROT_NONE);
        all.page(pages + 1).protect(libc::PROT_NONE);
        let (at, len) = (all.page(1).at, pages * PAGE);
        Self { at, len }
    }

    pub fn map(at: *mut u8, pages: usize, flags: i32, fd: i32) -> Self {
        let (len, both) = (pages * PAGE, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the kernel chooses where, or the caller.
        let at = unsafe { libc::mmap(at.cast(), len, both, flags, fd, 0) }.cast();
        assert_ne!(
            at,
            libc::MAP_FAILED.cast(),
            "{}",
            std::io::Error::last_os_error()
        );
        Self { at, len }
    }

    pub fn fill(&self, octet: u8) {
        // SAFETY: the pages are the test's own; volatile writes, so that each is done.
        (0..self.len).for_each(|i| unsafe { self.at.add(i).write_volatile(octet) });
    }

    pub fn all(&self, octet: u8) -> bool {
        // SAFETY: as above.
        (0..self.len).all(|i| unsafe { self.at.add(i).read_volatile() } == octet)
    }

    pub fn page(&self, n: usize) -> Self {
        let at = self.at.wrapping_add(n * PAGE);
        Self { at, len: PAGE }
    }

    pub fn advise(&self, advice: i32) {
        assert_eq!(
            self.try_advise(advice),
            0,
            "{}",
            std::io::Error::last_os_error()
        );
    }

    pub fn try_advise(&self, advice: i32) -> i32 {
        // SAFETY: the pages are the test's own.
        unsafe { libc::madvise(self.at.cast(), self.len, advice) }
    }

    pub fn protect(&self, protection: i32) {
        // SAFETY: the pages are the test's own.
        let done = unsafe { libc::mprotect(self.at.cast(), self.len, protection) };
        assert_eq!(done, 0);
    }

    pub fn unmap(&self) {
        // SAFETY: the pages are the test's own.
        assert_eq!(unsafe { libc::munmap(self.at.cast(), self.len) }, 0);
    }

    /// `VmFlags` of the mapping they are in.
    pub fn flags(&self) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut inside, at) = (false, self.at as usize);
        for line in smaps.lines() {
            if let Some((start, end)) = line.split(' ').next().and_then(|w| w.split_once('-')) {
                let number = |n| usize::from_str_radix(n, 16);
                if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                    inside = (start..end).contains(&at);
                }
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return format!("{flags} ");
            }
        }
        String::new()
    }
}
