// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hvckpt_files::{LockFile, make_directory};

/// The state directory, held by one daemon at a time.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: LockFile,
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
        let lock = LockFile::take(&path.join("lock"))
            .map_err(|e| format!("cannot lock {shown}/lock: {e}"))?
            .ok_or_else(|| format!("another daemon is running with {shown}"))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
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
