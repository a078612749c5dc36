//! Trackers by name, as far as there are any.

use hvckpt::{Counters, LockPolicy, Region, TrackerKind, register_cda};

/// The name which stands for no tracker at all.
pub const NONE: &str = "none";

/// A region with the tracker of that name, locked where that is allowed.
///
/// # Errors
/// Why there is none: the library does not know the tracker, or it does not
/// work here.
pub fn open(name: &str, pages: usize) -> Result<Region, String> {
    let kind: TrackerKind = name
        .parse()
        .map_err(|error: hvckpt::UnknownTracker| error.to_string())?;
    register_cda()
        .pages(pages)
        .tracker(kind)
        .lock(LockPolicy::IfAllowed)
        .register()
        .map_err(|error| hvckpt::explain(&error))
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
    let faults =
        |c: hvckpt::abi::cda_counters| c.faults_fixed + c.faults_forwarded + c.faults_spurious;
    Traps {
        faults: Some(faults(new) - faults(old)),
        crossings: Some(new.crossings - old.crossings),
        flushes: Some(new.flushes - old.flushes),
    }
}
