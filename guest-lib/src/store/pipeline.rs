//! From a commit to the disk.
//!
//! Commits queue up.  Whoever needs one to be durable takes the writer and
//! writes all that wait with one sync, so threads which commit at the same
//! time share it; a thread of the store does so for those who do not wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::Hold;
use super::compact::compact;
use super::error::StoreError;
use super::frame::{Change, now};
use super::images::Images;
use super::metrics::{StoreMetrics, add, set};
use super::options::{Durability, StoreOptions};
use super::writer::{Batch, Writer};
use crate::backup::Replica;
use crate::sys::fork;

/// How long the store's thread waits after a failure.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// Number of the next version.
    next: u64,
    /// Newest version on stable storage.
    durable: u64,
    /// The thread of the store could not write.
    failed: bool,
}

pub(crate) struct Shared {
    pub(crate) images: Arc<Images>,
    pub(crate) options: StoreOptions,
    pub(crate) metrics: Arc<StoreMetrics>,
    queue: Mutex<Queue>,
    wake: Condvar,
    quit: Condvar,
    writer: Mutex<Writer>,
    maintenance: Mutex<()>,
    compact: Condvar,
    pub(crate) stop: AtomicBool,
    /// Keeps other writers out; `None` if this one only reads.
    pub(crate) lock: Option<Arc<dyn Hold>>,
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
        writer: Writer,
        options: StoreOptions,
        acknowledged: u64,
        lock: Option<Arc<dyn Hold>>,
        epoch: u64,
    ) -> Self {
        let durable = writer.last;
        let replication = options.replication.clone().filter(|_| lock.is_some());
        let replica = replication.map(|options| Replica::new(options, durable, epoch));
        let queue = Queue {
            next: durable.max(acknowledged).saturating_add(1),
            durable,
            ..Queue::default()
        };
        Self {
            images: writer.images.clone(),
            metrics: writer.metrics.clone(),
            options,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            quit: Condvar::new(),
            writer: Mutex::new(writer),
            maintenance: Mutex::new(()),
            compact: Condvar::new(),
            stop: AtomicBool::new(false),
            lock,
            replica,
        }
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
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
            .map_or(queue.durable, |batch| batch.version)
    }

    /// Commits; the number of the version.
    ///
    /// # Errors
    /// Nothing was committed.
    pub(crate) fn commit(
        &self,
        changes: Arc<Vec<Change>>,
        durability: Durability,
    ) -> Result<u64, StoreError> {
        let start = Instant::now();
        let result = self.enqueue(changes, durability);
        match result {
            Ok(_) => self.metrics.committed(durability, start.elapsed()),
            Err(_) => add(&self.metrics.failed, 1),
        }
        result
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
    ) -> Result<u64, StoreError> {
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
        if first && self.crowded() {
            // What went to the backup cannot be taken back afterwards.
            self.lead(None)?;
        }
        let (version, lead) = {
            let mut queue = lock(&self.queue);
            let version = queue.next;
            let batch = Arc::new(Batch::new(version, now(), changes));
            queue.next = version
                .checked_add(1)
                .ok_or(StoreError::Exhausted("versions"))?;
            queue.bytes += batch.bytes();
            queue.pending.push_back(batch.clone());
            self.measure(&queue);
            if let Some(replica) = self.replica.as_ref().filter(|_| first) {
                replica.offer(&[batch]);
            }
            (version, !first && self.full(&queue))
        };
        match durability {
            Durability::Memory | Durability::Async if !lead => {
                self.wake.notify_one();
                return Ok(version);
            }
            Durability::Memory | Durability::Async => add(&self.metrics.backpressure, 1),
            Durability::Group => std::thread::sleep(self.options.group_delay),
            Durability::Sync => {}
        }
        if first {
            self.wake.notify_one();
        } else {
            self.lead(Some(version))?;
        }
        if matches!(durability, Durability::Group | Durability::Sync)
            && let Some(replica) = self.replica.as_ref().filter(|replica| replica.required())
        {
            let waited = replica.wait(version);
            waited.map_err(|source| StoreError::Unreplicated { version, source })?;
        }
        Ok(version)
    }

    fn full(&self, queue: &Queue) -> bool {
        queue.failed || queue.bytes > self.options.queue_bytes
    }

    fn crowded(&self) -> bool {
        self.full(&lock(&self.queue))
    }

    /// After the writer did something by itself.
    pub(crate) fn settle(&self, writer: &Writer) {
        let mut queue = lock(&self.queue);
        queue.durable = writer.last;
        queue.next = queue.next.max(writer.last.saturating_add(1));
        drop(queue);
        if self.wants_compaction(writer) {
            self.compact.notify_one();
        }
    }

    /// Writes all that waits.  If it fails, the version leaves the queue; the
    /// others stay.
    pub(crate) fn lead(&self, version: Option<u64>) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let batches: Vec<_> = {
            let queue = lock(&self.queue);
            if version.is_some_and(|version| version <= queue.durable) {
                return Ok(());
            }
            queue.pending.iter().cloned().collect()
        };
        let result = writer.write(&batches);
        if let Some(replica) = self.replica.as_ref().filter(|replica| !replica.first())
            && result.is_ok()
        {
            replica.offer(&batches);
        }
        let mut queue = lock(&self.queue);
        match &result {
            Ok(()) => {
                let done: usize = batches.iter().map(|batch| batch.bytes()).sum();
                queue.pending.drain(..batches.len());
                queue.bytes -= done;
                queue.durable = writer.last;
                queue.failed = false;
            }
            Err(_) => {
                queue.pending.retain(|batch| Some(batch.version) != version);
                queue.bytes = queue.pending.iter().map(|batch| batch.bytes()).sum();
                queue.failed = true;
            }
        }
        self.measure(&queue);
        drop(queue);
        if self.wants_compaction(&writer) {
            self.compact.notify_one();
        }
        result
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
        self.lead(None)?;
        let mut writer = self.writer();
        let (version, batches) = {
            let mut queue = lock(&self.queue);
            let version = queue.next;
            queue.next = version
                .checked_add(1)
                .ok_or(StoreError::Exhausted("versions"))?;
            (version, queue.pending.iter().cloned().collect::<Vec<_>>())
        };
        writer.write(&batches)?;
        let result = act(&mut writer, version);
        if let Some(replica) = &self.replica {
            // Areas may differ, or everything: it is read from the store.
            replica.skip_to(writer.last);
        }
        let mut queue = lock(&self.queue);
        queue.pending.drain(..batches.len());
        queue.bytes = queue.pending.iter().map(|batch| batch.bytes()).sum();
        queue.durable = writer.last;
        self.measure(&queue);
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
            if queue.pending.is_empty() {
                queue = self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Lets some more gather.
            drop(self.pause(queue, self.options.interval));
            let failed = self.lead(None).is_err();
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
