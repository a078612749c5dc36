// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a primary must remember: the epoch it was granted, and that its time
//! is over because another instance took over.  One file beside the images.

use super::backend::Backend;
use super::error::{Damage, DamageKind, StoreError, io as io_error};

pub(crate) const FILE: &str = "replica";
const MAGIC: [u8; 8] = *b"hvckrep\0";
const BYTES: usize = 32;

/// Epoch granted, and the epoch by which this store is fenced; zero for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Epoch {
    pub(crate) epoch: u64,
    pub(crate) fenced: u64,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    u64::from_le_bytes(part.unwrap_or([0; 8]))
}

/// Reads it; nothing is as good as zeros.
///
/// # Errors
/// It is there and cannot be read, or is damaged: who ignored that might go on
/// when its time is over.
pub(crate) fn read(backend: &dyn Backend) -> Result<Epoch, StoreError> {
    let file = match backend.open(FILE, false) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Epoch::default()),
        other => other.map_err(|error| io_error("open", FILE, error))?,
    };
    let mut bytes = [0; BYTES + 1];
    let got = file
        .read_at(&mut bytes, 0)
        .map_err(|error| io_error("read", FILE, error))?;
    let crc = crc32c::crc32c(&bytes[..BYTES - 4]).to_le_bytes();
    if got != BYTES || bytes[..8] != MAGIC || bytes[BYTES - 4..BYTES] != crc {
        return Err(Damage::new(FILE, 0, DamageKind::Epoch).into());
    }
    Ok(Epoch {
        epoch: number(&bytes, 8),
        fenced: number(&bytes, 16),
    })
}

/// The epoch of a store which may be written.
///
/// # Errors
/// Its time is over; or as of [`read`].
pub(crate) fn unfenced(backend: &dyn Backend) -> Result<u64, StoreError> {
    match read(backend)? {
        Epoch { fenced: 0, epoch } => Ok(epoch),
        Epoch { fenced: epoch, .. } => Err(StoreError::Fenced { epoch }),
    }
}

/// Replaces it durably.  What is zero stays as it is.
///
/// # Errors
/// It is as it was, or as it shall be.
pub fn write(backend: &dyn Backend, epoch: u64, fenced: u64) -> Result<(), StoreError> {
    let old = read(backend)?;
    let keep = |new: u64, old: u64| if new == 0 { old } else { new };
    let (epoch, fenced) = (keep(epoch, old.epoch), keep(fenced, old.fenced));
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    bytes[16..24].copy_from_slice(&fenced.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..BYTES - 4]);
    bytes[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    let temporary = "replica.tmp";
    let replace = || {
        match backend.remove(temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = backend.create(temporary)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        backend.rename(temporary, FILE)?;
        backend.sync_names()
    };
    replace().map_err(|error| {
        let _leftover = backend.remove(temporary);
        io_error("write", FILE, error)
    })
}
