// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request and an answer are in octets: fixed-width, little-endian. See
//! `docs/spec-wire.md` for the diagrams.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use hvckpt_abi::ModeSet;

use super::reason::{Reason, Refusal, TEXT_MAX, cut};
use crate::frame::{FrameError, Frames, HEADER};

/// Longest body, in octets. Header and body fit in one 4 KiB page.
pub const BODY_MAX: usize = 4096 - HEADER;

/// Protocol version in every header.
pub const VERSION: u16 = 1;

const FRAMES: Frames = Frames {
    version: VERSION,
    body_max: BODY_MAX,
};

const TYPE_REQUEST: u16 = 1;
const TYPE_GRANT: u16 = 2;
const TYPE_REFUSAL: u16 = 3;

const REQUEST: usize = 24;
const GRANT: usize = 64;
const REFUSAL: usize = 8;

/// What an application asks for. The default asks for all its key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// Trackers the application wants at least; refused if the key or the
    /// hypervisor lacks one of them. Empty: whichever there are.
    pub modes: ModeSet,
    /// Pages of 4 KiB it will track at most; 0: as many as the key allows.
    pub max_pages: u64,
    /// Ranges it will register at most; 0: as many as the key allows.
    pub max_ranges: u32,
}

/// A token and what it is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// To be given to `CDA_OP_attach`, once.
    pub token: [u8; 16],
    /// Time until the token expires if unused, from when it was issued.
    pub lifetime: Duration,
    /// Pages of 4 KiB per session; 0: the domain's default.
    pub max_pages: u64,
    /// Ranges per session; 0: the domain's default.
    pub max_ranges: u32,
    /// Live sessions under this key; 0: only the domain's limit.
    pub max_sessions: u32,
    /// Trackers which the key allows and the hypervisor has.
    pub modes: ModeSet,
    /// When the key expires, in seconds since 1970; 0: never.
    pub expires: u64,
    /// The domain which the token is for.
    pub domid: u32,
    /// The key's id, the tag of the session to come.
    pub tag: u64,
}

impl Grant {
    /// A grant with all limits 0, for the daemon and for tests.
    #[must_use]
    pub fn new(token: [u8; 16], lifetime: Duration, domid: u32, tag: u64) -> Self {
        Self {
            token,
            lifetime,
            max_pages: 0,
            max_ranges: 0,
            max_sessions: 0,
            modes: ModeSet::empty(),
            expires: 0,
            domid,
            tag,
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("token", &"..")
            .field("lifetime", &self.lifetime)
            .field("max_pages", &self.max_pages)
            .field("max_ranges", &self.max_ranges)
            .field("max_sessions", &self.max_sessions)
            .field("modes", &self.modes)
            .field("expires", &self.expires)
            .field("domid", &self.domid)
            .field("tag", &format_args!("{:016x}", self.tag))
            .finish()
    }
}

/// What the daemon sends back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Grant(Grant),
    /// No.
    Refusal(Refusal),
}

/// A frame as it was read: type and body, the header checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    kind: u16,
    body: Vec<u8>,
}

/// Reads one frame.
///
/// # Errors
/// The reader's own, or `InvalidData` holding a [`FrameError`]. Nothing is
/// allocated for a length over [`BODY_MAX`].
pub fn read_frame(from: &mut impl Read) -> io::Result<Frame> {
    let mut body = Vec::new();
    let kind = FRAMES.read(from, &mut body)?;
    Ok(Frame { kind, body })
}

