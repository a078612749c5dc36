// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions which survive.

mod map;
mod shadow;
mod transaction;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hvckpt_store::parts::{Before, Change, Claim, Ticket, share, size};
use hvckpt_store::{Durability, Recovery, Store, StoreError, StoreOptions};
use map::FixedMapping;
use shadow::{State, equals, page_of, write_page};

use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::fork;
use hvckpt_sys::memory::LockPolicy;
use hvckpt_track::Attach;
use hvckpt_track::{CycleError, SimGate, TrackerKind};
use hvckpt_track::{Region, RegionError};

pub use map::MapError;
pub use transaction::DurableTransaction;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What may go wrong with a durable region.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The region or its tracker.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The tracker, when a transaction begins or ends.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// A transaction is open on the region, in this or another thread.
    #[error("a transaction is open on this region, in this or another thread; end it first")]
    AlreadyOpen,
    /// No transaction is open.
    #[error("no transaction is open on this region; begin one first")]
    NotOpen,
    /// No size was given, and the store does not have the area yet.
    #[error("area {0:?} is new: a number of pages is needed")]
    NoSize(String),
    /// The area is kept at another address.
    #[error(
        "area {name:?} is kept at address {kept:#x}, not at {asked:#x}; do not ask for an address"
    )]
    OtherAddress {
        /// Name of the area.
        name: String,
        /// The address which was asked for.
        asked: u64,
        /// The one at which it is kept.
        kept: u64,
    },
    /// The area is open already, here or in another part of the process.
    #[error("area {0:?} is open already in this process; use that region, or drop it first")]
    InUse(String),
    /// A thread's commit was refused, and took later ones of other threads with
    /// it which had been acknowledged in memory: they were built on it.  The
    /// region is as it was before.  Told once; the next begin goes on.
    #[error("version {version} was refused, and later asynchronous ones with it")]
    TakenBack {
        /// The version which was refused.
        version: u64,
    },
}

/// Describes a durable region to be.
#[derive(Debug)]
#[must_use]
pub struct DurableBuilder {
    name: String,
    pages: Option<u64>,
    address: Option<u64>,
    trackers: Vec<TrackerKind>,
    attach: Attach,
    lock: LockPolicy,
    sim: Option<SimGate>,
    options: StoreOptions,
}

impl DurableBuilder {
    /// Size in pages of 4096 bytes; larger than what is kept: it grows.
    /// Needed the first time only.
    pub fn pages(mut self, pages: usize) -> Self {
        self.pages = Some(pages as u64);
        self
    }

    /// Where it shall be, the first time; a multiple of 4096.
    pub fn address(mut self, address: usize) -> Self {
        self.address = Some(address as u64);
        self
    }

    /// See [`crate::RegionBuilder::tracker`].
    pub fn tracker(mut self, kind: TrackerKind) -> Self {
        self.trackers = vec![kind];
        self
    }

    /// See [`crate::RegionBuilder::trackers`].
    pub fn trackers(mut self, kinds: impl IntoIterator<Item = TrackerKind>) -> Self {
        self.trackers = kinds.into_iter().collect();
        self
    }

    /// See [`crate::RegionBuilder::attach`].
    pub fn attach(mut self, attach: Attach) -> Self {
        self.attach = attach;
        self
    }

    /// See [`crate::RegionBuilder::lock`].
    pub fn lock(mut self, policy: LockPolicy) -> Self {
        self.lock = policy;
        self
    }

    /// See [`crate::RegionBuilder::sim`].
    pub fn sim(mut self, gate: SimGate) -> Self {
        self.sim = Some(gate);
        self
    }

    /// How the store behaves, for [`Self::open`].
    pub fn options(mut self, options: StoreOptions) -> Self {
        self.options = options;
        self
    }

