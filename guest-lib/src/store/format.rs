//! The bytes of an image; see `docs/spec-image.md`.

use super::error::{DamageKind, StoreError, damage};
use crate::sys::PAGE_SIZE;

/// Newest format which is read, and the one which is written.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"hvckimg\0";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HVTX");
const ACK_MAGIC: [u8; 8] = *b"hvckack\0";

pub(crate) const IMAGE_HEADER: usize = 128;
pub(crate) const FRAME_HEADER: usize = 128;
pub(crate) const RECORD_HEADER: usize = 40;
pub(crate) const FANOUT: usize = 64;
pub(crate) const NODE: usize = 24 + 8 * FANOUT;
pub(crate) const ACK: usize = 32;
const AREA: usize = 96;
const NAME: usize = 48;
/// Areas of a store at most.
pub(crate) const MAX_AREAS: usize = 1024;
/// Levels which `u64` pages could need.
const MAX_LEVELS: u32 = 6;
/// Pages of an area at most: what the levels hold.
pub(crate) const MAX_PAGES: u64 = 1 << 36;

/// `usize` is 64 bits wide here.
#[allow(clippy::cast_possible_truncation)]
pub(crate) const fn size(value: u64) -> usize {
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

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// Transactions, appended as they are committed.
    Increment,
    /// Written as a whole; refers to no other image.
    Base,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageHeader {
    pub(crate) kind: ImageKind,
    pub(crate) store: [u8; 16],
    pub(crate) image: u64,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    /// The image which this one continues, zero for none.
    pub(crate) parent: u64,
    /// How much of the parent counts, in bytes.
    pub(crate) parent_bytes: u64,
    /// Newest version in it which counts.
    pub(crate) parent_version: u64,
}

impl ImageHeader {
    pub(crate) fn encode(&self) -> [u8; IMAGE_HEADER] {
        let mut out = [0; IMAGE_HEADER];
        let kind: u32 = match self.kind {
            ImageKind::Increment => 1,
            ImageKind::Base => 2,
        };
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, &FORMAT.to_le_bytes());
        put(&mut out, 12, &kind.to_le_bytes());
        put(&mut out, 16, &self.store);
        put(&mut out, 32, &self.image.to_le_bytes());
        put(&mut out, 40, &self.created.to_le_bytes());
        put(&mut out, 48, &self.parent.to_le_bytes());
        put(&mut out, 56, &self.parent_bytes.to_le_bytes());
        put(&mut out, 64, &self.parent_version.to_le_bytes());
        let crc = crc32c::crc32c(&out[..124]);
        put(&mut out, 124, &crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let bad = || damage(name, 0, DamageKind::ImageHeader);
        if bytes.len() < IMAGE_HEADER || bytes[..8] != MAGIC {
            return Err(bad());
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            return Err(StoreError::Future {
                name: name.to_owned(),
                format,
            });
        }
        let kind = match u32_at(bytes, 12) {
            1 => ImageKind::Increment,
            2 => ImageKind::Base,
            _ => return Err(bad()),
        };
        if format == 0 || u32_at(bytes, 124) != crc32c::crc32c(&bytes[..124]) {
            return Err(bad());
        }
        Ok(Self {
            kind,
            store: part(bytes, 16),
            image: u64_at(bytes, 32),
            created: u64_at(bytes, 40),
            parent: u64_at(bytes, 48),
            parent_bytes: u64_at(bytes, 56),
            parent_version: u64_at(bytes, 64),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) image: u64,
    pub(crate) version: u64,
    pub(crate) previous: u64,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// Newest version which was on stable storage when this was written.
    pub(crate) synced: u64,
    /// Lowest image which this version needs.
    pub(crate) floor: u64,
    /// Bytes after this header.
    pub(crate) body: u64,
    pub(crate) records: u32,
    pub(crate) nodes: u32,
    /// Where the table of areas is, in bytes after the header.
    pub(crate) areas: u64,
    pub(crate) body_crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        put(&mut out, 0, &FRAME_MAGIC.to_le_bytes());
        let numbers = [
            self.image,
            self.version,
            self.previous,
            self.time,
            self.synced,
            self.floor,
            self.body,
            self.areas,
        ];
        for (n, number) in numbers.into_iter().enumerate() {
            put(&mut out, 8 + 8 * n, &number.to_le_bytes());
        }
        put(&mut out, 72, &self.records.to_le_bytes());
        put(&mut out, 76, &self.nodes.to_le_bytes());
        put(&mut out, 120, &self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..124]);
        put(&mut out, 124, &crc.to_le_bytes());
        out
    }

    /// `None` if this is no header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let good = bytes.len() >= FRAME_HEADER
            && u32_at(bytes, 0) == FRAME_MAGIC
            && u32_at(bytes, 124) == crc32c::crc32c(&bytes[..124]);
        let number = |n: usize| u64_at(bytes, 8 + 8 * n);
        let header = good.then(|| Self {
            image: number(0),
            version: number(1),
            previous: number(2),
            time: number(3),
            synced: number(4),
            floor: number(5),
            body: number(6),
            areas: number(7),
            records: u32_at(bytes, 72),
            nodes: u32_at(bytes, 76),
            body_crc: u32_at(bytes, 120),
        })?;
        let sane = header.body <= Place::MAX_OFFSET
            && header.body % 8 == 0
            && header.areas % 8 == 0
            && header.areas < header.body;
        sane.then_some(header)
    }
}

