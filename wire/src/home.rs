// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server keeps in its private directory to be known by: its key.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::Path;

use hvckpt_files::{create, open_regular};
use zeroize::Zeroizing;

use crate::key::FILE_MAX;
use crate::{KeyError, Secret};

/// The file of a server's private key.
pub const SERVER_KEY: &str = "server.key";

/// Why a server has no key. Which server and which file is for the caller to
/// say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// The file holds no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system gives no random numbers.
    #[error("cannot make a key: {0}")]
    Generate(#[source] io::Error),
    /// The new key cannot be kept.
    #[error("cannot write it: {0}")]
    Write(#[source] io::Error),
}

/// The private key in [`SERVER_KEY`] of a directory, made if there is none. Of
/// several who make one at a time all get the same.
///
/// # Errors
/// See [`IdentityError`].
pub fn identity(directory: &Path) -> Result<Secret, IdentityError> {
    let path = directory.join(SERVER_KEY);
    if let Some(secret) = read_identity(&path)? {
        return Ok(secret);
    }
    let secret = Secret::generate().map_err(IdentityError::Generate)?;
    match create(&path, secret.to_server_file().as_bytes()) {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_identity(&path)?.ok_or(IdentityError::Write(error))
        }
        Err(error) => Err(IdentityError::Write(error)),
    }
}

fn read_identity(path: &Path) -> Result<Option<Secret>, IdentityError> {
    let file = match open_regular(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(IdentityError::Read)?,
    };
    let mut text = Zeroizing::new(String::with_capacity(FILE_MAX + 1));
    file.take(FILE_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(IdentityError::Read)?;
    Ok(Some(Secret::from_server_file(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn an_identity_is_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SERVER_KEY);
        let made = identity(dir.path()).unwrap().public_key();
        assert_eq!(identity(dir.path()).unwrap().public_key(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        for (damage, wrong) in [(&b"nonsense"[..], "key"), (&[0xff; 4], "read")] {
            fs::write(&path, damage).unwrap();
            let got = match identity(dir.path()) {
                Err(IdentityError::Key(_)) => "key",
                Err(IdentityError::Read(_)) => "read",
                other => panic!("{other:?}"),
            };
            assert_eq!(got, wrong);
            assert_eq!(fs::read(&path).unwrap(), damage);
        }
    }

    #[test]
    fn all_who_make_an_identity_at_a_time_get_the_same() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| identity(dir.path()).unwrap().public_key()))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let kept = identity(dir.path()).unwrap().public_key();
            assert!(all.iter().all(|one| *one == kept));
        }
    }
}
