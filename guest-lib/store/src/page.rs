// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages as they are written: whole or as difference, compressed or not.

use std::sync::Arc;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::format::{Codec, Place, RecordHeader, RecordKind};
use super::handover::{Encoded, Handover};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::memory::as_bytes;

/// Words of eight bytes in a page.
pub const WORDS: usize = PAGE_SIZE / 8;
/// Differences which are longer are not kept: the page compresses as well.
const MAX_RUNS: usize = PAGE_SIZE / 2;
/// Differences which are shorter are written without trying anything else.
const SHORT_RUNS: usize = 256;

/// The words of a page, copied once and then shared: as what abort restores,
/// as what waits to be written, as what the next one is compared with.
pub type Words = Arc<[u64; WORDS]>;

/// Copies the words of a page: the one copy there is.
pub fn share(words: impl ExactSizeIterator<Item = u64>) -> Words {
    // In place for iterators over slices, without a detour over the stack.
    let copy: Arc<[u64]> = words.collect();
    copy.try_into()
        .unwrap_or_else(|_| unreachable!("a page has {WORDS} words"))
}

/// A page, aligned for words.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(8))]
pub struct Page(pub [u64; WORDS]);

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Page({:#x}, …)", self.0[0])
    }
}

impl Page {
    /// All zeros.
    pub const ZERO: Self = Self([0; WORDS]);

    /// The page as bytes lie in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PAGE_SIZE] {
        *as_bytes(&self.0)
    }

    /// From bytes; what is beyond 4096 is left out, what is missing is zero.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut page = Self::ZERO;
        for (word, from) in page.0.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..from.len()].copy_from_slice(from);
            *word = u64::from_le_bytes(whole);
        }
        page
    }

    /// True if every byte is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast.
    #[default]
    Lz4,
    /// Smaller; the level is zstd's, 1 to 19.
    Zstd(i32),
}

/// Runs of words which differ: word index and count as `u16`, then the XOR of
/// the words.  `None` if that is not worth it.
pub(crate) fn runs(old: &[u64; WORDS], new: &[u64; WORDS]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    runs_into(old, new, &mut out).then_some(out)
}

/// As [`runs`], in a buffer which is used again; false for `None`.
pub(crate) fn runs_into(old: &[u64; WORDS], new: &[u64; WORDS], out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut word = 0;
    while word < WORDS {
        if old[word] == new[word] {
            word += 1;
            continue;
        }
        let end = (word..WORDS).find(|&w| old[w] == new[w]).unwrap_or(WORDS);
        if out.len() + 4 + 8 * (end - word) > MAX_RUNS {
            return false;
        }
        for number in [word, end - word] {
            // Below 512.
            out.extend(u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
        }
        for w in word..end {
            out.extend((old[w] ^ new[w]).to_le_bytes());
        }
        word = end;
    }
    true
}

/// A run from the front: index of its first word, its XOR, what follows;
/// `None` if it is malformed.
fn split_run(runs: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (head, rest) = runs.split_at_checked(4)?;
    let first = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
    if count == 0 || first + count > WORDS {
        return None;
    }
    let (xor, rest) = rest.split_at_checked(8 * count)?;
    Some((first, xor, rest))
}

/// XORs runs into a page; false if they are malformed.
fn apply_runs(page: &mut Page, mut runs: &[u8]) -> bool {
    while !runs.is_empty() {
        let Some((first, xor, rest)) = split_run(runs) else {
            return false;
        };
        let words = page.0[first..].iter_mut();
        for (word, xor) in words.zip(xor.chunks_exact(8)) {
            *word ^= super::format::u64_at(xor, 0);
        }
        runs = rest;
    }
    true
}

/// Offset in the page and length of what may have changed, in bytes.
type Span = (usize, usize);

/// Bytes of a word at most.
const WORD: usize = 16;

/// Appends words with their values: offset and size less one as `u16` (12 and
/// 4 bits), then the bytes.
fn pack_words(out: &mut Vec<u8>, (offset, len): Span, new: &[u8; PAGE_SIZE]) {
    for at in (offset..offset + len).step_by(WORD) {
        let size = WORD.min(offset + len - at);
        // Below 4096, and below 16.
        let head = u16::try_from(at | (size - 1) << 12).unwrap_or(u16::MAX);
        out.extend(head.to_le_bytes());
        out.extend(&new[at..at + size]);
    }
}

/// The words at ranges of bytes, as the page has them now.  `None` if that is
/// not worth it, or a range lies outside of the page.
pub(crate) fn words_at(ranges: &[core::ops::Range<u16>], new: &Page) -> Option<Vec<u8>> {
    let spans = ranges.iter().map(|range| {
        let (start, end) = (usize::from(range.start), usize::from(range.end));
        (start < end && end <= PAGE_SIZE).then(|| (start, end - start))
    });
    let spans: Vec<Span> = spans.collect::<Option<_>>()?;
    let bytes: usize = spans.iter().map(|span| span.1).sum();
    (bytes <= SHORT_RUNS).then(|| {
        let new = as_bytes(&new.0);
        let mut out = Vec::new();
        spans
            .into_iter()
            .for_each(|span| pack_words(&mut out, span, new));
        out
    })
}

/// The bytes which runs change, as words; false if they are malformed.
fn words_of(mut runs: &[u8], new: &[u8; PAGE_SIZE], out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut open: Option<Span> = None;
    while !runs.is_empty() {
        let Some((first, xor, rest)) = split_run(runs) else {
            return false;
        };
        let changed = (8 * first..).zip(xor).filter(|(_, byte)| **byte != 0);
        for (at, _) in changed {
            match &mut open {
                // A gap costs no more than another head.
                Some((offset, len)) if at - (*offset + *len) <= 2 && at < *offset + WORD => {
                    *len = at + 1 - *offset;
                }
                _ => {
                    if let Some(span) = open.replace((at, 1)) {
                        pack_words(out, span, new);
                    }
                }
            }
        }
        runs = rest;
    }
    if let Some(span) = open {
        pack_words(out, span, new);
    }
    true
}

/// Puts words into a page; false if they are malformed.
fn apply_words(page: &mut Page, mut words: &[u8]) -> bool {
    let mut bytes = page.to_bytes();
    while !words.is_empty() {
        let Some((head, rest)) = words.split_at_checked(2) else {
            return false;
        };
        let head = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let (at, size) = (head & 0xfff, (head >> 12) + 1);
        let (Some(to), Some((value, rest))) =
            (bytes.get_mut(at..at + size), rest.split_at_checked(size))
        else {
            return false;
        };
        to.copy_from_slice(value);
        words = rest;
    }
    *page = Page::from_bytes(&bytes);
    true
}

/// What is known of the way from an older page to the new one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference<'a> {
    /// The XOR, as runs.
    pub(crate) runs: Option<&'a [u8]>,
    /// The new values, as words.
    pub(crate) words: Option<&'a [u8]>,
    /// Where the older page is.
    pub(crate) base: Place,
    /// How deep it lies.
    pub(crate) depth: u8,
}

