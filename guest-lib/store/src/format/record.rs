// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of pages.

use super::{Place, RECORD_HEADER, put, u32_at, u64_at};
use hvckpt_sys::PAGE_SIZE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// The page.
    Whole,
    /// What to XOR with the page at `base`.
    Xor,
    /// What the page at `base` has otherwise.
    Words,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    /// Runs of words which are not zero.
    Runs,
    Lz4,
    Zstd,
    /// Offset, size and value of each word.
    Words,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) codec: Codec,
    /// Differences down to a whole page.
    pub(crate) depth: u8,
    /// Bytes of payload.
    pub(crate) bytes: u32,
    pub(crate) page: u64,
    pub(crate) area: u32,
    pub(crate) base: Place,
    /// Checksum of the page as it comes out.
    pub(crate) content: u32,
    pub(crate) crc: u32,
}

impl RecordHeader {
    /// Appends the record, padded to eight bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>, payload: &[u8]) {
        let start = out.len();
        out.resize(start + RECORD_HEADER, 0);
        out.extend_from_slice(payload);
        let record = &mut out[start..];
        put(record, 4, &self.content.to_le_bytes());
        record[8] = match self.kind {
            RecordKind::Whole => 1,
            RecordKind::Xor => 2,
            RecordKind::Words => 3,
        };
        record[9] = match self.codec {
            Codec::Raw => 0,
            Codec::Runs => 1,
            Codec::Lz4 => 2,
            Codec::Zstd => 3,
            Codec::Words => 4,
        };
        record[10] = self.depth;
        put(record, 12, &self.bytes.to_le_bytes());
        put(record, 16, &self.page.to_le_bytes());
        put(record, 24, &self.base.0.to_le_bytes());
        put(record, 32, &self.area.to_le_bytes());
        let crc = crc32c::crc32c(&record[4..]);
        put(record, 0, &crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// The header alone; the checksum covers the payload too.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER {
            return None;
        }
        let kind = match bytes[8] {
            1 => RecordKind::Whole,
            2 => RecordKind::Xor,
            3 => RecordKind::Words,
            _ => return None,
        };
        let codec = match bytes[9] {
            0 => Codec::Raw,
            1 => Codec::Runs,
            2 => Codec::Lz4,
            3 => Codec::Zstd,
            4 => Codec::Words,
            _ => return None,
        };
        let payload = u32_at(bytes, 12);
        (payload as usize <= PAGE_SIZE).then(|| Self {
            kind,
            codec,
            depth: bytes[10],
            bytes: payload,
            page: u64_at(bytes, 16),
            area: u32_at(bytes, 32),
            base: Place(u64_at(bytes, 24)),
            content: u32_at(bytes, 4),
            crc: u32_at(bytes, 0),
        })
    }
}
