//! Trackers: who dirtied what since the cycle began.
//!
//! A [`Tracker`] watches one range of memory.  Everything above knows only
//! this trait; a new tracker is a module here, a [`TrackerKind`] and an arm
//! in `create`.
//!
//! # Safety
//! With `sys` and `ffi`, the only modules with `unsafe` code.

#![allow(unsafe_code)]

mod pagemap_scan;
mod pt;
mod sim;
mod slot;
mod xen;

use core::fmt;
use core::str::FromStr;
use std::io;
use std::sync::Arc;

use crate::abi;
use crate::attach::{Attach, AttachError};
use crate::sys::memory::{LockPolicy, Mapping, MemoryError};
use crate::sys::session::SessionError;
use crate::sys::signal::HandlerReplaced;
use crate::sys::uffd::UffdError;

pub use sim::SimGate;
pub(crate) use slot::{Slot, SlotGuard};

/// Which tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrackerKind {
    /// The hypervisor takes the write permission away and gives it back at
    /// the first write to a page, without the guest kernel.
    PtXen,
    /// `mprotect` and a SIGSEGV handler.
    Pt,
    /// userfaultfd's asynchronous write protection, read by PAGEMAP_SCAN.
    PagemapScan,
    /// Compares memory with a copy, through the same code as [`Self::PtXen`]
    /// with a simulated hypervisor.  For tests; costs O(region).
    Sim,
}

impl TrackerKind {
    /// Every tracker, best first.
    pub const ALL: [Self; 4] = [Self::PtXen, Self::PagemapScan, Self::Pt, Self::Sim];

    /// Name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PtXen => "ptxen",
            Self::Pt => "pt",
            Self::PagemapScan => "pagemap-scan",
            Self::Sim => "sim",
        }
    }

    /// What this tracker sees of writes which do not come from the program's
    /// own instructions.
    #[must_use]
    pub const fn limits(self) -> Limits {
        match self {
            Self::Pt => Limits {
                kernel_writes: Coverage::Refused,
                forced_writes: Coverage::Missed,
                mapped_anew: Coverage::Missed,
            },
            Self::PtXen | Self::PagemapScan | Self::Sim => Limits {
                kernel_writes: Coverage::Reported,
                forced_writes: Coverage::Reported,
                mapped_anew: Coverage::Reported,
            },
        }
    }
}

impl fmt::Display for TrackerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No tracker has this name.
#[derive(Debug, thiserror::Error)]
#[error("no tracker is called {0:?}; there are ptxen, pagemap-scan, pt and sim")]
pub struct UnknownTracker(String);

impl FromStr for TrackerKind {
    type Err = UnknownTracker;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownTracker(name.to_owned()))
    }
}

/// What becomes of a kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It happens and its page is reported.
    Reported,
    /// It does not happen: the system call fails with EFAULT.
    Refused,
    /// It happens and may be missed.
    Missed,
}

/// Writes which do not come from the program's own instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// `read`, `recv`, `process_vm_writev` and the like into a clean page.
    pub kernel_writes: Coverage,
    /// Writes which ignore protection: ptrace, `/proc/pid/mem`.
    pub forced_writes: Coverage,
    /// Other memory mapped at the same addresses while a cycle is open.
    pub mapped_anew: Coverage,
}

