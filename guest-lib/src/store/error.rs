//! What may go wrong with a store.

use std::fmt;
use std::io;

use super::key::{KeyId, StoreKeyError};

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {what} {name}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// No space is left (or the quota is used up).  What was committed before
    /// is safe; the commit which failed left nothing behind.
    #[error("no space is left for {name}")]
    Full {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error("{name} is read-only")]
    ReadOnlyDisk {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The store was opened for reading only.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// Another process, or another part of this one, writes to the store.
    #[error("the store is in use by another writer")]
    Locked,
    /// The directory was taken over by another writer, or moved and replaced:
    /// nothing is acknowledged any more.
    #[error("the lock of {0} is lost: another writer may have taken over; open the store again")]
    LockLost(String),
    /// There is no store in the directory.
    #[error("there is no store in {0}")]
    NotAStore(String),
    /// Written by a newer version of the library.
    #[error(
        "{name} has format {format}; this library reads up to {}",
        super::format::FORMAT
    )]
    Future {
        /// File, within the store's directory.
        name: String,
        /// Format of the file.
        format: u32,
    },
    /// Made with a feature which this library does not have.
    #[error("{name} needs features {features:#x}, which this library does not have")]
    Features {
        /// File, within the store's directory.
        name: String,
        /// Bits of the features which are missing.
        features: u64,
    },
    /// The store is encrypted, and no key was given.
    #[error("{name} is encrypted with key {id}, and no key was given")]
    KeyNeeded {
        /// File, within the store's directory.
        name: String,
        /// The key it needs.
        id: KeyId,
    },
    /// The store is encrypted with another key.
    #[error("{name} is encrypted with key {id}, not with {given}")]
    WrongKey {
        /// File, within the store's directory.
        name: String,
        /// The key it needs.
        id: KeyId,
        /// The key which was given.
        given: KeyId,
    },
    /// A key was given, and an image is not encrypted: the store never was, or
    /// the image is somebody else's.
    #[error("{0} is not encrypted, and a key was given")]
    NotEncrypted(String),
    /// The key.
    #[error(transparent)]
    Key(#[from] StoreKeyError),
    /// Bytes of the store are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The version is not kept, or never was.
    #[error("version {version} is not kept")]
    NoVersion {
        /// The version asked for.
        version: u64,
    },
    /// No area of the name.
    #[error("the store has no area {0:?}")]
    NoArea(String),
    /// Name or size of an area is not possible, or it would shrink.
    #[error("area {name:?} cannot have {pages} pages: {why}")]
    Shape {
        /// Name of the area.
        name: String,
        /// Pages asked for.
        pages: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A page beyond the end of its area.
    #[error("page {page} is beyond the {pages} pages of the area")]
    NoPage {
        /// Index of the page.
        page: u64,
        /// Pages of the area.
        pages: u64,
    },
    /// A sync failed earlier, so nobody knows what is on the disk.  Drop the
    /// store and open it again.
    #[error("an earlier write could not be made safe; open the store again")]
    Poisoned,
    /// A number of the format is used up.
    #[error("the store has no {0} left")]
    Exhausted(&'static str),
    /// This process is a fork child of the one which opened the store.
    #[error("the store belongs to the process which forked this one")]
    ForkChild,
    /// The version is on the local disk, or on its way there, and in the
    /// memory of the program; whether the backup has it is not known.
    #[error("version {version} is not known to be on the backup")]
    Unreplicated {
        /// The version.
        version: u64,
        /// Why.
        #[source]
        source: crate::backup::ReplicationError,
    },
    /// A backup of this store was promoted: another instance goes on in its
    /// place.  To use this copy on its own all the same, remove the file
    /// `replica` from the directory.
    #[error("another instance took over in epoch {epoch}; this one must not go on")]
    Fenced {
        /// The epoch of the other one.
        epoch: u64,
    },
    /// A background thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StoreError {
    /// Whether another instance took over: nothing will be acknowledged here
    /// any more.
    #[must_use]
    pub fn fenced(&self) -> bool {
        use crate::backup::ReplicationError::Fenced;
        matches!(
            self,
            Self::Fenced { .. }
                | Self::Unreplicated {
                    source: Fenced(_),
                    ..
                }
        )
    }
}

/// Bytes which are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, byte {offset}: {what}{}", way_out(*.intact))]
#[non_exhaustive]
pub struct Damage {
    /// File, within the store's directory.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: DamageKind,
    /// The newest version which can be opened all the same, if a loss is
    /// accepted; told by who refuses to open a store.
    pub intact: Option<u64>,
}

fn way_out(intact: Option<u64>) -> String {
    intact.map_or_else(String::new, |version| {
        format!("; version {version} can be opened by who accepts the loss (--accept-loss)")
    })
}

impl Damage {
    pub(crate) fn new(file: &str, offset: u64, what: DamageKind) -> Self {
        Self {
            file: file.to_owned(),
            offset,
            what,
            intact: None,
        }
    }
}

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// Not the header of an image.
    ImageHeader,
    /// The image belongs to another store, or its number is not its name's.
    Stranger,
    /// Images of several stores, and nothing tells which one this is.
    Ambiguous,
    /// Nothing shows that the image is of the same history as another one:
    /// files of two copies of a store were mixed.
    Mixed {
        /// Number of the other image.
        other: u64,
    },
    /// Not a file: a directory, a pipe, a device.
    Irregular,
    /// The header of a transaction.
    FrameHeader,
    /// The contents of a transaction.
    FrameBody,
    /// A page record.
    Record,
    /// A page does not come out as it went in.
    Page,
    /// A node of the page index.
    Node,
    /// The table of areas.
    Areas,
    /// Checksums are right, but whoever wrote it did not have the key, or for
    /// another place.
    Forged,
    /// A file which is needed is not there.
    Missing,
    /// The file ends before what it should have.
    Short,
    /// Versions were acknowledged as durable which are not there.
    Acknowledged {
        /// The newest version acknowledged.
        acknowledged: u64,
        /// The newest version found.
        found: u64,
    },
    /// The record of acknowledgements; harmless by itself.
    AckRecord,
    /// The record of the epoch which the backup granted.
    Epoch,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageHeader => f.write_str("not the header of an image"),
            Self::Stranger => f.write_str("not an image of this store"),
            Self::Ambiguous => f.write_str(
                "images of several stores, and nothing tells which one this is: move those away \
                 which do not belong here",
            ),
            Self::Mixed { other } => write!(
                f,
                "not of the same history as {}: files of two copies of the store are mixed",
                super::format::image_name(*other)
            ),
            Self::Irregular => f.write_str("not a regular file"),
            Self::FrameHeader => f.write_str("the header of a transaction is damaged"),
            Self::FrameBody => f.write_str("a transaction is damaged"),
            Self::Record => f.write_str("a page record is damaged"),
            Self::Page => f.write_str("a page does not come out as it went in"),
            Self::Node => f.write_str("a node of the page index is damaged"),
            Self::Areas => f.write_str("the table of areas is damaged"),
            Self::Forged => f.write_str("not written with the key, or for another place"),
            Self::Missing => f.write_str("the file is missing"),
            Self::Short => f.write_str("the file is too short"),
            Self::Acknowledged {
                acknowledged,
                found,
            } => write!(
                f,
                "version {acknowledged} was acknowledged, but {found} is the newest found intact"
            ),
            Self::Epoch => f.write_str("the record of the backup's epoch is damaged"),
            Self::AckRecord => f.write_str("the record of acknowledgements is missing or damaged"),
        }
    }
}

/// Sorts an I/O error.
pub(crate) fn io(what: &'static str, name: &str, source: io::Error) -> StoreError {
    let name = name.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { name, source }
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            StoreError::ReadOnlyDisk { name, source }
        }
        _ => StoreError::Io { what, name, source },
    }
}

pub(crate) fn damage(file: &str, offset: u64, what: DamageKind) -> StoreError {
    Damage::new(file, offset, what).into()
}
