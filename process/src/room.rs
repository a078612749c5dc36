// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where memory is compared: room that exists before anybody is stopped.
#![allow(missing_docs, reason = "see where each is used")]

use crate::maps::Mapping;

const MAPPINGS: usize = 32768;
const REGIONS: usize = 65536;
/// Entries of a page map that are looked at together.
pub const CHUNK: usize = 4096;

/// A populated range.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub categories: u64,
}

/// What the agent needs room for.
#[derive(Debug)]
pub struct Room {
    pub ours: [Mapping; MAPPINGS],
    pub theirs: [Mapping; MAPPINGS],
    pub our_text: [u8; 4 << 20],
    pub their_text: [u8; 4 << 20],
    pub our_regions: [Region; REGIONS],
    pub their_regions: [Region; REGIONS],
    pub our_pages: [u64; CHUNK],
    pub their_pages: [u64; CHUNK],
    pub our_bytes: [u8; 65536],
    pub their_bytes: [u8; 65536],
    pub no_guards: bool,
}
