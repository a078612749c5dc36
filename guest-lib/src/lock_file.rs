//! A file which is locked by one at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hvckpt_proto::files::open_regular;

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
    process: u32,
}

impl LockFile {
    /// Creates the file if there is none; `None` if somebody holds the lock.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut create = File::options();
        create.write(true).create(true).truncate(false).mode(0o600);
        Self::lock(path, &mut create)
    }

    /// As [`Self::take`], of a file which is there.
    pub(crate) fn of_existing(path: &Path) -> io::Result<Option<Self>> {
        Self::lock(path, File::options().write(true))
    }

    fn lock(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<Option<Self>> {
        loop {
            let lock = Self {
                file: open_regular(path, options)?,
                path: path.to_owned(),
                process: std::process::id(),
            };
            match lock.file.try_lock() {
                // Somebody may have removed it since, and be the next one to
                // make it.
                Ok(()) if !lock.is_there() => {}
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether the file is still where others look for it.
    pub(crate) fn is_there(&self) -> bool {
        let there = std::fs::symlink_metadata(&self.path);
        let ours = self.file.metadata();
        matches!((there, ours), (Ok(there), Ok(ours)) if same(&there, &ours))
    }

    /// Removes the file, if it is still the one which is locked.
    pub(crate) fn remove(&self) {
        if self.is_there() {
            // Who is just taking it looks again.
            let _left = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether both are of one file.
pub(crate) fn same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing is not enough: a child which another thread is just forking
        // has the descriptor, too, and would hold the lock until it is gone.
        // Nor may a child give up what its parent holds.
        if self.process == std::process::id() {
            let _closing_does_it_later = self.file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_lock() {
        let path = std::env::temp_dir().join(format!("hvckpt-lock-{}", std::process::id()));
        let lock = LockFile::take(&path).unwrap().expect("free");
        assert!(LockFile::take(&path).unwrap().is_none(), "held");
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(LockFile::take(&path).unwrap().is_some(), "given up");
        drop(copy);
        std::fs::remove_file(&path).unwrap();
    }
}
