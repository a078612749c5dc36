// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the threads of a program and those of a store share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::Hold;
use super::catalog::Catalog;
use super::compact::compact;
use super::counters::{StoreMetrics, set};
use super::error::StoreError;
use super::follow::{Feed, Follower};
use super::handover::Handover;
use super::images::Images;
use super::options::StoreOptions;
use super::queue::Queue;
use super::writer::Writer;

/// How long the store's thread waits after a failure.
const RETRY: Duration = Duration::from_millis(100);

/// What the threads of a store share.
pub struct Shared {
    /// The store's id.
    pub(crate) id: [u8; 16],
    pub(crate) images: Arc<Images>,
    pub(crate) options: StoreOptions,
    pub(crate) metrics: Arc<StoreMetrics>,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    quit: Condvar,
    /// More versions are waited for: the leader may.
    pub(super) gathered: Condvar,
    /// There are outcomes, or nobody leads any more.
    pub(super) outcomes: Condvar,
    /// A region must go back; a hint, see [`Queue::broken`].
    pub(super) broken: AtomicBool,
    catalog: Mutex<Catalog>,
    writer: Mutex<Writer>,
    maintenance: Mutex<()>,
    pub(super) compact: Condvar,
    pub(crate) stop: AtomicBool,
    /// Keeps other writers out; `None` if this one only reads.
    pub(crate) lock: Option<Arc<dyn Hold>>,
    pub(super) follower: Option<Box<dyn Follower>>,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves these consistent: they change at the end only.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        mut writer: Writer,
        options: StoreOptions,
        acknowledged: u64,
        lock: Option<Arc<dyn Hold>>,
        epoch: u64,
    ) -> Self {
        let durable = writer.last;
        let following = options.replication.as_ref().filter(|_| lock.is_some());
        let follower = following.map(|following| following.follower(durable, epoch));
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
            follower,
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

    /// What the disk and the follower encode once, if there are two.
    #[must_use]
    pub fn handover(&self) -> Option<Handover> {
        self.follower.as_ref().map(|_| Handover::default())
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
    #[must_use]
    pub fn newest(&self) -> u64 {
        let queue = lock(&self.queue);
        queue
            .pending
            .back()
            .map_or(queue.durable, |entry| entry.batch.version)
    }

    /// Tells how much waits.
    pub(super) fn measure(&self, queue: &Queue) {
        set(&self.metrics.queue_bytes, queue.bytes as u64);
        set(&self.metrics.queue_versions, queue.pending.len() as u64);
    }

    pub(super) fn full(&self, queue: &Queue) -> bool {
        queue.failed || queue.bytes > self.options.queue_bytes
    }

    pub(super) fn crowded(&self) -> bool {
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
        if let Some(follower) = &self.follower {
            // Areas may differ, or everything: it is read from the store.
            follower.skip_to(writer.last);
        }
        self.catalog().follow(&mut writer);
        let mut queue = lock(&self.queue);
        queue.written(batches.len(), writer.last);
        self.measure(&queue);
        self.outcomes.notify_all();
        result
    }

    pub(super) fn wants_compaction(&self, writer: &Writer) -> bool {
        let base = writer
            .versions
            .values()
            .find(|version| version.floor == version.image);
        let base = base.map_or(0, |base| {
            writer.sizes.get(&base.image).copied().unwrap_or(0)
        });
        let all: u64 = writer.sizes.values().sum();
        self.options.auto_compact
            && !writer.unsettled()
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

    /// Lets the follower follow, until the store is dropped.
    pub(super) fn follow(&self) {
        if let Some(follower) = &self.follower {
            follower.run(Feed::new(self));
        }
    }

    pub(crate) fn backend(&self) -> &dyn super::backend::Backend {
        &**self.images.backend()
    }

    pub(crate) fn stop(&self) {
        if let Some(follower) = &self.follower {
            follower.stop();
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
