// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers: who dirtied what since the cycle began.
//!
//! A [`Tracker`] watches one range of memory.  Everything above knows only
//! this trait; a new tracker is a module here, a [`TrackerKind`] and an arm
//! in `create`.
//!
//! # Safety
//! The only module of the crate with `unsafe` code; more is in `hvckpt-sys`.

#![allow(unsafe_code)]

mod emul;
mod marks;
mod pagemap_scan;
mod pages;
mod pt;
mod sim;
mod slot;
mod soft_dirty;
mod stores;
mod xen;

use core::fmt;
use core::str::FromStr;
use std::io;
use std::sync::Arc;

use crate::attach::{Attach, AttachError};
use hvckpt_sys::abi::{self, Mode};
use hvckpt_sys::memory::{LockPolicy, Mapping, MemoryError};
use hvckpt_sys::session::SessionError;
use hvckpt_sys::signal::HandlerReplaced;
use hvckpt_sys::soft_dirty::SoftDirtyError;
use hvckpt_sys::uffd::UffdError;

pub use emul::Written;
pub use sim::SimGate;
pub(crate) use slot::{Slot, SlotGuard};

/// Which tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrackerKind {
    /// The hypervisor takes the write permission away and gives it back at
    /// the first write to a page, without the guest kernel.
    PtXen,
    /// The hypervisor performs each store and logs address and value.
    EmulXen,
    /// The hypervisor clears the dirty bits of all pages and scans them.
    ScanXen,
    /// Page by page the cheaper of [`Self::PtXen`] and [`Self::ScanXen`], by
    /// what the page did lately.
    AutoXen,
    /// `mprotect` and a SIGSEGV handler.
    Pt,
    /// userfaultfd's asynchronous write protection, read by PAGEMAP_SCAN.
    PagemapScan,
    /// userfaultfd's synchronous write protection and a SIGBUS handler.
    UffdWp,
    /// The kernel's soft-dirty bits, cleared by `/proc/self/clear_refs`.
    SoftDirty,
    /// Every store is performed by the SIGSEGV handler, and logged by itself.
    Emul,
    /// Compares memory with a copy, through the same code as [`Self::PtXen`]
    /// with a simulated hypervisor.  For tests; costs O(region).
    Sim,
}

impl TrackerKind {
    /// Every tracker, best first.
    pub const ALL: [Self; 10] = [
        Self::AutoXen,
        Self::PtXen,
        Self::ScanXen,
        Self::EmulXen,
        Self::PagemapScan,
        Self::UffdWp,
        Self::Pt,
        Self::SoftDirty,
        Self::Emul,
        Self::Sim,
    ];

