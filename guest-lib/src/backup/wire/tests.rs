// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use hvckpt_wire::frame::HEADER;

use super::*;

fn begin() -> Begin {
    Begin {
        version: 9,
        previous: 7,
        time: 5,
        base: true,
        bulk: true,
        areas: Some(vec![AreaShape {
            name: "kv".to_owned(),
            address: 0x1800_0000_0000,
            pages: 4096,
        }]),
    }
}

/// One of each.
fn samples() -> Vec<Message> {
    let mut refusal = Refusal::new(Reason::Stale, "epoch 4 has begun");
    (refusal.epoch, refusal.version) = (4, 12);
    let plain = Begin {
        base: false,
        bulk: false,
        areas: None,
        ..begin()
    };
    vec![
        Message::Hello {
            store: [7; 16],
            epoch: 3,
            newest: 99,
        },
        Message::Welcome {
            epoch: 3,
            have: 98,
            time: 1 << 60,
        },
        Message::Refusal(refusal),
        Message::Begin(begin()),
        Message::Begin(plain),
        Message::Pages(vec![1; 48]),
        Message::End {
            version: 9,
            pages: 1,
        },
        Message::Sync { newest: 9 },
        Message::Ack { version: 9 },
    ]
}

#[test]
fn every_message_comes_back() {
    let mut bytes = Vec::new();
    samples()
        .iter()
        .for_each(|sample| sample.encode(&mut bytes));
    let (mut from, mut body) = (&bytes[..], Vec::new());
    for sample in samples() {
        assert_eq!(read(&mut from, &mut body).unwrap(), sample);
    }
    assert!(from.is_empty());
}

#[test]
fn every_reason_comes_back() {
    for (n, known) in (1..).zip(REASONS) {
        assert_eq!(code(known), n);
        assert_eq!(reason(n), known);
        assert_ne!(known.name(), "unknown");
    }
    for n in [0, 13, 77] {
        assert_eq!(reason(n), Reason::Other(n));
        assert_eq!(code(Reason::Other(n)), n);
    }
}

#[test]
fn a_length_is_checked_before_memory_is_taken() {
    let mut frame = Vec::new();
    Message::Sync { newest: 1 }.encode(&mut frame);
    frame[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut body = Vec::new();
    let error = read(&mut &frame[..], &mut body).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(body.capacity(), 0);
}

#[test]
fn areas_which_are_not_possible_are_refused() {
    let cases: [fn(&mut AreaShape); 4] = [
        |area| area.name.clear(),
        |area| area.address += 1,
        |area| area.pages = 0,
        |area| area.pages = 1 << 60,
    ];
    for spoil in cases {
        let mut begin = begin();
        spoil(&mut begin.areas.as_mut().unwrap()[0]);
        let mut bytes = Vec::new();
        Message::Begin(begin).encode(&mut bytes);
        assert!(read(&mut &bytes[..], &mut Vec::new()).is_err());
    }
}

/// A small generator, so that every run is the same.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap()
}

fn unhex(line: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    (0..line.len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Frames which meet different fates each.
fn kept() -> Vec<Vec<u8>> {
    include_str!("corpus.txt").lines().map(unhex).collect()
}

/// Decodes: whatever decodes is encoded to the same bytes, nothing panics, and
/// nothing is larger than what came in.  What came of it.
fn try_out(bytes: &[u8], body: &mut Vec<u8>) -> (bool, String) {
    let mut from = bytes;
    let result = read(&mut from, body);
    assert!(body.len() <= FRAMES.body_max);
    let kind = bytes.get(6).copied().unwrap_or_default().min(9);
    match result {
        Ok(message) => {
            let taken = bytes.len() - from.len();
            let mut again = Vec::new();
            message.encode(&mut again);
            // A refusal's text is made printable.
            if !matches!(message, Message::Refusal(_)) {
                assert_eq!(again, bytes[..taken], "{message:?}");
            }
            let shape = match message {
                Message::Refusal(refusal) => refusal.reason.name().to_owned(),
                Message::Begin(begin) => format!(
                    "{} {} {:?}",
                    begin.base,
                    begin.bulk,
                    begin.areas.map(|areas| areas.len())
                ),
                _ => String::new(),
            };
            (true, format!("{kind} {shape}"))
        }
        Err(error) => (false, format!("{kind} {error}")),
    }
}

#[test]
fn the_kept_frames_meet_their_fates() {
    let frames = kept();
    let fate = |bytes: &Vec<u8>| try_out(bytes, &mut Vec::new()).1;
    let fates: BTreeSet<String> = frames.iter().map(fate).collect();
    assert_eq!(fates.len(), frames.len(), "{fates:#?}");
}

/// Mutates frames for as long as `HVCKPT_FUZZ_SECONDS` says, two seconds
/// unless told; `HVCKPT_FUZZ_KEEP` names a file for those which met different
/// fates.
#[test]
fn mutated_frames_are_refused_or_mean_what_they_say() {
    let seconds = std::env::var("HVCKPT_FUZZ_SECONDS");
    let seconds = seconds.map_or(2, |text| text.parse().unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut corpus = kept();
    for sample in samples() {
        let mut bytes = Vec::new();
        sample.encode(&mut bytes);
        corpus.push(bytes);
    }
    let mut fates = BTreeMap::new();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut rounds, mut decoded) = (0_u64, 0_u64);
    let mut body = Vec::new();
    while rounds < 20_000 || std::time::Instant::now() < deadline {
        rounds += 1;
        let mut bytes = corpus[random(&mut state) % corpus.len()].clone();
        for _ in 0..=random(&mut state) % 4 {
            let at = random(&mut state) % bytes.len();
            match random(&mut state) % 5 {
                0 => bytes[at] ^= 1 << (random(&mut state) % 8),
                1 => bytes[at] = random(&mut state).to_le_bytes()[0],
                2 => bytes.truncate(at.max(1)),
                3 => bytes.extend_from_within(at..),
                // A body of another length, and the length to it.
                _ => {
                    let bytes_after = bytes.len().saturating_sub(HEADER);
                    let length = u32::try_from(bytes_after).unwrap();
                    if bytes.len() >= 4 {
                        bytes[..4].copy_from_slice(&length.to_le_bytes());
                    }
                }
            }
            bytes.truncate(4096);
        }
        let (good, fate) = try_out(&bytes, &mut body);
        decoded += u64::from(good);
        if let Entry::Vacant(fresh) = fates.entry(fate) {
            fresh.insert(bytes.clone());
        } else if !good {
            continue;
        }
        if corpus.len() < 512 {
            corpus.push(bytes);
        }
    }
    assert!(decoded > rounds / 100, "{decoded} of {rounds} decoded");
    println!(
        "{rounds} rounds, {decoded} decoded, {} different fates",
        fates.len()
    );
    if let Some(file) = std::env::var_os("HVCKPT_FUZZ_KEEP") {
        let lines: Vec<String> = fates.values().map(|bytes| hex(bytes)).collect();
        std::fs::write(file, lines.join("\n") + "\n").unwrap();
    }
}
