//! A file which is locked by one at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    process: u32,
}

impl LockFile {
    /// Creates the file if there is none; `None` if somebody holds the lock.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self {
                file,
                process: std::process::id(),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
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
