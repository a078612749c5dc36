// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where memory is compared: room that exists before anybody is stopped.
#![allow(missing_docs, reason = "see where each is used")]

use crate::maps::{self, Kind, Mapping};
use crate::marks::Marks;
use crate::pagemap::Region;
use crate::raw::Errno;

const MAPPINGS: usize = 32768;
const REGIONS: usize = 65536;
/// Entries of a page map that are looked at together.
pub const CHUNK: usize = 4096;

/// From where to where the library's own memory is.
pub type Library = (usize, usize);

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

impl Room {
    /// Reads this process's mappings into `ours`: without the kernel's own, the library's, and
    /// those which no copy can have.
    ///
    /// # Errors
    /// As [`maps::read`].
    pub fn read_ours(&mut self, library: Library, marks: &Marks) -> Result<usize, Errno> {
        let n = maps::read(0, &mut self.our_text, &mut self.ours)?;
        Ok(keep(&mut self.ours[..n], |m| {
            !belongs_to(library, m) && !marks.never_copied(m.start, m.end)
        }))
    }

    /// Reads those of the pre-image into `theirs`.
    ///
    /// # Errors
    /// As [`maps::read`].
    pub fn read_theirs(&mut self, library: Library, child: i32) -> Result<usize, Errno> {
        let n = maps::read(child, &mut self.their_text, &mut self.theirs)?;
        Ok(keep(&mut self.theirs[..n], |m| !belongs_to(library, m)))
    }
}

fn belongs_to((start, end): Library, m: &Mapping) -> bool {
    m.start >= start && m.end <= end
}

fn keep(maps: &mut [Mapping], wanted: impl Fn(&Mapping) -> bool) -> usize {
    let mut kept = 0;
    for i in 0..maps.len() {
        let m = maps[i];
        if m.kind != Kind::Special && wanted(&m) {
            maps[kept] = m;
            kept += 1;
        }
    }
    kept
}
