// SPDX-License-Identifier: MIT OR Apache-2.0
//! userfaultfd in its write-protect modes, and PAGEMAP_SCAN.
//!
//! Own definitions: the crates at hand know neither (see
//! `include/uapi/linux/userfaultfd.h` and `linux/fs.h` of Linux 6.7).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::raw;

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const PAGEMAP_SCAN: u64 = 0xc060_6610;

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;

/// Written since it was protected.
pub const PAGE_IS_WRITTEN: u64 = 1 << 1;
/// A page of a file's, or of shared memory.
pub const PAGE_IS_FILE: u64 = 1 << 2;
/// In memory.
pub const PAGE_IS_PRESENT: u64 = 1 << 3;
/// On a swap device, or a guard.
pub const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The kernel's page of zeroes.
pub const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// A guard (`MADV_GUARD_INSTALL`; kernels before it refuse to be asked).
pub const PAGE_IS_GUARD: u64 = 1 << 8;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

/// A run of pages which PAGEMAP_SCAN found, `start..end` in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct PageRegion {
    /// Address of the first byte.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = {
    // The sizes are part of the ioctl numbers.
    assert!(size_of::<Api>() == 0x18);
    assert!(size_of::<Register>() == 0x20);
    assert!(size_of::<Range>() == 0x10);
    assert!(size_of::<ScanArg>() == 0x60);
    assert!(size_of::<WriteProtect>() == 0x18);
};

/// # Safety
/// As the request: `arg` must be its structure.
unsafe fn ioctl<T>(fd: &impl AsRawFd, request: u64, arg: &mut T) -> io::Result<i32> {
    // SAFETY: forwarded to the caller.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), request, core::ptr::from_mut(arg)) };
    if got < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(got)
    }
}

/// A userfaultfd with write protection.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

/// Which step of setting one up the kernel refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdError {
    /// The system call is missing, or forbidden here (seccomp).
    #[error(
        "userfaultfd is not permitted here (seccomp, a container's profile, or a kernel without it); allow it, or use pt"
    )]
    Forbidden(#[source] io::Error),
    /// The kernel lacks WP_ASYNC: Linux before 6.7, or built without it.
    #[error("this kernel has no asynchronous write protection (Linux 6.7 has); use uffd-wp or pt")]
    NoWpAsync(#[source] io::Error),
    /// The kernel lacks write protection which raises SIGBUS: Linux before
    /// 5.7, or built without it.
    #[error("this kernel has no synchronous write protection (Linux 5.7 has); use pt")]
    NoWpSync(#[source] io::Error),
    /// The kernel lacks PAGEMAP_SCAN: Linux before 6.7.
    #[error("this kernel has no PAGEMAP_SCAN (Linux 6.7 has); use uffd-wp or pt")]
    NoScan(#[source] io::Error),
    /// The memory cannot be watched.
    #[error("userfaultfd cannot watch this memory (it must be private and anonymous)")]
    Memory(#[source] io::Error),
}

impl Userfault {
    /// Asynchronous: a fault only clears the protection, in the kernel.
    ///
    /// # Errors
    /// What the kernel lacks.
    pub fn asynchronous() -> Result<Self, UffdError> {
        let features = UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
        Self::with_features(features, UffdError::NoWpAsync)
    }

    /// Synchronous: a fault raises SIGBUS in the thread which wrote.
    ///
    /// # Errors
    /// What the kernel lacks.
    pub fn sigbus() -> Result<Self, UffdError> {
        // The first is Linux 6.4; without it pages which the kernel took
        // away lose their protection.
        Self::with_features(
            UFFD_FEATURE_SIGBUS | UFFD_FEATURE_WP_UNPOPULATED,
            UffdError::NoWpSync,
        )
        .or_else(|_| Self::with_features(UFFD_FEATURE_SIGBUS, UffdError::NoWpSync))
    }

    /// Faults of the kernel are served without us or refused, so the
    /// user-mode-only flavour, which needs no privilege, is enough.
    fn with_features(
        features: u64,
        missing: impl FnOnce(io::Error) -> UffdError,
    ) -> Result<Self, UffdError> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: returns a new descriptor or fails.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(UffdError::Forbidden(io::Error::last_os_error()));
        }
        // SAFETY: a descriptor nobody else owns.
        let uffd = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut api = Api {
            api: UFFD_API,
            features: UFFD_FEATURE_PAGEFAULT_FLAG_WP | features,
            ioctls: 0,
        };
        // SAFETY: the structure of this request.
        unsafe { ioctl(&uffd.0, UFFDIO_API, &mut api) }.map_err(missing)?;
        Ok(uffd)
    }

    /// Protects registered pages or lets them be written again; returns 0 or
    /// −errno.  async-signal-safe.
    #[inline]
    pub fn write_protect(&self, start: usize, bytes: usize, protect: bool) -> i64 {
        let mut arg = WriteProtect {
            start: start as u64,
            len: bytes as u64,
            mode: if protect {
                UFFDIO_WRITEPROTECT_MODE_WP
            } else {
                // Threads take signals here, nobody waits.
                UFFDIO_WRITEPROTECT_MODE_DONTWAKE
            },
        };
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)] // both are small
        let (fd, request) = (self.0.as_raw_fd() as usize, UFFDIO_WRITEPROTECT as usize);
        let arg = core::ptr::from_mut(&mut arg) as usize;
        // SAFETY: the structure of this request; changes no content.
        unsafe { raw::syscall4(libc::SYS_ioctl, fd, request, arg, 0) }
    }

    /// Lets pages be protected.
    ///
    /// # Errors
    /// The kernel cannot watch this memory.
    pub fn register(&self, start: usize, bytes: usize) -> Result<(), UffdError> {
        let mut arg = Register {
            start: start as u64,
            len: bytes as u64,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the structure of this request; changes no content.
        unsafe { ioctl(&self.0, UFFDIO_REGISTER, &mut arg) }.map_err(UffdError::Memory)?;
        Ok(())
    }

    /// Undoes [`Self::register`].
    pub fn unregister(&self, start: usize, bytes: usize) {
        let mut arg = Range {
            start: start as u64,
            len: bytes as u64,
        };
        // SAFETY: the structure of this request.  Fails if nothing is
        // registered any more, which is as good.
        let _gone = unsafe { ioctl(&self.0, UFFDIO_UNREGISTER, &mut arg) };
    }
}

/// Pages by what they are: `PAGE_IS_…`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Categories {
    /// These count as what they are not.
    pub inverted: u64,
    /// A page has all of these,
    pub all: u64,
    /// and one of these, if there are any.
    pub any: u64,
    /// What is told of it; pages which differ in it are regions apart.
    pub told: u64,
}

