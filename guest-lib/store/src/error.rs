// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may go wrong with a store.

use std::fmt;
use std::io;

use super::follow::FollowError;
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
    /// No space is left (or the quota is used up), for a write or for a sync.
    /// What was committed before is safe; the commit which failed left nothing
    /// behind.
    #[error("no space is left for {name}")]
    Full {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error(
        "cannot write {name}: mount the disk writable, or give this user the right; or open the store for reading only"
    )]
    ReadOnlyDisk {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The store was opened for reading only.
    #[error("the store was opened for reading only; open it without read_only to write")]
    ReadOnly,
    /// Another process, or another part of this one, writes to the store.
    #[error(
        "the store in {directory} is in use by {holder}; end that first, or open it for reading only"
    )]
    Locked {
        /// The store's directory.
        directory: String,
        /// Who has it, as far as the system tells.
        holder: String,
    },
    /// The directory was taken over by another writer, or moved and replaced:
    /// nothing is acknowledged any more.
    #[error("the lock of {0} is lost: another writer may have taken over; open the store again")]
    LockLost(String),
    /// There is no store in the directory.
    #[error(
        "there is no store in {0}; check the directory (a program makes one if its option create says so)"
    )]
    NotAStore(String),
    /// Written by a newer version of the library.
    #[error(
        "{name} has format {format}; this library reads up to {}, update it",
        super::format::FORMAT
    )]
    Future {
        /// File, within the store's directory.
        name: String,
        /// Format of the file.
        format: u32,
    },
    /// Made with a feature which this library does not have.
    #[error(
        "{name} was made by a newer library, with features ({features:#x}) which this one does not have: update it"
    )]
    Features {
        /// File, within the store's directory.
        name: String,
        /// Bits of the features which are missing.
        features: u64,
    },
    /// The store is encrypted, and no key was given.
    #[error(
        "{name} is encrypted with key {id}, and no key was given (commands: --key FILE or HVCKPT_STORE_KEY; programs: the option key)"
    )]
    KeyNeeded {
        /// File, within the store's directory.
        name: String,
        /// The key it needs.
        id: KeyId,
    },
    /// The store is encrypted with another key.
    #[error("{name} is encrypted with key {id}, not with {given}; give the file of that key")]
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
    #[error(
        "{0} is not encrypted, and a key was given: leave the key out, or check that the file belongs to this store"
    )]
    NotEncrypted(String),
    /// The key.
    #[error(transparent)]
    Key(#[from] StoreKeyError),
    /// Bytes of the store are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The version is not kept, or never was.
    #[error(
        "version {version} is not kept; `hvckpt inspect` lists those which are; how many that are, the program's option keep says, or `hvckpt compact --keep`"
    )]
    NoVersion {
        /// The version asked for.
        version: u64,
    },
    /// No area of the name.
    #[error("the store has no area {0:?}; `hvckpt inspect` lists those it has")]
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
    /// A sync failed, and what it was for could not be taken back: after a
    /// crash that commit may be there, or not.  All before it is safe.  The
    /// next commit tries again to take it back, and so does opening the store.
    #[error(
        "the disk refused {name}, and what was written could not be taken back: whether the commit \
         is there is not known until the next one succeeds or the store was opened again"
    )]
    Unsettled {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer to the sync.
        #[source]
        source: io::Error,
    },
    /// What an earlier commit left could still not be taken back, so this one
    /// was not tried; see [`Self::Unsettled`].
    #[error(
        "nothing is written while an earlier commit cannot be taken back from {name}; make the \
         disk work and commit again, or open the store again"
    )]
    Poisoned {
        /// File, within the store's directory.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A number of the format is used up.
    #[error("{}", used_up(.0))]
    Exhausted(&'static str),
    /// This process is a fork child of the one which opened the store.
    #[error(
        "the store belongs to the process which forked this one; exec, or leave it to the parent"
    )]
    ForkChild,
    /// The version is on the local disk, or on its way there, and in the
    /// memory of the program; whether the backup has it is not known.
    #[error("version {version} is not known to be on the backup")]
    Unreplicated {
        /// The version.
        version: u64,
        /// Why.
        #[source]
        source: FollowError,
    },
    /// A backup of this store was promoted: another instance goes on in its
    /// place.  To use this copy on its own all the same, remove the file
    /// `replica` from the directory.
    #[error(
        "another instance took over in epoch {epoch}; this one must not go on, its clients go to the other (to use this copy on its own all the same, remove the file `replica` from its directory)"
    )]
    Fenced {
        /// The epoch of the other one.
        epoch: u64,
    },
    /// A background thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StoreError {
    /// The same once more, for another commit which shared its fate.
    pub(crate) fn again(&self) -> Self {
        let copy = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            Self::Io { what, name, source } => Self::Io {
                what,
                name: name.clone(),
                source: copy(source),
            },
            Self::Full { name, source } => Self::Full {
                name: name.clone(),
                source: copy(source),
            },
            Self::ReadOnlyDisk { name, source } => Self::ReadOnlyDisk {
                name: name.clone(),
                source: copy(source),
            },
            Self::Damaged(damage) => Self::Damaged(damage.clone()),
            Self::LockLost(directory) => Self::LockLost(directory.clone()),
            Self::Exhausted(what) => Self::Exhausted(what),
            Self::Unsettled { name, source } => Self::Unsettled {
                name: name.clone(),
                source: copy(source),
            },
            Self::Poisoned { name, source } => Self::Poisoned {
                name: name.clone(),
                source: copy(source),
            },
            // Others do not come from writing.
            other => Self::Io {
                what: "write to",
                name: "the store".to_owned(),
                source: io::Error::other(hvckpt_sys::explain(other)),
            },
        }
    }

    /// Whether another instance took over: nothing will be acknowledged here
    /// any more.
    #[must_use]
    pub fn fenced(&self) -> bool {
        matches!(
            self,
            Self::Fenced { .. }
                | Self::Unreplicated {
                    source: FollowError::Fenced(_),
                    ..
                }
        )
    }
}

/// What a store runs out of first.
pub(crate) const IMAGE_NUMBERS: &str = "image numbers";

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

/// What is used up, and what to do.
fn used_up(what: &str) -> String {
    let anew = "restore its areas into a new one";
    if what != IMAGE_NUMBERS {
        return format!("the store has no {what} left; {anew}");
    }
    let last = super::format::image_name(super::format::Place::MAX_IMAGE);
    format!(
        "the store has no {what} left: {last} has the last one; if `hvckpt verify` says that it \
         is not of this store, move it away, else {anew}"
    )
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
    /// The disk does not give back what is there.
    Unreadable,
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
            Self::Unreadable => f.write_str("the disk cannot read it"),
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
pub fn io(what: &'static str, name: &str, source: io::Error) -> StoreError {
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

/// Sorts an error of reading an image: what the disk lost is damage to that
/// place, whatever else is whole.
pub(crate) fn unread(name: &str, offset: u64, source: io::Error) -> StoreError {
    if lost(&source) {
        damage(name, offset, DamageKind::Unreadable)
    } else {
        io("read", name, source)
    }
}

/// Whether the disk cannot give back what it has, or the file system find it.
pub(crate) fn lost(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EIO
                | libc::ENODATA
                | libc::EILSEQ
                | libc::EREMOTEIO
                | libc::EUCLEAN
                | libc::EBADMSG
        )
    )
}

pub(crate) fn damage(file: &str, offset: u64, what: DamageKind) -> StoreError {
    Damage::new(file, offset, what).into()
}