/// An area as a version has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AreaEntry {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) pages: u64,
    pub(crate) root: Place,
}

/// Levels of nodes over `pages` pages.
pub(crate) fn levels(pages: u64) -> u32 {
    let mut levels = 1;
    let mut reach = FANOUT as u64;
    while reach < pages && levels < MAX_LEVELS {
        reach *= FANOUT as u64;
        levels += 1;
    }
    levels
}

/// What is wrong with a name, if anything.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME {
        Some("a name has 1 to 48 bytes")
    } else if name.contains('\0') {
        Some("a name has no zero byte")
    } else {
        None
    }
}

pub(crate) fn encode_areas(out: &mut Vec<u8>, areas: &[AreaEntry]) {
    let start = out.len();
    out.extend([0; 8]);
    for area in areas {
        let mut entry = [0; AREA];
        put(&mut entry, 0, area.name.as_bytes());
        put(&mut entry, 56, &area.address.to_le_bytes());
        put(&mut entry, 64, &area.pages.to_le_bytes());
        put(&mut entry, 72, &area.root.0.to_le_bytes());
        out.extend(entry);
    }
    // No more than MAX_AREAS.
    let count = u32::try_from(areas.len()).unwrap_or(u32::MAX);
    put(&mut out[start..], 4, &count.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..]);
    put(&mut out[start..], 0, &crc.to_le_bytes());
}

pub(crate) fn decode_areas(bytes: &[u8]) -> Option<Vec<AreaEntry>> {
    if bytes.len() < 8 || u32_at(bytes, 0) != crc32c::crc32c(&bytes[4..]) {
        return None;
    }
    let count = u32_at(bytes, 4) as usize;
    if count > MAX_AREAS || bytes.len() != 8 + count * AREA {
        return None;
    }
    bytes[8..]
        .chunks_exact(AREA)
        .map(|entry| {
            let end = entry[..NAME].iter().position(|&b| b == 0).unwrap_or(NAME);
            let name = core::str::from_utf8(&entry[..end]).ok()?.to_owned();
            let area = AreaEntry {
                name,
                address: u64_at(entry, 56),
                pages: u64_at(entry, 64),
                root: Place(u64_at(entry, 72)),
            };
            let page = PAGE_SIZE as u64;
            let sane = name_fault(&area.name).is_none()
                && (1..=MAX_PAGES).contains(&area.pages)
                && area.address.is_multiple_of(page)
                && area
                    .address
                    .checked_add(area.pages * page)
                    .is_some_and(|end| end <= 1 << 47);
            sane.then_some(area)
        })
        .collect()
}

/// A node: the places of up to 64 pages, or of 64 nodes of the level below.
pub(crate) fn encode_node(
    out: &mut Vec<u8>,
    area: u32,
    level: u32,
    first: u64,
    children: &[Place],
) {
    let start = out.len();
    out.resize(start + NODE, 0);
    let node = &mut out[start..];
    put(node, 4, &level.to_le_bytes());
    put(node, 8, &area.to_le_bytes());
    put(node, 16, &first.to_le_bytes());
    for (n, child) in children.iter().enumerate() {
        put(node, 24 + 8 * n, &child.0.to_le_bytes());
    }
    let crc = crc32c::crc32c(&node[4..]);
    put(node, 0, &crc.to_le_bytes());
}

/// The places in a node, if it is the one expected.
pub(crate) fn decode_node(
    bytes: &[u8],
    area: u32,
    level: u32,
    first: u64,
) -> Option<[Place; FANOUT]> {
    let good = bytes.len() == NODE
        && u32_at(bytes, 0) == crc32c::crc32c(&bytes[4..])
        && u32_at(bytes, 4) == level
        && u32_at(bytes, 8) == area
        && u64_at(bytes, 16) == first;
    good.then(|| core::array::from_fn(|n| Place(u64_at(bytes, 24 + 8 * n))))
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// The page.
    Whole,
    /// What to XOR with the page at `base`.
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    /// Runs of words which are not zero.
    Runs,
    Lz4,
    Zstd,
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
        };
        record[9] = match self.codec {
            Codec::Raw => 0,
            Codec::Runs => 1,
            Codec::Lz4 => 2,
            Codec::Zstd => 3,
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
            _ => return None,
        };
        let codec = match bytes[9] {
            0 => Codec::Raw,
            1 => Codec::Runs,
            2 => Codec::Lz4,
            3 => Codec::Zstd,
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