/// Compresses; what it needs for that it keeps.
enum Packer {
    None,
    Lz4(CompressTable),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4(CompressTable::small()),
            Compression::Zstd(level) => {
                zstd::bulk::Compressor::new(level.clamp(1, 19)).map_or(Self::None, Self::Zstd)
            }
        }
    }

    /// Whether what another one chose is what this one would: whatever this one
    /// tries was tried.
    fn would(&self, codec: Codec, bytes: usize) -> bool {
        match codec {
            Codec::Words | Codec::Runs => bytes <= SHORT_RUNS || matches!(self, Self::None),
            Codec::Raw => matches!(self, Self::None),
            Codec::Lz4 => matches!(self, Self::Lz4(_)),
            Codec::Zstd => matches!(self, Self::Zstd(_)),
        }
    }

    /// Compresses into a buffer; `None` if that does not work.
    fn pack<'o>(
        &mut self,
        bytes: &[u8; PAGE_SIZE],
        out: &'o mut Vec<u8>,
    ) -> Option<(Codec, &'o [u8])> {
        let codec = match self {
            Self::None => return None,
            Self::Lz4(table) => {
                out.resize(get_maximum_output_size(PAGE_SIZE), 0);
                let len = compress_into_with_table(bytes, out, table).ok()?;
                out.truncate(len);
                Codec::Lz4
            }
            Self::Zstd(zstd) => {
                out.clear();
                out.reserve(zstd::zstd_safe::compress_bound(PAGE_SIZE));
                zstd.compress_to_buffer(bytes, out).ok()?;
                Codec::Zstd
            }
        };
        Some((codec, out))
    }
}

impl core::fmt::Debug for Packer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Lz4(_) => "Lz4",
            Self::Zstd(_) => "Zstd",
        })
    }
}

/// The shortest payload so far.
struct Best<'b> {
    kind: RecordKind,
    codec: Codec,
    payload: &'b [u8],
}

impl<'b> Best<'b> {
    fn consider(&mut self, kind: RecordKind, codec: Codec, payload: &'b [u8]) {
        if payload.len() < self.payload.len() {
            *self = Self {
                kind,
                codec,
                payload,
            };
        }
    }

    /// Whether it is worth trying anything else.
    fn long(&self) -> bool {
        self.payload.len() > SHORT_RUNS
    }
}

/// Writes records.  The buffers are those of the page before: a page costs no
/// memory.
pub(crate) struct Encoder {
    packer: Packer,
    words: Vec<u8>,
    xor: Vec<u8>,
    whole: Vec<u8>,
}

