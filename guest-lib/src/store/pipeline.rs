//! From a commit to the disk.
//!
//! Commits queue up.  Of those who need one to be durable, one leads: takes
//! the writer and writes all that wait with one sync, while the others wait
//! for the outcome and later ones queue up for the next.  A thread of the
//! store does so for those who do not wait.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use super::compact::compact;
use super::error::StoreError;
use super::frame::{Change, now};
use super::images::Images;
use super::metrics::{StoreMetrics, add, set};
use super::options::{Durability, StoreOptions};
use super::queue::{Entry, Queue, Waiter};
use super::writer::{Batch, Writer};
use crate::backup::Replica;
use crate::sys::fork;

/// How long the store's thread waits after a failure.
const RETRY: Duration = Duration::from_millis(100);

/// A version which is in the queue: committed in memory.
#[derive(Debug)]
#[must_use = "somebody may have to wait for it"]
pub(crate) struct Ticket {
    pub(crate) version: u64,
    durability: Durability,
    waiter: Waiter,
    start: Instant,
    /// Newest version on stable storage when it was committed.
    pub(crate) durable: u64,
}

impl Ticket {
    /// Whether it stays though the disk refuses it, to be written later.
    pub(crate) fn stays(&self) -> bool {
        self.waiter == Waiter::None
    }
}

