// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a commit to the disk.
//!
//! Commits queue up.  Of those who need one to be durable, one leads: takes
//! the writer and writes all that wait with one sync, while the others wait
//! for the outcome and later ones queue up for the next.  A thread of the
//! store does so for those who do not wait.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::counters::add;
use super::error::StoreError;
use super::frame::{Change, now};
use super::options::Durability;
use super::pipeline::{Shared, lock};
use super::queue::{Entry, Queue, Waiter};
use super::writer::{Batch, Writer};
use hvckpt_sys::fork;

/// A version which is in the queue: committed in memory.
#[derive(Debug)]
#[must_use = "somebody may have to wait for it"]
pub struct Ticket {
    /// Its number.
    pub version: u64,
    durability: Durability,
    waiter: Waiter,
    start: Instant,
    /// Newest version on stable storage when it was committed.
    pub durable: u64,
}

impl Ticket {
    /// Whether it stays though the disk refuses it, to be written later.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.waiter == Waiter::None
    }
}

impl Shared {
    /// Commits, and waits for as long as that takes; the number of the version.
    ///
    /// # Errors
    /// Nothing was committed.
    pub(crate) fn commit(
        &self,
        changes: Arc<Vec<Change>>,
        durability: Durability,
    ) -> Result<u64, StoreError> {
        self.admit()?;
        let ticket = self.publish(changes, durability, None)?;
        self.finish(&ticket)
    }

    /// Makes room for a commit; where that may take long.
    ///
    /// # Errors
    /// The disk refuses, and nothing may be committed before it works.
    pub fn admit(&self) -> Result<(), StoreError> {
        if self.follows_first() && self.crowded() {
            // What went to the backup cannot be taken back afterwards.
            return self.lead().inspect_err(|_| add(&self.metrics.failed, 1));
        }
        Ok(())
    }

    /// Commits in memory, and waits for nothing.  `origin`: the area of a
    /// region, of which a version is built on the one before.
    ///
    /// # Errors
    /// Nothing was committed.
    pub fn publish(
        &self,
        changes: Arc<Vec<Change>>,
        durability: Durability,
        origin: Option<u32>,
    ) -> Result<Ticket, StoreError> {
        let result = self.enqueue(changes, durability, origin);
        result.inspect_err(|_| add(&self.metrics.failed, 1))
    }

    /// Waits until a version is as safe as was asked for; its number.
    ///
    /// # Errors
    /// It was refused, with all that was built on it; but for
    /// [`StoreError::Unreplicated`].
    pub fn finish(&self, ticket: &Ticket) -> Result<u64, StoreError> {
        let result = self.outcome(ticket);
        match result {
            Ok(()) => self
                .metrics
                .committed(ticket.durability, ticket.start.elapsed()),
            Err(_) => add(&self.metrics.failed, 1),
        }
        result.map(|()| ticket.version)
    }