impl core::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Encoder")
            .field("packer", &self.packer)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Self {
        Self {
            packer: Packer::new(compression),
            words: Vec::new(),
            xor: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Appends the record of a page which is not zero.  Returns its depth.
    /// `shared`: with somebody else who writes the same page.
    pub(crate) fn encode(
        &mut self,
        out: &mut Vec<u8>,
        area: u32,
        page: u64,
        new: &[u64; WORDS],
        difference: Option<Difference<'_>>,
        shared: Option<&Handover>,
    ) -> u8 {
        let bytes = as_bytes(new);
        let choice = difference.is_some_and(|it| it.runs.is_some() || it.words.is_some());
        let made = shared
            .and_then(|shared| shared.take(choice, |codec, bytes| self.packer.would(codec, bytes)));
        if let Some(made) = made {
            let header = head(
                made.kind,
                made.codec,
                difference,
                (area, page),
                made.content,
            );
            return header.finish(out, made.payload(bytes));
        }
        let mut best = Best {
            kind: RecordKind::Whole,
            codec: Codec::Raw,
            payload: bytes,
        };
        if let Some(words) = difference.and_then(|difference| difference.words) {
            best.consider(RecordKind::Words, Codec::Words, words);
        }
        if let Some(runs) = difference.and_then(|difference| difference.runs) {
            if runs.len() <= SHORT_RUNS && words_of(runs, bytes, &mut self.words) {
                best.consider(RecordKind::Words, Codec::Words, &self.words);
            }
            best.consider(RecordKind::Xor, Codec::Runs, runs);
            if best.long() {
                let mut mask = Page::ZERO;
                apply_runs(&mut mask, runs);
                if let Some((codec, packed)) = self.packer.pack(as_bytes(&mask.0), &mut self.xor) {
                    best.consider(RecordKind::Xor, codec, packed);
                }
            }
        }
        if best.long()
            && let Some((codec, packed)) = self.packer.pack(bytes, &mut self.whole)
        {
            best.consider(RecordKind::Whole, codec, packed);
        }
        let Best {
            kind,
            codec,
            payload,
        } = best;
        let content = crc32c::crc32c(bytes);
        let header = head(kind, codec, difference, (area, page), content);
        if let Some(shared) = shared {
            shared.put(|| Encoded::new(&header, payload, choice));
        }
        header.finish(out, payload)
    }
}

/// The header of a record, but for its size.
fn head(
    kind: RecordKind,
    codec: Codec,
    difference: Option<Difference<'_>>,
    (area, page): (u32, u64),
    content: u32,
) -> RecordHeader {
    let (base, depth) = match (kind, difference) {
        (RecordKind::Whole, _) | (_, None) => (Place::ZERO, 0),
        (_, Some(difference)) => (difference.base, difference.depth.saturating_add(1)),
    };
    RecordHeader {
        kind,
        codec,
        depth,
        bytes: 0,
        page,
        area,
        base,
        content,
        crc: 0,
    }
}

impl RecordHeader {
    /// Appends the record; its depth.
    fn finish(mut self, out: &mut Vec<u8>, payload: &[u8]) -> u8 {
        self.bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.write(out, payload);
        self.depth
    }
}

/// Makes a page of the one below and what a record says; false if that is
/// malformed.
pub(crate) fn apply(page: &mut Page, kind: RecordKind, codec: Codec, payload: &[u8]) -> bool {
    let part = match (kind, codec) {
        (RecordKind::Words, Codec::Words) => return apply_words(page, payload),
        (RecordKind::Xor, Codec::Runs) => return apply_runs(page, payload),
        (RecordKind::Whole, Codec::Raw) => {
            (payload.len() == PAGE_SIZE).then(|| Page::from_bytes(payload))
        }
        (RecordKind::Whole | RecordKind::Xor, Codec::Lz4 | Codec::Zstd) => unpack(codec, payload),
        _ => None,
    };
    let Some(part) = part else {
        return false;
    };
    if kind == RecordKind::Whole {
        *page = part;
    } else {
        let words = page.0.iter_mut().zip(part.0);
        words.for_each(|(word, part)| *word ^= part);
    }
    true
}

fn unpack(codec: Codec, payload: &[u8]) -> Option<Page> {
    let mut out = [0; PAGE_SIZE];
    let len = match codec {
        Codec::Lz4 => lz4_flex::block::decompress_into(payload, &mut out).ok()?,
        Codec::Zstd => zstd::bulk::decompress_to_buffer(payload, &mut out[..]).ok()?,
        Codec::Raw | Codec::Runs | Codec::Words => return None,
    };
    (len == PAGE_SIZE).then(|| Page::from_bytes(&out))
}

#[cfg(test)]
mod tests;
