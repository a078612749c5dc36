use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Frame, WireError> {
    read_frame(&mut &bytes[..]).map_err(|e| {
        *e.get_ref()
            .and_then(|e| e.downcast_ref::<WireError>())
            .expect("a wire error")
    })
}

#[test]
fn octets_of_a_request() {
    let request = Request {
        modes: Modes::PTXEN,
        max_pages: 0x1122,
        max_ranges: 3,
    };
    let expected = [
        24, 0, 0, 0, 1, 0, 1, 0, // length, version, type
        0, 0, 0, 0, 1, 0, 0, 0, // flags, modes
        0x22, 0x11, 0, 0, 0, 0, 0, 0, // pages
        3, 0, 0, 0, 0, 0, 0, 0, // ranges, reserved
    ];
    assert_eq!(request.encode(), expected);
}

#[test]
fn lengths_are_checked_before_reading() {
    let mut bytes = Request::default().encode();
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read(&bytes), Err(WireError::TooLong));
    bytes[..4].copy_from_slice(&4089u32.to_le_bytes());
    assert_eq!(read(&bytes), Err(WireError::TooLong));
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
    assert_eq!(with(4, 2), Err(WireError::Version));
    assert_eq!(with(6, 2), Err(WireError::Type));
    assert_eq!(with(0, 23), Err(WireError::Length));
    assert_eq!(with(8, 1), Err(WireError::Field));
    assert_eq!(with(28, 1), Err(WireError::Field));
    let answer = read(&good).and_then(|f| Answer::decode(&f));
    assert_eq!(answer, Err(WireError::Type));
}

#[test]
fn every_reason_has_its_code() {
    for code in 0..200 {
        assert_eq!(Reason::from_code(code).code(), code);
    }
}

#[test]
fn modes_as_text() {
    assert_eq!(Modes::parse("ptxen,scanxen"), Some(Modes(5)));
    assert_eq!(Modes::parse("all"), Some(Modes::ALL));
    assert_eq!(Modes::parse("ptxen,"), None);
    assert_eq!(Modes(5).to_string(), "ptxen,scanxen");
    assert_eq!(Modes(0).to_string(), "none");
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
        let request = Request { modes: Modes(modes), max_pages, max_ranges };
        prop_assert_eq!(Request::decode(&read(&request.encode()).unwrap()), Ok(request));
    }

    #[test]
    fn grants_round_trip(
        token: [u8; 16], life in 1u32.., ranges: u32, pages: u64, sessions: u32, modes: u32,
        expires: u64, domid: u32, tag in 1u64..,
    ) {
        let mut grant = Grant::new(token, Duration::from_millis(life.into()), domid, tag);
        (grant.max_ranges, grant.max_pages, grant.max_sessions) = (ranges, pages, sessions);
        (grant.modes, grant.expires) = (Modes(modes), expires);
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
