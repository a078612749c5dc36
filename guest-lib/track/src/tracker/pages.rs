// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages which are write-protected, opened by a handler, and protected again.
//!
//! Any number of threads write while another begins, ends or commits.  The
//! state of a page is one atomic word, and the rule is: *clean means that the
//! page is read-only and that no handler is about to change this*.  Handlers
//! never wait for anybody.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::marks::Marks;
use super::{Count, Counters, CycleError};
use hvckpt_sys::uffd::Userfault;
use hvckpt_sys::{PAGE_SIZE, raw};

/// The page may be writable, or soon is.
const DIRTY: u32 = 1;
/// Being protected; a handler which comes now wipes this.
const CLOSING: u32 = 2;
/// One handler between marking and having made the page writable.
const OPENER: u32 = 4;
/// One handler between marking and having written to the page by itself.
const WRITER: u32 = 1 << 16;

/// Protecting so many clean pages costs userfaultfd about as much as a call
/// of its own.
const UFFD_GAP: usize = 8;

/// Who protects.
#[derive(Debug)]
pub(super) enum Guard {
    /// `mprotect`.
    Mprotect,
    /// userfaultfd's synchronous write protection.
    Uffd(Userfault),
}

impl Guard {
    /// The system call, for errors.
    fn name(&self) -> &'static str {
        match self {
            Self::Mprotect => "mprotect",
            Self::Uffd(_) => "UFFDIO_WRITEPROTECT",
        }
    }

    /// How far apart two dirty pages may be to be protected in one call with
    /// the pages between.
    fn gap(&self) -> usize {
        match self {
            // Clean pages are a kernel object which is read-only already: the
            // kernel passes it by, whatever its size.
            Self::Mprotect => usize::MAX,
            // The kernel changes every page of the range, clean or not.
            Self::Uffd(_) => UFFD_GAP,
        }
    }

    /// Protects or opens; returns 0 or −errno.  async-signal-safe.
    ///
    /// # Safety
    /// The pages must be of a region which is watched.
    unsafe fn set(&self, start: usize, bytes: usize, writable: bool) -> i64 {
        match self {
            Self::Mprotect => {
                let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
                // SAFETY: the caller vouches; who writes there is served by
                // the handler, or writes anyway.
                unsafe { raw::mprotect(start, bytes, prot) }
            }
            Self::Uffd(uffd) => uffd.write_protect(start, bytes, !writable),
        }
    }
}

/// What the handler and the cycle share.
#[derive(Debug)]
pub(super) struct Pages {
    start: usize,
    pages: usize,
    guard: Guard,
    /// Per page: [`DIRTY`], [`CLOSING`], and counts of [`OPENER`]s and
    /// [`WRITER`]s.
    state: Box<[AtomicU32]>,
    /// The same for "every page became writable at once".
    whole: AtomicU32,
    /// Pages to be reported.
    marks: Marks,
    /// Of these, pages of which not every write is known by itself.
    coarse: Option<Marks>,
    faults: AtomicU64,
    emulated: Option<AtomicU64>,
    #[cfg(test)]
    asked: tests::Asked,
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

impl Pages {
    /// `words`: whether writes may come one by one, see [`Self::write`].
    pub(super) fn new(start: usize, pages: usize, guard: Guard, words: bool) -> Self {
        Self {
            start,
            pages,
            guard,
            state: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            whole: AtomicU32::new(0),
            marks: Marks::new(pages),
            coarse: words.then(|| Marks::new(pages)),
            faults: AtomicU64::new(0),
            emulated: words.then(|| AtomicU64::new(0)),
            #[cfg(test)]
            asked: tests::Asked::default(),
        }
    }

    /// First byte of the pages.  async-signal-safe.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Size in bytes.  async-signal-safe.
    pub(super) fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// The whole page is to be reported.  async-signal-safe.
    fn mark(&self, page: usize) {
        self.marks.mark(page);
        if let Some(coarse) = &self.coarse {
            coarse.mark(page);
        }
    }

    /// Protects or opens pages; returns 0 or −errno.  async-signal-safe.
    pub(super) fn protect(&self, first: usize, pages: usize, writable: bool) -> i64 {
        #[cfg(test)]
        self.asked.add(pages, writable);
        // SAFETY: pages of our region.
        unsafe {
            self.guard
                .set(self.start + first * PAGE_SIZE, pages * PAGE_SIZE, writable)
        }
    }

    /// Nobody watches any more; the pages are writable.
    pub(super) fn release(&self) {
        if let Guard::Uffd(uffd) = &self.guard {
            // The descriptor may live on in a fork child.
            uffd.unregister(self.start, self.bytes());
        }
    }

