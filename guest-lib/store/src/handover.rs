// SPDX-License-Identifier: MIT OR Apache-2.0
//! Payloads which are encoded once, for the disk and for a backup: where both
//! write the same of a page, the second takes it from the first and gives it a
//! head of its own.

use std::sync::{Mutex, PoisonError};

use super::format::{Codec, RecordHeader, RecordKind};

/// What a record says of its page.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) kind: RecordKind,
    pub(crate) codec: Codec,
    /// Nothing if it is the page itself.
    payload: Box<[u8]>,
    /// Checksum of the page as it comes out.
    pub(crate) content: u32,
    /// It was chosen among differences to the page before, too.
    difference: bool,
    /// By a store which may compress otherwise.
    foreign: bool,
}

impl Encoded {
    pub(crate) fn new(header: &RecordHeader, payload: &[u8], difference: bool) -> Self {
        let raw = header.codec == Codec::Raw;
        Self {
            kind: header.kind,
            codec: header.codec,
            payload: if raw { Box::default() } else { payload.into() },
            content: header.content,
            difference,
            foreign: false,
        }
    }

    /// As it came from another store.
    pub(crate) fn received(header: &RecordHeader, payload: &[u8]) -> Self {
        Self {
            foreign: true,
            ..Self::new(header, payload, header.kind != RecordKind::Whole)
        }
    }

    /// The payload; `page` is the page itself.
    pub(crate) fn payload<'p>(&'p self, page: &'p [u8]) -> &'p [u8] {
        if self.codec == Codec::Raw {
            page
        } else {
            &self.payload
        }
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Held(Encoded),
    /// Both had it.
    Done,
}

/// Between the two who encode a page.
#[derive(Debug, Default)]
pub struct Handover(Mutex<State>);

impl Handover {
    pub(crate) fn holding(encoded: Encoded) -> Self {
        Self(Mutex::new(State::Held(encoded)))
    }

    /// What the other one made, if this one may make the same: `difference`, if
    /// he may choose one; `own`: whether he would use a codec for so many bytes.
    pub(crate) fn take(
        &self,
        difference: bool,
        own: impl FnOnce(Codec, usize) -> bool,
    ) -> Option<Encoded> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Empty = *state {
            return None;
        }
        match core::mem::replace(&mut *state, State::Done) {
            State::Held(encoded) if encoded.difference == difference => Some(encoded),
            _ => None,
        }
        .filter(|it| !it.foreign || own(it.codec, it.payload.len()))
    }

    /// For the other one, unless he had his turn.
    pub(crate) fn put(&self, encoded: impl FnOnce() -> Encoded) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Empty = *state {
            *state = State::Held(encoded());
        }
    }
}

/// Of a copy nobody else has the other end.
impl Clone for Handover {
    fn clone(&self) -> Self {
        Self::default()
    }
}
