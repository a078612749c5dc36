//! Mirror of `xen-patch/include/public/cda.h`, the one definition of the ABI.
//!
//! The test `abi_layout` compiles the header with `cc` and compares every
//! size, offset and constant with what stands here.

#![allow(non_camel_case_types)]

/// Version of the ABI this library speaks.
pub const CDA_ABI_VERSION: u64 = 1;
/// Interrupt vector of the gate.
pub const CDA_VECTOR: u8 = 0x84;

/// Returns [`CDA_ABI_VERSION`] and the capability bits; needs no session.
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
/// Bytes in a one-time token.
pub const CDA_TOKEN_BYTES: usize = 16;
/// Mode of a range: protection by page-table entries.
pub const CDA_MODE_PTXEN: u32 = 1;
/// Mode of a range: stores are performed by the hypervisor and logged.
pub const CDA_MODE_EMULXEN: u32 = 2;
/// Mode of a range: dirty bits are cleared and scanned.
pub const CDA_MODE_SCANXEN: u32 = 3;
/// Mode of a range: hot pages scanned, cold pages protected.
pub const CDA_MODE_AUTOXEN: u32 = 4;
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

/// Argument of [`CDA_OP_ATTACH`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct cda_attach {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// One-time token; wiped by the hypervisor when consumed.
    pub token: [u8; CDA_TOKEN_BYTES],
    /// Out: what every later operation carries.
    pub cookie: u64,
    /// Out: pages this session may track.
    pub max_pages: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Argument of [`CDA_OP_REGISTER`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct cda_register {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `CDA_MODE_*`.
    pub mode: u32,
    /// Zero.
    pub flags: u64,
    /// First byte of the range, page-aligned.
    pub start: u64,
    /// Pages in the range.
    pub pages: u64,
    /// Address of the [`cda_log`], 64-byte aligned.
    pub log: u64,
    /// Bytes there, header and entries.
    pub log_bytes: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Header of a log; `count` times eight bytes of entries follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct cda_log {
    /// Cycles finished on this range.
    pub epoch: u64,
    /// Units of eight bytes that follow.
    pub count: u64,
    /// Entries found; more than there are if the log was full.
    pub dirty: u64,
    /// `CDA_LOG_*`.
    pub flags: u32,
    /// Eight.
    pub entry_bytes: u32,
    /// Zero.
    pub reserved: [u64; 4],
}

/// Event counts of a session.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct cda_counters {
    /// Operations entered, restarts included.
    pub crossings: u64,
    /// Of which continued an earlier one.
    pub restarts: u64,
    /// First writes granted again by the hypervisor.
    pub faults_fixed: u64,
    /// Faults on a tracked page left to the guest kernel.
    pub faults_forwarded: u64,
    /// Faults on an entry that was writable already.
    pub faults_spurious: u64,
    /// Of `faults_fixed`: the hypervisor's own writes.
    pub faults_xen: u64,
    /// Tracked entries rewritten by the guest kernel.
    pub guest_updates: u64,
    /// Entries made read-only.
    pub write_protected: u64,
    /// Whole 2 MiB chunks walked.
    pub walks: u64,
    /// Times authority was stripped for a fork.
    pub forks: u64,
    /// TLB shootdowns asked for.
    pub flushes: u64,
    /// Ends and commits.
    pub cycles: u64,
    /// Writes found in D instead of a fault.
    pub watched: u64,
    /// Autoxen: pages left writable from now on.
    pub heated: u64,
    /// Autoxen: pages protected again.
    pub cooled: u64,
    /// Stores performed by the hypervisor.
    pub emulated: u64,
    /// Stores which could not be performed: a page entry instead.
    pub degraded: u64,
    /// Zero.
    pub reserved: u64,
}

/// Argument of [`CDA_OP_QUERY`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct cda_query {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// Out: id the administrator sees.
    pub session: u64,
    /// Out: pages registered now.
    pub pages: u64,
    /// Out: pages the session may track.
    pub max_pages: u64,
    /// Out: ranges registered now.
    pub ranges: u32,
    /// Out: ranges the session may have.
    pub max_ranges: u32,
    /// Zero.
    pub reserved: [u64; 2],
    /// Out: event counts.
    pub counters: cda_counters,
}

/// Size of a structure as the `size` field of the ABI wants it.
#[must_use]
pub const fn size_field<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size < 4096, "an ABI structure is below one page");
    #[allow(clippy::cast_possible_truncation)] // checked above
    {
        size as u32
    }
}

const _: () = {
    assert!(size_of::<cda_attach>() == 64);
    assert!(size_of::<cda_register>() == 64);
    assert!(size_of::<cda_log>() == 64);
    assert!(size_of::<cda_counters>() == 144);
    assert!(size_of::<cda_query>() == 200);
};
