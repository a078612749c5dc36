// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers by name, as far as there are any.

use std::time::Duration;

use hvckpt::{
    AttachError, Counters, LockPolicy, Region, RegionError, TrackError, TrackerKind, register_cda,
};

/// The name which stands for no tracker at all.
pub const NONE: &str = "none";

/// How often a policy daemon is asked again which wants us to wait.
const RETRIES: u32 = 30;

/// A region with the tracker of that name, locked where that is allowed.
/// Waits if the policy daemon says that it had too many requests.
///
/// # Errors
/// Why there is none: the library does not know the tracker, or it does not
/// work here.
pub fn open(name: &str, pages: usize) -> Result<Region, String> {
    let kind: TrackerKind = name
        .parse()
        .map_err(|error: hvckpt::UnknownTracker| error.to_string())?;
    let mut retries = 0;
    loop {
        let region = register_cda()
            .pages(pages)
            .tracker(kind)
            .lock(LockPolicy::IfAllowed)
            .register();
        match region {
            Ok(region) => return Ok(region),
            Err(error) => match wait(&error).filter(|_| retries < RETRIES) {
                Some(wait) => std::thread::sleep(wait),
                None => return Err(hvckpt::explain(&error)),
            },
        }
        retries += 1;
    }
}

/// How long the policy daemon wants us to wait, if that is all.
fn wait(error: &RegionError) -> Option<Duration> {
    let RegionError::Tracker { source, .. } = error else {
        return None;
    };
    match source {
        TrackError::Attach(AttachError::Refused { retry_after, .. }) => {
            Some(*retry_after).filter(|wait| !wait.is_zero())
        }
        _ => None,
    }
}

/// Events which a tracker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traps {
    /// Writes which trapped.
    pub faults: Option<u64>,
    /// Crossings of the gate.
    pub crossings: Option<u64>,
    /// Translations dropped from the processor's buffers.
    pub flushes: Option<u64>,
}

/// What happened between two readings.
#[must_use]
pub fn traps(before: Counters, after: Counters) -> Traps {
    let Some((old, new)) = before.hypervisor.zip(after.hypervisor) else {
        let faults = after.faults.zip(before.faults);
        return Traps {
            faults: faults.map(|(new, old)| new - old),
            ..Traps::default()
        };
    };
    let faults = |c: hvckpt::abi::cda_counters| {
        c.faults_fixed + c.faults_forwarded + c.faults_spurious + c.emulated
    };
    Traps {
        faults: Some(faults(new) - faults(old)),
        crossings: Some(new.crossings - old.crossings),
        flushes: Some(new.flushes - old.flushes),
    }
}
