//! `Pt`: mprotect and SIGSEGV, the classic.
//!
//! begin write-protects; the first write to a page faults; the handler marks
//! the page and makes it writable.  One `mprotect` over the span of all dirty
//! pages protects them again: clean pages between are read-only already and
//! cost nothing.
//!
//! Any number of threads write while another begins, ends or commits.  The
//! state of a page is one atomic word, and the rule is: *clean means that the
//! page is read-only and that no handler is about to change this*.  Handlers
//! never wait for anybody.

use core::ffi::c_void;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Count, Counters, CycleError, Log, Request, TrackError, Tracker, TrackerKind};
use crate::sys::fork;
use crate::sys::signal::{self, HandlerReplaced, Watch};
use crate::sys::{PAGE_SIZE, raw};

/// The page may be writable, or soon is.
const DIRTY: u32 = 1;
/// Being protected; a handler which comes now wipes this.
const CLOSING: u32 = 2;
/// One handler between marking and having made the page writable.
const OPENER: u32 = 4;

const BITS: usize = 64;

/// What the handler and the cycle share.
#[derive(Debug)]
struct Shared {
    start: usize,
    pages: usize,
    /// Per page: [`DIRTY`], [`CLOSING`], and a count of [`OPENER`]s.
    state: Box<[AtomicU32]>,
    /// The same for "every page became writable at once".
    whole: AtomicU32,
    /// A bit per page to be reported, and a bit per word which is not zero.
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    faults: AtomicU64,
}

