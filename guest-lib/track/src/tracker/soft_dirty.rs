// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SoftDirty`: the kernel's oldest tracker.
//!
//! Three things make it unreliable as it comes, and what is done about them:
//! - Bits are read and cleared in two steps, and a write between them would be
//!   forgotten.  For that moment the region is read-only, and a SIGSEGV
//!   handler marks who writes.
//! - Clearing is for the whole process.  All regions of this kind are read
//!   before any is cleared, under one lock; that others cleared (CRIU, a
//!   second copy of this library) is known from a page which we always write,
//!   and makes everything dirty.
//! - Areas which the kernel merges take over each other's state: "everything
//!   is dirty" if all goes well.  A region does not merge with ordinary memory
//!   because it is kept out of forks.  Kernels which lose writes over
//!   `mprotect` are found out at the start.

use core::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::marks::Marks;
use super::{Count, Counters, CycleError, Log, Request, TrackError, Tracker, TrackerKind};
use hvckpt_sys::fork;
use hvckpt_sys::signal::{self, Owner, Signal, Watch};
use hvckpt_sys::soft_dirty::SoftDirty;
use hvckpt_sys::{PAGE_SIZE, raw};

/// A region, for its handler and for cycles of other regions.
#[derive(Debug)]
struct Shared {
    start: usize,
    pages: usize,
    /// Found dirty, and not reported yet.
    marks: Marks,
    /// Not known which.
    lost: AtomicBool,
}

/// What the regions of this process have in common.
#[derive(Debug, Default)]
struct Process {
    soft_dirty: Option<SoftDirty>,
    regions: Vec<Weak<Shared>>,
}

static PROCESS: Mutex<Process> = Mutex::new(Process {
    soft_dirty: None,
    regions: Vec::new(),
});

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// async-signal-safe.
    fn protect(&self, first: usize, pages: usize, writable: bool) -> i64 {
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: pages of our region; who writes there meanwhile is served
        // by the handler.
        unsafe { raw::mprotect(self.start + first * PAGE_SIZE, pages * PAGE_SIZE, prot) }
    }

    /// Somebody writes while bits are cleared.  async-signal-safe.
    fn fault(&self, page: usize) -> bool {
        self.marks.mark(page);
        if self.protect(page, 1, true) == 0 {
            return true;
        }
        self.lost.store(true, Ordering::SeqCst);
        self.protect(0, self.pages, true) == 0
    }

    /// Adds what the kernel knows to the marks.
    fn look(&self, soft_dirty: &SoftDirty) -> io::Result<()> {
        soft_dirty.dirty(self.start, self.pages, |page| self.marks.mark(page))
    }
}

