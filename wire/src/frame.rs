// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames, which all protocols here share: a length, a version and a type in
//! front of a body. The length is checked before anything is allocated.

use std::io::{self, Read};

/// Octets in front of every body: its length (4), version (2), type (2),
/// little-endian.
pub const HEADER: usize = 8;

/// What is wrong with a frame, or what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than any frame of the protocol.
    #[error("frame too long")]
    TooLong,
    /// The body's length is not one its type has.
    #[error("body of the wrong length")]
    Length,
    /// Not a version of this protocol.
    #[error("unknown protocol version")]
    Version,
    /// A type which does not exist, or not here.
    #[error("unexpected frame type")]
    Type,
    /// Reserved bits are set, or a field is outside its range.
    #[error("field out of range")]
    Field,
    /// A page record is not one, or is damaged.
    #[error("malformed page record")]
    Record,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl FrameError {
    /// What [`Frames::read`] found wrong, if it was not the reader itself.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// The frames of one protocol.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    /// In every header.
    pub version: u16,
    /// Longest body, in octets.
    pub body_max: usize,
}

impl Frames {
    /// Reads one frame into `body`, which never grows over
    /// [`Self::body_max`]; its type.
    ///
    /// # Errors
    /// The reader's own, or `InvalidData` holding a [`FrameError`].
    pub fn read(&self, from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<u16> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let [l0, l1, l2, l3, v0, v1, k0, k1] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.body_max {
            return Err(FrameError::TooLong.into());
        }
        if u16::from_le_bytes([v0, v1]) != self.version {
            return Err(FrameError::Version.into());
        }
        body.resize(length, 0);
        from.read_exact(body)?;
        Ok(u16::from_le_bytes([k0, k1]))
    }

    /// Appends a frame with the body which `fill` appends.
    pub fn write(&self, out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend([0; HEADER]);
        fill(out);
        let length = out.len() - start - HEADER;
        debug_assert!(length <= self.body_max, "every caller's is bounded");
        // The reader refuses what is too long.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + 6].copy_from_slice(&self.version.to_le_bytes());
        out[start + 6..start + HEADER].copy_from_slice(&kind.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: Frames = Frames {
        version: 3,
        body_max: 4,
    };

    #[test]
    fn frames_come_back_one_after_the_other() {
        let mut bytes = Vec::new();
        FRAMES.write(&mut bytes, 5, |out| out.extend(b"four"));
        FRAMES.write(&mut bytes, 6, |_| {});
        assert_eq!(bytes[..HEADER], [4, 0, 0, 0, 3, 0, 5, 0]);
        let (mut from, mut body) = (&bytes[..], Vec::new());
        assert_eq!(FRAMES.read(&mut from, &mut body).unwrap(), 5);
        assert_eq!(body, b"four");
        assert_eq!(FRAMES.read(&mut from, &mut body).unwrap(), 6);
        assert!(body.is_empty() && from.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_before_memory_is_taken() {
        let read = |header: [u8; HEADER]| {
            let mut body = Vec::new();
            let error = FRAMES.read(&mut &header[..], &mut body).unwrap_err();
            assert_eq!(
                body.capacity() > 0,
                error.kind() == io::ErrorKind::UnexpectedEof
            );
            FrameError::of(&error)
        };
        assert_eq!(read([5, 0, 0, 0, 3, 0, 1, 0]), Some(FrameError::TooLong));
        assert_eq!(
            read([255, 255, 255, 255, 3, 0, 1, 0]),
            Some(FrameError::TooLong)
        );
        assert_eq!(read([4, 0, 0, 0, 4, 0, 1, 0]), Some(FrameError::Version));
        assert_eq!(read([4, 0, 0, 0, 3, 0, 1, 0]), None, "cut short");
    }
}
