// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that must be there whole or not at all, and private.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hvckpt_wire::files::{make_directory, open_regular};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Replaces `path` with `data`, mode 0600: after a crash it holds the old or
/// the new contents, whole.
///
/// # Errors
/// From the file system; then `path` is as it was, unless only its directory
/// could not be synced: the new contents are there, until a crash perhaps.
pub fn write_atomic(path: &Path, data: &[u8]) -> io::Result<()> {
    write_temporary(path, data, |temporary| fs::rename(temporary, path))
}

/// As [`write_atomic`], but an existing file is an error (`AlreadyExists`).
///
/// # Errors
/// From the file system.
pub fn write_new(path: &Path, data: &[u8]) -> io::Result<()> {
    write_temporary(path, data, |temporary| {
        // Unlike a rename, a link never replaces.
        let linked = fs::hard_link(temporary, path);
        let _ = fs::remove_file(temporary);
        linked?;
        sync_parent(path).inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
    })
}

fn write_temporary(
    path: &Path,
    data: &[u8],
    publish: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let written = (|| {
        // Left over from a crash; two writers never share a directory's lock.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(data)?;
        file.sync_all()?;
        publish(&temporary)?;
        sync_parent(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(name))
}

/// Makes a rename or a new name in the directory of `path` durable.
///
/// # Errors
/// From the file system.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// The state directory, held by one daemon at a time.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl StateDir {
    /// Creates the directory if needed (0700), checks that nobody else can
    /// change what is in it, and locks it.
    ///
    /// # Errors
    /// A sentence for the administrator.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        make_directory(path).map_err(|e| format!("cannot create {shown}: {e}"))?;
        let data = fs::metadata(path).map_err(|e| format!("cannot look at {shown}: {e}"))?;
        let me = rustix::process::geteuid().as_raw();
        if data.uid() != me {
            return Err(format!(
                "{shown} belongs to user {}, not to {me}",
                data.uid()
            ));
        }
        if data.mode() & 0o022 != 0 {
            return Err(format!(
                "{shown} can be written by others (chmod 700 {shown})"
            ));
        }
        let mut create = OpenOptions::new();
        create.write(true).create(true).truncate(false).mode(0o600);
        let lock = open_regular(&path.join("lock"), &mut create)
            .map_err(|e| format!("cannot open {shown}/lock: {e}"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(Errno::WOULDBLOCK) => Err(format!("another daemon is running with {shown}")),
            Err(e) => Err(format!("cannot lock {shown}: {e}")),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn replaces_or_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_new(&path, b"one").unwrap();
        assert_eq!(
            write_new(&path, b"no").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary files left"
        );
    }

    #[test]
    fn state_directory_is_private_and_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let held = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(
            StateDir::open(&path)
                .unwrap_err()
                .contains("another daemon")
        );
        drop(held);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(
            StateDir::open(&path)
                .unwrap_err()
                .contains("written by others")
        );
    }
}
