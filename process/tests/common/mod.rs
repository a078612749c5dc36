// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of rollback share.
#![allow(dead_code, reason = "each test uses some of it")]

use hvckpt_process::{Error, Outcome, speculate};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

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
    // A rollback by another test would undo what is known of the process.
    let _alone = alone();
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

/// Without capabilities; `nobody` where that is to count.
pub fn drop_rights(nobody: bool) {
    // _LINUX_CAPABILITY_VERSION_3, for the calling thread; then nothing in three sets of 64.
    let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
    // SAFETY: the structures are as long as the kernel reads.
    unsafe {
        if nobody {
            assert_eq!(libc::setresgid(65534, 65534, 65534), 0);
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
            // Else what the pre-image is like is not for its own parent to see.
            assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
        }
        assert_eq!(
            libc::syscall(libc::SYS_capset, &raw const header, &raw const none),
            0
        );
    }
}

/// A thread which is told when to end.
pub struct Worker(mpsc::Sender<()>, thread::JoinHandle<()>);

impl Worker {
    /// It does `first`, and says so, before this returns; `last` when it is told to end.
    pub fn new(
        first: impl FnOnce() + Send + 'static,
        last: impl FnOnce() + Send + 'static,
    ) -> Self {
        let ((tell, told), (say, said)) = (mpsc::channel(), mpsc::channel());
        let thread = thread::spawn(move || {
            first();
            say.send(()).unwrap();
            told.recv().unwrap();
            last();
        });
        said.recv().unwrap();
        Self(tell, thread)
    }

    pub fn end(self) {
        self.0.send(()).unwrap();
        self.1.join().unwrap();
    }
}

/// A mutex of the C library's, where it does not move.
pub fn mutex(robust: bool, inherit: bool, kind: i32) -> &'static LibcMutex {
    // SAFETY: the attributes are initialised; the mutex is never freed.
    unsafe {
        let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut attributes);
        libc::pthread_mutexattr_settype(&raw mut attributes, kind);
        if robust {
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        }
        if inherit {
            libc::pthread_mutexattr_setprotocol(&raw mut attributes, libc::PTHREAD_PRIO_INHERIT);
        }
        let made: &'static LibcMutex = Box::leak(Box::new(LibcMutex(std::mem::zeroed())));
        let made_at = (&raw const made.0).cast_mut();
        assert_eq!(libc::pthread_mutex_init(made_at, &raw const attributes), 0);
        made
    }
}

pub struct LibcMutex(libc::pthread_mutex_t);

impl LibcMutex {
    fn at(&self) -> *mut libc::pthread_mutex_t {
        (&raw const self.0).cast_mut()
    }

    pub fn lock(&self) -> i32 {
        // SAFETY: initialised, and never freed.
        unsafe { libc::pthread_mutex_lock(self.at()) }
    }

    pub fn try_lock(&self) -> i32 {
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_trylock(self.at()) }
    }

    pub fn unlock(&self) -> i32 {
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_unlock(self.at()) }
    }
}

// SAFETY: that is what mutexes are for.
unsafe impl Sync for LibcMutex {}
