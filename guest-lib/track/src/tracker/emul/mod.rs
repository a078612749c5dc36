// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Emul`: every store to a page is performed by the SIGSEGV handler, and
//! logged by itself (Emul of the DSN 2011 paper).
//!
//! Pages stay read-only while the region lives.  The handler takes the
//! instruction apart (`decode`), makes a copy of it whose address is a
//! register (`stubs`), and executes that with the thread's own registers,
//! flags and vector state on a second, writable mapping of the same memory
//! (`exec`).  The store itself is the processor's: locked, atomic and as wide
//! as the program wrote it, and what it does to registers and flags is what
//! it does.  What the handler does not know, and what does not lie within one
//! page, falls back to opening the page as `Pt` does.

mod decode;
mod exec;
#[cfg(test)]
mod oracle;
mod stubs;
mod table;
mod words;

use core::ffi::c_void;
use std::sync::Arc;

use super::pages::{Guard, Pages};
use super::pt::Cycle;
use super::{Count, CycleError, Log, Request, TrackError, Tracker, TrackerKind};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::signal::{Owner, Signal, Watch};
use words::Words;
pub use words::Written;

/// Single writes a cycle which the log can hold, at least.
const LOG_ENTRIES: usize = 4096;

/// What the handler needs.
#[derive(Debug)]
struct Shared {
    pages: Arc<Pages>,
    words: Words,
    /// From a page to its writable mapping.
    delta: usize,
    /// Whether programs may read FS and GS by instructions.
    fsgsbase: bool,
}

impl Shared {
    /// async-signal-safe.
    ///
    /// # Safety
    /// `machine` is the context of a SIGSEGV handler, for a write at `address`
    /// in these pages.
    unsafe fn fault(&self, address: usize, machine: *mut libc::ucontext_t) -> bool {
        let start = self.pages.start();
        let region = start..start + self.pages.bytes();
        // SAFETY: the kernel's pointer, used by this handler alone.
        let machine = unsafe { &mut *machine };
        // SAFETY: the caller vouches.
        let work = unsafe { exec::understand(machine, address, self.fsgsbase) };
        let page = (address - start) / PAGE_SIZE;
        let Some(work) = work else {
            return self.pages.fault(page);
        };
        let offset = work.range.start - start;
        let bytes = u16::try_from(work.range.len()).unwrap_or(u16::MAX);
        self.pages.write(page, || {
            // SAFETY: the range lies in the page of `address`, and `delta` is
            // where that is writable.
            unsafe { work.perform(machine, &region, self.delta) };
            self.words.push(offset, bytes);
        })
    }
}

/// async-signal-safe.
///
/// # Safety
/// `context` is a [`Shared`] which lives, `address` is inside its range, and
/// `machine` the context of the handler.
unsafe fn on_fault(context: *const c_void, address: usize, machine: *mut libc::ucontext_t) -> bool {
    // SAFETY: the caller vouches.
    unsafe { (*context.cast::<Shared>()).fault(address, machine) }
}

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct EmulTracker {
    // Ends the watch before `shared` goes.
    cycle: Cycle,
    shared: Arc<Shared>,
    /// Writes of the last list.
    written: Vec<Written>,
    /// Pages of the last list which count as wholly written.
    coarse: Vec<u64>,
    /// Whether `written` has everything.
    complete: bool,
}

impl EmulTracker {
    pub(super) fn new(request: &Request<'_>) -> Result<Self, TrackError> {
        const HWCAP2_FSGSBASE: u64 = 1 << 1;
        let memory = request.memory;
        let alias = memory.alias().ok_or(TrackError::NoAlias)?;
        stubs::prepare()?;
        let pages = Arc::new(Pages::new(
            memory.start(),
            memory.pages(),
            Guard::Mprotect,
            true,
        ));
        let shared = Arc::new(Shared {
            pages: Arc::clone(&pages),
            words: Words::new(request.log_entries.max(LOG_ENTRIES)),
            delta: alias.wrapping_sub(memory.start()),
            // SAFETY: reads what the kernel told at the start of the process.
            fsgsbase: unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE != 0,
        });
        let owner = Owner {
            signal: Signal::Segv,
            context: Arc::as_ptr(&shared).cast(),
            handle: on_fault,
        };
        // SAFETY: the owner is `shared`, which `Cycle` keeps until it ends
        // the watch.
        let watch = unsafe { Watch::new(memory.start(), memory.bytes(), owner) };
        let watch = watch.map_err(TrackError::Handler)?;
        Ok(Self {
            cycle: Cycle::new(Signal::Segv, watch, pages, Arc::clone(&shared) as _),
            shared,
            written: Vec::new(),
            coarse: Vec::new(),
            complete: false,
        })
    }
}

/// Reads the log of single writes, between the marks and the protection: what
/// is marked while pages are protected belongs to the next list.
fn take(shared: &Shared, take: bool, written: &mut Vec<Written>, coarse: &mut Vec<u64>) -> bool {
    written.clear();
    coarse.clear();
    shared.pages.collect_coarse(take, coarse);
    let complete = if take {
        shared.words.take(written)
    } else {
        shared.words.peek(written)
    };
    #[allow(clippy::cast_possible_truncation)] // 4096
    written.extend(coarse.iter().map(|page| Written {
        offset: page * PAGE_SIZE as u64,
        bytes: PAGE_SIZE as u32,
    }));
    complete
}

impl Tracker for EmulTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Emul
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        let Self {
            cycle,
            shared,
            written,
            coarse,
            ..
        } = self;
        cycle.begin(|| {
            take(shared, true, written, coarse);
            written.clear();
        })
    }

    fn end(&mut self) -> Result<(), CycleError> {
        self.complete = false;
        self.cycle.end()?;
        self.complete = take(&self.shared, true, &mut self.written, &mut self.coarse);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        let Self {
            cycle,
            shared,
            written,
            coarse,
            complete,
        } = self;
        *complete = false;
        let mut all = false;
        cycle.commit(|| all = take(shared, true, written, coarse))?;
        *complete = all;
        Ok(())
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        self.complete = false;
        self.cycle.peek()?;
        self.complete = take(&self.shared, false, &mut self.written, &mut self.coarse);
        Ok(())
    }

    fn log(&self) -> Log<'_> {
        self.cycle.log()
    }

    fn written(&self) -> Option<&[Written]> {
        (self.complete && !self.cycle.log().lost).then_some(&self.written)
    }

    fn count(&self) -> Arc<dyn Count> {
        Arc::clone(&self.shared.pages) as Arc<dyn Count>
    }
}
