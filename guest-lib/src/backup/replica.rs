// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary's half which commits see: what waits to be sent, and how far
//! the backup is.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sender::replicate;
use super::wire::{GROUP_PAGES, GROUP_VERSIONS, Reason, Refusal};
use super::{Link, ReplicaStatus, Replication, ReplicationError, Require};
use hvckpt_store::follow::{Feed, Follower};
use hvckpt_store::parts::Batch;

#[derive(Debug)]
struct Waiting {
    previous: u64,
    batch: Arc<Batch>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    bytes: usize,
    status: ReplicaStatus,
    /// When the backup was level last, or progressed while it was not.
    behind_since: Option<Instant>,
    /// Once it is acknowledged, all is that was offered when it was sent.
    level: u64,
    fenced: Option<u64>,
    refused: Option<Refusal>,
    handle: Option<TcpStream>,
    stop: bool,
}

/// What the sender does next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Versions which follow what was sent.
    Group(Vec<(u64, Arc<Batch>)>),
    /// The store knows more.
    CatchUp,
    /// Nothing for a heartbeat.
    Idle,
    Stop,
}

/// Shared between commits and the sender.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) options: Replication,
    state: Mutex<State>,
    /// The sender waits.
    wake: Condvar,
    /// Commits wait.
    moved: Condvar,
}

