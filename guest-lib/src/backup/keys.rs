// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys of primaries at their backup: the file `key` in the directory of each.

use std::fs;
use std::io;
use std::path::Path;

use hvckpt_wire::home::SERVER_KEY;
use hvckpt_wire::{Key, PublicKey, Secret, valid_name};

use super::files;
use super::server::{BackupError, identity};

const KEY: &str = "hvckpt-primary-key 1";
/// Primaries at most.
const MOST: usize = 4096;

/// Primaries which may use the backup in a directory, with their public keys.
///
/// # Errors
/// See [`BackupError`].
pub fn keys(directory: &Path) -> Result<Vec<(String, PublicKey)>, BackupError> {
    let list = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| BackupError::io("list", directory, error))?,
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(|error| BackupError::io("list", directory, error))?;
        let path = entry.path().join("key");
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Files of our own, and directories of other people.
        let Ok(Some(text)) = files::read(&path) else {
            continue;
        };
        let fields = files::fields(&text, KEY, ["public"]);
        let public = fields.and_then(|[public]| PublicKey::parse(&public));
        found.push((name, public.ok_or(BackupError::State(path))?));
    }
    found.sort();
    Ok(found)
}

/// Makes a key for a new primary, or a new one in the place of a lost one; the
/// text of the key file for it, which holds a secret.
///
/// # Errors
/// See [`BackupError`].
pub fn add_key(directory: &Path, name: &str) -> Result<Key, BackupError> {
    if !valid_name(name) {
        return Err(BackupError::Name(name.to_owned()));
    }
    let server = identity(directory)?;
    if keys(directory)?.len() >= MOST {
        return Err(BackupError::TooMany(MOST));
    }
    let random = |error| BackupError::io("make a key in", directory, error);
    // The key file names it: it must not be one which a crash takes away.
    let path = directory.join(SERVER_KEY);
    hvckpt_files::replace(&path, server.to_server_file().as_bytes())
        .map_err(|error| BackupError::io("write", &path, error))?;
    let secret = Secret::generate().map_err(random)?;
    let public = secret.public_key();
    let path = directory.join(name);
    files::private_directory(&path).map_err(|error| BackupError::io("make", &path, error))?;
    let path = path.join("key");
    hvckpt_files::replace(&path, format!("{KEY}\npublic: {public}\n").as_bytes())
        .map_err(|error| BackupError::io("write", &path, error))?;
    Key::new(name, 1, server.public_key(), secret).ok_or_else(|| BackupError::Name(name.to_owned()))
}

/// Takes a primary's key back.  What is kept of it stays; a connection which
/// is open ends within seconds.
///
/// # Errors
/// See [`BackupError`].
pub fn remove_key(directory: &Path, name: &str) -> Result<(), BackupError> {
    let path = directory.join(name).join("key");
    if !valid_name(name) || !path.is_file() {
        return Err(BackupError::Unknown(name.to_owned()));
    }
    fs::remove_file(&path).map_err(|error| BackupError::io("remove", &path, error))
}
