// SPDX-License-Identifier: MIT OR Apache-2.0
//! Soft-dirty bits: `/proc/self/clear_refs` clears those of the whole process,
//! `/proc/self/pagemap` shows them (`Documentation/admin-guide/mm/soft-dirty.rst`
//! of Linux).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::memory::{Mapping, MemoryError};
use super::{PAGE_SIZE, raw};

const SOFT_DIRTY: u64 = 1 << 55;
/// Pages asked for in one system call.
const BATCH: usize = 512;

/// Why soft-dirty bits cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftDirtyError {
    /// A page which was just written is not soft-dirty.
    #[error(
        "this kernel has no soft-dirty bits (it was built without CONFIG_MEM_SOFT_DIRTY); use pagemap-scan or pt"
    )]
    Missing,
    /// A page stays soft-dirty, or a write was not seen.
    #[error("this kernel's soft-dirty bits cannot be trusted: {0}; use pagemap-scan or pt")]
    Unreliable(&'static str),
    /// The files of /proc cannot be used.
    #[error("cannot use {file}")]
    Proc {
        /// Which file.
        file: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// No page for the trial.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The two files, and a page which tells whether somebody else cleared.
#[derive(Debug)]
pub struct SoftDirty {
    clear_refs: File,
    pagemap: File,
    canary: Mapping,
}

impl SoftDirty {
    /// Opens the files and tries them out.  Clears the bits of the process.
    ///
    /// # Errors
    /// See [`SoftDirtyError`].
    pub fn open() -> Result<Self, SoftDirtyError> {
        let proc = |file, source| SoftDirtyError::Proc { file, source };
        let clear_refs = File::options()
            .write(true)
            .open("/proc/self/clear_refs")
            .map_err(|source| proc("/proc/self/clear_refs", source))?;
        let pagemap = File::open("/proc/self/pagemap")
            .map_err(|source| proc("/proc/self/pagemap", source))?;
        let canary = Mapping::new(PAGE_SIZE)?;
        canary.prepare()?;
        let soft_dirty = Self {
            clear_refs,
            pagemap,
            canary,
        };
        soft_dirty.try_out()?;
        Ok(soft_dirty)
    }

    fn try_out(&self) -> Result<(), SoftDirtyError> {
        let page = Mapping::new(PAGE_SIZE)?;
        page.prepare()?;
        let dirty = || {
            let mut found = false;
            self.dirty(page.start(), 1, |_| found = true)
                .map_err(|source| SoftDirtyError::Proc {
                    file: "/proc/self/pagemap",
                    source,
                })?;
            Ok::<bool, SoftDirtyError>(found)
        };
        let clear = || {
            self.clear().map_err(|source| SoftDirtyError::Proc {
                file: "/proc/self/clear_refs",
                source,
            })
        };
        page.touch(0);
        if !dirty()? {
            return Err(SoftDirtyError::Missing);
        }
        clear()?;
        if dirty()? {
            return Err(SoftDirtyError::Unreliable("clearing leaves the bit"));
        }
        page.touch(0);
        if !dirty()? {
            return Err(SoftDirtyError::Unreliable("a write was not seen"));
        }
        // Linux 5.19 made pages writable in mprotect without the bit.
        // SAFETY: a page of ours which nobody else knows.
        unsafe { raw::mprotect(page.start(), PAGE_SIZE, libc::PROT_READ) };
        clear()?;
        // SAFETY: as above.
        unsafe { raw::mprotect(page.start(), PAGE_SIZE, libc::PROT_READ | libc::PROT_WRITE) };
        page.touch(0);
        if !dirty()? {
            return Err(SoftDirtyError::Unreliable(
                "a write after mprotect was not seen",
            ));
        }
        Ok(())
    }

    /// Clears the bits of every page of the process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> io::Result<()> {
        (&self.clear_refs).write_all(b"4")?;
        self.canary.touch(0);
        Ok(())
    }

    /// False if somebody else has cleared bits since [`Self::clear`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn undisturbed(&self) -> io::Result<bool> {
        let mut dirty = false;
        self.dirty(self.canary.start(), 1, |_| dirty = true)?;
        Ok(dirty)
    }

    /// Calls `found` with the index of every soft-dirty page.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dirty(
        &self,
        start: usize,
        pages: usize,
        mut found: impl FnMut(usize),
    ) -> io::Result<()> {
        let mut entries = [0_u8; BATCH * 8];
        for first in (0..pages).step_by(BATCH) {
            let count = BATCH.min(pages - first);
            let offset = (start / PAGE_SIZE + first) as u64 * 8;
            let bytes = &mut entries[..count * 8];
            self.pagemap.read_exact_at(bytes, offset)?;
            for (index, entry) in bytes.chunks_exact(8).enumerate() {
                let mut word = [0; 8];
                word.copy_from_slice(entry);
                if u64::from_le_bytes(word) & SOFT_DIRTY != 0 {
                    found(first + index);
                }
            }
        }
        Ok(())
    }
}
