// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate: `int $0x84` from 64-bit user mode of a guest.

use crate::{CDA_TOKEN_BYTES, cda_counters};

/// Interrupt vector of the gate.
pub const CDA_VECTOR: u8 = 0x84;

/// Returns [`CDA_ABI_VERSION`](crate::CDA_ABI_VERSION) and the capability bits; needs no session.
pub const CDA_OP_VERSION: u64 = 0;
/// Uses up a token and binds a session to this address space.
pub const CDA_OP_ATTACH: u64 = 1;
/// Ends the session and all its ranges.
pub const CDA_OP_DETACH: u64 = 2;
/// Registers a range; returns its id.
pub const CDA_OP_REGISTER: u64 = 3;
/// Forgets a range.
pub const CDA_OP_UNREGISTER: u64 = 4;
/// Opens a cycle.
pub const CDA_OP_BEGIN: u64 = 5;
/// Writes the log and closes the cycle.
pub const CDA_OP_END: u64 = 6;
/// End and begin in one crossing.
pub const CDA_OP_COMMIT: u64 = 7;
/// Writes the log and leaves the cycle open.
pub const CDA_OP_PEEK: u64 = 8;
/// Reads limits and event counts of the session.
pub const CDA_OP_QUERY: u64 = 9;

/// Capability: protection by page-table entries.
pub const CDA_CAP_PTXEN: u64 = 1 << 16;
/// Capability: emulation of stores.
pub const CDA_CAP_EMULXEN: u64 = 1 << 17;
/// Capability: scanning of dirty bits.
pub const CDA_CAP_SCANXEN: u64 = 1 << 18;
/// Capability: hot pages scanned, cold pages protected.
pub const CDA_CAP_AUTOXEN: u64 = 1 << 19;

/// Stands for every range of the session.
pub const CDA_ALL_RANGES: u64 = !0;
/// Result bit: some log of the cycle is lost.
pub const CDA_RESULT_LOST: u64 = 1 << 62;
/// Result bits which count dirty pages.
pub const CDA_RESULT_COUNT: u64 = 0xffff_ffff;
/// The administrator ended the session.
pub const CDA_EKEYREVOKED: i64 = 128;
/// Log flag: the list is incomplete, every page counts as dirty.
pub const CDA_LOG_LOST: u32 = 1;
/// Bits of a log entry which hold the page index.
pub const CDA_ENTRY_INDEX: u64 = (1 << 52) - 1;
/// Position of the kind of a log entry.
pub const CDA_ENTRY_KIND_SHIFT: u32 = 52;
/// Mask of the kind, once shifted down.
pub const CDA_ENTRY_KIND_MASK: u64 = 15;
/// Position of a word entry's size, less one.
pub const CDA_ENTRY_SIZE_SHIFT: u32 = 56;
/// Kind of a log entry: a dirty page.
pub const CDA_ENTRY_PAGE: u64 = 0;
/// Kind of a log entry: a store; its value follows.
pub const CDA_ENTRY_WORD: u64 = 1;

structures! {
    /// Argument of [`CDA_OP_ATTACH`].
    cda_attach: 64 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// Zero.
        flags: u32 = 4,
        /// One-time token; wiped by the hypervisor when consumed.
        token: [u8; CDA_TOKEN_BYTES] = 8,
        /// Out: what every later operation carries.
        cookie: u64 = 24,
        /// Out: pages this session may track.
        max_pages: u64 = 32,
        /// Zero.
        reserved: [u64; 3] = 40,
    }
    /// Argument of [`CDA_OP_REGISTER`].
    cda_register: 64 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// `CDA_MODE_*`.
        mode: u32 = 4,
        /// Zero.
        flags: u64 = 8,
        /// First byte of the range, page-aligned.
        start: u64 = 16,
        /// Pages in the range.
        pages: u64 = 24,
        /// Address of the [`cda_log`], 64-byte aligned.
        log: u64 = 32,
        /// Bytes there, header and entries.
        log_bytes: u64 = 40,
        /// Zero.
        reserved: [u64; 2] = 48,
    }
    /// Header of a log; `count` times eight bytes of entries follow.
    cda_log: 64 {
        /// Cycles finished on this range.
        epoch: u64 = 0,
        /// Units of eight bytes that follow.
        count: u64 = 8,
        /// Entries found; more than there are if the log was full.
        dirty: u64 = 16,
        /// `CDA_LOG_*`.
        flags: u32 = 24,
        /// Eight.
        entry_bytes: u32 = 28,
        /// Zero.
        reserved: [u64; 4] = 32,
    }
    /// Argument of [`CDA_OP_QUERY`].
    cda_query: 200 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// Zero.
        flags: u32 = 4,
        /// Out: id the administrator sees.
        session: u64 = 8,
        /// Out: pages registered now.
        pages: u64 = 16,
        /// Out: pages the session may track.
        max_pages: u64 = 24,
        /// Out: ranges registered now.
        ranges: u32 = 32,
        /// Out: ranges the session may have.
        max_ranges: u32 = 36,
        /// Zero.
        reserved: [u64; 2] = 40,
        /// Out: event counts.
        counters: cda_counters = 56,
    }
}

/// Constants under the names they have in C.
pub const CONSTANTS: &[(&str, u64)] = &[
    ("CDA_VECTOR", CDA_VECTOR as u64),
    ("CDA_OP_version", CDA_OP_VERSION),
    ("CDA_OP_attach", CDA_OP_ATTACH),
    ("CDA_OP_detach", CDA_OP_DETACH),
    ("CDA_OP_register", CDA_OP_REGISTER),
    ("CDA_OP_unregister", CDA_OP_UNREGISTER),
    ("CDA_OP_begin", CDA_OP_BEGIN),
    ("CDA_OP_end", CDA_OP_END),
    ("CDA_OP_commit", CDA_OP_COMMIT),
    ("CDA_OP_peek", CDA_OP_PEEK),
    ("CDA_OP_query", CDA_OP_QUERY),
    ("CDA_CAP_PTXEN", CDA_CAP_PTXEN),
    ("CDA_CAP_EMULXEN", CDA_CAP_EMULXEN),
    ("CDA_CAP_SCANXEN", CDA_CAP_SCANXEN),
    ("CDA_CAP_AUTOXEN", CDA_CAP_AUTOXEN),
    ("CDA_ALL_RANGES", CDA_ALL_RANGES),
    ("CDA_RESULT_LOST", CDA_RESULT_LOST),
    ("CDA_RESULT_COUNT", CDA_RESULT_COUNT),
    ("CDA_EKEYREVOKED", CDA_EKEYREVOKED.unsigned_abs()),
    ("CDA_LOG_LOST", CDA_LOG_LOST as u64),
    ("CDA_ENTRY_INDEX", CDA_ENTRY_INDEX),
    ("CDA_ENTRY_KIND_SHIFT", CDA_ENTRY_KIND_SHIFT as u64),
    ("CDA_ENTRY_KIND_MASK", CDA_ENTRY_KIND_MASK),
    ("CDA_ENTRY_SIZE_SHIFT", CDA_ENTRY_SIZE_SHIFT as u64),
    ("CDA_ENTRY_PAGE", CDA_ENTRY_PAGE),
    ("CDA_ENTRY_WORD", CDA_ENTRY_WORD),
];