impl Replica {
    /// `newest`: the store's newest version.
    pub(crate) fn new(options: Replication, newest: u64, epoch: u64) -> Self {
        let mut state = State::default();
        state.status.offered = newest;
        state.status.epoch = epoch;
        Self {
            options,
            state: Mutex::new(state),
            wake: Condvar::new(),
            moved: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Consistent at every point where somebody could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send after `sent`.
    pub(crate) fn work(&self, sent: u64) -> Work {
        let deadline = Instant::now() + self.options.heartbeat;
        let mut state = self.state();
        loop {
            if state.stop {
                return Work::Stop;
            }
            state.drop_until(sent);
            match state.queue.front() {
                Some(first) if first.previous == sent => {
                    let group = state.group(sent);
                    if group.len() == state.queue.len() {
                        state.level = state.status.offered;
                    }
                    return Work::Group(group);
                }
                Some(_) => return Work::CatchUp,
                None if state.status.offered > sent => return Work::CatchUp,
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::Idle;
            }
            let waited = self.wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits before the next attempt; false if there is none.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let paused = self
            .wake
            .wait_timeout_while(state, time, |state| !state.stop);
        !paused.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// There is a connection, and the backup has `have`.
    pub(crate) fn connected(&self, handle: Option<TcpStream>, epoch: u64, have: u64) {
        let mut state = self.state();
        state.status.connections += 1;
        state.status.link = Link::Streaming;
        state.status.epoch = epoch;
        state.handle = handle;
        state.refused = None;
        state.status.trouble = None;
        drop(state);
        self.acknowledged(have);
    }

    pub(crate) fn catching_up(&self, base: bool) {
        let mut state = self.state();
        state.status.link = Link::CatchingUp;
        state.status.catch_ups += 1;
        state.status.bases += u64::from(base);
    }

    /// The backup has everything up to the version.
    pub(crate) fn acknowledged(&self, version: u64) {
        let mut state = self.state();
        if version > state.status.acknowledged {
            state.behind_since = Some(Instant::now());
        }
        state.status.acknowledged = version;
        state.drop_until(version);
        state.status.link = Link::Streaming;
        if version >= state.status.offered || version == state.level {
            state.status.degraded = false;
        }
        if version >= state.status.offered {
            state.behind_since = None;
        }
        self.moved.notify_all();
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.state().status.sent_bytes += bytes as u64;
    }

    /// The connection ended.
    pub(crate) fn down(&self, trouble: String, refusal: Option<&Refusal>) {
        let mut state = self.state();
        state.handle = None;
        state.status.trouble = Some(trouble);
        state.status.link = Link::Down;
        if let Some(refusal) = refusal {
            state.status.link = Link::Refused;
            match refusal.reason {
                Reason::Stale => state.fenced = Some(refusal.epoch),
                // These pass, or the sender knows what to do.
                Reason::Mismatch
                | Reason::Gap
                | Reason::Full
                | Reason::Unavailable
                | Reason::Replaced => {}
                _ => state.refused = Some(refusal.clone()),
            }
        }
        self.moved.notify_all();
    }
}

impl Follower for Replica {
    /// The local disk has the versions, or need not.  In the order of commits.
    fn offer(&self, batches: &[Arc<Batch>]) {
        let mut state = self.state();
        for batch in batches {
            let previous = state.status.offered;
            state.status.offered = batch.version;
            state.bytes += batch.bytes();
            let batch = batch.clone();
            state.queue.push_back(Waiting { previous, batch });
        }
        if state.bytes > self.options.queue_bytes {
            // The sender sees that the chain is broken.
            state.queue.clear();
            state.bytes = 0;
        }
        state.behind();
        self.wake.notify_one();
    }

    /// There is a version which must be read from the store.
    fn skip_to(&self, version: u64) {
        let mut state = self.state();
        state.status.offered = state.status.offered.max(version);
        state.behind();
        self.wake.notify_one();
    }

    /// The epoch of the instance which took over, if one did.
    fn fenced(&self) -> Option<u64> {
        self.state().fenced
    }

    /// Waits until the backup has the version, or need not have it.
    fn wait(&self, version: u64) -> Result<(), ReplicationError> {
        let deadline = Instant::now() + self.options.timeout;
        let mut state = self.state();
        loop {
            if let Some(epoch) = state.fenced {
                return Err(ReplicationError::Fenced(epoch));
            }
            if state.status.acknowledged >= version || state.status.degraded {
                return Ok(());
            }
            if let Some(refusal) = &state.refused {
                return Err(ReplicationError::Refused(refusal.clone()));
            }
            if state.stop {
                return Err(ReplicationError::Closing);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.options.degrade {
            state.status.degraded = true;
            self.moved.notify_all();
            return Ok(());
        }
        let trouble = state.status.trouble.as_ref();
        let trouble = trouble.map_or(String::new(), |trouble| format!(" ({trouble})"));
        Err(ReplicationError::Timeout(self.options.timeout, trouble))
    }

    fn status(&self) -> ReplicaStatus {
        let state = self.state();
        let mut status = state.status.clone();
        status.queued = state.queue.len();
        status.queued_bytes = state.bytes;
        status.lag = state.behind_since.map_or(Duration::ZERO, |at| at.elapsed());
        status
    }

    fn run(&self, feed: Feed<'_>) {
        replicate(self, feed);
    }

    /// Nothing will be committed any more: lets the sender finish, if it can,
    /// and ends it.
    fn stop(&self) {
        let deadline = Instant::now() + self.options.timeout.min(Duration::from_secs(2));
        let mut state = self.state();
        let behind = |state: &State| {
            let going = matches!(state.status.link, Link::Streaming | Link::CatchingUp);
            going && state.status.acknowledged < state.status.offered
        };
        while behind(&state) && Instant::now() < deadline {
            let waited = self.moved.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stop = true;
        if let Some(handle) = state.handle.take() {
            // It may be closed already.
            let _closed = handle.shutdown(Shutdown::Both);
        }
        self.wake.notify_all();
        self.moved.notify_all();
    }

    /// Whether commits wait for the backup.
    fn required(&self) -> bool {
        self.options.require != Require::Disk
    }

    /// Whether the backup may have what the local disk has not.
    fn before_disk(&self) -> bool {
        self.options.require == Require::Backup
    }
}

impl State {
    fn behind(&mut self) {
        self.behind_since.get_or_insert_with(Instant::now);
    }

    /// Forgets what the backup has.
    fn drop_until(&mut self, version: u64) {
        while let Some(first) = self.queue.front()
            && first.batch.version <= version
        {
            self.bytes -= first.batch.bytes().min(self.bytes);
            self.queue.pop_front();
        }
    }

    /// Versions which go together; they stay in the queue until they are
    /// acknowledged.
    fn group(&self, sent: u64) -> Vec<(u64, Arc<Batch>)> {
        let mut group: Vec<(u64, Arc<Batch>)> = Vec::new();
        let (mut last, mut pages) = (sent, 0);
        for waiting in self.queue.iter().take(GROUP_VERSIONS) {
            pages += waiting.batch.changes.len();
            let fits = pages <= GROUP_PAGES || group.is_empty();
            if waiting.previous != last || !fits {
                break;
            }
            last = waiting.batch.version;
            group.push((waiting.previous, waiting.batch.clone()));
        }
        group
    }
}
