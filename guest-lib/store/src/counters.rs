// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a store counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::options::Durability;
use crate::metrics::{Distribution, Histogram, Sample, Source, Value};

/// Names of the levels, in the order of [`level`].
const LEVELS: [&str; 3] = ["sync", "group", "async"];

fn level(durability: Durability) -> usize {
    match durability {
        Durability::Sync => 0,
        Durability::Group => 1,
        Durability::Async | Durability::Memory => 2,
    }
}

/// What a store counted since it was opened; see [`Source`].
#[derive(Debug, Default)]
pub struct StoreMetrics {
    commits: [Histogram; 3],
    pub(super) failed: AtomicU64,
    pub(super) syncs: Histogram,
    pub(super) bytes: AtomicU64,
    pub(super) pages: AtomicU64,
    pub(super) images: AtomicU64,
    pub(super) compactions: Histogram,
    pub(super) queue_bytes: AtomicU64,
    pub(super) queue_versions: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
    pub(super) backpressure: AtomicU64,
    copied: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

pub(super) fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

impl StoreMetrics {
    pub(super) fn committed(&self, durability: Durability, time: Duration) {
        self.commits[level(durability)].observe(time);
    }

    /// How long commits of a level took which succeeded.
    #[must_use]
    pub fn commits(&self, durability: Durability) -> Distribution {
        self.commits[level(durability)].read()
    }

    /// How long the disk took to make commits durable.
    #[must_use]
    pub fn syncs(&self) -> Distribution {
        self.syncs.read()
    }

    /// Bytes written to images.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    #[doc(hidden)]
    pub fn copied(&self, bytes: u64) {
        add(&self.copied, bytes);
    }

    /// Bytes which commits copied out of regions.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Versions which are committed and not durable yet.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.queue_versions.load(Ordering::Relaxed)
    }
}

impl Source for StoreMetrics {
    fn samples(&self) -> Vec<Sample> {
        let sample = |name, help, label, value| Sample {
            name,
            help,
            label,
            value,
        };
        let counter = |name, help, counter: &AtomicU64| {
            let value = Value::Counter(counter.load(Ordering::Relaxed));
            sample(name, help, None, value)
        };
        let gauge = |name, help, gauge: &AtomicU64| {
            let value = Value::Gauge(gauge.load(Ordering::Relaxed));
            sample(name, help, None, value)
        };
        let commits = self.commits.iter().zip(LEVELS).map(|(times, level)| {
            sample(
                "hvckpt_store_commit_seconds",
                "How long commits took, by durability",
                Some(("durability", level)),
                Value::Times(times.read()),
            )
        });
        let mut all: Vec<Sample> = commits.collect();
        all.extend([
            sample(
                "hvckpt_store_sync_seconds",
                "How long the disk took to make commits durable",
                None,
                Value::Times(self.syncs.read()),
            ),
            sample(
                "hvckpt_store_compaction_seconds",
                "How long compactions took",
                None,
                Value::Times(self.compactions.read()),
            ),
            counter(
                "hvckpt_store_commits_failed_total",
                "Commits which were refused",
                &self.failed,
            ),
            counter(
                "hvckpt_store_backpressure_total",
                "Asynchronous commits which had to write because the queue was full",
                &self.backpressure,
            ),
            counter(
                "hvckpt_store_copied_bytes_total",
                "Bytes which commits copied out of regions",
                &self.copied,
            ),
            counter(
                "hvckpt_store_written_bytes_total",
                "Bytes appended to increments",
                &self.bytes,
            ),
            counter(
                "hvckpt_store_written_pages_total",
                "Page records appended to increments",
                &self.pages,
            ),
            gauge(
                "hvckpt_store_queue_bytes",
                "Bytes of commits which wait in memory",
                &self.queue_bytes,
            ),
            gauge(
                "hvckpt_store_lag_versions",
                "Versions which are committed and not durable",
                &self.queue_versions,
            ),
            gauge(
                "hvckpt_store_disk_bytes",
                "Size of all images",
                &self.disk_bytes,
            ),
            gauge("hvckpt_store_images", "Number of images", &self.images),
        ]);
        all
    }
}
