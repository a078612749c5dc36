// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was committed to a durable region: what aborts restore, and how to go
//! back when the disk refuses a version.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use hvckpt_store::parts::{Change, Ticket, WORDS, Words, size};

use hvckpt_track::Region;

#[derive(Debug)]
pub(super) struct State {
    /// The region as it was committed last: what abort restores.  Pages which
    /// were never written take no memory, and those which wait to be written
    /// are the same as there.
    pub(super) shadow: Vec<Option<Words>>,
    /// Pages committed in memory only.
    pub(super) unwritten: HashSet<usize>,
    pub(super) version: u64,
    /// Versions which may be refused yet, oldest first.
    flights: VecDeque<Flight>,
    /// See [`super::DurableError::TakenBack`].
    pub(super) taken_back: Option<u64>,
    pub(super) open: bool,
    /// The tracker lost its cycle: every page may differ from the shadow.
    pub(super) suspect: bool,
    /// Pages which an abort wrote to after the next cycle had begun.  A tracker
    /// that compares memory saw them as they were before; written like that
    /// once more, they would not be in its list.
    pub(super) restored: Vec<usize>,
}

impl State {
    /// A version of which these pages are there, and all others are zero.
    pub(super) fn new(shadow: Vec<Option<Words>>, version: u64) -> Self {
        Self {
            shadow,
            unwritten: HashSet::new(),
            version,
            flights: VecDeque::new(),
            taken_back: None,
            open: false,
            suspect: false,
            restored: Vec::new(),
        }
    }

    pub(super) fn committed(&self, page: usize) -> &[u64; WORDS] {
        self.shadow[page].as_deref().unwrap_or(&[0; WORDS])
    }

    /// Takes pages over as what abort restores.
    fn keep(&mut self, changes: &[Change]) {
        for change in changes {
            self.shadow[size(change.page)] = Some(change.new.clone());
        }
    }

    /// Takes pages over which are committed in memory only.
    pub(super) fn keep_in_memory(&mut self, changes: &[Change], durable: u64) {
        self.landed(durable);
        if let Some(flight) = self.flights.back_mut() {
            // If that goes back, so does what was built on it.
            flight.stays = true;
            for change in changes {
                let page = size(change.page);
                let old = || self.shadow[page].clone();
                flight.pages.entry(page).or_insert_with(old);
            }
        }
        self.keep(changes);
        let pages = changes.iter().map(|change| size(change.page));
        self.unwritten.extend(pages);
    }

    /// Takes pages over which are in the store's queue.
    pub(super) fn keep_version(&mut self, changes: &[Change], ticket: &Ticket) {
        self.landed(ticket.durable);
        let old = |change: &Change| {
            let page = size(change.page);
            (page, self.shadow[page].clone())
        };
        self.flights.push_back(Flight {
            version: ticket.version,
            before: self.version,
            pages: changes.iter().map(old).collect(),
            unwritten: core::mem::take(&mut self.unwritten),
            stays: ticket.stays(),
        });
        self.version = ticket.version;
        self.keep(changes);
    }

    /// Versions up to this one cannot be refused any more.
    fn landed(&mut self, durable: u64) {
        let landed = |flight: &Flight| flight.version <= durable;
        while self.flights.front().is_some_and(landed) {
            self.flights.pop_front();
        }
    }

    /// Goes back to before a version; the pages which it takes.
    pub(super) fn take_back(&mut self, from: u64) -> Vec<usize> {
        let mut pages = Vec::new();
        while let Some(flight) = self.flights.pop_back() {
            if flight.version < from {
                self.flights.push_back(flight);
                break;
            }
            for (page, old) in flight.pages {
                self.shadow[page] = old;
                pages.push(page);
            }
            self.unwritten = flight.unwritten;
            self.version = flight.before;
            if flight.stays {
                self.taken_back = Some(from);
            }
        }
        pages
    }
}

/// A version on its way to the disk, and what was before it.
#[derive(Debug)]
struct Flight {
    version: u64,
    /// The region's version before.
    before: u64,
    pages: HashMap<usize, Option<Words>>,
    unwritten: HashSet<usize>,
    /// Acknowledged, in whole or in part, before it is durable.
    stays: bool,
}

pub(super) fn page_of(region: &Region, page: usize) -> &[AtomicU64] {
    &region.atomics_u64()[page * WORDS..][..WORDS]
}

pub(super) fn equals(region: &Region, page: usize, content: &[u64; WORDS]) -> bool {
    let mut words = page_of(region, page).iter().zip(content);
    words.all(|(word, value)| word.load(Ordering::Relaxed) == *value)
}

pub(super) fn write_page(region: &Region, page: usize, content: &[u64; WORDS]) {
    page_of(region, page)
        .iter()
        .zip(content)
        .for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
}
