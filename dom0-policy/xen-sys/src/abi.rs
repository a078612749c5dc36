// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control half of the interface, and which of its structures may come
//! from memory that the hypervisor wrote.

pub use hvckpt_abi::control::*;
pub use hvckpt_abi::{CDA_ABI_VERSION, CDA_TOKEN_BYTES, Mode, ModeSet, cda_counters, size_field};

/// Types that may be read from memory which the hypervisor wrote.
///
/// # Safety
/// Every bit pattern must be a valid value, all zeroes included, and there
/// must be no padding.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: integers and arrays and structures of integers only,
        // without padding, as hvckpt-abi asserts for each.
        unsafe impl Plain for $name {}
    )* };
}
plain!(
    cda_ctl_token,
    cda_ctl_revoke,
    cda_ctl_limits,
    cda_ctl_session,
    cda_ctl_list,
    cda_ctl_counters
);
