// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live backup: the committed versions of a store, on another machine too.
//!
//! The primary's side follows the store: give [`StoreOptions`] a
//! [`Replication`], and a thread of the store sends every version to a backup
//! ([`Server`], or `hvckpt backup serve`), which keeps a store of its own and
//! acknowledges what is on its stable storage.  [`Require`] says what a commit
//! waits for.  The protocol is in `docs/spec-backup.md`.
//!
//! # What is promised
//! * The backup has, at any moment, a complete version: the newest one it
//!   acknowledged, or a later one which the primary sent.
//! * Under [`Require::Disk`] and [`Require::Both`] it never has a version
//!   which the primary's disk has not.
//! * Promotion takes the right to be acknowledged from the primary for good
//!   ([`StoreError::Fenced`]), before the new instance is given the state.
//!
//! [`StoreOptions`]: crate::store::StoreOptions
//! [`StoreError::Fenced`]: crate::store::StoreError::Fenced

mod connection;
mod control;
mod files;
mod incoming;
mod keys;
mod link;
mod replica;
mod sender;
mod server;
mod state;
mod vault;
mod wire;

use std::time::Duration;

use hvckpt_store::follow::{Follow, Follower, Following};
use replica::Replica;

pub use control::{Promoted, Status, promote, status};
pub use hvckpt_store::follow::{
    FollowError as ReplicationError, FollowerStatus as ReplicaStatus, Link, Reason, Refusal,
};
pub use hvckpt_wire::{Key, KeyError};
pub use keys::{add_key, keys, remove_key};
pub use server::{BackupError, Server, ServerOptions};
pub use wire::WireError;

/// Port on which a backup listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 4885;

/// Where a version must be before a commit returns, under
/// [`Durability::Sync`] and [`Durability::Group`].
///
/// [`Durability::Sync`]: crate::store::Durability::Sync
/// [`Durability::Group`]: crate::store::Durability::Group
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// On the local disk; the backup follows, and [`ReplicaStatus`] says by
    /// how much.
    Disk,
    /// On the backup's disk; the local one follows.
    Backup,
    /// On both.
    #[default]
    Both,
}

/// Not one of `disk`, `backup` and `both`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of disk, backup, both")]
pub struct UnknownRequire(String);

impl core::str::FromStr for Require {
    type Err = UnknownRequire;

    fn from_str(text: &str) -> Result<Self, UnknownRequire> {
        match text {
            "disk" => Ok(Self::Disk),
            "backup" => Ok(Self::Backup),
            "both" => Ok(Self::Both),
            _ => Err(UnknownRequire(text.to_owned())),
        }
    }
}

/// How a store is replicated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Replication {
    /// `host:port` of the backup.
    pub address: String,
    /// What `hvckpt backup key add` wrote: proves this primary to the backup,
    /// and names the backup's key.
    pub key: Key,
    /// What commits wait for.
    pub require: Require,
    /// How long a commit waits for the backup, and the network for an answer.
    pub timeout: Duration,
    /// When the backup does not answer in that time, go on without it until
    /// it has caught up, instead of failing commits.  What was acknowledged
    /// meanwhile is lost with this machine.
    pub degrade: bool,
    /// Bytes of versions kept in memory for the backup.  If it is further
    /// behind, it catches up from the store.
    pub queue_bytes: usize,
    /// An idle connection is tried this often.
    pub heartbeat: Duration,
}

impl Replication {
    /// Replication to the backup at the address, which commits wait for.
    #[must_use]
    pub fn new(address: impl Into<String>, key: Key) -> Self {
        Self {
            address: address.into(),
            key,
            require: Require::default(),
            timeout: Duration::from_secs(30),
            degrade: false,
            queue_bytes: 64 << 20,
            heartbeat: Duration::from_secs(1),
        }
    }
}

impl Follow for Replication {
    fn follower(&self, newest: u64, epoch: u64) -> Box<dyn Follower> {
        Box::new(Replica::new(self.clone(), newest, epoch))
    }
}

impl From<Replication> for Following {
    fn from(replication: Replication) -> Self {
        Self::new(replication)
    }
}