    /// Name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PtXen => "ptxen",
            Self::ScanXen => "scanxen",
            Self::AutoXen => "autoxen",
            Self::EmulXen => "emulxen",
            Self::Pt => "pt",
            Self::PagemapScan => "pagemap-scan",
            Self::UffdWp => "uffd-wp",
            Self::SoftDirty => "soft-dirty",
            Self::Emul => "emul",
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
                remote_writes: Coverage::Refused,
                forced_writes: Coverage::Missed,
                mapped_anew: Coverage::Missed,
                forced_into_readonly: Coverage::Missed,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            // The kernel's writes through its own mapping leave D alone.
            Self::ScanXen | Self::AutoXen => Limits {
                kernel_writes: Coverage::Reported,
                remote_writes: Coverage::Missed,
                forced_writes: Coverage::Missed,
                mapped_anew: Coverage::Reported,
                forced_into_readonly: Coverage::Missed,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            Self::UffdWp | Self::Emul => Limits {
                kernel_writes: Coverage::Refused,
                remote_writes: Coverage::Refused,
                forced_writes: Coverage::Refused,
                mapped_anew: Coverage::Missed,
                forced_into_readonly: Coverage::Refused,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            Self::SoftDirty => Limits {
                kernel_writes: Coverage::Reported,
                remote_writes: Coverage::Reported,
                forced_writes: Coverage::Reported,
                mapped_anew: Coverage::Missed,
                forced_into_readonly: Coverage::Reported,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            // The entry of such a page does not change, and nothing faults.
            Self::PtXen | Self::EmulXen => Limits {
                kernel_writes: Coverage::Reported,
                remote_writes: Coverage::Reported,
                forced_writes: Coverage::Reported,
                mapped_anew: Coverage::Reported,
                forced_into_readonly: Coverage::Missed,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            Self::PagemapScan => Limits {
                kernel_writes: Coverage::Reported,
                remote_writes: Coverage::Reported,
                forced_writes: Coverage::Reported,
                mapped_anew: Coverage::Reported,
                forced_into_readonly: Coverage::Reported,
                pinned_before: Coverage::Missed,
                other_mappings: Coverage::Missed,
            },
            // Compares what is there.
            Self::Sim => Limits {
                kernel_writes: Coverage::Reported,
                remote_writes: Coverage::Reported,
                forced_writes: Coverage::Reported,
                mapped_anew: Coverage::Reported,
                forced_into_readonly: Coverage::Reported,
                pinned_before: Coverage::Reported,
                other_mappings: Coverage::Reported,
            },
        }
    }

    /// Whether the memory must be mapped twice, which the library can do with
    /// what it allocates only.
    pub(crate) const fn needs_alias(self) -> bool {
        matches!(self, Self::Emul)
    }
}

impl fmt::Display for TrackerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No tracker has this name.
#[derive(Debug, thiserror::Error)]
#[error("no tracker is called {0:?}; there are {names}", names = names())]
pub struct UnknownTracker(String);

fn names() -> String {
    TrackerKind::ALL.map(TrackerKind::name).join(", ")
}

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
    /// `read`, `recv` and the like into a clean page.
    pub kernel_writes: Coverage,
    /// `process_vm_writev` of another process.
    pub remote_writes: Coverage,
    /// Writes which ignore protection (ptrace, `/proc/pid/mem`) to a page
    /// which the program may write to.
    pub forced_writes: Coverage,
    /// Other memory mapped at the same addresses while a cycle is open.
    pub mapped_anew: Coverage,
    /// The same writes to a private page which the program has made read-only.
    pub forced_into_readonly: Coverage,
    /// Writes by the kernel or a device which had looked the page up before
    /// the cycle began: direct I/O, registered buffers, or a system call (a
    /// `process_vm_writev` of another process) which a commit overtook.
    pub pinned_before: Coverage,
    /// Writes to shared memory through another mapping, or by `write` to the
    /// file (a memfd) that is mapped.
    pub other_mappings: Coverage,
}

/// What may go wrong when a cycle begins or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CycleError {
    /// A cycle is open already.
    #[error("a transaction is open on this region, in this or another thread; end it first")]
    AlreadyOpen,
    /// No cycle is open.
    #[error("no transaction is open on this region; begin one first")]
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
    #[error(
        "the region has pages which the hypervisor cannot track (granted to or of another domain, or special); use other memory or another tracker"
    )]
    Untrackable,
    /// The application replaced the SIGSEGV or SIGBUS handler.
    #[error(transparent)]
    HandlerReplaced(#[from] HandlerReplaced),
    /// The session is gone or refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session is gone, and there is no other; the next begin tries
    /// again.
    #[error("the session ended, and attaching anew failed; the next begin tries again")]
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
    /// The signal handler cannot be installed, or was replaced.
    #[error(
        "the tracker's signal handler cannot be installed, or was replaced; install handlers before the first region"
    )]
    Handler(#[source] io::Error),
    /// The tracker needs the memory at a second address, which adopted memory
    /// does not have.
    #[error(
        "emul needs memory which the library allocates (not adopted memory, not a durable region); choose another tracker"
    )]
    NoAlias,
    /// Soft-dirty bits.
    #[error(transparent)]
    SoftDirty(#[from] SoftDirtyError),
    /// The pages overlap another range or a log.
    #[error("the region overlaps another one, or a log of the library; use other memory")]
    Overlap,
    /// This tracker loses data of pages which are not locked in memory.
    #[error(
        "{0} needs locked memory: raise RLIMIT_MEMLOCK (ulimit -l) and let the region be locked, or use ptxen"
    )]
    NeedsLock(TrackerKind),
    /// The key does not allow this tracker.
    #[error("the key does not allow this tracker; ask the administrator, or use another")]
    Mode,
    /// More ranges or pages than the key allows.
    #[error(
        "the quota of the key does not allow {pages} more pages, or one more range; ask the administrator for a larger one"
    )]
    Quota {
        /// Pages asked for.
        pages: usize,
    },
    /// The hypervisor does not accept the addresses.
    #[error("the hypervisor refuses address or size of the region; use other memory")]
    Shape,
}

