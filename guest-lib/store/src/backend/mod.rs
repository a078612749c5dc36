// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a store keeps its files.

mod crash;
mod files;

use core::fmt;
use std::io;
use std::sync::Arc;

pub use crash::CrashDisk;
pub use files::Directory;

/// A flat directory of files.
///
/// What is promised about a crash: bytes written before a [`File::sync`] which
/// returned are there; names are there after [`Self::sync_names`] returned.
/// Of anything later any part may be there, or none.
pub trait Backend: Send + Sync + fmt::Debug {
    /// For messages.
    fn describe(&self) -> String;

    /// Names of the files.
    ///
    /// # Errors
    /// Those of the operating system, here as in the other calls.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file which exists, to write if asked.  What is no regular file
    /// is not opened.
    ///
    /// # Errors
    /// See [`Self::list`].
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>>;

    /// Makes an empty file.
    ///
    /// # Errors
    /// `AlreadyExists`; see [`Self::list`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, unless there is one of the new name.
    ///
    /// # Errors
    /// `AlreadyExists`; see [`Self::list`].
    fn publish(&self, from: &str, to: &str) -> io::Result<()>;

    /// Renames a file, over another if there is one.
    ///
    /// # Errors
    /// See [`Self::list`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.  Who has it open keeps it.
    ///
    /// # Errors
    /// See [`Self::list`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    ///
    /// # Errors
    /// See [`Self::list`].
    fn sync_names(&self) -> io::Result<()>;

    /// Keeps other writers out until the answer is dropped; `None` if there
    /// is one.
    ///
    /// # Errors
    /// See [`Self::list`].
    fn lock(&self) -> io::Result<Option<Arc<dyn Hold>>>;

    /// Who keeps other writers out, for messages.
    fn holder(&self) -> String {
        "another writer".to_owned()
    }

    /// Removes what was made to get here, if nothing is in it.
    fn discard(&self) {}
}

/// Whether a lock still keeps others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nobody else was here.
    Still,
    /// It was broken, and is taken again: somebody may have been here.
    Again,
    /// Somebody else may be here.
    Lost,
}

/// Keeps other writers out until it is dropped.
pub trait Hold: Send + Sync + fmt::Debug {
    /// Whether it does, or somebody removed what others look at.
    ///
    /// # Errors
    /// Those of the operating system: as good as [`Held::Lost`].
    fn check(&self) -> io::Result<Held>;

    /// Removes what taking the lock left behind.
    fn discard(&self) {}
}

/// Whether a file was not opened because it is none.
pub(crate) fn irregular(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory
    )
}

/// An open file.
#[allow(clippy::len_without_is_empty)] // a file, not a collection
pub trait File: Send + Sync + fmt::Debug {
    /// Size in bytes.
    ///
    /// # Errors
    /// Those of the operating system, here as in the other calls.
    fn len(&self) -> io::Result<u64>;

    /// Reads at an offset in bytes, as much as there is up to the size of the
    /// buffer.
    ///
    /// # Errors
    /// See [`Self::len`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes everything at an offset in bytes, or fails, having written any
    /// part of it.
    ///
    /// # Errors
    /// See [`Self::len`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// See [`Self::len`].
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Makes what was written durable, size included.
    ///
    /// # Errors
    /// See [`Self::len`].  Nobody knows then what is durable.
    fn sync(&self) -> io::Result<()>;
}
