// SPDX-License-Identifier: MIT OR Apache-2.0
//! The headers of images and of frames.

use super::{
    CHAINED, Chain, FORMAT, FRAME_HEADER, IMAGE_HEADER, OLD_IMAGE_HEADER, Place, part, put, u32_at,
    u64_at,
};
use crate::error::{DamageKind, StoreError, damage};
use crate::key::{KeyId, StoreKey, StoreKeyError};
use crate::seal::{Object, SALT, Seal};

const MAGIC: [u8; 8] = *b"hvckimg\0";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HVTX");

/// Everything but the headers is sealed.
const SEALED: u64 = 1;
/// There may be records of words.
const WORDS: u64 = 2;
/// There may be nodes which say what changed since another one.
const DELTAS: u64 = 4;
const KNOWN: u64 = SEALED | WORDS | DELTAS;
/// Where the tags are, in an image's header and in a frame's.
const IMAGE_TAG: usize = 104;
const FRAME_TAG: usize = 80;
/// Where the checksum of an image's header is, in format 3 and before.
const IMAGE_CRC: usize = IMAGE_HEADER - 4;
const OLD_IMAGE_CRC: usize = OLD_IMAGE_HEADER - 4;
/// Where a frame says what it continues, and where its checksum is.
const FRAME_CHAIN: usize = 96;
const FRAME_CRC: usize = FRAME_HEADER - 4;
/// Tells images apart which have the same number.
pub(crate) const IMAGE_ID: usize = SALT;

/// How an image is sealed.
#[derive(Debug, Clone)]
pub(crate) struct Sealing {
    pub(crate) id: KeyId,
    pub(crate) seal: Seal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// Transactions, appended as they are committed.
    Increment,
    /// Written as a whole; refers to no other image.
    Base,
}