    fn enqueue(
        &self,
        changes: Arc<Vec<Change>>,
        durability: Durability,
        origin: Option<u32>,
    ) -> Result<Ticket, StoreError> {
        let start = Instant::now();
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly);
        }
        if fork::is_child() {
            return Err(StoreError::ForkChild);
        }
        if let Some(epoch) = self.follower.as_ref().and_then(|it| it.fenced()) {
            return Err(StoreError::Fenced { epoch });
        }
        let first = self.follows_first();
        let mut queue = lock(&self.queue);
        if let Some((_, error)) = origin.and_then(|origin| queue.broken(origin)) {
            return Err(error);
        }
        let version = queue.next;
        queue.next = version
            .checked_add(1)
            .ok_or(StoreError::Exhausted("versions"))?;
        let batch = Arc::new(Batch::new(version, now(), changes));
        let full = self.full(&queue) || queue.bytes + batch.bytes() > self.options.queue_bytes;
        let waiter = match durability {
            // The backup has it, whatever the disk says.
            _ if first => Waiter::None,
            Durability::Memory | Durability::Async if !full => Waiter::None,
            Durability::Memory | Durability::Async => {
                add(&self.metrics.backpressure, 1);
                Waiter::Hasty
            }
            Durability::Group => Waiter::Patient,
            Durability::Sync => Waiter::Hasty,
        };
        if let Some(follower) = self.follower.as_ref().filter(|_| first) {
            follower.offer(std::slice::from_ref(&batch));
        }
        queue.push(Entry {
            batch,
            origin,
            waiter,
        });
        self.measure(&queue);
        if waiter == Waiter::None {
            self.wake.notify_one();
        } else if queue.leading && self.enough(&queue) {
            self.gathered.notify_one();
        }
        Ok(Ticket {
            version,
            durability,
            waiter,
            start,
            durable: queue.durable,
        })
    }

    /// Whether versions go to the follower before they go to the disk.
    fn follows_first(&self) -> bool {
        self.follower.as_ref().is_some_and(|it| it.before_disk())
    }

    fn outcome(&self, ticket: &Ticket) -> Result<(), StoreError> {
        if ticket.waiter != Waiter::None {
            self.wait_for_disk(ticket.version)?;
        }
        match ticket.durability {
            Durability::Group | Durability::Sync => self.wait_for_follower(ticket.version),
            Durability::Memory | Durability::Async => Ok(()),
        }
    }

    fn wait_for_follower(&self, version: u64) -> Result<(), StoreError> {
        match self.follower.as_ref().filter(|it| it.required()) {
            Some(follower) => follower
                .wait(version)
                .map_err(|source| StoreError::Unreplicated { version, source }),
            None => Ok(()),
        }
    }

    /// Waits for a version which is waited for to be written or refused.  Who
    /// finds that nobody writes does so for all.
    fn wait_for_disk(&self, version: u64) -> Result<(), StoreError> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(outcome) = queue.outcome(version) {
                return outcome;
            }
            queue = self.take_turn(queue).0;
        }
    }

    /// Writes, or waits until somebody has; what came of writing.
    fn take_turn<'q>(
        &'q self,
        mut queue: MutexGuard<'q, Queue>,
    ) -> (MutexGuard<'q, Queue>, Result<(), StoreError>) {
        if queue.leading {
            let waited = self.outcomes.wait(queue);
            return (waited.unwrap_or_else(PoisonError::into_inner), Ok(()));
        }
        queue.leading = true;
        let leading = Leading(self);
        if !self.enough(&queue) {
            let few = |queue: &mut Queue| !self.enough(queue);
            let delay = self.options.group_delay;
            let gathered = self.gathered.wait_timeout_while(queue, delay, few);
            queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        let result = self.write_pending(&mut self.writer());
        drop(leading);
        (lock(&self.queue), result)
    }

    /// Whether a sync is worth it now: all are there who took part in the last
    /// one or came while it was under way, or there is one who may not tarry.
    fn enough(&self, queue: &Queue) -> bool {
        queue.hasty > 0
            || queue.waited == 0
            || queue.waited >= queue.expected
            || self.stop.load(Ordering::Acquire)
    }

    /// Waits until a version is on stable storage, and on the backup if that is
    /// required.
    ///
    /// # Errors
    /// It is not, but stays committed in memory; or it was taken back.
    pub(crate) fn wait(&self, version: u64) -> Result<(), StoreError> {
        if fork::is_child() {
            return Err(StoreError::ForkChild);
        }
        let mut queue = lock(&self.queue);
        loop {
            if version >= queue.next || queue.taken(version) {
                return Err(StoreError::NoVersion { version });
            }
            if version <= queue.durable {
                break;
            }
            let alone = !queue.leading;
            let result;
            (queue, result) = self.take_turn(queue);
            // What another one heard may have been about his version.
            if alone && version > queue.durable && !queue.taken(version) {
                result?;
            }
        }
        drop(queue);
        self.wait_for_follower(version)
    }

    /// Whether a region must go back to what it was before a version, and why.
    pub fn broken(&self, origin: u32) -> Option<(u64, StoreError)> {
        if !self.broken.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.queue).broken(origin)
    }

    /// The region went back.
    pub fn mended(&self, origin: u32) {
        let mut queue = lock(&self.queue);
        let more = queue.mended(origin);
        self.broken.store(more, Ordering::Release);
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// Who waits for a version was told the same; others stay in the queue.
    pub(crate) fn lead(&self) -> Result<(), StoreError> {
        let result = self.write_pending(&mut self.writer());
        self.outcomes.notify_all();
        result
    }

    /// Writes all that waits, together if the disk takes it like that.
    fn write_pending(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let batches = lock(&self.queue).batches();
        let result = self.append(writer, &batches);
        if let (Err(error), Some(last)) = (&result, batches.last()) {
            self.write_apart(writer, batches.len(), last.version, error);
        }
        if result.is_err() {
            let mut queue = lock(&self.queue);
            queue.failed = true;
            self.measure(&queue);
        }
        if self.wants_compaction(writer) {
            self.compact.notify_one();
        }
        result
    }

    /// After versions were refused together: each which is waited for hears
    /// for itself.  One which nobody waits for blocks those behind it.
    fn write_apart(&self, writer: &mut Writer, count: usize, last: u64, error: &StoreError) {
        let mut error = error.again();
        // On a full disk the next one may be smaller; otherwise it is hopeless.
        while count > 1 && matches!(error, StoreError::Full { .. }) {
            let next = {
                let queue = lock(&self.queue);
                let next = queue.pending.front();
                let next = next.filter(|entry| entry.batch.version <= last);
                next.map(|entry| (entry.batch.clone(), entry.waiter))
            };
            let Some((batch, waiter)) = next else {
                return;
            };
            let version = batch.version;
            let Err(why) = self.append(writer, &[batch]) else {
                continue;
            };
            error = why;
            if waiter == Waiter::None {
                break;
            }
            self.refuse(version, true, &error);
        }
        self.refuse(last, false, &error);
    }

    fn refuse(&self, last: u64, alone: bool, error: &StoreError) {
        let mut queue = lock(&self.queue);
        queue.refuse(last, alone, error);
        // Before anybody hears of it.
        self.broken.store(queue.any_broken(), Ordering::Release);
    }

    /// Writes the first ones of the queue with one sync.
    fn append(&self, writer: &mut Writer, batches: &[Arc<Batch>]) -> Result<(), StoreError> {
        writer.write(batches)?;
        if let Some(follower) = self.follower.as_ref().filter(|it| !it.before_disk()) {
            follower.offer(batches);
        }
        self.catalog().follow(writer);
        let mut queue = lock(&self.queue);
        let done = queue.written(batches.len(), writer.last);
        queue.expected = done + queue.waited;
        self.measure(&queue);
        Ok(())
    }
}

/// The one who writes for all.
struct Leading<'s>(&'s Shared);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).leading = false;
        self.0.outcomes.notify_all();
    }
}
