// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of an image; see `docs/spec-image.md`.

mod chain;
mod header;
mod index;
mod record;

pub(crate) use chain::Chain;
pub(crate) use header::{FrameHeader, ImageHeader, ImageKind, Link};
pub(crate) use index::{
    AreaEntry, MAX_DELTA, Node, NodeId, decode_areas, decode_node, encode_areas, encode_delta,
    encode_node, levels, name_fault,
};
pub(crate) use record::{Codec, RecordHeader, RecordKind};

/// Newest format which is read, and the one which is written.
pub(crate) const FORMAT: u32 = 3;
/// File with the newest version which was acknowledged.
pub(crate) const ACK_FILE: &str = "acknowledged";
const ACK_MAGIC: [u8; 8] = *b"hvckack\0";

/// The header of an image of format 3, and of one of formats 1 and 2.
pub(crate) const IMAGE_HEADER: usize = 192;
pub(crate) const OLD_IMAGE_HEADER: usize = 128;
/// The format from which on images and frames say what they continue.
pub(crate) const CHAINED: u32 = 3;
pub(crate) const FRAME_HEADER: usize = 128;
pub(crate) const RECORD_HEADER: usize = 40;
pub(crate) const FANOUT: usize = 64;
pub(crate) const NODE: usize = 24 + 8 * FANOUT;
pub(crate) const ACK: usize = 32;
pub(crate) const AREA: usize = 96;
/// Areas of a store at most.
pub(crate) const MAX_AREAS: usize = 1024;
/// Pages of an area at most: what the levels hold.
pub(crate) const MAX_PAGES: u64 = 1 << 36;

/// `usize` is 64 bits wide here.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub const fn size(value: u64) -> usize {
    value as usize
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .unwrap_or([0; N])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Where something is: image in 24 bits, offset in units of eight bytes in
/// 40.  Zero is the page of zeros, or an index node over such pages only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub(crate) struct Place(pub(crate) u64);

impl Place {
    pub(crate) const ZERO: Self = Self(0);
    pub(crate) const MAX_IMAGE: u64 = (1 << 24) - 1;
    pub(crate) const MAX_OFFSET: u64 = ((1 << 40) - 1) * 8;

    pub(crate) fn new(image: u64, offset: u64) -> Self {
        debug_assert!(
            image <= Self::MAX_IMAGE && offset <= Self::MAX_OFFSET && offset.is_multiple_of(8)
        );
        Self(image << 40 | offset >> 3)
    }

    pub(crate) fn image(self) -> u64 {
        self.0 >> 40
    }

    pub(crate) fn offset(self) -> u64 {
        (self.0 & ((1 << 40) - 1)) << 3
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

pub(crate) fn image_name(image: u64) -> String {
    format!("image-{image:06x}.hvck")
}

pub(crate) fn image_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("image-")?.strip_suffix(".hvck")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    // One name per number.
    (image_name(number) == name && number <= Place::MAX_IMAGE && number > 0).then_some(number)
}

/// Name of a file which is not complete yet.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// The record of acknowledgements: version, and the number the store began
/// with, under a checksum.
pub(crate) fn encode_ack(store: [u8; 16], version: u64) -> [u8; ACK] {
    let mut out = [0; ACK];
    put(&mut out, 0, &ACK_MAGIC);
    put(&mut out, 8, &version.to_le_bytes());
    put(&mut out, 16, &store[..8]);
    let crc = crc32c::crc32c(&out[..28]);
    put(&mut out, 28, &crc.to_le_bytes());
    out
}

/// The version, and the beginning of the store's id.
pub(crate) fn decode_ack(bytes: &[u8]) -> Option<(u64, [u8; 8])> {
    let good = bytes.len() == ACK
        && bytes[..8] == ACK_MAGIC
        && u32_at(bytes, 28) == crc32c::crc32c(&bytes[..28]);
    good.then(|| (u64_at(bytes, 8), part(bytes, 16)))
}
