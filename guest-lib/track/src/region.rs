// SPDX-License-Identifier: MIT OR Apache-2.0
//! Critical data areas.

use core::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::attach::Attach;
use crate::dirty::DirtyPages;
use crate::tracker::{
    self, Count, Counters, CycleError, Request, SimGate, Slot, TrackError, Tracker, TrackerKind,
};
use crate::txn::Transaction;
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::fork;
use hvckpt_sys::memory::{LockPolicy, Mapping, MemoryError, RawPages};
use hvckpt_sys::session::SessionError;

/// Pages of a region at most: what the result of an operation can count.
pub const MAX_PAGES: usize = u32::MAX as usize;
/// Addresses the hypervisor tracks end here.
const ADDRESS_END: usize = 1 << 47;

/// Why there is no region.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// No size was given, or zero.
    #[error("a region needs at least one page")]
    Empty,
    /// Address or size of adopted memory is not a multiple of the page size.
    #[error("{bytes} bytes at {start:#x} are not whole pages of 4096 bytes")]
    Unaligned {
        /// Address in bytes.
        start: usize,
        /// Size in bytes.
        bytes: usize,
    },
    /// The region is larger than any tracker can have it, or lies beyond the
    /// addresses of a process.
    #[error(
        "{bytes} bytes are too large for a region: at most {MAX_PAGES} pages, below address {ADDRESS_END:#x}"
    )]
    TooLarge {
        /// Size in bytes.
        bytes: usize,
    },
    /// No tracker was chosen.
    #[error("no tracker was chosen")]
    NoChoice,
    /// Memory cannot be had, or not be locked.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// This process is a fork child of one which uses the library.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The tracker asked for does not work here.
    #[error("the tracker {kind} does not work here")]
    Tracker {
        /// The tracker.
        kind: TrackerKind,
        /// Why not.
        #[source]
        source: TrackError,
    },
    /// No tracker was chosen, and [`TrackerKind::PtXen`], which is taken then,
    /// does not work here.
    #[error(
        "no tracker was chosen, and {}, the default, does not work here; `hvckpt doctor` tells which do, name those you accept",
        TrackerKind::PtXen
    )]
    Default {
        /// Why not.
        #[source]
        source: TrackError,
    },
    /// None of the trackers asked for works here.
    #[error("none of the trackers asked for works here: {}", list(.0))]
    NoTracker(Vec<Attempt>),
}

/// A tracker which was asked for and does not work here.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The tracker.
    pub kind: TrackerKind,
    /// Why not.
    pub error: TrackError,
}

fn list(attempts: &[Attempt]) -> String {
    let each =
        |attempt: &Attempt| format!("{}: {}", attempt.kind, hvckpt_sys::explain(&attempt.error));
    attempts.iter().map(each).collect::<Vec<_>>().join("; ")
}

/// Describes a critical data area to be.
///
/// ```
/// use hvckpt_track::{LockPolicy, TrackerKind};
///
/// let region = hvckpt_track::register_cda()
///     .pages(64)
///     .tracker(TrackerKind::Pt)
///     .lock(LockPolicy::IfAllowed)
///     .register()?;
/// let transaction = region.begin()?;
/// region.atomics_u64()[0].store(1, std::sync::atomic::Ordering::Relaxed);
/// assert_eq!(transaction.commit()?.to_vec(), [0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct RegionBuilder {
    bytes: usize,
    adopted: Option<RawPages>,
    trackers: Vec<TrackerKind>,
    attach: Attach,
    lock: LockPolicy,
    log_entries: Option<usize>,
    sim: Option<SimGate>,
}

impl RegionBuilder {
    /// Size in pages of 4096 bytes.
    pub fn pages(mut self, pages: usize) -> Self {
        self.bytes = pages.saturating_mul(PAGE_SIZE);
        self
    }

