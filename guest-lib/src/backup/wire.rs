// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames between a primary and its backup; see `docs/spec-backup.md`.
//!
//! Every field is checked: what decodes is within the limits below.

use std::io::{self, Read};

pub use hvckpt_wire::frame::FrameError as WireError;
use hvckpt_wire::frame::Frames;

pub(crate) use hvckpt_store::follow::{Reason, Refusal};
use hvckpt_store::parts::AreaShape;
use hvckpt_sys::PAGE_SIZE;

/// Name of the protocol in the handshake, and so its version.
pub(crate) const ALPN: &[u8] = b"hvckpt-backup/1";

const FRAMES: Frames = Frames {
    version: 1,
    body_max: 512 << 10,
};
/// Records are sent in frames of about this many bytes.
pub(crate) const PAGES_TARGET: usize = 128 << 10;
/// Pages at most which a group of versions may have.
pub(crate) const GROUP_PAGES: usize = 2048;
/// Versions at most in a group.
pub(crate) const GROUP_VERSIONS: usize = 1024;

const AREAS_MAX: usize = 1024;
const AREA: usize = 64;
const NAME: usize = 48;

const HELLO: u16 = 1;
const WELCOME: u16 = 2;
const REFUSAL: u16 = 3;
const BEGIN: u16 = 4;
const PAGES: u16 = 5;
const END: u16 = 6;
const SYNC: u16 = 7;
const ACK: u16 = 8;

const FLAG_BASE: u32 = 1;
const FLAG_AREAS: u32 = 2;
const FLAG_BULK: u32 = 4;

/// In the order of their codes, from 1 on.
const REASONS: [Reason; 12] = [
    Reason::Malformed,
    Reason::UnknownKey,
    Reason::Stale,
    Reason::Promoted,
    Reason::OtherStore,
    Reason::Ahead,
    Reason::Mismatch,
    Reason::Gap,
    Reason::Full,
    Reason::Damaged,
    Reason::Unavailable,
    Reason::Replaced,
];

fn code(reason: Reason) -> u16 {
    if let Reason::Other(code) = reason {
        return code;
    }
    let at = REASONS.iter().position(|known| *known == reason);
    at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
}

fn reason(code: u16) -> Reason {
    let at = usize::from(code).wrapping_sub(1);
    REASONS.get(at).copied().unwrap_or(Reason::Other(code))
}

/// What a version is, before its pages come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) version: u64,
    /// The version it follows.
    pub(crate) previous: u64,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// It is complete in itself: pages which are not sent are zero.
    pub(crate) base: bool,
    /// It may be larger than a group, and has whole pages only.
    pub(crate) bulk: bool,
    /// All areas, if they may have changed.
    pub(crate) areas: Option<Vec<AreaShape>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Hello {
        store: [u8; 16],
        epoch: u64,
        newest: u64,
    },
    Welcome {
        epoch: u64,
        have: u64,
        time: u64,
    },
    Refusal(Refusal),
    Begin(Begin),
    /// Page records, one after the other.
    Pages(Vec<u8>),
    End {
        version: u64,
        pages: u64,
    },
    /// Make all versions so far durable and say so.
    Sync {
        newest: u64,
    },
    Ack {
        version: u64,
    },
}

fn u16_at(body: &[u8], at: usize) -> u16 {
    let part = body.get(at..at + 2).and_then(|part| part.try_into().ok());
    u16::from_le_bytes(part.unwrap_or([0; 2]))
}

fn u32_at(body: &[u8], at: usize) -> u32 {
    let part = body.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_le_bytes(part.unwrap_or([0; 4]))
}

fn u64_at(body: &[u8], at: usize) -> u64 {
    let part = body.get(at..at + 8).and_then(|part| part.try_into().ok());
    u64::from_le_bytes(part.unwrap_or([0; 8]))
}

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend(number.to_le_bytes());
    }
}