/// async-signal-safe.
fn open(state: &AtomicU32) {
    let mut old = state.load(Ordering::SeqCst);
    loop {
        let new = ((old & !CLOSING) | DIRTY) + OPENER;
        match state.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// async-signal-safe.
fn opened(state: &AtomicU32) {
    state.fetch_sub(OPENER, Ordering::SeqCst);
}

/// Announces that the page will be protected; false if a handler is at it.
fn closing(state: &AtomicU32) -> bool {
    state
        .compare_exchange(DIRTY, DIRTY | CLOSING, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

/// Declares a protected page clean; false if a handler has been there since.
fn closed(state: &AtomicU32) -> bool {
    state
        .compare_exchange(DIRTY | CLOSING, 0, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

impl Shared {
    fn new(start: usize, pages: usize) -> Self {
        let words = pages.div_ceil(BITS);
        Self {
            start,
            pages,
            state: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            whole: AtomicU32::new(0),
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            summary: (0..words.div_ceil(BITS))
                .map(|_| AtomicU64::new(0))
                .collect(),
            faults: AtomicU64::new(0),
        }
    }

    /// async-signal-safe.
    fn mark(&self, page: usize) {
        let word = page / BITS;
        if let (Some(bits), Some(summary)) = (self.words.get(word), self.summary.get(word / BITS)) {
            bits.fetch_or(1 << (page % BITS), Ordering::SeqCst);
            summary.fetch_or(1 << (word % BITS), Ordering::SeqCst);
        }
    }

    /// async-signal-safe.
    fn protect(&self, first: usize, pages: usize, prot: i32) -> i64 {
        // SAFETY: pages of our region; who writes to them is served by the
        // handler, or writes anyway.
        unsafe { raw::mprotect(self.start + first * PAGE_SIZE, pages * PAGE_SIZE, prot) }
    }

    /// A thread writes to a protected page.  async-signal-safe.
    fn fault(&self, page: usize) -> bool {
        const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let Some(state) = self.state.get(page) else {
            return false;
        };
        self.faults.fetch_add(1, Ordering::Relaxed);
        open(state);
        self.mark(page);
        let mut result = self.protect(page, 1, WRITABLE);
        if result != 0 {
            // Every run of pages is a kernel object, and there are only so
            // many (vm.max_map_count): give up on telling pages apart.
            open(&self.whole);
            result = self.protect(0, self.pages, WRITABLE);
            opened(&self.whole);
        }
        opened(state);
        result == 0
    }

    /// Appends the marked pages in order, and forgets the marks if `take`.
    fn collect(&self, take: bool, list: &mut Vec<u64>) {
        let read = |bits: &AtomicU64| {
            if take {
                bits.swap(0, Ordering::SeqCst)
            } else {
                bits.load(Ordering::SeqCst)
            }
        };
        for (index, summary) in self.summary.iter().enumerate() {
            for word in ones(read(summary)).map(|bit| index * BITS + bit) {
                list.extend(ones(read(&self.words[word])).map(|bit| (word * BITS + bit) as u64));
            }
        }
    }

    /// Write-protects the listed pages.  Those at which a handler is just now
    /// stay dirty and marked: the next list has them too.
    fn protect_listed(&self, lists: [&[u64]; 2]) -> Result<(), CycleError> {
        let pages = || {
            #[allow(clippy::cast_possible_truncation)] // made from usize
            lists.into_iter().flatten().map(|&page| page as usize)
        };
        let (Some(first), Some(last)) = (pages().min(), pages().max()) else {
            return Ok(());
        };
        for page in pages() {
            closing(&self.state[page]);
        }
        let mut result = self.protect(first, last + 1 - first, libc::PROT_READ);
        if result != 0 {
            // Too many runs; all of them in one has none to split.
            result = self.protect(0, self.pages, libc::PROT_READ);
        }
        self.finish(pages());
        check(result)
    }

    /// Write-protects everything after `whole` was set.
    fn protect_whole(&self) -> Result<(), CycleError> {
        let whole = closing(&self.whole);
        for state in &self.state {
            // Also pages no handler ever saw became writable.
            let _raced = state.compare_exchange(0, DIRTY, Ordering::SeqCst, Ordering::SeqCst);
            closing(state);
        }
        let result = self.protect(0, self.pages, libc::PROT_READ);
        self.finish(0..self.pages);
        if whole {
            closed(&self.whole);
        }
        check(result)
    }

    fn finish(&self, pages: impl Iterator<Item = usize>) {
        for page in pages {
            let state = &self.state[page];
            if !closed(state) && state.load(Ordering::SeqCst) != 0 {
                self.mark(page);
            }
        }
    }

    fn whole_dirty(&self) -> bool {
        self.whole.load(Ordering::SeqCst) != 0
    }
}

fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (bits != 0).then(|| {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            bit
        })
    })
}

fn check(result: i64) -> Result<(), CycleError> {
    if result == 0 {
        return Ok(());
    }
    let errno = i32::try_from(-result).unwrap_or(0);
    Err(CycleError::Os {
        what: "mprotect",
        source: io::Error::from_raw_os_error(errno),
    })
}

/// Fails if faults would not reach us.
fn check_handler() -> Result<(), CycleError> {
    signal::check_installed().map_err(|_| HandlerReplaced.into())
}

/// async-signal-safe.
///
/// # Safety
/// `context` is a [`Shared`] which lives, `address` is inside its range.
unsafe fn on_fault(context: *const c_void, address: usize) -> bool {
    // SAFETY: the caller vouches.
    let shared = unsafe { &*context.cast::<Shared>() };
    shared.fault((address - shared.start) / PAGE_SIZE)
}

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct PtTracker {
    /// `None` only while dropping; points to `shared`.
    watch: Option<Watch>,
    shared: Arc<Shared>,
    /// Pages of the last list; writable until the next begin.
    list: Vec<u64>,
    /// Pages opened between two cycles.
    between: Vec<u64>,
    lost: bool,
    first: bool,
}

impl PtTracker {
    pub(super) fn new(request: &Request<'_>) -> Result<Self, TrackError> {
        let memory = request.memory;
        let shared = Arc::new(Shared::new(memory.start(), memory.pages()));
        let context = Arc::as_ptr(&shared).cast();
        // SAFETY: the Arc keeps the address, and drop ends the watch before it
        // lets go.
        let watch = unsafe { Watch::new(memory.start(), memory.bytes(), context, on_fault) }
            .map_err(TrackError::Handler)?;
        Ok(Self {
            watch: Some(watch),
            shared,
            list: Vec::with_capacity(memory.pages()),
            between: Vec::new(),
            lost: false,
            first: true,
        })
    }

    fn protect(&mut self, whole: bool) -> Result<(), CycleError> {
        if whole {
            self.shared.protect_whole()
        } else {
            self.shared.protect_listed([&self.list, &self.between])
        }
    }

    fn take_list(&mut self) {
        // Read before the marks: who wrote without one wrote after this.
        self.lost = self.shared.whole_dirty();
        self.list.clear();
        self.shared.collect(true, &mut self.list);
    }
}

impl Tracker for PtTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Pt
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        check_handler()?;
        self.between.clear();
        self.shared.collect(true, &mut self.between);
        let whole = self.first || self.lost || self.shared.whole_dirty();
        self.protect(whole)?;
        self.first = false;
        self.lost = false;
        Ok(())
    }

    fn end(&mut self) -> Result<(), CycleError> {
        check_handler()?;
        self.take_list();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        check_handler()?;
        self.take_list();
        self.between.clear();
        // Not `whole_dirty` again: what became writable since is for the
        // next list, and must not be declared clean before.
        self.protect(self.lost)
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        check_handler()?;
        self.lost = self.shared.whole_dirty();
        self.list.clear();
        self.shared.collect(false, &mut self.list);
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
        Counters {
            faults: Some(self.faults.load(Ordering::Relaxed)),
            hypervisor: None,
        }
    }
}

impl Drop for PtTracker {
    fn drop(&mut self) {
        if fork::is_child() {
            // The handler of the child still knows the address.
            core::mem::forget(Arc::clone(&self.shared));
            return;
        }
        // Writable first, then unwatched: a thread which faulted before finds
        // either the watch or a writable page.
        self.shared
            .protect(0, self.shared.pages, libc::PROT_READ | libc::PROT_WRITE);
        self.watch = None;
    }
}