    /// A thread writes to a protected page: opens it.  async-signal-safe.
    pub(super) fn fault(&self, page: usize) -> bool {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.open_page(page)
    }

    /// async-signal-safe.
    fn open_page(&self, page: usize) -> bool {
        let Some(state) = self.state.get(page) else {
            return false;
        };
        open(state);
        self.mark(page);
        let mut result = self.protect(page, 1, true);
        if result != 0 {
            // Every run of pages is a kernel object, and there are only so
            // many (vm.max_map_count): give up on telling pages apart.
            open(&self.whole);
            result = self.protect(0, self.pages, true);
            opened(&self.whole);
        }
        opened(state);
        result == 0
    }

    /// A handler performs one write to a page by itself, which stays
    /// protected.  If a cycle ends before the write is done, the page is in
    /// its list and in the next one.  async-signal-safe.
    pub(super) fn write(&self, page: usize, perform: impl FnOnce()) -> bool {
        let Some(state) = self.state.get(page) else {
            return false;
        };
        self.faults.fetch_add(1, Ordering::Relaxed);
        if let Some(emulated) = &self.emulated {
            emulated.fetch_add(1, Ordering::Relaxed);
        }
        state.fetch_add(WRITER, Ordering::SeqCst);
        self.marks.mark(page);
        perform();
        state.fetch_sub(WRITER, Ordering::SeqCst);
        true
    }

    /// Appends the pages to be reported in order, and forgets them if `take`.
    pub(super) fn collect(&self, take: bool, list: &mut Vec<u64>) {
        self.marks.collect(take, list);
    }

    /// The same for those which count as wholly written.
    pub(super) fn collect_coarse(&self, take: bool, list: &mut Vec<u64>) {
        if let Some(coarse) = &self.coarse {
            coarse.collect(take, list);
        }
    }

    /// Write-protects those of the listed pages which are not.  Those at which
    /// a handler is just now stay dirty and marked: the next list has them
    /// too.
    pub(super) fn protect_listed(&self, lists: [&[u64]; 2]) -> Result<(), CycleError> {
        let pages = || {
            #[allow(clippy::cast_possible_truncation)] // made from usize
            lists.into_iter().flatten().map(|&page| page as usize)
        };
        let gap = self.guard.gap();
        let mut result = 0;
        let mut run: Option<(usize, usize)> = None;
        for page in pages() {
            if self.state[page].load(Ordering::SeqCst) & DIRTY == 0 {
                continue;
            }
            closing(&self.state[page]);
            run = Some(match run {
                Some((first, last))
                    if first.saturating_sub(page) <= gap && page.saturating_sub(last) <= gap =>
                {
                    (first.min(page), last.max(page))
                }
                Some(done) => {
                    result = result.min(self.close(done));
                    (page, page)
                }
                None => (page, page),
            });
        }
        if let Some(last) = run {
            result = result.min(self.close(last));
        }
        if result != 0 {
            // Too many runs; all of them in one has none to split.
            result = self.protect(0, self.pages, false);
        }
        self.finish(pages());
        self.check(result)
    }

    /// Write-protects from the first to the last of these pages; what lies
    /// between is clean, or was opened since and faults once more.
    fn close(&self, (first, last): (usize, usize)) -> i64 {
        self.protect(first, last + 1 - first, false)
    }

    /// Write-protects everything after `whole` was set.
    pub(super) fn protect_whole(&self) -> Result<(), CycleError> {
        let whole = closing(&self.whole);
        for state in &self.state {
            // Also pages no handler ever saw became writable.
            let _raced = state.compare_exchange(0, DIRTY, Ordering::SeqCst, Ordering::SeqCst);
            closing(state);
        }
        let result = self.protect(0, self.pages, false);
        self.finish(0..self.pages);
        if whole {
            closed(&self.whole);
        }
        self.check(result)
    }

    fn finish(&self, pages: impl Iterator<Item = usize>) {
        for page in pages {
            let state = &self.state[page];
            if !closed(state) && state.load(Ordering::SeqCst) != 0 {
                self.mark(page);
            }
        }
    }

    /// Whether pages cannot be told apart any more.
    pub(super) fn whole_dirty(&self) -> bool {
        self.whole.load(Ordering::SeqCst) != 0
    }

    fn check(&self, result: i64) -> Result<(), CycleError> {
        if result == 0 {
            return Ok(());
        }
        let errno = i32::try_from(-result).unwrap_or(0);
        Err(CycleError::Os {
            what: self.guard.name(),
            source: io::Error::from_raw_os_error(errno),
        })
    }
}

impl Count for Pages {
    fn counters(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            faults: Some(read(&self.faults)),
            emulated: self.emulated.as_ref().map(read),
            hypervisor: None,
        }
    }

