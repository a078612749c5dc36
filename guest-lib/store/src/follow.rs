// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows a store: takes its versions elsewhere.
//!
//! The store knows no network.  [`StoreOptions::replication`] has somebody who
//! makes a follower when the store is opened for writing; commits are offered
//! to it and may wait for it, and a thread of the store is its to run in.
//!
//! [`StoreOptions::replication`]: super::StoreOptions::replication

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::epoch;
use super::error::StoreError;
use super::pipeline::Shared;
use super::ship::{Delta, RecordWriter};
use super::writer::Batch;

/// Why a version is not known to be where commits follow to.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// No answer in time; the last trouble with the connection, if any.
    #[error("the backup did not acknowledge within {0:?}{1}")]
    Timeout(Duration, String),
    /// Another instance was promoted, and its epoch is this.
    #[error("another instance was promoted (epoch {0})")]
    Fenced(u64),
    /// The backup says no, and waiting does not help.
    #[error("the backup refuses")]
    Refused(#[source] Refusal),
    /// The store is being closed.
    #[error("the store is being closed")]
    Closing,
}

/// Why a backup does not take what a primary sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// What was sent is not of this protocol.
    Malformed,
    /// The backup does not know the key.
    UnknownKey,
    /// Another instance was promoted: this primary's time is over.
    Stale,
    /// What the backup keeps was promoted, and is in use or waits for it.
    Promoted,
    /// Under this key the backup keeps the state of another store.
    OtherStore,
    /// The backup has newer versions than the primary.
    Ahead,
    /// A page does not come out as the primary has it; a base helps.
    Mismatch,
    /// A version does not follow what the backup has.
    Gap,
    /// The backup's disk is full.
    Full,
    /// The backup's copy or its disk is damaged.
    Damaged,
    /// Anything else which may pass.
    Unavailable,
    /// A newer connection with the same key took over.
    Replaced,
    /// A reason which this version does not know.
    Other(u16),
}

impl Reason {
    /// Its name, as in the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::Stale => "stale",
            Self::Promoted => "promoted",
            Self::OtherStore => "other-store",
            Self::Ahead => "backup-ahead",
            Self::Mismatch => "mismatch",
            Self::Gap => "gap",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::Unavailable => "unavailable",
            Self::Replaced => "replaced",
            Self::Other(_) => "unknown",
        }
    }
}

/// A backup's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", .reason.name())]
#[non_exhaustive]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The backup's epoch; zero if that is not the point.
    pub epoch: u64,
    /// The newest version which the backup has; zero if that is not the point.
    pub version: u64,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// Bytes of the text at most.
    pub const TEXT_MAX: usize = 256;

    /// A refusal; the text is cut where it is too long.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        let mut text = text.into();
        while text.len() > Self::TEXT_MAX {
            text.pop();
        }
        Self {
            reason,
            epoch: 0,
            version: 0,
            text,
        }
    }
}

/// What the connection to the backup does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Link {
    /// There is none, it is tried again and again.
    #[default]
    Down,
    /// Versions are sent as they are committed.
    Streaming,
    /// The backup is sent what it missed.
    CatchingUp,
    /// The backup refused; see [`FollowerStatus::trouble`].
    Refused,
}

/// How far the backup is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FollowerStatus {
    /// The connection.
    pub link: Link,
    /// The primary's epoch; zero before the first contact.
    pub epoch: u64,
    /// Newest version which the backup acknowledged.
    pub acknowledged: u64,
    /// Newest version meant for it.
    pub offered: u64,
    /// Versions in memory which wait for it.
    pub queued: usize,
    /// Their size in bytes.
    pub queued_bytes: usize,
    /// For how long the oldest version it lacks has been waiting.
    pub lag: Duration,
    /// Commits go on without the backup, since it did not answer in time.
    pub degraded: bool,
    /// Connections made.
    pub connections: u64,
    /// Times it caught up from the store.
    pub catch_ups: u64,
    /// Those of them which sent everything.
    pub bases: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// What went wrong last, if it still matters.
    pub trouble: Option<String>,
}