const WRITTEN: Categories = Categories {
    inverted: 0,
    all: PAGE_IS_WRITTEN,
    any: 0,
    told: PAGE_IS_WRITTEN,
};

/// `/proc/PID/pagemap`, of this process unless told otherwise.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> Result<Self, UffdError> {
        File::open("/proc/self/pagemap")
            .map(Self)
            .map_err(UffdError::NoScan)
    }

    /// That of another process.
    ///
    /// # Errors
    /// There is none, or it is not ours to look at.
    pub fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// Calls `found` with every run of pages in `start..end` written since
    /// they were protected; with `protect` protects them again, atomically
    /// page by page.  `vec` is working space.
    ///
    /// # Errors
    /// The kernel's.
    pub fn written(
        &self,
        start: usize,
        end: usize,
        protect: bool,
        vec: &mut [PageRegion],
        found: impl FnMut(&PageRegion),
    ) -> io::Result<()> {
        let flags = PM_SCAN_CHECK_WPASYNC | if protect { PM_SCAN_WP_MATCHING } else { 0 };
        self.walk([start as u64, end as u64], flags, &WRITTEN, vec, found)
    }

    /// Calls `found` with every run of pages in `start..end` which are of these
    /// categories.  `vec` is working space.
    ///
    /// # Errors
    /// The kernel's.
    pub fn scan(
        &self,
        start: u64,
        end: u64,
        which: &Categories,
        vec: &mut [PageRegion],
        found: impl FnMut(&PageRegion),
    ) -> io::Result<()> {
        self.walk([start, end], 0, which, vec, found)
    }

    #[inline]
    fn walk(
        &self,
        [start, end]: [u64; 2],
        flags: u64,
        which: &Categories,
        vec: &mut [PageRegion],
        mut found: impl FnMut(&PageRegion),
    ) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags,
                start: at,
                end,
                vec: vec.as_mut_ptr() as u64,
                vec_len: vec.len() as u64,
                category_inverted: which.inverted,
                category_mask: which.all,
                category_anyof_mask: which.any,
                return_mask: which.told,
                ..ScanArg::default()
            };
            // SAFETY: the structure of this request; `vec` is as long as it
            // says.
            let got = unsafe { ioctl(&self.0, PAGEMAP_SCAN, &mut arg) }?;
            let got = usize::try_from(got).unwrap_or(0).min(vec.len());
            vec.iter().take(got).for_each(&mut found);
            // The walk stops early when `vec` is full.
            if arg.walk_end <= at {
                return Err(io::Error::other("PAGEMAP_SCAN made no progress"));
            }
            at = arg.walk_end;
        }
        Ok(())
    }

    /// Protects every page in `start..end`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn protect_all(&self, start: usize, end: usize) -> io::Result<()> {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING,
            start: start as u64,
            end: end as u64,
            category_mask: WRITTEN.all,
            return_mask: WRITTEN.told,
            ..ScanArg::default()
        };
        // SAFETY: the structure of this request, without a vector.
        unsafe { ioctl(&self.0, PAGEMAP_SCAN, &mut arg) }?;
        if arg.walk_end < end as u64 {
            return Err(io::Error::other("PAGEMAP_SCAN stopped early"));
        }
        Ok(())
    }
}