/// Little-endian fields one after another; the length is checked beforehand.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .expect("length checked by the caller");
        self.0 = rest;
        *head
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    FRAMES.write(&mut out, kind, |out| out.extend_from_slice(body));
    out
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Request {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(REQUEST);
        body.extend_from_slice(&0u32.to_le_bytes());
        body.extend_from_slice(&self.modes.bits().to_le_bytes());
        body.extend_from_slice(&self.max_pages.to_le_bytes());
        body.extend_from_slice(&self.max_ranges.to_le_bytes());
        body.extend_from_slice(&0u32.to_le_bytes());
        frame(TYPE_REQUEST, &body)
    }

    /// Reads a request out of a frame.
    ///
    /// # Errors
    /// Wrong type or length, reserved bits.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        if frame.kind != TYPE_REQUEST {
            return Err(FrameError::Type);
        }
        if frame.body.len() != REQUEST {
            return Err(FrameError::Length);
        }
        let mut fields = Fields(&frame.body);
        let flags = fields.u32();
        let request = Self {
            modes: ModeSet::from_bits_retain(fields.u32()),
            max_pages: fields.u64(),
            max_ranges: fields.u32(),
        };
        if flags != 0 || fields.u32() != 0 {
            return Err(FrameError::Field);
        }
        Ok(request)
    }
}

impl Answer {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Grant(grant) => {
                let mut body = Vec::with_capacity(GRANT);
                body.extend_from_slice(&grant.token);
                body.extend_from_slice(&millis(grant.lifetime).to_le_bytes());
                body.extend_from_slice(&grant.max_ranges.to_le_bytes());
                body.extend_from_slice(&grant.max_pages.to_le_bytes());
                body.extend_from_slice(&grant.max_sessions.to_le_bytes());
                body.extend_from_slice(&grant.modes.bits().to_le_bytes());
                body.extend_from_slice(&grant.expires.to_le_bytes());
                body.extend_from_slice(&grant.domid.to_le_bytes());
                body.extend_from_slice(&0u32.to_le_bytes());
                body.extend_from_slice(&grant.tag.to_le_bytes());
                frame(TYPE_GRANT, &body)
            }
            Self::Refusal(refusal) => {
                let text = cut(&refusal.text, TEXT_MAX);
                let length = u16::try_from(text.len()).expect("cut above");
                let mut body = Vec::with_capacity(REFUSAL + text.len());
                body.extend_from_slice(&refusal.reason.code().to_le_bytes());
                body.extend_from_slice(&length.to_le_bytes());
                body.extend_from_slice(&millis(refusal.retry_after).to_le_bytes());
                body.extend_from_slice(text.as_bytes());
                frame(TYPE_REFUSAL, &body)
            }
        }
    }

    /// Reads an answer out of a frame.
    ///
    /// # Errors
    /// Wrong type or length, reserved bits, text which is not UTF-8.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        match frame.kind {
            TYPE_GRANT => decode_grant(&frame.body).map(Self::Grant),
            TYPE_REFUSAL => decode_refusal(&frame.body).map(Self::Refusal),
            _ => Err(FrameError::Type),
        }
    }
}

fn decode_grant(body: &[u8]) -> Result<Grant, FrameError> {
    if body.len() != GRANT {
        return Err(FrameError::Length);
    }
    let mut fields = Fields(body);
    let token = fields.take();
    let lifetime = Duration::from_millis(fields.u32().into());
    let mut grant = Grant::new(token, lifetime, 0, 0);
    grant.max_ranges = fields.u32();
    grant.max_pages = fields.u64();
    grant.max_sessions = fields.u32();
    grant.modes = ModeSet::from_bits_retain(fields.u32());
    grant.expires = fields.u64();
    grant.domid = fields.u32();
    let reserved = fields.u32();
    grant.tag = fields.u64();
    if reserved != 0 || lifetime.is_zero() || grant.tag == 0 {
        return Err(FrameError::Field);
    }
    Ok(grant)
}

fn decode_refusal(body: &[u8]) -> Result<Refusal, FrameError> {
    if body.len() < REFUSAL {
        return Err(FrameError::Length);
    }
    let mut fields = Fields(body);
    let reason = Reason::from_code(fields.u16());
    let length = usize::from(fields.u16());
    let retry_after = Duration::from_millis(fields.u32().into());
    let text = fields.0;
    if text.len() != length || length > TEXT_MAX {
        return Err(FrameError::Length);
    }
    let text = std::str::from_utf8(text).map_err(|_| FrameError::Field)?;
    Ok(Refusal {
        retry_after,
        ..Refusal::new(reason, text)
    })
}

#[cfg(test)]
mod tests;
