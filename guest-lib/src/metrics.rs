// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library counts, for monitoring.
//!
//! Whoever counts is a [`Source`]; a [`Registry`] gathers sources under names
//! and writes them as Prometheus text.  Counting is a few relaxed atomic
//! additions, whether anybody looks or not.
//!
//! ```
//! # use std::sync::Arc;
//! # use hvckpt::metrics::Registry;
//! # use hvckpt::store::{Store, StoreOptions, backend::CrashDisk};
//! # let store = Store::open_on(Arc::new(CrashDisk::new()), StoreOptions::default())?;
//! let registry = Registry::new();
//! registry.add("main", store.metrics());
//! assert!(registry.prometheus().contains("hvckpt_store_lag_versions{source=\"main\"} 0"));
//! # Ok::<(), hvckpt::store::StoreError>(())
//! ```

#[cfg(feature = "prometheus")]
mod endpoint;

#[cfg(feature = "prometheus")]
pub use endpoint::Endpoint;
pub use hvckpt_store::metrics::{Distribution, Histogram, Registry, Sample, Source, Value};