/// Event counts of a tracker since its region or session was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// First writes to a page which trapped, if they are counted.
    pub faults: Option<u64>,
    /// Of these, writes which the handler performed by itself.
    pub emulated: Option<u64>,
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

    /// The single writes behind the list, if the tracker knows them and lost
    /// none.
    fn written(&self) -> Option<&[Written]> {
        None
    }

    /// Who counts its events.
    fn count(&self) -> Arc<dyn Count>;
}

/// What can be asked of a tracker also while it is at work.
pub trait Count: Send + Sync + fmt::Debug {
    /// The counts now, as far as there are any.
    fn counters(&self) -> Counters;

    /// Makes a page dirty and writable, for the kernel as well.  False if a
    /// write to the page does that.
    fn open(&self, _page: usize) -> bool {
        false
    }
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

/// The hypervisor's mode of a tracker, if it is one of the hypervisor's.
const fn mode(kind: TrackerKind) -> Option<Mode> {
    match kind {
        TrackerKind::PtXen => Some(Mode::PtXen),
        TrackerKind::EmulXen => Some(Mode::EmulXen),
        TrackerKind::ScanXen => Some(Mode::ScanXen),
        TrackerKind::AutoXen => Some(Mode::AutoXen),
        _ => None,
    }
}

/// Whether this machine has the hypervisor, if the tracker needs one.
pub(crate) fn offered(kind: TrackerKind, attach: &Attach) -> Result<(), TrackError> {
    match mode(kind) {
        None => Ok(()),
        Some(mode) => Ok(attach.offers(mode)?),
    }
}

/// Makes a tracker of the kind for the memory.
///
/// The tracker must be dropped before the memory is.
pub(crate) fn create(
    kind: TrackerKind,
    request: &Request<'_>,
) -> Result<Box<dyn Tracker>, TrackError> {
    let in_xen = |mode| -> Result<Box<dyn Tracker>, TrackError> {
        // The kernel may drop pages which it believes clean, unless locked.
        if matches!(kind, TrackerKind::ScanXen | TrackerKind::AutoXen) && !request.memory.locked() {
            return Err(TrackError::NeedsLock(kind));
        }
        let origin = xen::Origin::Gate(request.attach.clone(), mode);
        let tracker = xen::XenTracker::new(kind, mode, origin, request)?;
        Ok(Box::new(tracker))
    };
    Ok(match kind {
        TrackerKind::PtXen => in_xen(Mode::PtXen)?,
        TrackerKind::EmulXen => in_xen(Mode::EmulXen)?,
        TrackerKind::ScanXen => in_xen(Mode::ScanXen)?,
        TrackerKind::AutoXen => in_xen(Mode::AutoXen)?,
        TrackerKind::Sim => {
            let origin = xen::Origin::Sim(request.sim.clone().unwrap_or_default());
            Box::new(xen::XenTracker::new(kind, Mode::PtXen, origin, request)?)
        }
        TrackerKind::Pt => Box::new(pt::PtTracker::new(request)?),
        TrackerKind::UffdWp => Box::new(pt::PtTracker::with_uffd(request)?),
        TrackerKind::SoftDirty => Box::new(soft_dirty::SoftDirtyTracker::new(request)?),
        TrackerKind::Emul => Box::new(emul::EmulTracker::new(request)?),
        TrackerKind::PagemapScan => Box::new(pagemap_scan::ScanTracker::new(request)?),
    })
}
