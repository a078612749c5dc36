//! Memory at the address which a region had before.
//!
//! # Safety
//! The only module of the store with `unsafe` code: `mmap` without replacing
//! anything, and `munmap` of what it gave.

#![allow(unsafe_code)]

use std::io;

use crate::sys::PAGE_SIZE;
use crate::sys::fork;
use crate::sys::memory::RawPages;

/// Regions without a chosen address begin here.  Neither the kernel nor the
/// sanitizers put anything here by themselves.
const FIRST: u64 = 0x1800_0000_0000;
/// They lie this far apart, so that they can grow.
const STRIDE: u64 = 1 << 36;
const SLOTS: u64 = 640;

/// Why a region cannot be where it must be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Something else is there.  Pointers inside the region would be wrong
    /// anywhere else.
    #[error("the region belongs at {address:#x} ({bytes} bytes), where something else is mapped")]
    Taken {
        /// Address in bytes.
        address: u64,
        /// Size in bytes.
        bytes: u64,
    },
    /// The kernel refuses.
    #[error("cannot map {bytes} bytes at {address:#x}")]
    Os {
        /// Address in bytes.
        address: u64,
        /// Size in bytes.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Zeroed private pages at a fixed address, ours until dropped.
#[derive(Debug)]
pub(crate) struct FixedMapping {
    address: u64,
    bytes: usize,
}

impl FixedMapping {
    /// Maps at the address, or not at all.
    pub(crate) fn new(address: u64, pages: u64) -> Result<Self, MapError> {
        let bytes = pages.saturating_mul(PAGE_SIZE as u64);
        let os = |source| MapError::Os {
            address,
            bytes,
            source,
        };
        let size = super::format::size(bytes);
        // SAFETY: MAP_FIXED_NOREPLACE touches no existing mapping.
        let got = unsafe {
            libc::mmap(
                super::format::size(address) as *mut libc::c_void,
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_NORESERVE
                    | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if got == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::EEXIST) => MapError::Taken { address, bytes },
                _ => os(source),
            });
        }
        let mapping = Self {
            address: got as u64,
            bytes: size,
        };
        // Linux before 4.17 takes the address as a hint.
        if mapping.address == address {
            Ok(mapping)
        } else {
            Err(MapError::Taken { address, bytes })
        }
    }

    /// Maps at some address which is free here and likely to be free in
    /// later runs.
    pub(crate) fn anywhere(seed: u64, pages: u64) -> Result<Self, MapError> {
        let slot = |n: u64| FIRST + seed.wrapping_add(n) % SLOTS * STRIDE;
        let mut last = None;
        for n in 0..SLOTS {
            match Self::new(slot(n), pages) {
                Err(MapError::Taken { address, bytes }) => {
                    last = Some(MapError::Taken { address, bytes });
                }
                other => return other,
            }
        }
        Err(last.unwrap_or(MapError::Taken {
            address: FIRST,
            bytes: 0,
        }))
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The pages, for a region which is dropped before this is.
    pub(crate) fn pages(&self) -> RawPages {
        // SAFETY: private anonymous memory; who calls keeps `self` longer
        // than the region, so it stays mapped and unmoved.
        unsafe { RawPages::from_raw(super::format::size(self.address) as *mut u8, self.bytes) }
    }
}

impl Drop for FixedMapping {
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        // SAFETY: our own mapping, to which no reference is left.
        unsafe {
            libc::munmap(
                super::format::size(self.address) as *mut libc::c_void,
                self.bytes,
            );
        }
    }
}
