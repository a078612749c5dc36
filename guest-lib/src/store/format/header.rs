//! The headers of images and of frames.

use super::{FORMAT, FRAME_HEADER, IMAGE_HEADER, Place, part, put, u32_at, u64_at};
use crate::store::error::{DamageKind, StoreError, damage};
use crate::store::key::{KeyId, StoreKey, StoreKeyError};
use crate::store::seal::{Object, SALT, Seal};

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

/// How an image is sealed.
#[derive(Debug, Clone)]
pub(crate) struct Sealing {
    pub(crate) salt: [u8; SALT],
    pub(crate) id: KeyId,
    pub(crate) seal: Seal,
}

impl Sealing {
    /// A cipher of its own for a new image; none without a key.
    pub(crate) fn fresh(
        key: Option<&StoreKey>,
        store: &[u8; 16],
        image: u64,
    ) -> Result<Option<Self>, StoreError> {
        let Some(key) = key else {
            return Ok(None);
        };
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(StoreKeyError::Random)?;
        let seal = Seal::new(key, store, image, &salt);
        let id = key.id();
        Ok(Some(Self { salt, id, seal }))
    }
}

impl PartialEq for Sealing {
    fn eq(&self, other: &Self) -> bool {
        (self.salt, self.id) == (other.salt, other.id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// Transactions, appended as they are committed.
    Increment,
    /// Written as a whole; refers to no other image.
    Base,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ImageHeader {
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
    pub(crate) sealing: Option<Sealing>,
}

impl ImageHeader {
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
        let mut features = WORDS | DELTAS;
        if let Some(sealing) = &self.sealing {
            features |= SEALED;
            put(&mut out, 80, &sealing.salt);
            put(&mut out, 96, &sealing.id.0);
        }
        put(&mut out, 72, &features.to_le_bytes());
        if let Some(sealing) = &self.sealing {
            let tag = sealing.seal.tag(Object::ImageHeader, 0, &out);
            put(&mut out, IMAGE_TAG, &tag);
        }
        let crc = crc32c::crc32c(&out[..124]);
        put(&mut out, 124, &crc.to_le_bytes());
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
        if bytes.len() < IMAGE_HEADER || bytes[..8] != MAGIC {
            return Err(bad());
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            return Err(StoreError::Future {
                name: name.to_owned(),
                format,
            });
        }
        if format == 0 || u32_at(bytes, 124) != crc32c::crc32c(&bytes[..124]) {
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
            kind,
            store: part(bytes, 16),
            image: u64_at(bytes, 32),
            created: u64_at(bytes, 40),
            parent: u64_at(bytes, 48),
            parent_bytes: u64_at(bytes, 56),
            parent_version: u64_at(bytes, 64),
            sealing: None,
        };
        if features & SEALED != 0 {
            header.sealing = Some(header.unseal(name, bytes, key)?);
        } else if key.is_some() {
            return Err(StoreError::NotEncrypted(name.to_owned()));
        }
        Ok(header)
    }

    fn unseal(
        &self,
        name: &str,
        bytes: &[u8],
        key: Option<&StoreKey>,
    ) -> Result<Sealing, StoreError> {
        let (salt, id) = (part(bytes, 80), KeyId(part(bytes, 96)));
        let name = || name.to_owned();
        let key = key.ok_or_else(|| StoreError::KeyNeeded { name: name(), id })?;
        if key.id() != id {
            return Err(StoreError::WrongKey {
                name: name(),
                id,
                given: key.id(),
            });
        }
        let seal = Seal::new(key, &self.store, self.image, &salt);
        let mut signed: [u8; IMAGE_HEADER] = part(bytes, 0);
        signed[IMAGE_TAG..].fill(0);
        if !seal.authentic(Object::ImageHeader, 0, &signed, part(bytes, IMAGE_TAG)) {
            return Err(damage(&name(), 0, DamageKind::Forged));
        }
        Ok(Sealing { salt, id, seal })
    }
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
        put(&mut out, 120, &self.body_crc.to_le_bytes());
        if let Some(seal) = seal {
            let tag = seal.tag(Object::FrameHeader, offset, &out);
            put(&mut out, FRAME_TAG, &tag);
        }
        let crc = crc32c::crc32c(&out[..124]);
        put(&mut out, 124, &crc.to_le_bytes());
        out
    }

    /// `None` if this is no header, or not an authentic one.
    pub(crate) fn decode(bytes: &[u8], seal: Option<&Seal>, offset: u64) -> Option<Self> {
        let good = bytes.len() >= FRAME_HEADER
            && u32_at(bytes, 0) == FRAME_MAGIC
            && u32_at(bytes, 124) == crc32c::crc32c(&bytes[..124]);
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
        })?;
        let sane = header.body <= Place::MAX_OFFSET
            && header.body % 8 == 0
            && header.areas % 8 == 0
            && header.areas < header.body;
        let authentic = |seal: &Seal| {
            let mut signed: [u8; FRAME_HEADER] = part(bytes, 0);
            signed[FRAME_TAG..FRAME_TAG + 16].fill(0);
            signed[124..].fill(0);
            seal.authentic(Object::FrameHeader, offset, &signed, part(bytes, FRAME_TAG))
        };
        (sane && seal.is_none_or(authentic)).then_some(header)
    }
}
