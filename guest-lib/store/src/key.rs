// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys of stores, and the files which hold them.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use hvckpt_files as files;
use sha2::Sha256;
use zeroize::Zeroizing;

const MAGIC: &str = "hvckpt-store-key 1\n";
const BYTES: usize = 32;
/// Magic, 64 digits, a newline.
const FILE: usize = MAGIC.len() + 2 * BYTES + 1;

/// Tells keys apart without giving anything away: derived from the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreKeyError {
    /// The file cannot be read or made.
    #[error("cannot {what} the key file {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Others than the owner have access to the file.
    #[error("{path} has mode {mode:04o}, so others can use the key: chmod 600 {path}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is something else.
    #[error("{0} is no key of a store (made by hvckpt keygen)")]
    Content(PathBuf),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// The key of an encrypted store.  Wiped when dropped, never printed.
#[derive(Clone)]
pub struct StoreKey {
    secret: Zeroizing<[u8; BYTES]>,
    id: KeyId,
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({}, ..)", self.id)
    }
}

impl StoreKey {
    /// A key of 32 bytes, which must be random: a password is not.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; BYTES]>) -> Self {
        let mut id = [0; 8];
        derive(&*secret, &[], &[b"hvckpt store key id"], &mut id);
        let id = KeyId(id);
        Self { secret, id }
    }

    /// A fresh key.
    ///
    /// # Errors
    /// [`StoreKeyError::Random`].
    pub fn generate() -> Result<Self, StoreKeyError> {
        let mut secret = Zeroizing::new([0; BYTES]);
        getrandom::fill(&mut secret[..]).map_err(StoreKeyError::Random)?;
        Ok(Self::new(secret))
    }

    /// The key in a file, to which only its owner may have access.
    ///
    /// # Errors
    /// See [`StoreKeyError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, StoreKeyError> {
        let path = path.as_ref();
        let failed = |source| StoreKeyError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        };
        let options = &mut fs::OpenOptions::new();
        let file = files::open_regular(path, options.read(true)).map_err(failed)?;
        // Of the file which was opened, not of what the path names by now.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(StoreKeyError::Permissions { path, mode });
        }
        // One allocation, so that no copy is left behind.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE + 1));
        file.take(FILE as u64 + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        parse(&text)
            .map(Self::new)
            .ok_or_else(|| StoreKeyError::Content(path.to_owned()))
    }

    /// Writes the key to a file which does not exist yet, for its owner only,
    /// and makes it durable.
    ///
    /// # Errors
    /// See [`StoreKeyError`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), StoreKeyError> {
        let path = path.as_ref();
        let mut text = Zeroizing::new(Vec::with_capacity(FILE));
        text.extend(MAGIC.bytes());
        for byte in &self.secret[..] {
            text.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[digit as usize]));
        }
        text.push(b'\n');
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            let written = file
                .write_all(&text)
                .and_then(|()| file.sync_all())
                .and_then(|()| path.parent().map_or(Ok(()), files::sync_directory));
            written.inspect_err(|_| {
                // The error at hand says more.
                let _left = fs::remove_file(path);
            })
        };
        write().map_err(|source| StoreKeyError::Io {
            what: "make",
            path: path.to_owned(),
            source,
        })
    }

    /// Which key this is.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// A key for one purpose (HKDF-SHA-256, RFC 5869).
    pub(super) fn derive(&self, salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
        derive(&*self.secret, salt, info, out);
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), secret);
    hkdf.expand_multi_info(info, out)
        .expect("32 bytes at most are asked for");
}

fn parse(text: &[u8]) -> Option<Zeroizing<[u8; BYTES]>> {
    let digits = text.strip_prefix(MAGIC.as_bytes())?;
    let digits = digits.strip_suffix(b"\n").unwrap_or(digits);
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut secret = Zeroizing::new([0; BYTES]);
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16)?;
            // Below 16.
            *byte = *byte << 4 | u8::try_from(value).ok()?;
        }
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_keys_and_refuse_others() {
        let directory = std::env::temp_dir().join(format!("hvckpt-key-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("key");
        let key = StoreKey::generate().unwrap();
        key.save(&path).unwrap();
        let again = StoreKey::load(&path).unwrap();
        assert_eq!((&*again.secret, again.id), (&*key.secret, key.id));
        assert!(matches!(key.save(&path), Err(StoreKeyError::Io { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = StoreKey::load(&path);
        assert!(matches!(
            open,
            Err(StoreKeyError::Permissions { mode: 0o640, .. })
        ));
        fs::remove_file(&path).unwrap();
        for bad in ["", "hvckpt-store-key 1\n12\n", "hvckpt-store-key 1\ng"] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(
                StoreKey::load(&path),
                Err(StoreKeyError::Content(_))
            ));
        }
        assert!(
            !format!("{key:?}").contains(&format!("{:02x}{:02x}", key.secret[0], key.secret[1]))
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
