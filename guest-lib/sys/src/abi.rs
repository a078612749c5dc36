// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate's interface, from the crate `hvckpt-abi`: the mirror of
//! `xen-patch/include/public/cda.h`, the one definition of the ABI.

pub use hvckpt_abi::gate::*;
pub use hvckpt_abi::mode::{
    CDA_MODE_AUTOXEN, CDA_MODE_EMULXEN, CDA_MODE_PTXEN, CDA_MODE_SCANXEN, Mode, ModeSet,
};
pub use hvckpt_abi::{CDA_ABI_VERSION, CDA_TOKEN_BYTES, cda_counters, size_field};
