// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages as they are written: whole or as difference, compressed or not.

use std::sync::Arc;

use super::format::{Codec, Place, RecordHeader, RecordKind};
use crate::sys::PAGE_SIZE;

/// Words of eight bytes in a page.
pub(crate) const WORDS: usize = PAGE_SIZE / 8;
/// Differences which are longer are not kept: the page compresses as well.
const MAX_RUNS: usize = PAGE_SIZE / 2;
/// Differences which are shorter are written without trying anything else.
const SHORT_RUNS: usize = 256;

/// The words of a page, copied once and then shared: as what abort restores,
/// as what waits to be written, as what the next one is compared with.
pub(crate) type Words = Arc<[u64; WORDS]>;

/// Copies the words of a page: the one copy there is.
pub(crate) fn share(words: impl ExactSizeIterator<Item = u64>) -> Words {
    // In place for iterators over slices, without a detour over the stack.
    let copy: Arc<[u64]> = words.collect();
    copy.try_into()
        .unwrap_or_else(|_| unreachable!("a page has {WORDS} words"))
}

/// The words as bytes lie in memory.
pub(crate) fn to_bytes(words: &[u64; WORDS]) -> [u8; PAGE_SIZE] {
    let mut out = [0; PAGE_SIZE];
    for (to, word) in out.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    out
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
        to_bytes(&self.0)
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
    let mut word = 0;
    while word < WORDS {
        if old[word] == new[word] {
            word += 1;
            continue;
        }
        let end = (word..WORDS).find(|&w| old[w] == new[w]).unwrap_or(WORDS);
        if out.len() + 4 + 8 * (end - word) > MAX_RUNS {
            return None;
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
    Some(out)
}

/// XORs runs into a page; false if they are malformed.
fn apply_runs(page: &mut Page, mut runs: &[u8]) -> bool {
    while !runs.is_empty() {
        let Some((head, rest)) = runs.split_at_checked(4) else {
            return false;
        };
        let first = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let Some(words) = page.0.get_mut(first..first + count) else {
            return false;
        };
        let Some((data, rest)) = rest.split_at_checked(8 * count) else {
            return false;
        };
        if count == 0 {
            return false;
        }
        for (word, xor) in words.iter_mut().zip(data.chunks_exact(8)) {
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

/// Words with their values: offset and size less one as `u16` (12 and 4
/// bits), then the bytes.
fn pack_words(spans: impl Iterator<Item = Span>, new: &[u8; PAGE_SIZE]) -> Vec<u8> {
    let mut out = Vec::new();
    for (offset, len) in spans {
        for at in (offset..offset + len).step_by(WORD) {
            let size = WORD.min(offset + len - at);
            // Below 4096, and below 16.
            let head = u16::try_from(at | (size - 1) << 12).unwrap_or(u16::MAX);
            out.extend(head.to_le_bytes());
            out.extend(&new[at..at + size]);
        }
    }
    out
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
    (bytes <= SHORT_RUNS).then(|| pack_words(spans.into_iter(), &new.to_bytes()))
}

/// The bytes which runs change, as words.
fn words_of(runs: &[u8], new: &[u8; PAGE_SIZE]) -> Option<Vec<u8>> {
    let mut mask = Page::ZERO;
    apply_runs(&mut mask, runs).then_some(())?;
    let mask = mask.to_bytes();
    let mut spans: Vec<Span> = Vec::new();
    for at in (0..PAGE_SIZE).filter(|&at| mask[at] != 0) {
        match spans.last_mut() {
            // A gap costs no more than another head.
            Some((offset, len)) if at - (*offset + *len) <= 2 && at < *offset + WORD => {
                *len = at + 1 - *offset;
            }
            _ => spans.push((at, 1)),
        }
    }
    Some(pack_words(spans.into_iter(), new))
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

/// Writes records.
pub(crate) struct Encoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl core::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Encoder")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Self {
        let zstd = match compression {
            Compression::Zstd(level) => zstd::bulk::Compressor::new(level.clamp(1, 19)).ok(),
            _ => None,
        };
        Self { compression, zstd }
    }

    /// The payload, if it is smaller than raw.
    fn compress(&mut self, bytes: &[u8]) -> Option<(Codec, Vec<u8>)> {
        let (codec, packed) = match (self.compression, &mut self.zstd) {
            (Compression::Lz4, _) => (Codec::Lz4, lz4_flex::block::compress(bytes)),
            (Compression::Zstd(_), Some(zstd)) => (Codec::Zstd, zstd.compress(bytes).ok()?),
            _ => return None,
        };
        (packed.len() < bytes.len()).then_some((codec, packed))
    }

    /// Appends the record of a page which is not zero.  Returns its depth.
    pub(crate) fn encode(
        &mut self,
        out: &mut Vec<u8>,
        area: u32,
        page: u64,
        new: &[u64; WORDS],
        difference: Option<Difference<'_>>,
    ) -> u8 {
        let bytes = to_bytes(new);
        let mut best = (RecordKind::Whole, Codec::Raw, None);
        let mut best_len = PAGE_SIZE;
        let mut consider = |kind, codec, payload: Vec<u8>| {
            if payload.len() < best_len {
                best_len = payload.len();
                best = (kind, codec, Some(payload));
            }
            best_len
        };
        let runs = difference.and_then(|difference| difference.runs);
        if let Some(words) = difference.and_then(|difference| difference.words) {
            consider(RecordKind::Words, Codec::Words, words.to_vec());
        }
        if let Some(runs) = runs {
            if runs.len() <= SHORT_RUNS
                && let Some(words) = words_of(runs, &bytes)
            {
                consider(RecordKind::Words, Codec::Words, words);
            }
            if consider(RecordKind::Xor, Codec::Runs, runs.to_vec()) > SHORT_RUNS {
                let mut mask = Page::ZERO;
                apply_runs(&mut mask, runs);
                if let Some((codec, packed)) = self.compress(&mask.to_bytes()) {
                    consider(RecordKind::Xor, codec, packed);
                }
            }
        }
        if consider(RecordKind::Whole, Codec::Raw, bytes.to_vec()) > SHORT_RUNS
            && let Some((codec, packed)) = self.compress(&bytes)
        {
            consider(RecordKind::Whole, codec, packed);
        }
        let (kind, codec, payload) = best;
        let payload = payload.as_deref().unwrap_or(&bytes);
        let (base, depth) = match (kind, difference) {
            (RecordKind::Whole, _) | (_, None) => (Place::ZERO, 0),
            (_, Some(difference)) => (difference.base, difference.depth.saturating_add(1)),
        };
        RecordHeader {
            kind,
            codec,
            depth,
            bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            page,
            area,
            base,
            content: crc32c::crc32c(&bytes),
            crc: 0,
        }
        .write(out, payload);
        depth
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
mod tests {
    use super::*;

    fn noise() -> Page {
        let mut page = Page::ZERO;
        for (n, word) in page.0.iter_mut().enumerate() {
            *word = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        page
    }

    fn there_and_back(
        compression: Compression,
        old: &Page,
        new: &Page,
        words: Option<&[u8]>,
    ) -> RecordHeader {
        let runs = runs(&old.0, &new.0);
        let difference = Difference {
            runs: runs.as_deref().filter(|_| words.is_none()),
            words,
            base: Place::new(1, 128),
            depth: 0,
        };
        let mut out = Vec::new();
        Encoder::new(compression).encode(&mut out, 0, 3, &new.0, Some(difference));
        let header = RecordHeader::decode(&out).unwrap();
        let payload = &out[super::super::format::RECORD_HEADER..][..header.bytes as usize];
        let mut page = *old;
        assert!(apply(&mut page, header.kind, header.codec, payload));
        assert!(page == *new, "{compression:?}");
        header
    }

    #[test]
    fn every_codec_gives_the_page_back() {
        let old = noise();
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            for changed in [0, 1, 40, 200, 512] {
                let mut new = old;
                new.0[..changed].iter_mut().for_each(|word| *word = 7);
                there_and_back(compression, &old, &new, None);
            }
        }
    }

    #[test]
    fn what_is_smallest_is_written() {
        let old = noise();
        // A few bytes here and there: words.
        let mut new = old;
        new.0[5] ^= 0x1;
        new.0[500] ^= 0xff00_0000_0000_0001;
        let header = there_and_back(Compression::Lz4, &old, &new, None);
        assert_eq!((header.kind, header.bytes), (RecordKind::Words, 3 + 3 + 3));
        // Some whole words on end: runs, which have one head.
        let mut new = old;
        for word in &mut new.0[8..40] {
            *word = word.rotate_left(23).wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        let header = there_and_back(Compression::Lz4, &old, &new, None);
        assert_eq!((header.kind, header.bytes), (RecordKind::Xor, 4 + 32 * 8));
        // Without the old page, from a log of words.
        let words = words_at(&[64..72, 100..101], &new).unwrap();
        assert_eq!(words.len(), 2 + 8 + 2 + 1);
        let mut logged = old;
        assert!(apply_words(&mut logged, &words));
        let header = there_and_back(Compression::None, &old, &logged, Some(&words));
        assert_eq!((header.kind, header.bytes), (RecordKind::Words, 13));
        assert_eq!(words_at(&[0..1, 4090..4097], &new), None);
        assert_eq!(words_at(&[0..1, 7..7], &new), None);
    }

    #[test]
    fn malformed_runs_and_words_are_refused() {
        let mut page = Page::ZERO;
        for bad in [
            &[1, 0, 1][..],
            &[0, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0, 0, 0],
            &[0, 0, 2, 0, 9],
        ] {
            assert!(!apply_runs(&mut page, bad));
        }
        for bad in [&[1][..], &[0, 0], &[0, 0x10, 1], &[0xff, 0x1f, 1, 2]] {
            assert!(!apply_words(&mut page, bad), "{bad:?}");
        }
    }
}