/// Takes a store's versions elsewhere.
///
/// Commits call all but [`Self::run`], some with the store's locks held: what
/// does not say that it waits returns at once, and calls nothing of the store.
pub trait Follower: fmt::Debug + Send + Sync {
    /// Versions in the order of commits, without a gap but for those of
    /// [`Self::skip_to`].  The local disk has them, unless
    /// [`Self::before_disk`].
    fn offer(&self, batches: &[Arc<Batch>]);

    /// There is a version which must be read from the store.
    fn skip_to(&self, version: u64);

    /// Waits until a version need not be waited for any more.
    ///
    /// # Errors
    /// It is not known to be there, and waiting longer is not wanted.
    fn wait(&self, version: u64) -> Result<(), FollowError>;

    /// The epoch of the instance which took over, if one did: then nothing may
    /// be committed.
    fn fenced(&self) -> Option<u64>;

    /// Whether commits which are to be safe wait for it.
    fn required(&self) -> bool;

    /// Whether it gets versions which the local disk may not have yet.
    fn before_disk(&self) -> bool;

    /// How far it is.
    fn status(&self) -> FollowerStatus;

    /// Follows, in a thread of its own, until [`Self::stop`].
    fn run(&self, feed: Feed<'_>);

    /// Nothing will be committed any more: may finish what is under way, if
    /// that takes a moment only, and makes [`Self::run`] and [`Self::wait`]
    /// return.
    fn stop(&self);
}

/// Makes a follower of a store which is opened for writing.
pub trait Follow: fmt::Debug + Send + Sync {
    /// `newest`: the store's newest version.  `epoch`: what was granted to it
    /// last, zero for nothing.
    fn follower(&self, newest: u64, epoch: u64) -> Box<dyn Follower>;
}

/// What is to follow a store: made `from` a `Replication` of `hvckpt::backup`.
#[derive(Debug, Clone)]
pub struct Following(Arc<dyn Follow>);

impl Following {
    /// What makes this kind of followers.
    pub fn new(follow: impl Follow + 'static) -> Self {
        Self(Arc::new(follow))
    }

    pub(super) fn follower(&self, newest: u64, epoch: u64) -> Box<dyn Follower> {
        self.0.follower(newest, epoch)
    }
}

/// What a follower may ask of the store which it follows.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'s>(&'s Shared);

impl<'s> Feed<'s> {
    pub(super) fn new(shared: &'s Shared) -> Self {
        Self(shared)
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.0.id
    }

    /// The newest version, durable or not.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.newest()
    }

    /// When a version was committed, if it is kept; nanoseconds since 1970.
    #[must_use]
    pub fn time_of(&self, version: u64) -> Option<u64> {
        self.0.time_of(version)
    }

    /// The newest version as the difference to another, or to nothing if that
    /// one is not kept.  What waits is written first: a follower may have what
    /// the disk has not.
    ///
    /// # Errors
    /// The store cannot be written, or read.
    pub fn delta(&self, since: Option<u64>) -> Result<Delta, StoreError> {
        self.0.lead()?;
        self.0.delta(since)
    }

    /// What writes pages as the store does.
    #[must_use]
    pub fn records(&self) -> RecordWriter {
        RecordWriter::new(&self.0.options)
    }

    /// Remembers the epoch which was granted.
    ///
    /// # Errors
    /// It is as it was, or as it shall be.
    pub fn granted(&self, epoch: u64) -> Result<(), StoreError> {
        epoch::write(self.0.backend(), epoch, 0)
    }

    /// Remembers, also after the next start of the program, that another
    /// instance took over.
    ///
    /// # Errors
    /// It is as it was, or as it shall be.
    pub fn replaced(&self, epoch: u64) -> Result<(), StoreError> {
        epoch::write(self.0.backend(), 0, epoch)
    }
}
