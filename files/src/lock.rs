// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file which is locked by one at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

use crate::open_regular;

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
    process: u32,
}

impl LockFile {
    /// Creates the file if there is none; `None` if somebody holds the lock.
    ///
    /// # Errors
    /// From the file system; a link is `InvalidInput`.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut create = File::options();
        create.write(true).create(true).truncate(false).mode(0o600);
        Self::lock(path, &mut create)
    }

    /// As [`Self::take`], of a file which is there.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn of_existing(path: &Path) -> io::Result<Option<Self>> {
        Self::lock(path, File::options().write(true))
    }

    fn lock(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<Option<Self>> {
        loop {
            // Others look at the name; a link to a file would never be it.
            if std::fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink()) {
                let why = "not a regular file";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let lock = Self {
                file: open_regular(path, options)?,
                path: path.to_owned(),
                process: std::process::id(),
            };
            match flock(&lock.file, FlockOperation::NonBlockingLockExclusive) {
                // Somebody may have removed it since, and be the next one to
                // make it.
                Ok(()) if !lock.is_there() => {}
                Ok(()) => return Ok(Some(lock)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the file is still where others look for it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let there = std::fs::symlink_metadata(&self.path);
        let ours = self.file.metadata();
        matches!((there, ours), (Ok(there), Ok(ours)) if same(&there, &ours))
    }

    /// Removes the file, if it is still the one which is locked.
    pub fn remove(&self) {
        if self.is_there() {
            // Who is just taking it looks again.
            let _left = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether both are of one file.
#[must_use]
pub fn same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing is not enough: a child which another thread is just forking
        // has the descriptor, too, and would hold the lock until it is gone.
        // Nor may a child give up what its parent holds.
        if self.process == std::process::id() {
            let _closing_does_it_later = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Who holds the lock, for messages: program and process, as far as the kernel
/// tells.
#[must_use]
pub fn holder(path: &Path) -> String {
    let process = std::fs::metadata(path).ok().and_then(|file| {
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let device = file.dev();
        find(&locks, major(device), minor(device), file.ino())
    });
    match process {
        None => "another process".to_owned(),
        Some(process) if process == std::process::id() => {
            format!("this process itself ({process})")
        }
        Some(process) => match std::fs::read_to_string(format!("/proc/{process}/comm")) {
            Ok(name) => format!("process {process} ({})", name.trim()),
            Err(_) => format!("process {process}"),
        },
    }
}

/// The process in a line of `/proc/locks` about this file, such as
/// `1: FLOCK  ADVISORY  WRITE 4711 fe:01:1837 0 EOF`.
fn find(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let same = |line: &&str| line.split_whitespace().any(|field| field == file);
    // Lines of those who wait have `->`; some file systems name another
    // device than stat does, but the number of the file is in both.
    let line = locks.lines().find(same).or_else(|| {
        let inode = format!(":{inode}");
        let like = |line: &&str| {
            let mut fields = line.split_whitespace();
            fields.any(|field| field.matches(':').count() == 2 && field.ends_with(&inode))
        };
        let mut found = locks.lines().filter(like);
        found.next().filter(|_| found.next().is_none())
    })?;
    let fields = || line.split_whitespace();
    let at = fields().position(|field| field == "WRITE" || field == "READ")?;
    // A negative number belongs to no single process.
    fields().nth(at + 1)?.parse().ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_in_the_kernels_list() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 fe:01:1837 0 EOF\n\
                     2: POSIX  ADVISORY  READ  12 fe:01:18 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 fe:02:18 0 EOF\n\
                     4: OFDLCK ADVISORY  WRITE -1 fe:01:19 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 fe:01:20 0 EOF\n";
        assert_eq!(find(locks, 0xfe, 1, 1837), Some(4711));
        assert_eq!(find(locks, 0xfe, 2, 18), Some(13));
        assert_eq!(find(locks, 0, 40, 1837), Some(4711), "another device");
        assert_eq!(find(locks, 0, 40, 18), None, "two might be meant");
        assert_eq!(find(locks, 0xfe, 1, 837), None);
        assert_eq!(find(locks, 0xfe, 1, 19), None);
        assert_eq!(find(locks, 0xfe, 1, 20), None, "in another container");
        assert_eq!(find("", 0, 0, 0), None);
    }

    #[test]
    fn the_holder_is_named() {
        let path = std::env::temp_dir().join(format!("hvckpt-holder-{}", std::process::id()));
        let _lock = LockFile::take(&path).unwrap().expect("free");
        let said = holder(&path);
        assert!(said.contains(&std::process::id().to_string()), "{said}");
        std::fs::remove_file(&path).unwrap();
    }

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
