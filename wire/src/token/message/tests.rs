// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
    read_frame(&mut &bytes[..]).map_err(|e| FrameError::of(&e).expect("a frame's error"))
}

#[test]
fn octets_of_a_request() {
    let request = Request {
        modes: ModeSet::PTXEN,
        max_pages: 0x1122,
        max_ranges: 3,
    };
    let expected = [
        24, 0, 0, 0, 1, 0, 1, 0, // length, version, type
        0, 0, 0, 0, 2, 0, 0, 0, // flags, modes
        0x22, 0x11, 0, 0, 0, 0, 0, 0, // pages
        3, 0, 0, 0, 0, 0, 0, 0, // ranges, reserved
    ];
    assert_eq!(request.encode(), expected);
}

#[test]
fn lengths_are_checked_before_reading() {
    let mut bytes = Request::default().encode();
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read(&bytes), Err(FrameError::TooLong));
    bytes[..4].copy_from_slice(&4089u32.to_le_bytes());
    assert_eq!(read(&bytes), Err(FrameError::TooLong));
    bytes[..4].copy_from_slice(&4088u32.to_le_bytes());
    let short = read_frame(&mut &bytes[..]).unwrap_err();
    assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn wrong_headers_and_fields() {
    let good = Request::default().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        read(&bytes).and_then(|f| Request::decode(&f))
    };
    assert_eq!(with(4, 2), Err(FrameError::Version));
    assert_eq!(with(6, 2), Err(FrameError::Type));
    assert_eq!(with(0, 23), Err(FrameError::Length));
    assert_eq!(with(8, 1), Err(FrameError::Field));
    assert_eq!(with(28, 1), Err(FrameError::Field));
    let answer = read(&good).and_then(|f| Answer::decode(&f));
    assert_eq!(answer, Err(FrameError::Type));
}

#[test]
fn every_reason_has_its_code() {
    for code in 0..200 {
        assert_eq!(Reason::from_code(code).code(), code);
    }
}

#[test]
fn modes_as_text() {
    assert_eq!(
        ModeSet::parse("ptxen,scanxen"),
        Some(ModeSet::PTXEN | ModeSet::SCANXEN)
    );
    assert_eq!(ModeSet::parse("all"), Some(ModeSet::all()));
    assert_eq!(ModeSet::parse("ptxen,"), None);
    assert_eq!(
        (ModeSet::PTXEN | ModeSet::SCANXEN).to_string(),
        "ptxen,scanxen"
    );
    assert_eq!(ModeSet::empty().to_string(), "none");
}

proptest! {
    #[test]
    fn any_octets_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = read_frame(&mut &bytes[..]) {
            let _ = Request::decode(&frame);
            let _ = Answer::decode(&frame);
        }
    }

    #[test]
    fn any_body_of_a_known_type(kind in 0u16..5, body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let bytes = frame(kind, &body);
        let frame = read(&bytes).unwrap();
        // Whatever is accepted encodes to the same octets: nothing is ignored.
        if let Ok(request) = Request::decode(&frame) {
            prop_assert_eq!(request.encode(), bytes);
        } else if let Ok(Answer::Grant(grant)) = Answer::decode(&frame) {
            prop_assert_eq!(Answer::Grant(grant).encode(), bytes);
        }
    }

    #[test]
    fn requests_round_trip(modes: u32, max_pages: u64, max_ranges: u32) {
        let request = Request { modes: ModeSet::from_bits_retain(modes), max_pages, max_ranges };
        prop_assert_eq!(Request::decode(&read(&request.encode()).unwrap()), Ok(request));
    }

    #[test]
    fn grants_round_trip(
        token: [u8; 16], life in 1u32.., ranges: u32, pages: u64, sessions: u32, modes: u32,
        expires: u64, domid: u32, tag in 1u64..,
    ) {
        let mut grant = Grant::new(token, Duration::from_millis(life.into()), domid, tag);
        (grant.max_ranges, grant.max_pages, grant.max_sessions) = (ranges, pages, sessions);
        (grant.modes, grant.expires) = (ModeSet::from_bits_retain(modes), expires);
        let answer = Answer::Grant(grant);
        prop_assert_eq!(Answer::decode(&read(&answer.encode()).unwrap()), Ok(answer));
    }

    #[test]
    fn refusals_round_trip(code: u16, retry: u32, text in "\\PC{0,400}") {
        let mut refusal = Refusal::new(Reason::from_code(code), &text);
        refusal.retry_after = Duration::from_millis(retry.into());
        let answer = Answer::Refusal(refusal);
        prop_assert_eq!(Answer::decode(&read(&answer.encode()).unwrap()), Ok(answer));
    }
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