impl Process {
    fn soft_dirty(&self) -> io::Result<&SoftDirty> {
        // There is a region, so it was opened.
        self.soft_dirty
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn regions(&self) -> Vec<Arc<Shared>> {
        self.regions.iter().filter_map(Weak::upgrade).collect()
    }

    /// After the bits were read: did all of them survive until then?
    fn check_canary(&self, regions: &[Arc<Shared>]) -> io::Result<()> {
        if !self.soft_dirty()?.undisturbed()? {
            let lose = |region: &Arc<Shared>| region.lost.store(true, Ordering::SeqCst);
            regions.iter().for_each(lose);
        }
        Ok(())
    }

    /// Reads the bits.
    fn look(&self, region: &Arc<Shared>) -> io::Result<()> {
        region.look(self.soft_dirty()?)?;
        self.check_canary(&self.regions())
    }

    /// Reads the bits of all regions, and clears them.
    fn sweep(&self) -> io::Result<()> {
        let soft_dirty = self.soft_dirty()?;
        let regions = self.regions();
        let mut result = Ok(());
        for region in &regions {
            if region.protect(0, region.pages, false) != 0 {
                region.lost.store(true, Ordering::SeqCst);
            }
        }
        for region in &regions {
            result = result.and(region.look(soft_dirty));
        }
        result = result.and(self.check_canary(&regions));
        if result.is_ok() {
            result = soft_dirty.clear();
        }
        for region in &regions {
            region.protect(0, region.pages, true);
        }
        result
    }
}

/// async-signal-safe.
///
/// # Safety
/// `context` is a [`Shared`] which lives, `address` is inside its range.
unsafe fn on_fault(context: *const c_void, address: usize, _: *mut libc::ucontext_t) -> bool {
    // SAFETY: the caller vouches.
    let shared = unsafe { &*context.cast::<Shared>() };
    shared.fault((address - shared.start) / PAGE_SIZE)
}

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct SoftDirtyTracker {
    /// `None` only while dropping; its owner is `shared`.
    watch: Option<Watch>,
    shared: Arc<Shared>,
    list: Vec<u64>,
    lost: bool,
}

fn failed(source: io::Error) -> CycleError {
    CycleError::Os {
        what: "reading or clearing soft-dirty bits",
        source,
    }
}

impl SoftDirtyTracker {
    pub(super) fn new(request: &Request<'_>) -> Result<Self, TrackError> {
        let memory = request.memory;
        let shared = Arc::new(Shared {
            start: memory.start(),
            pages: memory.pages(),
            marks: Marks::new(memory.pages()),
            lost: AtomicBool::new(false),
        });
        let mut process = process();
        if process.soft_dirty.is_none() {
            process.soft_dirty = Some(SoftDirty::open()?);
        }
        let owner = Owner {
            signal: Signal::Segv,
            context: Arc::as_ptr(&shared).cast(),
            handle: on_fault,
        };
        // SAFETY: the Arc keeps the address, and drop ends the watch before
        // it lets go.
        let watch = unsafe { Watch::new(memory.start(), memory.bytes(), owner) };
        let watch = watch.map_err(TrackError::Handler)?;
        process.regions.retain(|region| region.strong_count() > 0);
        process.regions.push(Arc::downgrade(&shared));
        Ok(Self {
            watch: Some(watch),
            shared,
            list: Vec::with_capacity(memory.pages()),
            lost: false,
        })
    }

    fn check(&self) -> Result<(), CycleError> {
        Ok(signal::check_installed(Signal::Segv)?)
    }

    fn collect(&mut self, take: bool) {
        self.list.clear();
        self.shared.marks.collect(take, &mut self.list);
        self.lost = if take {
            self.shared.lost.swap(false, Ordering::SeqCst)
        } else {
            self.shared.lost.load(Ordering::SeqCst)
        };
    }
}

impl Tracker for SoftDirtyTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::SoftDirty
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        self.check()?;
        process().sweep().map_err(failed)?;
        // Who wrote after the bits were cleared is seen again.
        self.collect(true);
        Ok(())
    }

    fn end(&mut self) -> Result<(), CycleError> {
        self.check()?;
        process().look(&self.shared).map_err(failed)?;
        self.collect(true);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        self.check()?;
        process().sweep().map_err(failed)?;
        self.collect(true);
        Ok(())
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        self.check()?;
        process().look(&self.shared).map_err(failed)?;
        self.collect(false);
        Ok(())
    }

    fn log(&self) -> Log<'_> {
        Log {
            entries: &self.list,
            lost: self.lost,
        }
    }

    fn count(&self) -> Arc<dyn Count> {
        Arc::clone(&self.shared) as Arc<dyn Count>
    }
}

impl Count for Shared {
    fn counters(&self) -> Counters {
        // The kernel does not count its own.
        Counters::default()
    }
}

impl Drop for SoftDirtyTracker {
    fn drop(&mut self) {
        if fork::is_child() {
            // The handler of the child still knows the address.
            core::mem::forget(Arc::clone(&self.shared));
            return;
        }
        // Nobody sweeps this region any more: it stays writable.
        let mut process = process();
        let gone = Arc::as_ptr(&self.shared);
        process.regions.retain(|region| region.as_ptr() != gone);
        self.watch = None;
    }
}