pub(crate) struct Shared {
    /// The store's id.
    pub(crate) id: [u8; 16],
    pub(crate) images: Arc<Images>,
    pub(crate) options: StoreOptions,
    pub(crate) metrics: Arc<StoreMetrics>,
    queue: Mutex<Queue>,
    wake: Condvar,
    quit: Condvar,
    /// More versions are waited for: the leader may.
    gathered: Condvar,
    /// There are outcomes, or nobody leads any more.
    outcomes: Condvar,
    /// A region must go back; a hint, see [`Queue::broken`].
    broken: AtomicBool,
    catalog: Mutex<Catalog>,
    writer: Mutex<Writer>,
    maintenance: Mutex<()>,
    compact: Condvar,
    pub(crate) stop: AtomicBool,
    /// Keeps other writers out; `None` if this one only reads.
    pub(crate) lock: Option<Box<dyn Any + Send + Sync>>,
    /// The way to the backup, if there is one.
    pub(crate) replica: Option<Replica>,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves these consistent: they change at the end only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        mut writer: Writer,
        options: StoreOptions,
        acknowledged: u64,
        lock: Option<Box<dyn Any + Send + Sync>>,
        epoch: u64,
    ) -> Self {
        let durable = writer.last;
        let replication = options.replication.clone().filter(|_| lock.is_some());
        let replica = replication.map(|options| Replica::new(options, durable, epoch));
        let queue = Queue::new(durable, durable.max(acknowledged).saturating_add(1));
        let mut catalog = Catalog::default();
        catalog.follow(&mut writer);
        Self {
            id: writer.store,
            images: writer.images.clone(),
            metrics: writer.metrics.clone(),
            options,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            quit: Condvar::new(),
            gathered: Condvar::new(),
            outcomes: Condvar::new(),
            broken: AtomicBool::new(false),
            catalog: Mutex::new(catalog),
            writer: Mutex::new(writer),
            maintenance: Mutex::new(()),
            compact: Condvar::new(),
            stop: AtomicBool::new(false),
            lock,
            replica,
        }
    }

    /// The one who writes.  Held while the disk works: readers use the
    /// catalog.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// What there is to read.  Never held for long.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        lock(&self.catalog)
    }

    pub(crate) fn maintenance(&self) -> MutexGuard<'_, ()> {
        lock(&self.maintenance)
    }

    /// Newest version on stable storage.
    pub(crate) fn durable(&self) -> u64 {
        lock(&self.queue).durable
    }

    /// Bytes which wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.queue).bytes
    }

    /// Newest version there is.
    pub(crate) fn newest(&self) -> u64 {
        let queue = lock(&self.queue);
        queue
            .pending
            .back()
            .map_or(queue.durable, |entry| entry.batch.version)
    }

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
    pub(crate) fn admit(&self) -> Result<(), StoreError> {
        let first = self.replica.as_ref().is_some_and(Replica::first);
        if first && self.crowded() {
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
    pub(crate) fn publish(
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
    pub(crate) fn finish(&self, ticket: &Ticket) -> Result<u64, StoreError> {
        let result = self.outcome(ticket);
        match result {
            Ok(()) => self
                .metrics
                .committed(ticket.durability, ticket.start.elapsed()),
            Err(_) => add(&self.metrics.failed, 1),
        }
        result.map(|()| ticket.version)
    }

    /// Tells how much waits.
    fn measure(&self, queue: &Queue) {
        set(&self.metrics.queue_bytes, queue.bytes as u64);
        set(&self.metrics.queue_versions, queue.pending.len() as u64);
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
        if let Some(epoch) = self.replica.as_ref().and_then(Replica::fenced) {
            return Err(StoreError::Fenced { epoch });
        }
        let first = self.replica.as_ref().is_some_and(Replica::first);
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
        if let Some(replica) = self.replica.as_ref().filter(|_| first) {
            replica.offer(&[batch.clone()]);
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

    fn outcome(&self, ticket: &Ticket) -> Result<(), StoreError> {
        if ticket.waiter != Waiter::None {
            self.wait_for_disk(ticket.version)?;
        }
        match ticket.durability {
            Durability::Group | Durability::Sync => self.wait_for_backup(ticket.version),
            Durability::Memory | Durability::Async => Ok(()),
        }
    }

    fn wait_for_backup(&self, version: u64) -> Result<(), StoreError> {
        match self.replica.as_ref().filter(|replica| replica.required()) {
            Some(replica) => replica
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
        self.wait_for_backup(version)
    }

    /// Whether a region must go back to what it was before a version, and why.
    pub(crate) fn broken(&self, origin: u32) -> Option<(u64, StoreError)> {
        if !self.broken.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.queue).broken(origin)
    }

    /// The region went back.
    pub(crate) fn mended(&self, origin: u32) {
        let mut queue = lock(&self.queue);
        let more = queue.mended(origin);
        self.broken.store(more, Ordering::Release);
    }

    fn full(&self, queue: &Queue) -> bool {
        queue.failed || queue.bytes > self.options.queue_bytes
    }

    fn crowded(&self) -> bool {
        self.full(&lock(&self.queue))
    }

    /// After the writer did something by itself.
    pub(crate) fn settle(&self, writer: &mut Writer) {
        self.catalog().follow(writer);
        let mut queue = lock(&self.queue);
        queue.durable = writer.last;
        queue.next = queue.next.max(writer.last.saturating_add(1));
        drop(queue);
        if self.wants_compaction(writer) {
            self.compact.notify_one();
        }
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
        if let Some(replica) = self.replica.as_ref().filter(|replica| !replica.first()) {
            replica.offer(batches);
        }
        self.catalog().follow(writer);
        let mut queue = lock(&self.queue);
        let done = queue.written(batches.len(), writer.last);
        queue.expected = done + queue.waited;
        self.measure(&queue);
        Ok(())
    }

    /// Does something with the writer as a version of its own, after all that
    /// waits.
    pub(crate) fn alone<T>(
        &self,
        act: impl FnOnce(&mut Writer, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly);
        }
        self.lead()?;
        let mut writer = self.writer();
        let (version, batches) = {
            let mut queue = lock(&self.queue);
            let version = queue.next;
            queue.next = version
                .checked_add(1)
                .ok_or(StoreError::Exhausted("versions"))?;
            (version, queue.batches())
        };
        writer.write(&batches)?;
        let result = act(&mut writer, version);
        if let Some(replica) = &self.replica {
            // Areas may differ, or everything: it is read from the store.
            replica.skip_to(writer.last);
        }
        self.catalog().follow(&mut writer);
        let mut queue = lock(&self.queue);
        queue.written(batches.len(), writer.last);
        self.measure(&queue);
        self.outcomes.notify_all();
        result
    }

    fn wants_compaction(&self, writer: &Writer) -> bool {
        let base = writer
            .versions
            .values()
            .find(|version| version.floor == version.image);
        let base = base.map_or(0, |base| {
            writer.sizes.get(&base.image).copied().unwrap_or(0)
        });
        let all: u64 = writer.sizes.values().sum();
        self.options.auto_compact
            && !writer.poisoned
            && all - base.min(all) > self.options.compact_bytes.max(base)
    }

    /// Writes what nobody waits for, until the store is dropped.
    pub(crate) fn write_behind(&self) {
        let mut queue = lock(&self.queue);
        while !self.stop.load(Ordering::Acquire) {
            // Who waits writes for himself.
            if queue.waited == queue.pending.len() {
                queue = self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Lets some more gather.
            drop(self.pause(queue, self.options.interval));
            let failed = self.lead().is_err();
            queue = lock(&self.queue);
            if failed {
                // Who commits next hears of it.
                queue = self.pause(queue, RETRY);
            }
        }
    }

    fn pause<'q>(&self, queue: MutexGuard<'q, Queue>, time: Duration) -> MutexGuard<'q, Queue> {
        let go_on = |_: &mut Queue| !self.stop.load(Ordering::Acquire);
        let paused = self.quit.wait_timeout_while(queue, time, go_on);
        paused.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Compacts whenever it is worth it, until the store is dropped.
    pub(crate) fn compact_behind(&self) {
        loop {
            {
                let mut writer = self.writer();
                while !self.stop.load(Ordering::Acquire) && !self.wants_compaction(&writer) {
                    writer = self
                        .compact
                        .wait(writer)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
            let go_on = || !self.stop.load(Ordering::Acquire);
            if !go_on() {
                return;
            }
            // What fails is tried again after more commits; they hear of a
            // disk which does not work.
            let _failed = compact(self, &self.options, &mut |_| go_on());
            let mut writer = self.writer();
            // Until then versions are kept which need the old images.
            let before = writer.last;
            while go_on() && writer.last < before.saturating_add(self.options.keep as u64) {
                writer = self
                    .compact
                    .wait(writer)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    pub(crate) fn backend(&self) -> &dyn super::backend::Backend {
        &**self.images.backend()
    }

    pub(crate) fn stop(&self) {
        if let Some(replica) = &self.replica {
            replica.stop();
        }
        // With the locks held nobody is between looking and waiting.
        let _writer = self.writer();
        let _queue = lock(&self.queue);
        self.stop.store(true, Ordering::Release);
        self.wake.notify_all();
        self.quit.notify_all();
        self.compact.notify_all();
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