/// Decodes as a server and as a client would: what is accepted encodes to the
/// same octets, but for a refusal's text, which is made printable.  What came
/// of it.
fn try_out(bytes: &[u8]) -> (bool, String) {
    let frame = match read_frame(&mut &bytes[..]) {
        Ok(frame) => frame,
        Err(error) => return (false, error.to_string()),
    };
    let octets = &bytes[..bytes.len().min(8 + frame.body.len())];
    let request = Request::decode(&frame);
    if let Ok(request) = request {
        assert_eq!(request.encode(), octets);
    }
    let answer = Answer::decode(&frame);
    let answered = match &answer {
        Ok(Answer::Grant(grant)) => {
            assert_eq!(Answer::Grant(*grant).encode(), octets);
            "grant".to_owned()
        }
        Ok(Answer::Refusal(refusal)) => {
            let again = Answer::Refusal(refusal.clone()).encode();
            assert_eq!(Answer::decode(&read(&again).unwrap()), answer);
            refusal.reason.name().to_owned()
        }
        Err(error) => error.to_string(),
    };
    let asked = request.map_or_else(|error| error.to_string(), |_| "request".to_owned());
    let good = request.is_ok() || answer.is_ok();
    (good, format!("{} {asked}; {answered}", bytes[6].min(5)))
}

#[test]
fn the_kept_frames_meet_their_fates() {
    let frames = kept();
    let fates: BTreeSet<String> = frames.iter().map(|frame| try_out(frame).1).collect();
    assert_eq!(fates.len(), frames.len(), "{fates:#?}");
}

/// A small generator, so that every run is the same.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap()
}

/// Mutates frames for as long as `HVCKPT_FUZZ_SECONDS` says, one second unless
/// told; `HVCKPT_FUZZ_KEEP` names a file for those which met different fates.
#[test]
fn mutated_frames_are_refused_or_mean_what_they_say() {
    let seconds = std::env::var("HVCKPT_FUZZ_SECONDS").map_or(1, |text| text.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut corpus = kept();
    corpus.push(Request::default().encode());
    corpus.push(Answer::Grant(Grant::new([5; 16], Duration::from_secs(30), 3, 77)).encode());
    corpus.push(Answer::Refusal(Refusal::new(Reason::Quota, "full")).encode());
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut rounds, mut decoded) = (0_u64, 0_u64);
    let mut fates = BTreeMap::new();
    while rounds < 20_000 || Instant::now() < deadline {
        rounds += 1;
        let mut bytes = corpus[random(&mut state) % corpus.len()].clone();
        for _ in 0..=random(&mut state) % 4 {
            let at = random(&mut state) % bytes.len();
            match random(&mut state) % 6 {
                0 => bytes[at] ^= 1 << (random(&mut state) % 8),
                1 => bytes[at] = random(&mut state).to_le_bytes()[0],
                // Types and reasons are small.
                2 => bytes[at] = random(&mut state).to_le_bytes()[0] & 31,
                3 => bytes.truncate(at.max(1)),
                4 => bytes.extend_from_within(at..),
                // The length of what there is.
                _ if bytes.len() >= 8 => {
                    let length = u32::try_from(bytes.len() - 8).unwrap();
                    bytes[..4].copy_from_slice(&length.to_le_bytes());
                }
                _ => {}
            }
            bytes.truncate(4200);
        }
        let (good, fate) = try_out(&bytes);
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
