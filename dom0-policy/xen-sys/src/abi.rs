//! The control half of `cda.h`, field for field. Sizes and offsets are
//! asserted at compile time; `tests/header.rs` compares them with the header.

#![allow(missing_docs)] // the header documents every field

/// Version of the interface which these definitions mirror.
pub const CDA_ABI_VERSION: u64 = 1;

pub const CDA_CAP_PTXEN: u64 = 1 << 16;
pub const CDA_CAP_EMULXEN: u64 = 1 << 17;
pub const CDA_CAP_SCANXEN: u64 = 1 << 18;
pub const CDA_CAP_AUTOXEN: u64 = 1 << 19;

/// Hypercall number.
pub const HYPERVISOR_CDA_OP: u64 = 55;

pub const CDA_CTL_VERSION: u64 = 0;
pub const CDA_CTL_ADD_TOKEN: u64 = 1;
pub const CDA_CTL_REVOKE: u64 = 2;
pub const CDA_CTL_SET_LIMITS: u64 = 3;
pub const CDA_CTL_GET_LIMITS: u64 = 4;
pub const CDA_CTL_LIST: u64 = 5;
pub const CDA_CTL_COUNTERS: u64 = 6;

/// Octets in a token.
pub const CDA_TOKEN_BYTES: usize = 16;
/// Never grant in Xen: log and forward to the guest.
pub const CDA_LIMIT_FORWARD: u32 = 1;
/// The session was revoked; the process still lives.
pub const CDA_SESSION_ENDED: u32 = 1;

/// Constants under the names they have in C, for the comparison.
pub const CONSTANTS: &[(&str, u64)] = &[
    ("CDA_ABI_VERSION", CDA_ABI_VERSION),
    ("CDA_CAP_PTXEN", CDA_CAP_PTXEN),
    ("CDA_CAP_EMULXEN", CDA_CAP_EMULXEN),
    ("CDA_CAP_SCANXEN", CDA_CAP_SCANXEN),
    ("CDA_CAP_AUTOXEN", CDA_CAP_AUTOXEN),
    ("__HYPERVISOR_cda_op", HYPERVISOR_CDA_OP),
    ("CDA_CTL_version", CDA_CTL_VERSION),
    ("CDA_CTL_add_token", CDA_CTL_ADD_TOKEN),
    ("CDA_CTL_revoke", CDA_CTL_REVOKE),
    ("CDA_CTL_set_limits", CDA_CTL_SET_LIMITS),
    ("CDA_CTL_get_limits", CDA_CTL_GET_LIMITS),
    ("CDA_CTL_list", CDA_CTL_LIST),
    ("CDA_CTL_counters", CDA_CTL_COUNTERS),
    ("CDA_TOKEN_BYTES", CDA_TOKEN_BYTES as u64),
    ("CDA_LIMIT_FORWARD", CDA_LIMIT_FORWARD as u64),
    ("CDA_SESSION_ENDED", CDA_SESSION_ENDED as u64),
];

/// Size and fields of a structure, for the comparison.
#[derive(Debug)]
pub struct Layout {
    /// Name in C.
    pub name: &'static str,
    /// In octets.
    pub size: usize,
    /// Name, offset and size of every field.
    pub fields: &'static [(&'static str, usize, usize)],
}

/// Types that may be read from memory which the hypervisor wrote.
///
/// # Safety
/// Every bit pattern must be a valid value, all zeroes included, and there
/// must be no padding.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! structures {
    ($($(#[$doc:meta])* $c:literal $name:ident: $size:literal {
        $($field:ident: $type:ty = $offset:literal),* $(,)?
    })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
            pub struct $name { $(pub $field: $type),* }

            const _: () = {
                assert!(size_of::<$name>() == $size);
                $(assert!(std::mem::offset_of!($name, $field) == $offset);)*
                // No padding: the fields fill the structure.
                assert!(0 $(+ size_of::<$type>())* == $size);
            };

            // SAFETY: integers and arrays and structures of integers only,
            // without padding (asserted above).
            unsafe impl Plain for $name {}
        )*

        /// Every structure above.
        pub const LAYOUTS: &[Layout] = &[$(Layout {
            name: $c,
            size: $size,
            fields: &[$((stringify!($field), $offset, size_of::<$type>())),*],
        }),*];
    };
}

structures! {
    /// Event counts of a session, or of a domain since it was created.
    "cda_counters" Counters: 144 {
        crossings: u64 = 0,
        restarts: u64 = 8,
        faults_fixed: u64 = 16,
        faults_forwarded: u64 = 24,
        faults_spurious: u64 = 32,
        faults_xen: u64 = 40,
        guest_updates: u64 = 48,
        write_protected: u64 = 56,
        walks: u64 = 64,
        forks: u64 = 72,
        flushes: u64 = 80,
        cycles: u64 = 88,
        watched: u64 = 96,
        heated: u64 = 104,
        cooled: u64 = 112,
        emulated: u64 = 120,
        degraded: u64 = 128,
        reserved: u64 = 136,
    }
    /// Argument of `CDA_CTL_add_token`.
    "cda_ctl_token" CtlToken: 56 {
        size: u32 = 0,
        domid: u32 = 4,
        token: [u8; CDA_TOKEN_BYTES] = 8,
        tag: u64 = 24,
        lifetime_ms: u32 = 32,
        max_ranges: u32 = 36,
        max_pages: u64 = 40,
        max_sessions: u32 = 48,
        modes: u32 = 52,
    }
    /// Argument of `CDA_CTL_revoke`.
    "cda_ctl_revoke" CtlRevoke: 32 {
        size: u32 = 0,
        domid: u32 = 4,
        tag: u64 = 8,
        session: u64 = 16,
        tokens: u32 = 24,
        sessions: u32 = 28,
    }
    /// Argument of `CDA_CTL_set_limits` and `CDA_CTL_get_limits`.
    "cda_ctl_limits" CtlLimits: 48 {
        size: u32 = 0,
        domid: u32 = 4,
        flags: u32 = 8,
        max_sessions: u32 = 12,
        max_pages: u64 = 16,
        max_ranges: u32 = 24,
        max_tokens: u32 = 28,
        used_pages: u64 = 32,
        used_sessions: u32 = 40,
        used_tokens: u32 = 44,
    }
    /// One entry which `CDA_CTL_list` writes.
    "cda_ctl_session" CtlSession: 184 {
        session: u64 = 0,
        tag: u64 = 8,
        pages: u64 = 16,
        age_ms: u64 = 24,
        ranges: u32 = 32,
        flags: u32 = 36,
        counters: Counters = 40,
    }
    /// Argument of `CDA_CTL_list`.
    "cda_ctl_list" CtlList: 32 {
        size: u32 = 0,
        domid: u32 = 4,
        buffer: u64 = 8,
        capacity: u32 = 16,
        count: u32 = 20,
        total: u32 = 24,
        reserved: u32 = 28,
    }
    /// Argument of `CDA_CTL_counters`.
    "cda_ctl_counters" CtlCounters: 152 {
        size: u32 = 0,
        domid: u32 = 4,
        counters: Counters = 8,
    }
}
