// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library counts, for monitoring.
//!
//! Whoever counts is a [`Source`]; a [`Registry`] gathers sources under names
//! and writes them as Prometheus text.  Counting is a few relaxed atomic
//! additions, whether anybody looks or not.
//!
//! ```
//! # use std::sync::Arc;
//! # use hvckpt_store::metrics::Registry;
//! # use hvckpt_store::{Store, StoreOptions, backend::CrashDisk};
//! # let store = Store::open_on(Arc::new(CrashDisk::new()), StoreOptions::default())?;
//! let registry = Registry::new();
//! registry.add("main", store.metrics());
//! assert!(registry.prometheus().contains("hvckpt_store_lag_versions{source=\"main\"} 0"));
//! # Ok::<(), hvckpt_store::StoreError>(())
//! ```

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Buckets: up to 1 µs, 2 µs, 4 µs … 8.4 s, and longer.
const BUCKETS: usize = 25;

/// How long something took, by powers of two.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        // The bucket of 2^n takes what is above 2^(n-1).
        let bucket = micros.max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn read(&self) -> Distribution {
        Distribution {
            counts: self
                .buckets
                .each_ref()
                .map(|bucket| bucket.load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

/// What a [`Histogram`] counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Distribution {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long in all.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// A time within which at least this part of them was done, from 0 to 1;
    /// exact to a factor of two.  `None` if there were none, or if it is
    /// beyond the last bound.
    #[must_use]
    pub fn within(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        let mut seen = 0;
        for (n, in_it) in self.counts.iter().enumerate() {
            seen += in_it;
            #[allow(clippy::cast_precision_loss)] // a part of many
            if count > 0 && seen as f64 >= part * count as f64 {
                return (n + 1 < BUCKETS).then(|| Duration::from_micros(1 << n));
            }
        }
        None
    }
}

/// A value of a [`Sample`].
#[allow(clippy::large_enum_variant)] // few, and soon gone
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Grows only.
    Counter(u64),
    /// Goes up and down.
    Gauge(u64),
    /// Times.
    Times(Distribution),
}

/// One thing which is counted.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Name as Prometheus likes it: unit last, `_total` for counters.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// Tells samples of the same name apart.
    pub label: Option<(&'static str, &'static str)>,
    /// How much.
    pub value: Value,
}

/// Counts something.
pub trait Source: Send + Sync + fmt::Debug {
    /// Everything it counts, now; samples of the same name one after the
    /// other.
    fn samples(&self) -> Vec<Sample>;
}

/// Sources by name.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Vec<(String, Arc<dyn Source>)>>);

impl Registry {
    /// No sources.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source; one of the same name is replaced.
    pub fn add(&self, name: impl Into<String>, source: Arc<dyn Source>) {
        let name = name.into();
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|(other, _)| *other != name);
        sources.push((name, source));
    }

    /// Removes a source.
    pub fn remove(&self, name: &str) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|(other, _)| other != name);
    }

    /// Everything as Prometheus text, version 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let sources = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let all: Vec<(String, Sample)> = sources
            .iter()
            .flat_map(|(name, source)| {
                let name = escape(name);
                source
                    .samples()
                    .into_iter()
                    .map(move |sample| (name.clone(), sample))
            })
            .collect();
        let mut out = String::new();
        let mut done: Vec<&str> = Vec::new();
        for (_, first) in &all {
            // All samples of a name belong together.
            if done.contains(&first.name) {
                continue;
            }
            done.push(first.name);
            let kind = match first.value {
                Value::Counter(_) => "counter",
                Value::Gauge(_) => "gauge",
                Value::Times(_) => "histogram",
            };
            let (name, help) = (first.name, first.help);
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (source, sample) in all.iter().filter(|(_, sample)| sample.name == name) {
                write_sample(&mut out, source, sample);
            }
        }
        out
    }
}

fn escape(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    name.replace('\n', "\\n")
}

fn write_sample(out: &mut String, source: &str, sample: &Sample) {
    let name = sample.name;
    let mut labels = format!("source=\"{source}\"");
    if let Some((label, value)) = sample.label {
        // Writing to a string does not fail.
        let _ = write!(labels, ",{label}=\"{value}\"");
    }
    let _ = match &sample.value {
        Value::Counter(value) | Value::Gauge(value) => writeln!(out, "{name}{{{labels}}} {value}"),
        Value::Times(times) => {
            let mut seen = 0;
            for (n, count) in times.counts.iter().enumerate() {
                seen += count;
                let bound = if n + 1 == BUCKETS {
                    "+Inf".to_owned()
                } else {
                    Duration::from_micros(1 << n).as_secs_f64().to_string()
                };
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {seen}");
            }
            let sum = times.sum.as_secs_f64();
            writeln!(
                out,
                "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {seen}"
            )
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_to_the_right_bucket() {
        let histogram = Histogram::default();
        for ns in [0, 1, 1000, 1001, 2000, 2001, 1_000_000, 99_000_000_000] {
            histogram.observe(Duration::from_nanos(ns));
        }
        let times = histogram.read();
        assert_eq!(times.counts[..4], [3, 2, 1, 0]);
        assert_eq!((times.counts[10], times.counts[BUCKETS - 1]), (1, 1));
        assert_eq!((times.count(), times.sum().as_secs()), (8, 99));
        assert_eq!(times.within(0.5), Some(Duration::from_micros(2)));
        assert_eq!(times.within(0.8), Some(Duration::from_micros(1024)));
        assert_eq!(times.within(1.0), None);
        assert_eq!(Histogram::default().read().within(0.5), None);
    }

    #[derive(Debug)]
    struct Two;

    impl Source for Two {
        fn samples(&self) -> Vec<Sample> {
            let times = Histogram::default();
            times.observe(Duration::from_micros(3));
            let sample = |name, label, value| Sample {
                name,
                help: "some help",
                label,
                value,
            };
            vec![
                sample("x_total", Some(("kind", "a")), Value::Counter(4)),
                sample("y_seconds", None, Value::Times(times.read())),
            ]
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::new();
        registry.add("one", Arc::new(Two));
        registry.add("t\"o\n", Arc::new(Two));
        registry.add("gone", Arc::new(Two));
        registry.remove("gone");
        let text = registry.prometheus();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "# HELP x_total some help",
                "# TYPE x_total counter",
                "x_total{source=\"one\",kind=\"a\"} 4",
                "x_total{source=\"t\\\"o\\n\",kind=\"a\"} 4",
            ]
        );
        assert!(text.contains("y_seconds_bucket{source=\"one\",le=\"0.000002\"} 0\n"));
        assert!(text.contains("y_seconds_bucket{source=\"one\",le=\"0.000004\"} 1\n"));
        assert!(text.contains("y_seconds_bucket{source=\"one\",le=\"+Inf\"} 1\n"));
        assert!(text.contains("y_seconds_sum{source=\"one\"} 0.000003\n"));
        assert_eq!(text.matches("# TYPE").count(), 2);
    }
}
