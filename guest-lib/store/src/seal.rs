// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sealing: authenticated encryption of what an image holds.
//!
//! Every image has a key of its own, derived from the store's key, the
//! store's id, the image's number and a random salt in its header.  Under it
//! AES-256-GCM-SIV (RFC 8452) with the kind and the offset of an object as
//! nonce: nothing is written twice at an offset, so none repeats; and were it
//! to, as when a whole machine is put back to an older state and goes on,
//! this cipher would show no more than that two objects are the same.

use core::fmt;

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use zeroize::Zeroizing;

use super::format::{put, u32_at};
use super::key::StoreKey;

/// Bytes in front of a sealed object: checksum and size of the rest.
const HEAD: usize = 8;
const TAG: usize = 16;
/// Bytes which sealing adds.
pub(crate) const SEALED: usize = HEAD + TAG;
/// Bytes of the salt of an image.
pub(crate) const SALT: usize = 16;

/// What a nonce is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object {
    ImageHeader = 1,
    FrameHeader = 2,
    Record = 3,
    Node = 4,
    Areas = 5,
}

/// Why an object does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The checksum is wrong: an accident.
    Damaged,
    /// The checksum is right, the authentication is not: somebody's work.
    Forged,
}

/// The cipher of one image.
#[derive(Clone)]
pub(crate) struct Seal(Aes256GcmSiv);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

fn nonce(object: Object, offset: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = object as u8;
    nonce[4..].copy_from_slice(&offset.to_le_bytes());
    nonce.into()
}

impl Seal {
    pub(crate) fn new(key: &StoreKey, store: &[u8; 16], image: u64, salt: &[u8; SALT]) -> Self {
        let mut derived = Zeroizing::new([0; 32]);
        let info = [b"hvckpt image".as_slice(), store, &image.to_le_bytes()];
        key.derive(salt, &info, &mut derived[..]);
        Self(Aes256GcmSiv::new((&*derived).into()))
    }

    /// Authenticates bytes which stay readable.
    pub(crate) fn tag(&self, object: Object, offset: u64, bytes: &[u8]) -> [u8; TAG] {
        let none: &mut [u8] = &mut [];
        let tag = self
            .0
            .encrypt_inout_detached(&nonce(object, offset), bytes, none.into());
        tag.expect("shorter than what the cipher takes").into()
    }

    /// Whether the tag is that of the bytes.
    pub(crate) fn authentic(
        &self,
        object: Object,
        offset: u64,
        bytes: &[u8],
        tag: [u8; TAG],
    ) -> bool {
        let none: &mut [u8] = &mut [];
        let tag = Tag::from(tag);
        let nonce = nonce(object, offset);
        self.0
            .decrypt_inout_detached(&nonce, bytes, none.into(), &tag)
            .is_ok()
    }

    /// Seals what was appended to `out` from `start` on, which is to lie at
    /// the offset.
    pub(crate) fn seal(&self, object: Object, offset: u64, out: &mut Vec<u8>, start: usize) {
        let plain = out.len() - start;
        out.resize(out.len() + SEALED, 0);
        out.copy_within(start..start + plain, start + HEAD);
        let (text, tag) = out[start + HEAD..].split_at_mut(plain);
        let sealed = self
            .0
            .encrypt_inout_detached(&nonce(object, offset), &[], text.into());
        tag.copy_from_slice(&sealed.expect("shorter than what the cipher takes"));
        let envelope = &mut out[start..];
        // Objects are below 128 KiB.
        let bytes = u32::try_from(plain).unwrap_or(u32::MAX);
        put(envelope, 4, &bytes.to_le_bytes());
        let crc = crc32c::crc32c(&envelope[4..]);
        put(envelope, 0, &crc.to_le_bytes());
    }

    /// Opens the object at the beginning of the bytes.
    pub(crate) fn open(&self, object: Object, offset: u64, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let plain = u32_at(bytes, 4) as usize;
        let envelope = bytes
            .get(..plain.saturating_add(SEALED))
            .ok_or(Fault::Damaged)?;
        if u32_at(envelope, 0) != crc32c::crc32c(&envelope[4..]) {
            return Err(Fault::Damaged);
        }
        let (text, tag) = envelope[HEAD..].split_at(plain);
        let mut text = text.to_vec();
        let tag = Tag::try_from(tag).map_err(|_| Fault::Damaged)?;
        self.0
            .decrypt_inout_detached(
                &nonce(object, offset),
                &[],
                text.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| Fault::Forged)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(store: u8, image: u64, salt: u8) -> Seal {
        let key = StoreKey::new(Zeroizing::new([7; 32]));
        Seal::new(&key, &[store; 16], image, &[salt; SALT])
    }

    #[test]
    fn an_object_opens_only_where_it_was_sealed() {
        let one = seal(1, 2, 3);
        let mut bytes = vec![9; 5];
        bytes.extend(b"some plain text.");
        one.seal(Object::Record, 4096, &mut bytes, 5);
        let envelope = &bytes[5..];
        assert_eq!(envelope.len(), 16 + SEALED);
        assert_eq!(
            one.open(Object::Record, 4096, envelope).unwrap(),
            b"some plain text."
        );
        let elsewhere = [
            one.open(Object::Node, 4096, envelope),
            one.open(Object::Record, 4104, envelope),
            seal(2, 2, 3).open(Object::Record, 4096, envelope),
            seal(1, 3, 3).open(Object::Record, 4096, envelope),
            seal(1, 2, 4).open(Object::Record, 4096, envelope),
        ];
        for opened in elsewhere {
            assert_eq!(opened, Err(Fault::Forged));
        }
        for at in 0..envelope.len() {
            let mut bad = envelope.to_vec();
            bad[at] ^= 1;
            assert_eq!(one.open(Object::Record, 4096, &bad), Err(Fault::Damaged));
            let crc = crc32c::crc32c(&bad[4..]);
            put(&mut bad, 0, &crc.to_le_bytes());
            if at >= 8 {
                assert_eq!(one.open(Object::Record, 4096, &bad), Err(Fault::Forged));
            }
            assert!(one.open(Object::Record, 4096, &envelope[..at]).is_err());
        }
    }

    #[test]
    fn tags_belong_to_bytes_and_place() {
        let one = seal(1, 2, 3);
        let tag = one.tag(Object::FrameHeader, 128, b"head");
        assert!(one.authentic(Object::FrameHeader, 128, b"head", tag));
        assert!(!one.authentic(Object::FrameHeader, 136, b"head", tag));
        assert!(!one.authentic(Object::FrameHeader, 128, b"heat", tag));
        assert!(!seal(1, 2, 4).authentic(Object::FrameHeader, 128, b"head", tag));
    }
}
