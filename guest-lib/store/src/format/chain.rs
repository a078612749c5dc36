// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image or a frame continues, as a hash.

use sha2::{Digest, Sha256};

/// Bytes of a chain.
const BYTES: usize = 24;

/// Stands for everything up to some place of a history: SHA-256, cut to 24
/// bytes, over the header there and the chain before it.  A header has the
/// checksum of its contents, so two histories have no chain in common behind
/// the place where they part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Chain(pub(crate) [u8; BYTES]);

impl Chain {
    fn over(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let mut chain = Self::default();
        chain.0.copy_from_slice(&hash.finalize()[..BYTES]);
        chain
    }

    /// Behind the header of an image, which says what the image continues.
    pub(crate) fn image(header: &[u8]) -> Self {
        Self::over(&[b"hvckpt image", header])
    }

    /// Behind a frame with this header.
    pub(crate) fn then(self, header: &[u8]) -> Self {
        Self::over(&[b"hvckpt frame", &self.0, header])
    }
}
