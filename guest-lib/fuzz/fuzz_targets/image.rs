// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reader of images.
//!
//! cargo +nightly fuzz run image

#![no_main]

#[path = "../../tests/store_common/fuzz.rs"]
mod store;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(store::one(input)));
