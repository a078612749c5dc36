// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages: allocated or adopted, present, locked, kept out of forks.

use core::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64};

use super::{PAGE_SIZE, fork};

const CHUNK: usize = 2 << 20;

/// What may go wrong with memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The kernel gave no memory, or refused an advice on it.
    #[error("{what} failed on {bytes} bytes")]
    Os {
        /// The system call.
        what: &'static str,
        /// Size of the area in bytes.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Every page of an area must be present, and the machine has not so much.
    #[error("{bytes} bytes are more than the {total} bytes of memory which this machine has")]
    TooMuch {
        /// Size of the area in bytes.
        bytes: usize,
        /// Memory and swap of the machine in bytes.
        total: u64,
    },
    /// The pages could not be locked: RLIMIT_MEMLOCK is too small.
    #[error(
        "cannot lock {bytes} bytes: RLIMIT_MEMLOCK is {limit} (ulimit -l); raise it, or ask for LockPolicy::IfAllowed (C: HVCKPT_LOCK_IF_ALLOWED)"
    )]
    LockLimit {
        /// Size of the area in bytes.
        bytes: usize,
        /// The soft limit in bytes.
        limit: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Whether pages are locked in memory (`mlock`).
///
/// A page which the kernel takes away counts as dirty: unlocked pages cost
/// exactness, never completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockPolicy {
    /// Registration fails if they cannot be locked.
    #[default]
    Required,
    /// Locked if RLIMIT_MEMLOCK allows it.
    IfAllowed,
    /// Not locked.
    Never,
}

/// Memory which the application allocated itself.
#[derive(Debug)]
pub struct RawPages {
    start: usize,
    bytes: usize,
}

impl RawPages {
    /// Names `bytes` bytes at `start`.
    ///
    /// # Safety
    /// They must be private anonymous memory, readable and writable, and stay
    /// so, mapped and unmoved, until the region made of them is dropped.  They
    /// will be kept out of fork children.  Access them through the region, or
    /// atomically, or by raw pointers.
    #[must_use]
    pub unsafe fn from_raw(start: *mut u8, bytes: usize) -> Self {
        Self {
            start: start as usize,
            bytes,
        }
    }

    /// Address of the first byte.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn os(what: &'static str, bytes: usize) -> MemoryError {
    MemoryError::Os {
        what,
        bytes,
        source: io::Error::last_os_error(),
    }
}

/// Memory and swap of the machine in bytes; no limit if the kernel does not say.
fn machine_memory() -> u64 {
    // SAFETY: all zeroes is a valid value.
    let mut info: libc::sysinfo = unsafe { core::mem::zeroed() };
    // SAFETY: fills the structure.
    if unsafe { libc::sysinfo(&raw mut info) } != 0 {
        return u64::MAX;
    }
    info.totalram
        .saturating_add(info.totalswap)
        .saturating_mul(u64::from(info.mem_unit))
}

/// Whole pages at a fixed address, unmapped on drop if they are ours.
#[derive(Debug)]
pub struct Mapping {
    start: usize,
    bytes: usize,
    owned: bool,
    locked: bool,
    /// The same memory at another address, if it is mapped twice.
    alias: Option<usize>,
}

/// `bytes` bytes of address space with these flags, aligned to a chunk if
/// they are as large as one.
fn map(bytes: usize, flags: i32) -> Result<usize, MemoryError> {
    let slack = if bytes >= CHUNK { CHUNK } else { 0 };
    // SAFETY: a fresh anonymous mapping, no address is forced.
    let got = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            bytes + slack,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(os("mmap", bytes));
    }
    let raw = got as usize;
    let start = if slack == 0 {
        raw
    } else {
        raw.next_multiple_of(CHUNK)
    };
    for (from, to) in [(raw, start), (start + bytes, raw + bytes + slack)] {
        if to > from {
            // SAFETY: the head and the tail of the mapping just made.
            unsafe { libc::munmap(from as *mut libc::c_void, to - from) };
        }
    }
    Ok(start)
}