    fn open(&self, page: usize) -> bool {
        // Where writes are performed one by one, none opens the page.
        self.coarse.is_some() && self.open_page(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hvckpt_sys::memory::Mapping;

    /// What the kernel was asked to protect: calls, and pages in them.
    #[derive(Debug, Default)]
    pub(super) struct Asked(AtomicU64, AtomicU64);

    impl Asked {
        pub(super) fn add(&self, pages: usize, writable: bool) {
            if !writable {
                self.0.fetch_add(1, Ordering::Relaxed);
                self.1.fetch_add(pages as u64, Ordering::Relaxed);
            }
        }

        fn take(&self) -> (u64, u64) {
            let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
            (take(&self.0), take(&self.1))
        }
    }

    const PAGES: usize = 16_384;

    /// Watched pages in memory which outlives them, all clean.
    fn watched(guard: impl FnOnce(&Mapping) -> Option<Guard>) -> Option<(Pages, Mapping)> {
        let memory = Mapping::new(PAGES * PAGE_SIZE).unwrap();
        let guard = guard(&memory)?;
        let pages = Pages::new(memory.start(), PAGES, guard, false);
        pages.protect_whole().unwrap();
        pages.asked.take();
        Some((pages, memory))
    }

    fn uffd(memory: &Mapping) -> Option<Guard> {
        let uffd = Userfault::sigbus()
            .inspect_err(|error| eprintln!("no userfaultfd here: {error}"))
            .ok()?;
        uffd.register(memory.start(), memory.bytes()).unwrap();
        Some(Guard::Uffd(uffd))
    }

    /// A cycle in which these pages were written to: what it asked for.
    fn cycle(pages: &Pages, dirty: &[usize]) -> (u64, u64) {
        dirty.iter().for_each(|&page| assert!(pages.fault(page)));
        let mut list = Vec::new();
        pages.collect(true, &mut list);
        assert_eq!(list.len(), dirty.len());
        pages.protect_listed([&list, &[]]).unwrap();
        let clean = |&page: &usize| pages.state[page].load(Ordering::SeqCst) == 0;
        assert!(dirty.iter().all(clean));
        pages.asked.take()
    }

    #[test]
    fn userfaultfd_protects_what_is_dirty_and_not_what_lies_between() {
        let Some((pages, _memory)) = watched(uffd) else {
            return;
        };
        assert_eq!(cycle(&pages, &[]), (0, 0));
        assert_eq!(cycle(&pages, &[0, PAGES - 1]), (2, 2));
        assert_eq!(cycle(&pages, &[7, 8, 9, 4000, 4001]), (2, 5));
        // Pages near each other in one call.
        let every_second: Vec<usize> = (0..1000).map(|page| 2 * page).collect();
        assert_eq!(cycle(&pages, &every_second), (1, 1999));
        // Never more than a multiple of what is dirty.
        for distance in 1..200 {
            let dirty: Vec<usize> = (0..80).map(|page| page * distance).collect();
            let (calls, asked) = cycle(&pages, &dirty);
            assert!(calls <= 80 && asked <= 80 * UFFD_GAP as u64, "{distance}");
        }
    }

    #[test]
    fn pages_of_two_lists_are_all_protected() {
        let Some((pages, _memory)) = watched(uffd) else {
            return;
        };
        for page in [5, 10_000, 10_001, 3, 9000] {
            assert!(pages.fault(page));
        }
        let lists: [&[u64]; 2] = [&[5, 10_000, 10_001], &[3, 5, 9000]];
        pages.protect_listed(lists).unwrap();
        let dirty = |state: &&AtomicU32| state.load(Ordering::SeqCst) != 0;
        assert_eq!(pages.state.iter().filter(dirty).count(), 0);
        let (calls, asked) = pages.asked.take();
        assert!(calls <= 5 && asked <= 7, "{calls} {asked}");
    }

    /// The kernel has one object for each run of dirty pages and one for what
    /// lies between two; it passes by what is read-only.
    #[test]
    fn mprotect_is_one_call() {
        let mprotect = |_: &Mapping| Some(Guard::Mprotect);
        let (pages, _memory) = watched(mprotect).unwrap();
        assert_eq!(cycle(&pages, &[]), (0, 0));
        assert_eq!(cycle(&pages, &[0, PAGES - 1]).0, 1);
        assert_eq!(cycle(&pages, &[7, 9, 4000]).0, 1);
    }
}
