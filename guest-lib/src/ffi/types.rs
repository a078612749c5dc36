// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structures of `hvckpt.h`.

use core::ffi::{c_char, c_int, c_uint, c_void};

use hvckpt_sys::abi::cda_counters;
use hvckpt_track::{Coverage, TrackerKind};

/// `struct hvckpt_options`.
#[repr(C)]
#[derive(Debug)]
pub struct Options {
    pub(super) size: usize,
    pub(super) bytes: usize,
    pub(super) memory: *mut c_void,
    pub(super) trackers: *const c_int,
    pub(super) tracker_count: usize,
    pub(super) lock: c_int,
    pub(super) timeout_ms: c_uint,
    pub(super) key: *const c_char,
    pub(super) policy: *const c_char,
    pub(super) token: *const u8,
    pub(super) log_entries: usize,
}

/// `struct hvckpt_dirty`.
#[repr(C)]
#[derive(Debug)]
pub struct Dirty {
    pub(super) pages: *const u64,
    pub(super) count: usize,
    pub(super) lost: c_int,
}

/// `struct hvckpt_counters`.
#[repr(C)]
#[derive(Debug)]
pub struct CCounters {
    pub(super) size: usize,
    pub(super) known: c_uint,
    pub(super) reserved: c_uint,
    pub(super) faults: u64,
    pub(super) hypervisor: cda_counters,
}

/// Bit of `known`: `faults` is.
pub(super) const KNOWN_FAULTS: c_uint = 1;
/// Bit of `known`: `hypervisor` is.
pub(super) const KNOWN_HYPERVISOR: c_uint = 2;

/// `struct hvckpt_limits`.
#[repr(C)]
#[derive(Debug)]
pub struct CLimits {
    pub(super) kernel_writes: c_int,
    pub(super) remote_writes: c_int,
    pub(super) forced_writes: c_int,
    pub(super) mapped_anew: c_int,
    pub(super) forced_into_readonly: c_int,
    pub(super) pinned_before: c_int,
    pub(super) other_mappings: c_int,
}

const TRACKERS: [(TrackerKind, c_int, &core::ffi::CStr); 10] = [
    (TrackerKind::PtXen, 1, c"ptxen"),
    (TrackerKind::Pt, 2, c"pt"),
    (TrackerKind::PagemapScan, 3, c"pagemap-scan"),
    (TrackerKind::Sim, 4, c"sim"),
    (TrackerKind::EmulXen, 5, c"emulxen"),
    (TrackerKind::ScanXen, 6, c"scanxen"),
    (TrackerKind::AutoXen, 7, c"autoxen"),
    // 8 and 9 are kept for the hypervisor.
    (TrackerKind::Emul, 10, c"emul"),
    (TrackerKind::UffdWp, 11, c"uffd-wp"),
    (TrackerKind::SoftDirty, 12, c"soft-dirty"),
];

pub(super) fn tracker(number: c_int) -> Option<TrackerKind> {
    TRACKERS
        .iter()
        .find(|entry| entry.1 == number)
        .map(|entry| entry.0)
}

pub(super) fn tracker_number(kind: TrackerKind) -> c_int {
    TRACKERS
        .iter()
        .find(|entry| entry.0 == kind)
        .map_or(0, |entry| entry.1)
}

pub(super) fn tracker_name(number: c_int) -> Option<&'static core::ffi::CStr> {
    TRACKERS
        .iter()
        .find(|entry| entry.1 == number)
        .map(|entry| entry.2)
}

pub(super) fn coverage(coverage: Coverage) -> c_int {
    match coverage {
        Coverage::Reported => 0,
        Coverage::Refused => 1,
        Coverage::Missed => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tracker_has_a_number_and_its_name() {
        for kind in TrackerKind::ALL {
            let number = tracker_number(kind);
            assert_eq!(tracker(number), Some(kind));
            assert_eq!(
                tracker_name(number).and_then(|n| n.to_str().ok()),
                Some(kind.name())
            );
        }
        assert_eq!(tracker(0), None);
    }
}
