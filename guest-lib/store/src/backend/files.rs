// SPDX-License-Identifier: MIT OR Apache-2.0
//! A directory of the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hvckpt_files::{self as files, LockFile, rename_new, same};

use super::{Backend, File, Held, Hold};
use crate::format::ACK_FILE;

/// Name of the file which writers lock.
const LOCK: &str = "lock";

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    shown: PathBuf,
    /// What was made to get here, the topmost first.
    made: Arc<Mutex<Vec<PathBuf>>>,
}

impl Directory {
    /// The directory at the path; made by [`Self::create`] or by hand.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let shown = path.into();
        Self {
            // Whatever the process makes its directory later.
            path: std::path::absolute(&shown).unwrap_or_else(|_| shown.clone()),
            shown,
            made: Arc::default(),
        }
    }

    /// Makes the directory unless it exists, for its owner only (0700), with
    /// those above it which are missing, and all their names durable.
    ///
    /// # Errors
    /// Those of the operating system.  Nothing was made.
    pub fn create(&self) -> io::Result<()> {
        let made = files::make_directory(&self.path)?;
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Backend for Directory {
    fn describe(&self) -> String {
        self.shown.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?
            .filter_map(|entry| match entry {
                // Other names are none of ours.
                Ok(entry) => entry.file_name().into_string().ok().map(Ok),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let file = files::open_regular(&self.at(name), options.read(true).write(write))?;
        Ok(Arc::new(OnDisk(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.at(name))?;
        Ok(Arc::new(OnDisk(file)))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        rename_new(&self.at(from), &self.at(to))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        files::sync_directory(&self.path)
    }

    fn lock(&self) -> io::Result<Option<Arc<dyn Hold>>> {
        let fresh = fs::symlink_metadata(self.at(LOCK)).is_err();
        let Some(lock) = LockFile::take(&self.at(LOCK))? else {
            return Ok(None);
        };
        let Some(second) = self.second()? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Guard {
            directory: self.clone(),
            identity: fs::metadata(&self.path)?,
            locks: Mutex::new((lock, second)),
            fresh,
        })))
    }

    fn holder(&self) -> String {
        files::holder(&self.at(LOCK))
    }

    fn discard(&self) {
        files::remove_directories(&self.made.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Directory {
    /// The lock of the file of acknowledgements, for when the other one is
    /// removed; `None` if somebody holds it.
    fn second(&self) -> io::Result<Option<Option<LockFile>>> {
        match LockFile::of_existing(&self.at(ACK_FILE)) {
            Ok(lock) => Ok(lock.map(Some)),
            // Made later, or somebody's mistake, of which opening it tells.
            Err(_) => Ok(Some(None)),
        }
    }
}

/// Keeps other writers out of a directory.
#[derive(Debug)]
struct Guard {
    directory: Directory,
    identity: fs::Metadata,
    /// The file of locks; that of acknowledgements, once it is there.
    locks: Mutex<(LockFile, Option<LockFile>)>,
    fresh: bool,
}

impl Hold for Guard {
    fn check(&self) -> io::Result<Held> {
        if !same(&fs::metadata(&self.directory.path)?, &self.identity) {
            return Ok(Held::Lost);
        }
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, second) = &mut *locks;
        if first.is_there() {
            if second.as_ref().is_none_or(|second| !second.is_there()) {
                match self.directory.second()? {
                    Some(again) => *second = again,
                    None => return Ok(Held::Lost),
                }
            }
            return Ok(Held::Still);
        }
        // Who came meanwhile did not get past the other one.
        if second.as_ref().is_none_or(|second| !second.is_there()) {
            return Ok(Held::Lost);
        }
        match LockFile::take(&self.directory.at(LOCK))? {
            Some(again) => {
                *first = again;
                Ok(Held::Again)
            }
            None => Ok(Held::Lost),
        }
    }

    fn discard(&self) {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fresh {
            locks.0.remove();
        }
    }
}

#[derive(Debug)]
struct OnDisk(fs::File);

impl File for OnDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
