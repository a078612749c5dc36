// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a cycle found.

use core::ops::Range;

use crate::tracker::{SlotGuard, Written};
use hvckpt_sys::abi;

/// The dirty pages of a cycle, read where the tracker wrote them.
///
/// While it lives no other transaction can begin or end on its region
/// ([`crate::CycleError::InUse`]); copy it with [`Self::to_vec`] to keep it.
#[derive(Debug)]
pub struct DirtyPages<'r> {
    guard: SlotGuard<'r>,
    pages: usize,
}

impl<'r> DirtyPages<'r> {
    pub(crate) fn new(guard: SlotGuard<'r>, pages: usize) -> Self {
        Self { guard, pages }
    }

    /// True if the list was lost: every page then counts as dirty, and is
    /// listed.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.guard.log().lost
    }

    /// Number of dirty pages.
    #[must_use]
    pub fn len(&self) -> usize {
        let log = self.guard.log();
        if log.lost {
            self.pages
        } else {
            log.entries.len()
        }
    }

    /// True if no page is dirty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices of the dirty pages in the region: each once, in no particular
    /// order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        let log = self.guard.log();
        if log.lost {
            Iter(Pages::All(0..self.pages))
        } else {
            Iter(Pages::Listed(log.entries.iter()))
        }
    }

    /// Runs of neighbours, as ranges of page indices; neighbours which do not
    /// follow each other in the list make several runs.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        Runs {
            pages: self.iter(),
            run: None,
        }
    }

    /// The indices, to keep.
    #[must_use]
    pub fn to_vec(&self) -> Vec<usize> {
        self.iter().collect()
    }

    /// The single writes behind the list, if the tracker knows them
    /// ([`crate::TrackerKind::Emul`], [`crate::TrackerKind::EmulXen`]) and its log had room for all: where, and
    /// how many bytes.  In the order of the log, repeated if they repeated.
    /// Their bytes are in the region; the content of every other byte is as
    /// it was before the cycle, but for writes which raced with its end.
    #[must_use]
    pub fn written(&self) -> Option<&[Written]> {
        self.guard.written()
    }

    /// The list as it lies in memory: page indices; empty if
    /// [lost](Self::lost).
    #[must_use]
    pub fn raw(&self) -> &[u64] {
        self.guard.log().entries
    }
}

impl<'a> IntoIterator for &'a DirtyPages<'_> {
    type Item = usize;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

#[derive(Debug, Clone)]
enum Pages<'a> {
    All(Range<usize>),
    Listed(core::slice::Iter<'a, u64>),
}

/// Iterator over dirty pages; see [`DirtyPages::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(Pages<'a>);

impl Iterator for Iter<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            Pages::All(range) => range.next(),
            #[allow(clippy::cast_possible_truncation)] // 64-bit only
            Pages::Listed(entries) => entries
                .next()
                .map(|entry| (entry & abi::CDA_ENTRY_INDEX) as usize),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Pages::All(range) => range.size_hint(),
            Pages::Listed(entries) => entries.size_hint(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Iterator over runs; see [`DirtyPages::runs`].
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    pages: Iter<'a>,
    run: Option<Range<usize>>,
}

impl Iterator for Runs<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        for page in self.pages.by_ref() {
            match &mut self.run {
                Some(run) if run.end == page => run.end += 1,
                run => {
                    let done = run.replace(page..page + 1);
                    if done.is_some() {
                        return done;
                    }
                }
            }
        }
        self.run.take()
    }
}