    /// Size in bytes, rounded up to whole pages.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(usize::MAX);
        self
    }

    /// Uses the application's memory instead of allocating some.
    pub fn adopt(mut self, memory: RawPages) -> Self {
        self.adopted = Some(memory);
        self
    }

    /// The tracker to use; [`TrackerKind::PtXen`] unless told.  A second call
    /// replaces the choice.
    pub fn tracker(mut self, kind: TrackerKind) -> Self {
        self.trackers = vec![kind];
        self
    }

    /// Trackers to try in this order.  [`Region::tracker`] tells which one it
    /// became, [`Region::attempts`] why not an earlier one.
    pub fn trackers(mut self, kinds: impl IntoIterator<Item = TrackerKind>) -> Self {
        self.trackers = kinds.into_iter().collect();
        self
    }

    /// Where the right to a session with the hypervisor comes from; the
    /// environment unless told.  Unused if the process has a session.
    pub fn attach(mut self, attach: Attach) -> Self {
        self.attach = attach;
        self
    }

    /// Whether pages must be locked in memory.
    pub fn lock(mut self, policy: LockPolicy) -> Self {
        self.lock = policy;
        self
    }

    /// Entries of eight bytes which the log of a hypervisor tracker can hold;
    /// as many as pages unless told, so that no list is ever lost for want of
    /// room.
    pub fn log_entries(mut self, entries: usize) -> Self {
        self.log_entries = Some(entries);
        self
    }

    /// The simulated hypervisor of [`TrackerKind::Sim`], for tests which
    /// script it.
    pub fn sim(mut self, gate: SimGate) -> Self {
        self.sim = Some(gate);
        self
    }

    /// Allocates or adopts the memory, makes it present, locks it, keeps it
    /// out of forks, and has it watched.
    ///
    /// # Errors
    /// See [`RegionError`].  Nothing is left behind.
    pub fn register(self) -> Result<Region, RegionError> {
        if fork::is_child() {
            return Err(SessionError::ForkChild.into());
        }
        fork::arm().map_err(|source| MemoryError::Os {
            what: "madvise(MADV_WIPEONFORK)",
            bytes: PAGE_SIZE,
            source,
        })?;
        self.check()?;
        let kinds = if self.trackers.is_empty() {
            vec![TrackerKind::PtXen]
        } else {
            self.trackers.clone()
        };
        let mut memory = None;
        let mut attempts = Vec::new();
        for kind in kinds {
            // First of all: without a hypervisor nobody shall be sent to the
            // limit of locked memory.
            if let Err(error) = tracker::offered(kind, &self.attach) {
                attempts.push(Attempt { kind, error });
                continue;
            }
            let (twice, mapping) = match memory.take() {
                // A tracker before this one wanted the same.
                Some((twice, mapping)) if twice == kind.needs_alias() => (twice, mapping),
                _ => match self.prepared(kind.needs_alias()) {
                    Ok(mapping) => (kind.needs_alias(), mapping),
                    Err(RegionError::Memory(error)) if kind.needs_alias() => {
                        let error = TrackError::Memory(error);
                        attempts.push(Attempt { kind, error });
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let request = Request {
                memory: &mapping,
                log_entries: self.log_entries.unwrap_or(mapping.pages()),
                lock: self.lock,
                attach: &self.attach,
                sim: self.sim.clone(),
            };
            match tracker::create(kind, &request) {
                Ok(tracker) => return Ok(Region::new(tracker, mapping, attempts)),
                Err(error) => attempts.push(Attempt { kind, error }),
            }
            memory = Some((twice, mapping));
        }
        Err(match attempts.len() {
            1 => match attempts.pop() {
                Some(Attempt { error: source, .. }) if self.trackers.is_empty() => {
                    RegionError::Default { source }
                }
                Some(Attempt {
                    kind,
                    error: source,
                }) => RegionError::Tracker { kind, source },
                None => RegionError::NoChoice,
            },
            _ => RegionError::NoTracker(attempts),
        })
    }

    /// Memory which is present and locked, mapped twice if asked and ours.
    fn prepared(&self, twice: bool) -> Result<Mapping, RegionError> {
        let mut memory = self.memory(twice)?;
        memory.prepare()?;
        memory.lock(self.lock)?;
        Ok(memory)
    }

    /// Address (zero: anywhere) and size.
    fn place(&self) -> (usize, usize) {
        self.adopted
            .as_ref()
            .map_or((0, self.bytes), |pages| (pages.start(), pages.bytes()))
    }

    fn check(&self) -> Result<(), RegionError> {
        let (start, bytes) = self.place();
        if bytes == 0 {
            return Err(RegionError::Empty);
        }
        if bytes / PAGE_SIZE > MAX_PAGES || bytes > ADDRESS_END - start.min(ADDRESS_END) {
            return Err(RegionError::TooLarge { bytes });
        }
        if start % PAGE_SIZE != 0 || bytes % PAGE_SIZE != 0 {
            return Err(RegionError::Unaligned { start, bytes });
        }
        Ok(())
    }

    fn memory(&self, twice: bool) -> Result<Mapping, RegionError> {
        let (_, bytes) = self.place();
        Ok(match &self.adopted {
            Some(pages) => Mapping::adopt(pages),
            None if twice => Mapping::aliased(bytes)?,
            None => Mapping::new(bytes)?,
        })
    }
}

/// A critical data area: page-aligned memory of this process with a tracker.
///
/// Threads may write to it whenever they like; what is written inside a
/// transaction is reported when it commits.  Dropping the region unmaps its
/// memory (adopted memory stays).
///
/// In a fork child the memory is not there, and every call fails with
/// [`SessionError::ForkChild`]; dropping it there does nothing.
#[derive(Debug)]
pub struct Region {
    // Before the memory, which it watches.
    slot: Slot,
    memory: Mapping,
    kind: TrackerKind,
    count: Arc<dyn Count>,
    attempts: Vec<Attempt>,
    open: AtomicBool,
}

impl Region {
    fn new(tracker: Box<dyn Tracker>, memory: Mapping, attempts: Vec<Attempt>) -> Self {
        Self {
            kind: tracker.kind(),
            count: tracker.count(),
            slot: Slot::new(tracker),
            memory,
            attempts,
            open: AtomicBool::new(false),
        }
    }

    /// The tracker it got.
    #[must_use]
    pub fn tracker(&self) -> TrackerKind {
        self.kind
    }

    /// Trackers which were asked for first, and why they did not work.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// First byte.  Access through this pointer must not race with other
    /// access to the same bytes, unless both are atomic.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start() as *mut u8
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Size in pages of 4096 bytes.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.memory.pages()
    }

    /// Whether the pages are locked in memory.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.memory.locked()
    }

    /// The memory as atomic bytes, for any number of threads.
    #[must_use]
    pub fn atomics_u8(&self) -> &[AtomicU8] {
        self.memory.atomics_u8()
    }

    /// The memory as atomic words of eight bytes, for any number of threads.
    #[must_use]
    pub fn atomics_u64(&self) -> &[AtomicU64] {
        self.memory.atomics_u64()
    }

    /// Makes the pages of a range of bytes dirty now, without changing them.
    ///
    /// Needed before a system call writes there if the tracker
    /// [refuses](crate::Coverage::Refused) such writes: without it the call
    /// fails with EFAULT.  Holds until the next begin or commit.
    ///
    /// # Panics
    /// If the range is not inside the region.
    pub fn prepare_write(&self, bytes: Range<usize>) {
        assert!(
            bytes.end <= self.bytes(),
            "{bytes:?} is outside of {} bytes",
            self.bytes()
        );
        if !bytes.is_empty() {
            for page in bytes.start / PAGE_SIZE..bytes.end.div_ceil(PAGE_SIZE) {
                if !self.count.open(page) {
                    self.memory.touch(page);
                }
            }
        }
    }

    /// Event counts of the tracker.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.count.counters()
    }

    /// Opens a transaction.
    ///
    /// # Errors
    /// [`CycleError::AlreadyOpen`] if one is open, in this or another thread;
    /// see [`CycleError`] for others.
    pub fn begin(&self) -> Result<Transaction<'_>, CycleError> {
        self.begin_cycle()?;
        Ok(Transaction::new(self))
    }

    fn take(&self) -> Result<tracker::SlotGuard<'_>, CycleError> {
        if fork::is_child() {
            return Err(SessionError::ForkChild.into());
        }
        self.slot.take().ok_or(CycleError::InUse)
    }

    fn take_open(&self) -> Result<tracker::SlotGuard<'_>, CycleError> {
        let tracker = self.take()?;
        if self.open.load(Ordering::Relaxed) {
            Ok(tracker)
        } else {
            Err(CycleError::NotOpen)
        }
    }

    #[inline]
    #[doc(hidden)]
    pub fn begin_cycle(&self) -> Result<(), CycleError> {
        let mut tracker = match self.take() {
            Err(CycleError::InUse) if self.open.load(Ordering::Relaxed) => {
                return Err(CycleError::AlreadyOpen);
            }
            other => other?,
        };
        // `open` changes only with the tracker taken.
        if self.open.load(Ordering::Relaxed) {
            return Err(CycleError::AlreadyOpen);
        }
        tracker.begin()?;
        self.open.store(true, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    #[doc(hidden)]
    pub fn end_cycle(&self) -> Result<DirtyPages<'_>, CycleError> {
        let mut tracker = self.take_open()?;
        self.open.store(false, Ordering::Relaxed);
        tracker.end()?;
        Ok(DirtyPages::new(tracker, self.pages()))
    }

    #[inline]
    #[doc(hidden)]
    pub fn commit_cycle(&self) -> Result<DirtyPages<'_>, CycleError> {
        let mut tracker = self.take_open()?;
        if let Err(error) = tracker.commit() {
            self.open.store(false, Ordering::Relaxed);
            return Err(error);
        }
        Ok(DirtyPages::new(tracker, self.pages()))
    }

    #[inline]
    #[doc(hidden)]
    pub fn peek_cycle(&self) -> Result<DirtyPages<'_>, CycleError> {
        let mut tracker = self.take_open()?;
        tracker.peek()?;
        Ok(DirtyPages::new(tracker, self.pages()))
    }
}