/// A file in memory.
fn memory_file(bytes: usize) -> Result<OwnedFd, MemoryError> {
    const MFD_NOEXEC_SEAL: u32 = 8;
    // Linux before 6.3 does not know the seal, some later ones want it.
    let create = |flags| {
        // SAFETY: a name which ends with zero; returns a new descriptor or
        // fails.
        unsafe { libc::memfd_create(c"hvckpt".as_ptr(), flags) }
    };
    let mut fd = create(libc::MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if fd < 0 {
        fd = create(libc::MFD_CLOEXEC);
    }
    if fd < 0 {
        return Err(os("memfd_create", bytes));
    }
    // SAFETY: a descriptor nobody else owns.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    // SAFETY: plain numbers.
    if unsafe { libc::ftruncate(file.as_raw_fd(), length) } != 0 {
        return Err(os("ftruncate", bytes));
    }
    Ok(file)
}

impl Mapping {
    /// Fresh zeroed pages; areas of a 2 MiB chunk or more begin on one.
    ///
    /// # Errors
    /// The kernel gives no memory.
    pub fn new(bytes: usize) -> Result<Self, MemoryError> {
        Ok(Self {
            start: map(bytes, libc::MAP_PRIVATE)?,
            bytes,
            owned: true,
            locked: false,
            alias: None,
        })
    }

    /// The same, mapped twice: shared memory of this process alone.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn aliased(bytes: usize) -> Result<Self, MemoryError> {
        let file = memory_file(bytes)?;
        let mut mapping = Self::new(bytes)?;
        let other = map(bytes, libc::MAP_PRIVATE)?;
        // Drop unmaps both from here on.
        mapping.alias = Some(other);
        for at in [mapping.start, other] {
            // SAFETY: replaces the mappings just made, to which nothing
            // refers.
            let got = unsafe {
                libc::mmap(
                    at as *mut libc::c_void,
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    file.as_raw_fd(),
                    0,
                )
            };
            if got == libc::MAP_FAILED {
                return Err(os("mmap of a memfd", bytes));
            }
        }
        Ok(mapping)
    }

    /// Pages of somebody else, who keeps them mapped.
    #[must_use]
    pub fn adopt(pages: &RawPages) -> Self {
        Self {
            start: pages.start,
            bytes: pages.bytes,
            owned: false,
            locked: false,
            alias: None,
        }
    }

    /// Makes every page present, small, and absent from fork children.
    ///
    /// # Errors
    /// The machine has not so much, or the kernel refuses.
    pub fn prepare(&self) -> Result<(), MemoryError> {
        // Filling what there is would have the kernel kill somebody.
        let (bytes, total) = (self.bytes, machine_memory());
        if bytes as u64 > total {
            return Err(MemoryError::TooMuch { bytes, total });
        }
        self.prepare_at(self.start)?;
        self.alias.map_or(Ok(()), |alias| self.prepare_at(alias))
    }

    fn prepare_at(&self, start: usize) -> Result<(), MemoryError> {
        let at = start as *mut libc::c_void;
        // A kernel without huge pages refuses this advice, rightly.
        // SAFETY: advice on pages we own or were given.
        unsafe { libc::madvise(at, self.bytes, libc::MADV_NOHUGEPAGE) };
        // SAFETY: as above; fork children see no such pages.
        if unsafe { libc::madvise(at, self.bytes, libc::MADV_DONTFORK) } != 0 {
            return Err(os("madvise(MADV_DONTFORK)", self.bytes));
        }
        // SAFETY: as above; contents stay.
        if unsafe { libc::madvise(at, self.bytes, libc::MADV_POPULATE_WRITE) } != 0 {
            if io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return Err(os("madvise(MADV_POPULATE_WRITE)", self.bytes));
            }
            // Linux before 5.14.
            for page in 0..self.pages() {
                self.touch(page);
            }
        }
        Ok(())
    }

    /// Locks the pages in memory, as far as the policy asks.
    ///
    /// # Errors
    /// The policy requires it and the limit is too small.
    pub fn lock(&mut self, policy: LockPolicy) -> Result<(), MemoryError> {
        match policy {
            LockPolicy::Required => self.mlock(),
            LockPolicy::IfAllowed => {
                let _refused = self.mlock();
                Ok(())
            }
            LockPolicy::Never => Ok(()),
        }
    }

    fn mlock(&mut self) -> Result<(), MemoryError> {
        // SAFETY: changes no content and no protection.
        if unsafe { libc::mlock(self.start as *const libc::c_void, self.bytes) } != 0 {
            let source = io::Error::last_os_error();
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: fills the structure.
            unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
            return Err(MemoryError::LockLimit {
                bytes: self.bytes,
                limit: limit.rlim_cur,
                source,
            });
        }
        self.locked = true;
        Ok(())
    }

    /// Address of the first byte.
    #[inline]
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Size in bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Size in pages.
    #[inline]
    #[must_use]
    pub fn pages(&self) -> usize {
        self.bytes / PAGE_SIZE
    }

    /// Where the same memory is mapped a second time, always writable.
    #[inline]
    #[must_use]
    pub fn alias(&self) -> Option<usize> {
        self.alias
    }

    /// Whether the pages are locked in memory.
    #[inline]
    #[must_use]
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// The memory, byte by byte.
    #[inline]
    #[must_use]
    pub fn atomics_u8(&self) -> &[AtomicU8] {
        // SAFETY: mapped for the life of `self`, zeroed or initialised, any
        // bit pattern is valid, and shared access is atomic.
        unsafe { core::slice::from_raw_parts(self.start as *const AtomicU8, self.bytes) }
    }

    /// The memory, by words of eight bytes.
    #[inline]
    #[must_use]
    pub fn atomics_u64(&self) -> &[AtomicU64] {
        // SAFETY: as above; pages are aligned for every primitive type.
        unsafe { core::slice::from_raw_parts(self.start as *const AtomicU64, self.bytes / 8) }
    }

    /// Writes to page `page` without changing it; takes the same fault as any
    /// other write.
    ///
    /// # Panics
    /// There is no such page.
    pub fn touch(&self, page: usize) {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        let at = (self.start + page * PAGE_SIZE) as *mut u8;
        // Not fetch_or(0): compilers turn that into a load.
        // SAFETY: a locked OR of zero changes nothing, and the page is ours.
        unsafe { asm!("lock or byte ptr [{}], 0", in(reg) at, options(nostack)) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a fork child the pages are not there (MADV_DONTFORK), and
        // something else may be.
        if fork::is_child() {
            return;
        }
        let at = self.start as *mut libc::c_void;
        // SAFETY: our pages, to which no reference is left; for adopted ones
        // only what `prepare` and `lock` did is undone.
        unsafe {
            if self.owned {
                libc::munmap(at, self.bytes);
                if let Some(alias) = self.alias {
                    libc::munmap(alias as *mut libc::c_void, self.bytes);
                }
            } else {
                if self.locked {
                    libc::munlock(at, self.bytes);
                }
                libc::madvise(at, self.bytes, libc::MADV_DOFORK);
            }
        }
    }
}

/// The words of a page as bytes, where they are: in the order of this machine,
/// which is the one of what is stored.
#[must_use]
pub fn as_bytes(words: &[u64; PAGE_SIZE / 8]) -> &[u8; PAGE_SIZE] {
    // SAFETY: of the same size, and bytes need no alignment and have no value
    // which is invalid; the borrow is that of the words.
    unsafe { &*core::ptr::from_ref(words).cast() }
}