    /// Opens or makes the store in the directory, and recovers the region or
    /// makes it.
    ///
    /// # Errors
    /// See [`DurableError`].  A store which was made is gone again.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Durable, DurableError> {
        let store = Arc::new(Store::open(directory, self.options.clone())?);
        let opened = self.open_in(&store);
        if opened.is_err()
            && let Some(store) = Arc::into_inner(store)
        {
            store.discard();
        }
        opened
    }

    /// Recovers the region from an open store, or makes it there.  Several
    /// regions may share a store, each under its own name.
    ///
    /// # Errors
    /// See [`DurableError`].
    pub fn open_in(self, store: &Arc<Store>) -> Result<Durable, DurableError> {
        store.flush()?;
        let claim = store
            .claim(&self.name)
            .ok_or_else(|| DurableError::InUse(self.name.clone()))?;
        let (area, mapping, pages) = self.place(store)?;
        // A region of this name which was closed meanwhile cannot go back.
        store.shared().mended(area);
        let start = mapping.address();
        let mut region = hvckpt_track::register_cda()
            .adopt(mapping.pages())
            .lock(self.lock)
            .attach(self.attach);
        if !self.trackers.is_empty() {
            region = region.trackers(self.trackers);
        }
        if let Some(sim) = self.sim {
            region = region.sim(sim);
        }
        let region = region.register()?;
        let mut shadow = vec![None; size(pages)];
        let version = store.newest();
        let view = store.view(None)?;
        for page in view.present(area as usize)? {
            let content = view.page(area as usize, page)?;
            write_page(&region, size(page), &content.0);
            shadow[size(page)] = Some(share(content.0.iter().copied()));
        }
        // From here on everything is watched, also between transactions: a
        // write there belongs to the next one.
        region.begin_cycle()?;
        Ok(Durable {
            region,
            start,
            _mapping: mapping,
            store: store.clone(),
            area,
            state: Mutex::new(State::new(shadow, version)),
            _claim: claim,
        })
    }

    fn place(&self, store: &Store) -> Result<(u32, FixedMapping, u64), DurableError> {
        let found = store.find_area(&self.name).map(|(_, area)| area);
        let kept = found.as_ref().map(|area| area.pages);
        let pages = self
            .pages
            .or(kept)
            .ok_or_else(|| DurableError::NoSize(self.name.clone()))?;
        let pages = pages.max(kept.unwrap_or(0));
        if pages == 0 || pages > hvckpt_track::MAX_PAGES as u64 {
            let bytes = size(pages).saturating_mul(PAGE_SIZE);
            return Err(if pages == 0 {
                RegionError::Empty
            } else {
                RegionError::TooLarge { bytes }
            }
            .into());
        }
        let mapping = match (found.map(|area| area.address), self.address) {
            (Some(kept), Some(asked)) if kept != asked => {
                return Err(DurableError::OtherAddress {
                    name: self.name.clone(),
                    asked,
                    kept,
                });
            }
            (Some(address), _) | (None, Some(address)) => FixedMapping::new(address, pages)?,
            (None, None) => FixedMapping::anywhere(store.seed(), pages)?,
        };
        let area = store.area(&self.name, mapping.address(), pages)?;
        Ok((area, mapping, pages))
    }
}

/// A commit which others see, and which may not be safe yet.
#[derive(Debug)]
#[must_use = "it may not be safe yet"]
pub(crate) struct Published {
    version: u64,
    ticket: Option<Ticket>,
}

/// What is known of the pages of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// They were written to, as far as the tracker knows.
    Tracked,
    /// They are all there are.
    Everything,
}

/// A region whose committed contents survive the process and the machine.
///
/// Needs twice the memory of a [`Region`]: what abort restores is kept beside
/// it, page by page once it is used.
#[derive(Debug)]
pub struct Durable {
    // Before the mapping, which it uses.
    region: Region,
    start: u64,
    _mapping: FixedMapping,
    store: Arc<Store>,
    area: u32,
    state: Mutex<State>,
    _claim: Claim,
}

