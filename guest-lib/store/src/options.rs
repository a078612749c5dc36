// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a store behaves.

use std::time::Duration;

use super::follow::Following;
use super::key::StoreKey;
use super::page::Compression;

/// When a commit is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// In memory only: abort comes back to it, a crash of the program does
    /// not.  The next commit of another level takes it along.
    Memory,
    /// On its way to the disk, where it is after
    /// [`StoreOptions::interval`] or so.  A crash may lose the last ones, as a
    /// whole and newest first.
    Async,
    /// On stable storage when the commit returns.  It waits for the commits of
    /// other threads, up to [`StoreOptions::group_delay`] if some are likely to
    /// come, and shares their sync.
    Group,
    /// On stable storage when the commit returns.  It shares the sync of those
    /// which wait already, but waits for no others.
    #[default]
    Sync,
}

/// How a store behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// Versions which are kept at least; older ones go with the images which
    /// compaction frees.
    pub keep: usize,
    /// An image which has this many bytes gets no more.
    pub image_bytes: u64,
    /// Asynchronous commits may wait with this many bytes; then they are
    /// written by the one who commits.  Of each page which waits, what was
    /// committed before is kept as well until then.
    pub queue_bytes: usize,
    /// How long asynchronous commits wait.
    pub interval: Duration,
    /// How long group commits wait for others at most; not at all unless
    /// others committed at the same time before.
    pub group_delay: Duration,
    /// Compact in the background, once increments take more than
    /// [`Self::compact_bytes`] and than the base image.
    pub auto_compact: bool,
    /// See [`Self::auto_compact`]; in bytes.
    pub compact_bytes: u64,
    /// Make the store if there is none.
    pub create: bool,
    /// Only read: no lock, no thread, no write.
    pub read_only: bool,
    /// Open at the newest version which is intact even though newer ones were
    /// acknowledged.
    pub accept_loss: bool,
    /// Go back to this version; what is newer stays kept, as history.
    pub at: Option<u64>,
    /// Send every version to a backup as well: `Some(replication.into())` with
    /// a `Replication` of `hvckpt::backup`.
    pub replication: Option<Following>,
    /// Encrypts a store which is made, and is needed to open it again.
    pub key: Option<StoreKey>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            keep: 16,
            image_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            interval: Duration::from_millis(5),
            group_delay: Duration::from_millis(1),
            auto_compact: true,
            compact_bytes: 64 << 20,
            create: true,
            read_only: false,
            accept_loss: false,
            at: None,
            replication: None,
            key: None,
        }
    }
}