/// A place of a history which an image refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    /// The image, zero for none.
    pub(crate) image: u64,
    pub(crate) chain: Chain,
    /// The beginning of the image's id.
    pub(crate) id: [u8; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct ImageHeader {
    pub(crate) format: u32,
    pub(crate) kind: ImageKind,
    pub(crate) store: [u8; 16],
    pub(crate) image: u64,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    /// The image which this one continues, zero for none.
    pub(crate) parent: u64,
    /// How much of the parent counts, in bytes.
    pub(crate) parent_bytes: u64,
    /// Newest version in it which counts.
    pub(crate) parent_version: u64,
    /// What the parent is there.
    pub(crate) parent_chain: Chain,
    /// The beginning of the parent's id.
    pub(crate) parent_id: [u8; 8],
    /// Where else this image refers to; in a base what its newest version is
    /// a copy of.
    pub(crate) also: Link,
    /// No other image has it; the salt of a sealed one.
    pub(crate) id: [u8; IMAGE_ID],
    pub(crate) sealing: Option<Sealing>,
}

impl ImageHeader {
    /// A header of a new image, which continues nothing yet.
    pub(crate) fn fresh(
        kind: ImageKind,
        store: [u8; 16],
        image: u64,
        created: u64,
        key: Option<&StoreKey>,
    ) -> Result<Self, StoreError> {
        let mut id = [0; IMAGE_ID];
        getrandom::fill(&mut id).map_err(StoreKeyError::Random)?;
        let sealing = key.map(|key| Sealing {
            id: key.id(),
            seal: Seal::new(key, &store, image, &id),
        });
        Ok(Self {
            format: FORMAT,
            kind,
            store,
            image,
            created,
            parent: 0,
            parent_bytes: 0,
            parent_version: 0,
            parent_chain: Chain::default(),
            parent_id: [0; 8],
            also: Link::default(),
            id,
            sealing,
        })
    }

    /// Whether it says by hash what it continues.
    pub(crate) fn chained(&self) -> bool {
        self.format >= CHAINED
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_header(self.format)
    }

    pub(crate) fn encode(&self) -> [u8; IMAGE_HEADER] {
        let mut out = [0; IMAGE_HEADER];
        let kind: u32 = match self.kind {
            ImageKind::Increment => 1,
            ImageKind::Base => 2,
        };
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, &FORMAT.to_le_bytes());
        put(&mut out, 12, &kind.to_le_bytes());
        put(&mut out, 16, &self.store);
        put(&mut out, 32, &self.image.to_le_bytes());
        put(&mut out, 40, &self.created.to_le_bytes());
        put(&mut out, 48, &self.parent.to_le_bytes());
        put(&mut out, 56, &self.parent_bytes.to_le_bytes());
        put(&mut out, 64, &self.parent_version.to_le_bytes());
        put(&mut out, 80, &self.id);
        put(&mut out, 120, &self.parent_id);
        put(&mut out, 128, &self.parent_chain.0);
        put(&mut out, 152, &self.also.image.to_le_bytes());
        put(&mut out, 160, &self.also.chain.0);
        put(&mut out, 184, &self.also.id);
        let mut features = WORDS | DELTAS;
        if let Some(sealing) = &self.sealing {
            features |= SEALED;
            put(&mut out, 96, &sealing.id.0);
        }
        put(&mut out, 72, &features.to_le_bytes());
        if let Some(sealing) = &self.sealing {
            let tag = sealing.seal.tag(Object::ImageHeader, 0, &out);
            put(&mut out, IMAGE_TAG, &tag);
        }
        let crc = crc32c::crc32c(&out[..IMAGE_CRC]);
        put(&mut out, IMAGE_CRC, &crc.to_le_bytes());
        out
    }

    /// # Errors
    /// Damage; a format, a feature or a key which is not ours.
    pub(crate) fn decode(
        name: &str,
        bytes: &[u8],
        key: Option<&StoreKey>,
    ) -> Result<Self, StoreError> {
        let bad = || damage(name, 0, DamageKind::ImageHeader);
        if bytes.len() < OLD_IMAGE_HEADER || bytes[..8] != MAGIC {
            return Err(bad());
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            return Err(StoreError::Future {
                name: name.to_owned(),
                format,
            });
        }
        if format == 0 || !checksum_right(bytes, format) {
            return Err(bad());
        }
        let kind = match u32_at(bytes, 12) {
            1 => ImageKind::Increment,
            2 => ImageKind::Base,
            _ => return Err(bad()),
        };
        // Reserved in format 1.
        let features = if format == 1 { 0 } else { u64_at(bytes, 72) };
        if features & !KNOWN != 0 {
            return Err(StoreError::Features {
                name: name.to_owned(),
                features: features & !KNOWN,
            });
        }
        let mut header = Self {
            format,
            kind,
            store: part(bytes, 16),
            image: u64_at(bytes, 32),
            created: u64_at(bytes, 40),
            parent: u64_at(bytes, 48),
            parent_bytes: u64_at(bytes, 56),
            parent_version: u64_at(bytes, 64),
            parent_chain: Chain::default(),
            parent_id: [0; 8],
            also: Link::default(),
            id: part(bytes, 80),
            sealing: None,
        };
        if header.chained() {
            header.parent_id = part(bytes, 120);
            header.parent_chain = Chain(part(bytes, 128));
            header.also = Link {
                image: u64_at(bytes, 152),
                chain: Chain(part(bytes, 160)),
                id: part(bytes, 184),
            };
        }
        // An image continues an older one or none: what it says about a younger
        // one would cut commits off which are yet to come.
        let base = header.kind == ImageKind::Base;
        if header.parent >= header.image
            || header.also.image >= header.image
            || (base && header.parent != 0)
        {
            return Err(bad());
        }
        if features & SEALED != 0 {
            header.sealing = Some(header.unseal(name, bytes, key)?);
        } else if key.is_some() {
            return Err(StoreError::NotEncrypted(name.to_owned()));
        }
        Ok(header)
    }

    /// Whether a header of a format which is unknown is one of a known format
    /// whose number is damaged.
    pub(crate) fn mangled(bytes: &[u8]) -> bool {
        (1..=FORMAT).any(|format| {
            let mut bytes = bytes.to_vec();
            bytes.len() >= OLD_IMAGE_HEADER && {
                put(&mut bytes, 8, &format.to_le_bytes());
                checksum_right(&bytes, format)
            }
        })
    }

    fn unseal(
        &self,
        name: &str,
        bytes: &[u8],
        key: Option<&StoreKey>,
    ) -> Result<Sealing, StoreError> {
        let id = KeyId(part(bytes, 96));
        let name = || name.to_owned();
        let key = key.ok_or_else(|| StoreError::KeyNeeded { name: name(), id })?;
        if key.id() != id {
            return Err(StoreError::WrongKey {
                name: name(),
                id,
                given: key.id(),
            });
        }
        let seal = Seal::new(key, &self.store, self.image, &self.id);
        let mut signed: [u8; IMAGE_HEADER] = part(bytes, 0);
        signed[IMAGE_TAG..IMAGE_TAG + 16].fill(0);
        let signed = if self.chained() {
            signed[IMAGE_CRC..].fill(0);
            &signed[..]
        } else {
            signed[OLD_IMAGE_CRC..].fill(0);
            &signed[..OLD_IMAGE_HEADER]
        };
        if !seal.authentic(Object::ImageHeader, 0, signed, part(bytes, IMAGE_TAG)) {
            return Err(damage(&name(), 0, DamageKind::Forged));
        }
        Ok(Sealing { id, seal })
    }
}