impl Durable {
    /// Begins the description of a region, which the store knows by name.
    pub fn builder(name: impl Into<String>) -> DurableBuilder {
        DurableBuilder {
            name: name.into(),
            pages: None,
            address: None,
            trackers: Vec::new(),
            attach: Attach::default(),
            lock: LockPolicy::default(),
            sim: None,
            options: StoreOptions::default(),
        }
    }

    /// The memory and its tracker.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What opening the store found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        self.store.recovery()
    }

    /// The version which the last commit made, or which was recovered; it may
    /// not be durable yet, see [`Store::durable`] and [`Store::wait`].  A commit
    /// in memory only makes none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// First byte; always the same one for a region of this name.  See
    /// [`Region::as_ptr`].
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.region.as_ptr()
    }

    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        size(self.start)
    }

    /// The memory as atomic bytes.
    #[must_use]
    pub fn atomics_u8(&self) -> &[AtomicU8] {
        self.region.atomics_u8()
    }

    /// The memory as atomic words of eight bytes.
    #[must_use]
    pub fn atomics_u64(&self) -> &[AtomicU64] {
        self.region.atomics_u64()
    }

    /// In a fork child the memory is not mapped, and a thread which is not
    /// there may hold the locks.
    pub(crate) fn owned(&self) -> Result<(), DurableError> {
        match fork::is_child() {
            true => Err(StoreError::ForkChild.into()),
            false => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in here leaves at worst pages unwritten which are counted
        // again: the shadow changes last.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a transaction.  Threads may all write inside it.  It may begin
    /// while the commit before waits for the disk or for the backup.
    ///
    /// # Errors
    /// [`DurableError::AlreadyOpen`]; [`DurableError::TakenBack`]; or the
    /// tracker lost its session and does not begin anew.
    pub fn begin(&self) -> Result<DurableTransaction<'_>, DurableError> {
        self.owned()?;
        let mut state = self.state();
        if state.open {
            return Err(DurableError::AlreadyOpen);
        }
        self.mend(&mut state);
        if let Some(version) = state.taken_back.take() {
            return Err(DurableError::TakenBack { version });
        }
        if state.suspect {
            self.region.begin_cycle()?;
        }
        state.open = true;
        Ok(DurableTransaction {
            durable: self,
            open: true,
        })
    }

    /// The transaction which is open, for those who could not keep it.
    pub(crate) fn opened(&self) -> Result<DurableTransaction<'_>, DurableError> {
        self.owned()?;
        let open = self.state().open;
        open.then_some(DurableTransaction {
            durable: self,
            open: true,
        })
        .ok_or(DurableError::NotOpen)
    }

    /// Pages which may differ from the shadow, some perhaps twice; the next cycle
    /// has begun.
    fn dirty(&self, state: &mut State) -> (Vec<usize>, List, Result<(), CycleError>) {
        let suspect = core::mem::take(&mut state.suspect);
        let restored = core::mem::take(&mut state.restored);
        let (list, result) = match self.region.commit_cycle() {
            Ok(list) if !suspect && !list.lost() => {
                let mut pages = list.to_vec();
                pages.extend(restored);
                return (pages, List::Tracked, Ok(()));
            }
            Ok(_) => (List::Everything, Ok(())),
            Err(error) => {
                state.suspect = true;
                (List::Everything, Err(error))
            }
        };
        ((0..self.region.pages()).collect(), list, result)
    }

    /// A page as it is now, for the store.
    fn copy(&self, state: &State, page: usize) -> Change {
        let words = page_of(&self.region, page).iter();
        // Of a page committed in memory only the store has an older one than
        // the shadow.
        let before = state.shadow[page]
            .as_ref()
            .filter(|_| !state.unwritten.contains(&page))
            .map_or(Before::Unknown, |old| Before::Page(old.clone()));
        Change {
            area: self.area,
            page: page as u64,
            new: share(words.map(|word| word.load(Ordering::Relaxed))),
            before,
            words: None,
            shared: self.store.shared().handover(),
        }
    }

    fn commit(&self, durability: Durability) -> Result<u64, DurableError> {
        self.owned()?;
        if let Err(error) = self.admit(durability) {
            self.abort();
            return Err(error);
        }
        let published = self.publish(durability)?;
        self.wait(&published).inspect_err(|_| self.settle())
    }

    /// Makes room for a commit, as long as that may take.
    pub(crate) fn admit(&self, durability: Durability) -> Result<(), DurableError> {
        match durability {
            Durability::Memory => Ok(()),
            _ => Ok(self.store.shared().admit()?),
        }
    }

    /// Commits in memory, for everybody to see, and waits for nothing.
    pub(crate) fn publish(&self, durability: Durability) -> Result<Published, DurableError> {
        self.owned()?;
        let mut state = self.state();
        let state = &mut *state;
        if !core::mem::take(&mut state.open) {
            return Err(DurableError::NotOpen);
        }
        let (mut pages, list, cycle) = self.dirty(state);
        // Before it is asked what was refused: none of these was.
        let durable = self.store.durable();
        if let Some((_, error)) = self.store.shared().broken(self.area) {
            // What this one was built on was refused.
            self.mend(state);
            self.restore(state, &pages);
            return Err(error.into());
        }
        if durability != Durability::Memory {
            pages.extend(&state.unwritten);
        }
        pages.sort_unstable();
        pages.dedup();
        if list == List::Everything {
            // Most of it did not change.
            pages.retain(|&page| {
                let due = durability != Durability::Memory && state.unwritten.contains(&page);
                due || !equals(&self.region, page, state.committed(page))
            });
        }
        // Each page is copied once, here; what it differs in, the thread finds
        // out which writes it.
        let changes: Vec<Change> = pages.iter().map(|&page| self.copy(state, page)).collect();
        self.store
            .metrics()
            .copied(changes.len() as u64 * PAGE_SIZE as u64);
        let mut ticket = None;
        if durability == Durability::Memory {
            state.keep_in_memory(&changes, durable);
        } else {
            let changes = Arc::new(changes);
            let shared = self.store.shared();
            match shared.publish(changes.clone(), durability, Some(self.area)) {
                Ok(published) => {
                    state.keep_version(&changes, &published);
                    ticket = Some(published);
                }
                Err(error) => {
                    self.mend(state);
                    self.restore(state, &pages);
                    return Err(error.into());
                }
            }
        }
        // Every page was compared if the tracker failed: the commit is
        // complete.  The next begin starts it again, or tells.
        drop(cycle);
        Ok(Published {
            version: state.version,
            ticket,
        })
    }

    /// Waits until a commit is as safe as was asked for.  If it fails, the
    /// region goes back with [`Self::settle`].
    pub(crate) fn wait(&self, published: &Published) -> Result<u64, DurableError> {
        Ok(match &published.ticket {
            Some(ticket) => self.store.shared().finish(ticket)?,
            None => published.version,
        })
    }

    /// Goes back if a version was refused; while a transaction is open its end
    /// does that.
    pub(crate) fn settle(&self) {
        if self.store.shared().broken(self.area).is_some() {
            let mut state = self.state();
            if !state.open {
                self.mend(&mut state);
            }
        }
    }

    /// Goes back if a version was refused.
    fn mend(&self, state: &mut State) {
        let shared = self.store.shared();
        if let Some((from, _)) = shared.broken(self.area) {
            let pages = state.take_back(from);
            self.restore(state, &pages);
            shared.mended(self.area);
        }
    }

    fn restore(&self, state: &mut State, pages: &[usize]) {
        for &page in pages {
            let old = state.committed(page);
            if !equals(&self.region, page, old) {
                write_page(&self.region, page, old);
                state.restored.push(page);
            }
        }
    }

    fn abort(&self) {
        if self.owned().is_err() {
            return;
        }
        let mut state = self.state();
        let state = &mut *state;
        if !core::mem::take(&mut state.open) {
            return;
        }
        let (pages, _, _compared) = self.dirty(state);
        self.mend(state);
        self.restore(state, &pages);
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        let _closed = self.region.end_cycle();
    }
}
