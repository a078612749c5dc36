// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `xencall.h` and `xenstore.h` declare, as far as it is used here.
//! `scripts/refresh-bindings` writes these files, and compares them.
#![allow(
    missing_debug_implementations,
    non_camel_case_types,
    unsafe_op_in_unsafe_fn,
    dead_code,
    unused_qualifications,
    unused_extern_crates,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

#[rustfmt::skip]
pub(crate) mod xencall;
#[rustfmt::skip]
pub(crate) mod xenstore;
