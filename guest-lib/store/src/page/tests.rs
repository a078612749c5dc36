// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoding pages, there and back.

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
    Encoder::new(compression).encode(&mut out, 0, 3, &new.0, Some(difference), None);
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

/// The encoder as it reads best: everything that may be tried, each in memory
/// of its own, and the first of the shortest ones.
fn plain(
    compression: Compression,
    new: &Page,
    difference: Option<Difference<'_>>,
) -> (RecordKind, Codec, Vec<u8>) {
    let compress = |bytes: &[u8]| match compression {
        Compression::None => None,
        Compression::Lz4 => Some((Codec::Lz4, lz4_flex::block::compress(bytes))),
        Compression::Zstd(level) => {
            Some((Codec::Zstd, zstd::bulk::compress(bytes, level).unwrap()))
        }
    };
    let bytes = new.to_bytes();
    let mut best = (RecordKind::Whole, Codec::Raw, bytes.to_vec());
    let consider = |best: &mut (RecordKind, Codec, Vec<u8>), kind, codec, payload: Vec<u8>| {
        if payload.len() < best.2.len() {
            *best = (kind, codec, payload);
        }
    };
    if let Some(words) = difference.and_then(|difference| difference.words) {
        consider(&mut best, RecordKind::Words, Codec::Words, words.to_vec());
    }
    if let Some(runs) = difference.and_then(|difference| difference.runs) {
        let mut mask = Page::ZERO;
        assert!(apply_runs(&mut mask, runs));
        let mask = mask.to_bytes();
        if runs.len() <= SHORT_RUNS {
            let mut spans: Vec<Span> = Vec::new();
            for at in (0..PAGE_SIZE).filter(|&at| mask[at] != 0) {
                match spans.last_mut() {
                    Some((offset, len)) if at - (*offset + *len) <= 2 && at < *offset + WORD => {
                        *len = at + 1 - *offset;
                    }
                    _ => spans.push((at, 1)),
                }
            }
            let mut words = Vec::new();
            for span in spans {
                pack_words(&mut words, span, &bytes);
            }
            consider(&mut best, RecordKind::Words, Codec::Words, words);
        }
        consider(&mut best, RecordKind::Xor, Codec::Runs, runs.to_vec());
        if best.2.len() > SHORT_RUNS
            && let Some((codec, packed)) = compress(&mask)
        {
            consider(&mut best, RecordKind::Xor, codec, packed);
        }
    }
    if best.2.len() > SHORT_RUNS
        && let Some((codec, packed)) = compress(&bytes)
    {
        consider(&mut best, RecordKind::Whole, codec, packed);
    }
    best
}

#[test]
fn buffers_which_are_used_again_leave_nothing_behind() {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut kinds = std::collections::BTreeMap::new();
    for compression in [
        Compression::None,
        Compression::Lz4,
        Compression::Zstd(1),
        Compression::Zstd(9),
    ] {
        // One for all pages, as the writer has it.
        let mut encoder = Encoder::new(compression);
        let mut room = Vec::new();
        for _ in 0..500 {
            let mut old = if random(2) == 0 { noise() } else { Page::ZERO };
            old.0[usize::try_from(random(512)).unwrap()] = random(1 << 31);
            let mut new = old;
            let (changes, longest) = (1 + random(40), 1 + random(30));
            for _ in 0..changes {
                let (first, count) = (random(512), 1 + random(longest));
                let (mask, value) = (u64::MAX >> random(64), random(1 << 31) << random(40));
                for at in first..512.min(first + count) {
                    new.0[usize::try_from(at).unwrap()] ^= value & mask;
                }
            }
            let known = runs(&old.0, &new.0);
            let same = runs_into(&old.0, &new.0, &mut room).then_some(&room);
            assert_eq!(same, known.as_ref());
            let start = u16::try_from(random(4000)).unwrap();
            let end = start + 1 + u16::try_from(random(90)).unwrap();
            let words = words_at(core::slice::from_ref(&(start..end)), &new);
            let difference = (random(4) > 0).then_some(Difference {
                runs: known.as_deref().filter(|_| random(3) > 0),
                words: words.as_deref().filter(|_| random(3) == 0),
                base: Place::new(1, 128),
                depth: 2,
            });
            let (kind, codec, payload) = plain(compression, &new, difference);
            let (base, depth) = if kind == RecordKind::Whole {
                (Place::ZERO, 0)
            } else {
                (Place::new(1, 128), 3)
            };
            let mut expected = vec![7; 3];
            let header = RecordHeader {
                kind,
                codec,
                depth,
                bytes: u32::try_from(payload.len()).unwrap(),
                page: 9,
                area: 4,
                base,
                content: crc32c::crc32c(&new.to_bytes()),
                crc: 0,
            };
            header.write(&mut expected, &payload);
            let mut out = vec![7; 3];
            assert_eq!(
                encoder.encode(&mut out, 4, 9, &new.0, difference, None),
                depth
            );
            assert_eq!(out, expected);
            // Encoded by somebody else, the bytes are the same.
            let shared = Handover::default();
            out.truncate(3);
            encoder.encode(&mut out, 4, 9, &new.0, difference, Some(&shared));
            assert_eq!(out, expected);
            let mut other = Encoder::new(Compression::None);
            out.truncate(3);
            other.encode(&mut out, 4, 9, &new.0, difference, Some(&shared));
            assert_eq!(out, expected, "from the first, whatever the second does");
            // From another store, by one who compresses alike, or otherwise.
            let (header, payload) = {
                let header = RecordHeader::decode(&out[3..]).unwrap();
                let payload = &out[3 + super::super::format::RECORD_HEADER..];
                (header, payload[..header.bytes as usize].to_vec())
            };
            let choice = difference.is_some_and(|it| it.runs.is_some() || it.words.is_some());
            for compression in [compression, Compression::None] {
                let received = Handover::holding(Encoded::received(&header, &payload));
                let mut one = Encoder::new(compression);
                let (mut from, mut own) = (Vec::new(), Vec::new());
                one.encode(&mut from, 4, 9, &new.0, difference, Some(&received));
                one.encode(&mut own, 4, 9, &new.0, difference, None);
                // What was chosen among more is chosen again only where it may be.
                assert_eq!(from, own, "{header:?} {choice}");
            }
            *kinds.entry(format!("{kind:?} {codec:?}")).or_insert(0) += 1;
        }
    }
    // Each way was taken.
    let least = kinds.values().min();
    assert!(kinds.len() == 7 && least > Some(&3), "{kinds:?}");
}

#[test]
fn malformed_runs_give_no_words() {
    let bytes = noise().to_bytes();
    let mut out = Vec::new();
    for bad in [
        &[1, 0, 1][..],
        &[0, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 0, 0, 0],
        &[0, 0, 2, 0, 9],
    ] {
        assert!(!words_of(bad, &bytes, &mut out));
    }
}
