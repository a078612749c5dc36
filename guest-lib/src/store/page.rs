//! Pages as they are written: whole or as difference, compressed or not.

use super::format::{Codec, Place, RecordHeader, RecordKind};
use crate::sys::PAGE_SIZE;

/// Words of eight bytes in a page.
pub(crate) const WORDS: usize = PAGE_SIZE / 8;
/// Differences which are longer are not kept: the page compresses as well.
const MAX_RUNS: usize = PAGE_SIZE / 2;
/// Differences which are shorter are written without trying anything else.
const SHORT_RUNS: usize = 256;

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
        let mut out = [0; PAGE_SIZE];
        for (to, word) in out.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
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
pub(crate) fn runs(old: &Page, new: &Page) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut word = 0;
    while word < WORDS {
        if old.0[word] == new.0[word] {
            word += 1;
            continue;
        }
        let end = (word..WORDS)
            .find(|&w| old.0[w] == new.0[w])
            .unwrap_or(WORDS);
        if out.len() + 4 + 8 * (end - word) > MAX_RUNS {
            return None;
        }
        for number in [word, end - word] {
            // Below 512.
            out.extend(u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
        }
        for w in word..end {
            out.extend((old.0[w] ^ new.0[w]).to_le_bytes());
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

    /// Appends the record of a page which is not zero.  `difference`: what
    /// changed since the page at the place, and how deep that one is.
    /// Returns its own depth.
    pub(crate) fn encode(
        &mut self,
        out: &mut Vec<u8>,
        area: u32,
        page: u64,
        new: &Page,
        difference: Option<(&[u8], Place, u8)>,
    ) -> u8 {
        let bytes = new.to_bytes();
        let mut best = (RecordKind::Whole, Codec::Raw, None);
        let mut best_len = PAGE_SIZE;
        if let Some((runs, _, _)) = difference {
            best = (RecordKind::Xor, Codec::Runs, Some(runs.to_vec()));
            best_len = runs.len();
            if best_len > SHORT_RUNS {
                let mut mask = Page::ZERO;
                apply_runs(&mut mask, runs);
                if let Some((codec, packed)) = self.compress(&mask.to_bytes())
                    && packed.len() < best_len
                {
                    best_len = packed.len();
                    best = (RecordKind::Xor, codec, Some(packed));
                }
            }
        }
        if best_len > SHORT_RUNS
            && let Some((codec, packed)) = self.compress(&bytes)
            && packed.len() < best_len
        {
            best = (RecordKind::Whole, codec, Some(packed));
        }
        let (kind, codec, payload) = best;
        let payload = payload.as_deref().unwrap_or(&bytes);
        let (base, depth) = match (kind, difference) {
            (RecordKind::Xor, Some((_, base, depth))) => (base, depth.saturating_add(1)),
            _ => (Place::ZERO, 0),
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

/// What a payload says: the page, or the XOR of two.
pub(crate) fn decode(kind: RecordKind, codec: Codec, payload: &[u8]) -> Option<Page> {
    let mut out = [0; PAGE_SIZE];
    let len = match (codec, kind) {
        (Codec::Raw, RecordKind::Whole) if payload.len() == PAGE_SIZE => {
            out.copy_from_slice(payload);
            PAGE_SIZE
        }
        (Codec::Raw, _) | (Codec::Runs, RecordKind::Whole) => return None,
        (Codec::Runs, RecordKind::Xor) => {
            let mut page = Page::ZERO;
            return apply_runs(&mut page, payload).then_some(page);
        }
        (Codec::Lz4, _) => lz4_flex::block::decompress_into(payload, &mut out).ok()?,
        (Codec::Zstd, _) => zstd::bulk::decompress_to_buffer(payload, &mut out[..]).ok()?,
    };
    (len == PAGE_SIZE).then(|| Page::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_the_page_back() {
        let mut old = Page::ZERO;
        for (n, word) in old.0.iter_mut().enumerate() {
            *word = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            for changed in [0, 1, 40, 200, 512] {
                let mut new = old;
                new.0[..changed].iter_mut().for_each(|word| *word = 7);
                let runs = runs(&old, &new);
                let base = Place::new(1, 128);
                let mut out = Vec::new();
                let difference = runs.as_deref().map(|runs| (runs, base, 0));
                Encoder::new(compression).encode(&mut out, 0, 3, &new, difference);
                let header = RecordHeader::decode(&out).unwrap();
                let payload = &out[super::super::format::RECORD_HEADER..][..header.bytes as usize];
                let mut page = decode(header.kind, header.codec, payload).unwrap();
                if header.kind == RecordKind::Xor {
                    page.0
                        .iter_mut()
                        .zip(old.0)
                        .for_each(|(word, old)| *word ^= old);
                }
                assert!(page == new, "{compression:?} {changed}");
            }
        }
    }

    #[test]
    fn malformed_runs_are_refused() {
        let mut page = Page::ZERO;
        for bad in [
            &[1, 0, 1][..],
            &[0, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0, 0, 0],
            &[0, 0, 2, 0, 9],
        ] {
            assert!(!apply_runs(&mut page, bad));
        }
    }
}
