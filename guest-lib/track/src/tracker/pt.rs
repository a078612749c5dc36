// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Pt` and `UffdWp`: write-protect, and let a signal handler open pages.
//!
//! begin write-protects; the first write to a page faults; the handler marks
//! the page and makes it writable.  A commit protects dirty pages again: with
//! `mprotect` by one call over all of them, which passes by what is read-only,
//! with userfaultfd, which does not, by a call for each run.
//!
//! With `Pt` protection is `mprotect` and the signal SIGSEGV.  With `UffdWp`
//! it is userfaultfd in synchronous mode and the signal SIGBUS
//! (UFFD_FEATURE_SIGBUS): the thread which wrote opens its page itself, where
//! a handler thread would cost two context switches a fault.

use core::any::Any;
use core::ffi::c_void;
use std::sync::Arc;

use super::pages::{Guard, Pages};
use super::{Count, CycleError, Log, Request, TrackError, Tracker, TrackerKind};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::fork;
use hvckpt_sys::signal::{self, Owner, Signal, Watch};
use hvckpt_sys::uffd::Userfault;

/// async-signal-safe.
///
/// # Safety
/// `context` is a [`Pages`] which lives, `address` is inside its range.
unsafe fn on_fault(context: *const c_void, address: usize, _: *mut libc::ucontext_t) -> bool {
    // SAFETY: the caller vouches.
    let pages = unsafe { &*context.cast::<Pages>() };
    pages.fault((address - pages.start()) / PAGE_SIZE)
}

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct PtTracker {
    kind: TrackerKind,
    cycle: Cycle,
}

impl PtTracker {
    /// With `mprotect`.
    pub(super) fn new(request: &Request<'_>) -> Result<Self, TrackError> {
        let memory = request.memory;
        let pages = Pages::new(memory.start(), memory.pages(), Guard::Mprotect, false);
        Self::watch(TrackerKind::Pt, Signal::Segv, pages)
    }

    /// With userfaultfd.
    pub(super) fn with_uffd(request: &Request<'_>) -> Result<Self, TrackError> {
        let memory = request.memory;
        let uffd = Userfault::sigbus()?;
        uffd.register(memory.start(), memory.bytes())?;
        let guard = Guard::Uffd(uffd);
        let pages = Pages::new(memory.start(), memory.pages(), guard, false);
        Self::watch(TrackerKind::UffdWp, Signal::Bus, pages)
    }

    fn watch(kind: TrackerKind, signal: Signal, pages: Pages) -> Result<Self, TrackError> {
        let pages = Arc::new(pages);
        let owner = Owner {
            signal,
            context: Arc::as_ptr(&pages).cast(),
            handle: on_fault,
        };
        // SAFETY: the owner is `pages`, which `Cycle` keeps until it ends the
        // watch.
        let watch = unsafe { Watch::new(pages.start(), pages.bytes(), owner) };
        let watch = watch.map_err(TrackError::Handler)?;
        let owner = Arc::clone(&pages);
        let cycle = Cycle::new(signal, watch, pages, owner);
        Ok(Self { kind, cycle })
    }
}

impl Tracker for PtTracker {
    fn kind(&self) -> TrackerKind {
        self.kind
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        self.cycle.begin(|| {})
    }

    fn end(&mut self) -> Result<(), CycleError> {
        self.cycle.end()
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        self.cycle.commit(|| {})
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        self.cycle.peek()
    }

    fn log(&self) -> Log<'_> {
        self.cycle.log()
    }

    fn count(&self) -> Arc<dyn Count> {
        Arc::clone(&self.cycle.pages) as Arc<dyn Count>
    }
}

/// Cycles over [`Pages`] which a handler opens.
#[derive(Debug)]
pub(super) struct Cycle {
    signal: Signal,
    /// `None` only while dropping.
    watch: Option<Watch>,
    /// What the handler of the watch uses.
    owner: Arc<dyn Any + Send + Sync>,
    pages: Arc<Pages>,
    /// Pages of the last list; writable until the next begin.
    list: Vec<u64>,
    /// Pages opened between two cycles.
    between: Vec<u64>,
    lost: bool,
    first: bool,
}

impl Cycle {
    /// `owner` is the context of `watch`.
    pub(super) fn new(
        signal: Signal,
        watch: Watch,
        pages: Arc<Pages>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            signal,
            watch: Some(watch),
            owner,
            list: Vec::with_capacity(pages.bytes() / PAGE_SIZE),
            pages,
            between: Vec::new(),
            lost: false,
            first: true,
        }
    }

    /// Fails if faults would not reach us.
    fn check(&self) -> Result<(), CycleError> {
        Ok(signal::check_installed(self.signal)?)
    }

    fn protect(&mut self, whole: bool) -> Result<(), CycleError> {
        if whole {
            self.pages.protect_whole()
        } else {
            self.pages.protect_listed([&self.list, &self.between])
        }
    }

    fn take_list(&mut self) {
        // Read before the marks: who wrote without one wrote after this.
        self.lost = self.pages.whole_dirty();
        self.list.clear();
        self.pages.collect(true, &mut self.list);
    }

    /// `taken` is called after the marks were read, before pages are
    /// protected.
    pub(super) fn begin(&mut self, taken: impl FnOnce()) -> Result<(), CycleError> {
        self.check()?;
        self.between.clear();
        self.pages.collect(true, &mut self.between);
        taken();
        let whole = self.first || self.lost || self.pages.whole_dirty();
        self.protect(whole)?;
        self.first = false;
        self.lost = false;
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), CycleError> {
        self.check()?;
        self.take_list();
        Ok(())
    }

    /// `taken` as in [`Self::begin`].
    pub(super) fn commit(&mut self, taken: impl FnOnce()) -> Result<(), CycleError> {
        self.check()?;
        self.take_list();
        taken();
        self.between.clear();
        // Not `whole_dirty` again: what became writable since is for the
        // next list, and must not be declared clean before.
        self.protect(self.lost)
    }

    pub(super) fn peek(&mut self) -> Result<(), CycleError> {
        self.check()?;
        self.lost = self.pages.whole_dirty();
        self.list.clear();
        self.pages.collect(false, &mut self.list);
        Ok(())
    }

    pub(super) fn log(&self) -> Log<'_> {
        Log {
            entries: &self.list,
            lost: self.lost,
        }
    }
}

impl Drop for Cycle {
    fn drop(&mut self) {
        if fork::is_child() {
            // The handler of the child still knows the address.
            core::mem::forget(Arc::clone(&self.owner));
            return;
        }
        // Writable first, then unwatched: a thread which faulted before finds
        // either the watch or a writable page.
        self.pages.protect(0, self.pages.bytes() / PAGE_SIZE, true);
        self.watch = None;
        self.pages.release();
    }
}
