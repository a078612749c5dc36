// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which trackers work here, and why not the others.

use std::fs;
use std::sync::atomic::Ordering;

use crate::region::RegionError;
use crate::tracker::TrackerKind;
use crate::{ENV_KEY, ENV_POLICY, PAGE_SIZE, register_cda};
use hvckpt_sys::explain;
use hvckpt_sys::gate;
use hvckpt_sys::memory::LockPolicy;

/// What was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Release of the kernel.
    pub kernel: String,
    /// Hypervisor and guest type as the kernel tells them; empty if none.
    pub hypervisor: String,
    /// What the gate answers (version and capability bits), or why there is
    /// none.
    pub gate: Result<u64, String>,
    /// Key file from the environment.
    pub key: Option<String>,
    /// Policy daemon from the environment.
    pub policy: Option<String>,
    /// Soft limit of locked memory in bytes; `None` is no limit.
    pub lock_limit: Option<u64>,
    /// The trackers, best first, each with the reason why it does not work.
    pub trackers: Vec<(TrackerKind, Result<(), String>)>,
}

/// Looks.  Every tracker is given a small region and one real transaction.
#[must_use]
pub fn examine() -> Report {
    let read = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned());
    let kind = read("/sys/hypervisor/type").unwrap_or_default();
    let guest = read("/sys/hypervisor/guest_type").unwrap_or_default();
    // First: the domain has no gate before its first token.
    let trackers = TrackerKind::ALL.map(|kind| (kind, try_out(kind))).into();
    Report {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        hypervisor: format!("{kind} {guest}").trim().to_owned(),
        gate: gate::capabilities().map_err(|error| explain(&error)),
        key: named(ENV_KEY),
        policy: named(ENV_POLICY),
        lock_limit: lock_limit(),
        trackers,
    }
}

/// Empty is not set, as for who attaches.
fn named(variable: &str) -> Option<String> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.map(|value| value.to_string_lossy().into_owned())
}

fn lock_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn try_out(kind: TrackerKind) -> Result<(), String> {
    const PAGES: usize = 8;
    const WRITTEN: [usize; 2] = [2, 5];
    let region = register_cda()
        .pages(PAGES)
        .tracker(kind)
        // Some need it, and eight pages are within every usual limit.
        .lock(LockPolicy::IfAllowed)
        .register()
        .map_err(|error| match error {
            // Which tracker it is stands beside.
            RegionError::Tracker { source, .. } => explain(&source),
            other => explain(&other),
        })?;
    let transaction = region.begin().map_err(|error| explain(&error))?;
    for page in WRITTEN {
        region.atomics_u8()[page * PAGE_SIZE].store(1, Ordering::Relaxed);
    }
    let mut list = transaction
        .commit()
        .map_err(|error| explain(&error))?
        .to_vec();
    list.sort_unstable();
    if list == WRITTEN {
        Ok(())
    } else {
        Err(format!(
            "wrote to pages {WRITTEN:?}, and it reports {list:?}"
        ))
    }
}