/// Bytes of the header of an image.
fn size_of_header(format: u32) -> usize {
    if format >= CHAINED {
        IMAGE_HEADER
    } else {
        OLD_IMAGE_HEADER
    }
}

fn checksum_right(bytes: &[u8], format: u32) -> bool {
    let crc = size_of_header(format) - 4;
    bytes.len() >= crc + 4 && u32_at(bytes, crc) == crc32c::crc32c(&bytes[..crc])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) image: u64,
    pub(crate) version: u64,
    pub(crate) previous: u64,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// Newest version which was on stable storage when this was written.
    pub(crate) synced: u64,
    /// Lowest image which this version needs.
    pub(crate) floor: u64,
    /// Bytes after this header.
    pub(crate) body: u64,
    pub(crate) records: u32,
    pub(crate) nodes: u32,
    /// Where the table of areas is, in bytes after the header.
    pub(crate) areas: u64,
    pub(crate) body_crc: u32,
    /// What this frame continues; zeros before format 3.
    pub(crate) chain: Chain,
}

impl FrameHeader {
    /// The header of a frame at an offset.
    pub(crate) fn encode(&self, seal: Option<&Seal>, offset: u64) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        put(&mut out, 0, &FRAME_MAGIC.to_le_bytes());
        let numbers = [
            self.image,
            self.version,
            self.previous,
            self.time,
            self.synced,
            self.floor,
            self.body,
            self.areas,
        ];
        for (n, number) in numbers.into_iter().enumerate() {
            put(&mut out, 8 + 8 * n, &number.to_le_bytes());
        }
        put(&mut out, 72, &self.records.to_le_bytes());
        put(&mut out, 76, &self.nodes.to_le_bytes());
        put(&mut out, FRAME_CHAIN, &self.chain.0);
        put(&mut out, 120, &self.body_crc.to_le_bytes());
        if let Some(seal) = seal {
            let tag = seal.tag(Object::FrameHeader, offset, &out);
            put(&mut out, FRAME_TAG, &tag);
        }
        let crc = crc32c::crc32c(&out[..FRAME_CRC]);
        put(&mut out, FRAME_CRC, &crc.to_le_bytes());
        out
    }

    /// `None` if this is no header, or not an authentic one.
    pub(crate) fn decode(bytes: &[u8], seal: Option<&Seal>, offset: u64) -> Option<Self> {
        let good = bytes.len() >= FRAME_HEADER
            && u32_at(bytes, 0) == FRAME_MAGIC
            && u32_at(bytes, FRAME_CRC) == crc32c::crc32c(&bytes[..FRAME_CRC]);
        let number = |n: usize| u64_at(bytes, 8 + 8 * n);
        let header = good.then(|| Self {
            image: number(0),
            version: number(1),
            previous: number(2),
            time: number(3),
            synced: number(4),
            floor: number(5),
            body: number(6),
            areas: number(7),
            records: u32_at(bytes, 72),
            nodes: u32_at(bytes, 76),
            body_crc: u32_at(bytes, 120),
            chain: Chain(part(bytes, FRAME_CHAIN)),
        })?;
        let sane = header.body <= Place::MAX_OFFSET
            && header.body % 8 == 0
            && header.areas % 8 == 0
            && header.areas < header.body;
        let authentic = |seal: &Seal| {
            let mut signed: [u8; FRAME_HEADER] = part(bytes, 0);
            signed[FRAME_TAG..FRAME_TAG + 16].fill(0);
            signed[FRAME_CRC..].fill(0);
            seal.authentic(Object::FrameHeader, offset, &signed, part(bytes, FRAME_TAG))
        };
        (sane && seal.is_none_or(authentic)).then_some(header)
    }
}
