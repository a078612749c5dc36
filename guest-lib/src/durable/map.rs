// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory at the address which a region had before.
//!
//! # Safety
//! The only module of durable regions with `unsafe` code: `mmap` without replacing
//! anything, and `munmap` of what it gave.

#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use hvckpt_store::parts::size;
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::fork;
use hvckpt_sys::memory::RawPages;

/// Regions without a chosen address begin here.  Neither the kernel nor the
/// sanitizers put anything here by themselves.
const FIRST: u64 = 0x1800_0000_0000;
/// They lie this far apart, so that they can grow.
const STRIDE: u64 = 1 << 36;
const SLOTS: usize = 640;

/// When each place was last taken or given back in this process; zero: never.
/// A region which was closed may be opened again, so its place is the last
/// that another one is given.
static USED: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static CLOCK: AtomicU64 = AtomicU64::new(0);

fn used(address: u64) {
    let slot = address.checked_sub(FIRST).map(|offset| offset / STRIDE);
    let slot = slot.and_then(|slot| USED.get(usize::try_from(slot).ok()?));
    if let Some(slot) = slot {
        let now = CLOCK.fetch_add(1, Ordering::Relaxed) + 1;
        slot.store(now, Ordering::Relaxed);
    }
}

/// Why a region cannot be where it must be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Something else is there.  Pointers inside the region would be wrong
    /// anywhere else.
    #[error(
        "the region belongs at {address:#x} ({bytes} bytes), where something else is mapped; open it earlier in the program, before libraries and large allocations"
    )]
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
        let length = size(bytes);
        // SAFETY: MAP_FIXED_NOREPLACE touches no existing mapping.
        let got = unsafe {
            libc::mmap(
                size(address) as *mut libc::c_void,
                length,
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
            bytes: length,
        };
        // Linux before 4.17 takes the address as a hint.
        if mapping.address == address {
            used(address);
            Ok(mapping)
        } else {
            Err(MapError::Taken { address, bytes })
        }
    }

    /// Maps at some address which is free here and likely to be free in
    /// later runs.
    pub(crate) fn anywhere(seed: u64, pages: u64) -> Result<Self, MapError> {
        let mut slots: Vec<u64> = (0..SLOTS as u64)
            .map(|n| seed.wrapping_add(n) % SLOTS as u64)
            .collect();
        slots.sort_by_cached_key(|&slot| {
            let slot = usize::try_from(slot).unwrap_or(0);
            USED[slot].load(Ordering::Relaxed)
        });
        let mut last = None;
        for slot in slots {
            match Self::new(FIRST + slot * STRIDE, pages) {
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
        unsafe { RawPages::from_raw(size(self.address) as *mut u8, self.bytes) }
    }
}

impl Drop for FixedMapping {
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        // Before it is free, or another region could come first.
        used(self.address);
        // SAFETY: our own mapping, to which no reference is left.
        unsafe {
            libc::munmap(size(self.address) as *mut libc::c_void, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_for_who_had_it() {
        let first = FixedMapping::anywhere(77, 1).unwrap();
        let address = first.address();
        drop(first);
        let others: Vec<FixedMapping> = (0..40)
            .map(|_| FixedMapping::anywhere(77, 1).unwrap())
            .collect();
        assert!(others.iter().all(|other| other.address() != address));
        assert_eq!(FixedMapping::new(address, 1).unwrap().address(), address);
    }
}
