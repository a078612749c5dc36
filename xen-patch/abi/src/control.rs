// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control: hypercall 55, for the privileged domain.

use crate::{CDA_TOKEN_BYTES, cda_counters};

/// Hypercall number.
pub const HYPERVISOR_CDA_OP: u64 = 55;

/// Answers as `CDA_OP_version` does; no argument.
pub const CDA_CTL_VERSION: u64 = 0;
/// Registers a token: [`cda_ctl_token`].
pub const CDA_CTL_ADD_TOKEN: u64 = 1;
/// Drops tokens and ends sessions: [`cda_ctl_revoke`].
pub const CDA_CTL_REVOKE: u64 = 2;
/// Sets a domain's limits: [`cda_ctl_limits`].
pub const CDA_CTL_SET_LIMITS: u64 = 3;
/// Reads them, and what is in use.
pub const CDA_CTL_GET_LIMITS: u64 = 4;
/// Lists a domain's sessions: [`cda_ctl_list`].
pub const CDA_CTL_LIST: u64 = 5;
/// Reads a domain's event counts: [`cda_ctl_counters`].
pub const CDA_CTL_COUNTERS: u64 = 6;

/// Never grant in Xen: log and forward to the guest.
pub const CDA_LIMIT_FORWARD: u32 = 1;
/// The session was revoked; the process still lives.
pub const CDA_SESSION_ENDED: u32 = 1;

/// Constants under the names they have in C.
pub const CONSTANTS: &[(&str, u64)] = &[
    ("__HYPERVISOR_cda_op", HYPERVISOR_CDA_OP),
    ("CDA_CTL_version", CDA_CTL_VERSION),
    ("CDA_CTL_add_token", CDA_CTL_ADD_TOKEN),
    ("CDA_CTL_revoke", CDA_CTL_REVOKE),
    ("CDA_CTL_set_limits", CDA_CTL_SET_LIMITS),
    ("CDA_CTL_get_limits", CDA_CTL_GET_LIMITS),
    ("CDA_CTL_list", CDA_CTL_LIST),
    ("CDA_CTL_counters", CDA_CTL_COUNTERS),
    ("CDA_LIMIT_FORWARD", CDA_LIMIT_FORWARD as u64),
    ("CDA_SESSION_ENDED", CDA_SESSION_ENDED as u64),
];

structures! {
    /// Argument of `CDA_CTL_add_token`.
    cda_ctl_token: 56 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// The domain.
        domid: u32 = 4,
        /// The secret.
        token: [u8; CDA_TOKEN_BYTES] = 8,
        /// The administrator's, not 0; the key's id.
        tag: u64 = 24,
        /// Milliseconds, 1 to 3,600,000.
        lifetime_ms: u32 = 32,
        /// Ranges of a session; 0: the domain's default.
        max_ranges: u32 = 36,
        /// Pages, of a session or of all of a domain.
        max_pages: u64 = 40,
        /// Live sessions; 0: the domain's limit only.
        max_sessions: u32 = 48,
        /// [`ModeSet`](crate::ModeSet); 0: all.
        modes: u32 = 52,
    }
    /// Argument of `CDA_CTL_revoke`.
    cda_ctl_revoke: 32 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// The domain.
        domid: u32 = 4,
        /// The administrator's, not 0; the key's id.
        tag: u64 = 8,
        /// Number of a session.
        session: u64 = 16,
        /// Out: tokens dropped.
        tokens: u32 = 24,
        /// Out: sessions ended.
        sessions: u32 = 28,
    }
    /// Argument of `CDA_CTL_set_limits` and `CDA_CTL_get_limits`.
    cda_ctl_limits: 48 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// The domain.
        domid: u32 = 4,
        /// `CDA_LIMIT_*`, `CDA_SESSION_*`.
        flags: u32 = 8,
        /// Live sessions; 0: the domain's limit only.
        max_sessions: u32 = 12,
        /// Pages, of a session or of all of a domain.
        max_pages: u64 = 16,
        /// Ranges of a session; 0: the domain's default.
        max_ranges: u32 = 24,
        /// Tokens outstanding.
        max_tokens: u32 = 28,
        /// Out: pages registered.
        used_pages: u64 = 32,
        /// Out: sessions there are.
        used_sessions: u32 = 40,
        /// Out: tokens outstanding.
        used_tokens: u32 = 44,
    }
    /// One entry which `CDA_CTL_list` writes.
    cda_ctl_session: 184 {
        /// Number of a session.
        session: u64 = 0,
        /// The administrator's, not 0; the key's id.
        tag: u64 = 8,
        /// Pages registered.
        pages: u64 = 16,
        /// Milliseconds since it was attached.
        age_ms: u64 = 24,
        /// Ranges registered.
        ranges: u32 = 32,
        /// `CDA_LIMIT_*`, `CDA_SESSION_*`.
        flags: u32 = 36,
        /// Event counts.
        counters: cda_counters = 40,
    }
    /// Argument of `CDA_CTL_list`.
    cda_ctl_list: 32 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// The domain.
        domid: u32 = 4,
        /// Address of room for `capacity` times [`cda_ctl_session`].
        buffer: u64 = 8,
        /// Entries there is room for.
        capacity: u32 = 16,
        /// Out: entries written.
        count: u32 = 20,
        /// Out: sessions there are.
        total: u32 = 24,
        /// Zero.
        reserved: u32 = 28,
    }
    /// Argument of `CDA_CTL_counters`.
    cda_ctl_counters: 152 {
        /// Size of this structure in bytes.
        size: u32 = 0,
        /// The domain.
        domid: u32 = 4,
        /// Event counts.
        counters: cda_counters = 8,
    }
}