/// What may go wrong when a cycle begins or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CycleError {
    /// A cycle is open already.
    #[error("a transaction is open on this region")]
    AlreadyOpen,
    /// No cycle is open.
    #[error("no transaction is open on this region")]
    NotOpen,
    /// Another thread is at this moment beginning or ending one here, or a
    /// list of dirty pages is still in use.
    #[error(
        "the region is in use: another thread begins or ends a transaction, or a dirty list is alive"
    )]
    InUse,
    /// The log cannot be written; every page must count as dirty.
    #[error("the hypervisor cannot write the log; count every page as dirty")]
    LogFault,
    /// The hypervisor cannot track some page: granted, foreign or special.
    #[error("the region has pages which cannot be tracked")]
    Untrackable,
    /// The application replaced the SIGSEGV handler.
    #[error(transparent)]
    HandlerReplaced(#[from] HandlerReplaced),
    /// The session is gone or refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session is gone, and there is no other; the next begin tries
    /// again.
    #[error("the session ended, and attaching anew failed")]
    Attach(#[source] Box<TrackError>),
    /// A system call failed.
    #[error("{what} failed")]
    Os {
        /// The system call.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Why a tracker cannot watch a region.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// No session with the hypervisor.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The session refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The log or other memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// userfaultfd or PAGEMAP_SCAN.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// The SIGSEGV handler cannot be installed, or was replaced.
    #[error("the SIGSEGV handler is not ours")]
    Handler(#[source] io::Error),
    /// The pages overlap another range or a log.
    #[error("the region overlaps another one, or a log")]
    Overlap,
    /// The hypervisor cannot track these frames (granted, foreign, special).
    #[error("these pages cannot be tracked")]
    Untrackable,
    /// More ranges or pages than the key allows.
    #[error("the quota of the key does not allow {pages} more pages")]
    Quota {
        /// Pages asked for.
        pages: usize,
    },
    /// The hypervisor does not accept the addresses.
    #[error("the hypervisor refuses the shape of the region")]
    Shape,
}

/// Event counts of a tracker since its region or session was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// First writes to a page which trapped, if they are counted.
    pub faults: Option<u64>,
    /// The hypervisor's own counts, for the whole session.
    pub hypervisor: Option<abi::cda_counters>,
}

/// The list of dirty pages which the last end, commit or peek left.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    /// Page indices in bits 0–51; meaningless if `lost`.
    pub entries: &'a [u64],
    /// The list is not known: every page counts as dirty.
    pub lost: bool,
}

/// Watches one range of memory.
///
/// Calls come one at a time; the region sees to that and to the order
/// (begin, then end).  Threads of the program write meanwhile.  A page whose
/// content changes while a cycle is open is in the list of that cycle, or,
/// if the write raced with the end, in the next one; lists may name more.
pub trait Tracker: Send + Sync + fmt::Debug {
    /// Which tracker this is.
    fn kind(&self) -> TrackerKind;

    /// Opens a cycle.
    ///
    /// # Errors
    /// Nothing is open then.
    fn begin(&mut self) -> Result<(), CycleError>;

    /// Closes the cycle; [`Self::log`] has its list.
    ///
    /// # Errors
    /// The cycle counts as closed, its list as lost.
    fn end(&mut self) -> Result<(), CycleError>;

    /// Closes the cycle and opens the next without a gap.
    ///
    /// # Errors
    /// No cycle is open then, and the list is lost.
    fn commit(&mut self) -> Result<(), CycleError>;

    /// Writes the list and leaves the cycle open, as abort needs it.
    ///
    /// # Errors
    /// The cycle stays open.
    fn peek(&mut self) -> Result<(), CycleError>;

    /// The list last written.
    fn log(&self) -> Log<'_>;

    /// Who counts its events.
    fn count(&self) -> Arc<dyn Count>;
}

/// Reads event counts, also while the tracker is at work.
pub trait Count: Send + Sync + fmt::Debug {
    /// The counts now, as far as there are any.
    fn counters(&self) -> Counters;
}

/// What a tracker is made from.
pub(crate) struct Request<'a> {
    pub(crate) memory: &'a Mapping,
    /// Entries the log can hold.
    pub(crate) log_entries: usize,
    pub(crate) lock: LockPolicy,
    pub(crate) attach: &'a Attach,
    pub(crate) sim: Option<SimGate>,
}

/// Makes a tracker of the kind for the memory.
///
/// The tracker must be dropped before the memory is.
pub(crate) fn create(
    kind: TrackerKind,
    request: &Request<'_>,
) -> Result<Box<dyn Tracker>, TrackError> {
    Ok(match kind {
        TrackerKind::PtXen => {
            let origin = xen::Origin::Gate(request.attach.clone(), abi::CDA_CAP_PTXEN);
            Box::new(xen::XenTracker::new(
                kind,
                abi::CDA_MODE_PTXEN,
                origin,
                request,
            )?)
        }
        TrackerKind::Sim => {
            let origin = xen::Origin::Sim(request.sim.clone().unwrap_or_default());
            Box::new(xen::XenTracker::new(
                kind,
                abi::CDA_MODE_PTXEN,
                origin,
                request,
            )?)
        }
        TrackerKind::Pt => Box::new(pt::PtTracker::new(request)?),
        TrackerKind::PagemapScan => Box::new(pagemap_scan::ScanTracker::new(request)?),
    })
}