impl Message {
    /// Appends the frame.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello {
                store,
                epoch,
                newest,
            } => FRAMES.write(out, HELLO, |out| {
                out.extend(store);
                numbers(out, &[*epoch, *newest]);
            }),
            Self::Welcome { epoch, have, time } => {
                FRAMES.write(out, WELCOME, |out| numbers(out, &[*epoch, *have, *time]));
            }
            Self::Refusal(refusal) => FRAMES.write(out, REFUSAL, |out| {
                let length = u16::try_from(refusal.text.len()).unwrap_or(0);
                out.extend(code(refusal.reason).to_le_bytes());
                out.extend(length.to_le_bytes());
                out.extend([0; 4]);
                numbers(out, &[refusal.epoch, refusal.version]);
                out.extend(refusal.text.as_bytes());
            }),
            Self::Begin(begin) => FRAMES.write(out, BEGIN, |out| begin.encode(out)),
            Self::Pages(records) => FRAMES.write(out, PAGES, |out| out.extend(records)),
            Self::End { version, pages } => {
                FRAMES.write(out, END, |out| numbers(out, &[*version, *pages]));
            }
            Self::Sync { newest } => FRAMES.write(out, SYNC, |out| numbers(out, &[*newest])),
            Self::Ack { version } => FRAMES.write(out, ACK, |out| numbers(out, &[*version])),
        }
    }

    /// Reads a body of the type.
    pub(crate) fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let exactly = |length: usize| (body.len() == length).then_some(());
        let number = |n: usize| u64_at(body, 8 * n);
        match kind {
            HELLO => {
                exactly(32).ok_or(WireError::Length)?;
                let mut store = [0; 16];
                store.copy_from_slice(&body[..16]);
                Ok(Self::Hello {
                    store,
                    epoch: number(2),
                    newest: number(3),
                })
            }
            WELCOME => {
                exactly(24).ok_or(WireError::Length)?;
                Ok(Self::Welcome {
                    epoch: number(0),
                    have: number(1),
                    time: number(2),
                })
            }
            REFUSAL => refusal(body).map(Self::Refusal),
            BEGIN => Begin::decode(body).map(Self::Begin),
            PAGES if body.is_empty() || !body.len().is_multiple_of(8) => Err(WireError::Length),
            PAGES => Ok(Self::Pages(body.to_vec())),
            END => {
                exactly(16).ok_or(WireError::Length)?;
                Ok(Self::End {
                    version: number(0),
                    pages: number(1),
                })
            }
            SYNC | ACK => {
                exactly(8).ok_or(WireError::Length)?;
                Ok(if kind == SYNC {
                    Self::Sync { newest: number(0) }
                } else {
                    Self::Ack { version: number(0) }
                })
            }
            _ => Err(WireError::Type),
        }
    }
}

fn refusal(body: &[u8]) -> Result<Refusal, WireError> {
    let length = usize::from(u16_at(body, 2));
    if body.len() < 24 || length > Refusal::TEXT_MAX || body.len() != 24 + length {
        return Err(WireError::Length);
    }
    if u32_at(body, 4) != 0 {
        return Err(WireError::Field);
    }
    // It ends up in logs and on terminals.
    let text = String::from_utf8_lossy(&body[24..]).replace(char::is_control, " ");
    let mut refusal = Refusal::new(reason(u16_at(body, 0)), text);
    refusal.epoch = u64_at(body, 8);
    refusal.version = u64_at(body, 16);
    Ok(refusal)
}

impl Begin {
    fn encode(&self, out: &mut Vec<u8>) {
        let areas = self.areas.as_deref().unwrap_or_default();
        let mut flags = 0;
        for (set, flag) in [
            (self.base, FLAG_BASE),
            (self.areas.is_some(), FLAG_AREAS),
            (self.bulk, FLAG_BULK),
        ] {
            flags |= if set { flag } else { 0 };
        }
        numbers(out, &[self.version, self.previous, self.time]);
        out.extend(flags.to_le_bytes());
        out.extend(u32::try_from(areas.len()).unwrap_or(0).to_le_bytes());
        for area in areas {
            let mut name = [0; NAME];
            let bytes = area.name.as_bytes();
            name[..bytes.len().min(NAME)].copy_from_slice(&bytes[..bytes.len().min(NAME)]);
            out.extend(name);
            numbers(out, &[area.address, area.pages]);
        }
    }

    fn decode(body: &[u8]) -> Result<Self, WireError> {
        let count = u32_at(body, 28) as usize;
        if body.len() < 32 || count > AREAS_MAX || body.len() != 32 + count * AREA {
            return Err(WireError::Length);
        }
        let flags = u32_at(body, 24);
        let (version, previous) = (u64_at(body, 0), u64_at(body, 8));
        let base = flags & FLAG_BASE != 0;
        let listed = flags & FLAG_AREAS != 0;
        let sane = flags & !(FLAG_BASE | FLAG_AREAS | FLAG_BULK) == 0
            && (listed || (!base && count == 0))
            && version > previous;
        if !sane {
            return Err(WireError::Field);
        }
        let area = |entry: &[u8]| {
            let end = entry[..NAME].iter().position(|&b| b == 0).unwrap_or(NAME);
            let name = core::str::from_utf8(&entry[..end]).ok()?;
            let padded = entry[end..NAME].iter().all(|&b| b == 0);
            let (address, pages) = (u64_at(entry, NAME), u64_at(entry, NAME + 8));
            let page = PAGE_SIZE as u64;
            let top = pages.checked_mul(page)?.checked_add(address)?;
            let sane = padded && !name.is_empty() && pages > 0;
            (sane && address.is_multiple_of(page) && top <= 1 << 47).then(|| AreaShape {
                name: name.to_owned(),
                address,
                pages,
            })
        };
        let areas: Option<Vec<_>> = body[32..].chunks_exact(AREA).map(area).collect();
        let areas = areas.ok_or(WireError::Field)?;
        Ok(Self {
            version,
            previous,
            time: u64_at(body, 16),
            base,
            bulk: flags & FLAG_BULK != 0,
            areas: listed.then_some(areas),
        })
    }
}

/// Reads one frame.  `body` is scratch, and never grows over the longest one.
pub(crate) fn read(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Message> {
    let kind = FRAMES.read(from, body)?;
    Ok(Message::decode(kind, body)?)
}

#[cfg(test)]
mod tests;
