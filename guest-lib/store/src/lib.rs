// SPDX-License-Identifier: MIT OR Apache-2.0
//! Versions of memory on disk.
//!
//! A store is a directory of images: increments, to which every commit
//! appends a version, and base images, which compaction writes.  Each version
//! has a complete index of its pages, so that it is read without going
//! through the others.  The format is in `docs/spec-image.md`.
//!
//! The crate knows neither trackers nor networks: pages come from who calls,
//! and [what follows a store](follow) takes its versions elsewhere.  Most
//! programs want the crate `hvckpt`, whose durable regions commit into a store.
//!
//! ```
//! use hvckpt_store::backend::CrashDisk;
//! use hvckpt_store::{Durability, Page, PageWrite, Store, StoreOptions};
//! # use std::sync::Arc;
//!
//! let store = Store::open_on(Arc::new(CrashDisk::new()), StoreOptions::default())?;
//! let area = store.area("counter", 0x1800_0000_0000, 16)?;
//! let page = Page([7; 512]);
//! let version = store.commit(&[PageWrite::new(area, 3, &page)], Durability::Sync)?;
//! assert_eq!(store.view(Some(version))?.page(area as usize, 3)?, page);
//! # Ok::<(), hvckpt_store::StoreError>(())
//! ```
//!
//! # What is promised
//! A commit which returned under [`Durability::Sync`] or
//! [`Durability::Group`] is there after any crash; one which failed is not,
//! unless the error was [`StoreError::Unsettled`], after which nobody knows
//! until the store was opened again.  Asynchronous commits are lost newest first, if at all.  What
//! was open is never there.  Bytes which are not what was written are found
//! when they are read ([`StoreError::Damaged`]), and by [`verify`].

#![forbid(unsafe_code)]

pub mod backend;
mod catalog;
mod claim;
mod commit;
mod compact;
mod copy;
mod counters;
mod epoch;
mod error;
pub mod follow;
mod format;
mod frame;
mod frames;
mod handover;
mod images;
mod index;
mod judge;
mod key;
mod lineage;
pub mod metrics;
mod opening;
mod options;
mod page;
mod partial;
mod pipeline;
mod prove;
mod queue;
mod scan;
mod seal;
mod secure;
mod ship;
mod verify;
mod view;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use backend::{Backend, Directory};
use error::io as io_error;
use follow::{FollowError, FollowerStatus};
use images::Images;
use opening::{Made, store_id};
use pipeline::Shared;
use writer::Writer;

use hvckpt_sys::fork;

pub use compact::{Compacted, Progress};
pub use copy::{Copied, CopyOptions, copy, copy_with};
pub use counters::StoreMetrics;
pub use error::{Damage, DamageKind, StoreError};
pub use key::{KeyId, StoreKey, StoreKeyError};
pub use options::{Durability, StoreOptions};
pub use page::{Compression, Page};
pub use scan::{Image, Version};
pub use verify::{Examined, examine, verify};
pub use view::{Area, View};

/// The inside of a store, for those crates of hvckpt which stand on it:
/// durable regions and backups.  What is here changes as they need it.
#[doc(hidden)]
pub mod parts {
    pub use crate::claim::Claim;
    pub use crate::commit::Ticket;
    pub use crate::epoch::write as write_epoch;
    pub use crate::error::io as io_error;
    pub use crate::format::size;
    pub use crate::frame::{Before, Change};
    pub use crate::handover::Handover;
    pub use crate::page::{WORDS, Words, share};
    pub use crate::pipeline::Shared;
    pub use crate::ship::{AreaShape, Bulk, Delta, Record, RecordWriter, read_record};
    pub use crate::writer::Batch;
}

/// What opening found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recovery {
    /// The store was made just now.
    pub created: bool,
    /// The newest version which is there; zero for none.
    pub version: u64,
    /// Bytes behind it which were never committed, and are ignored.
    pub torn_bytes: u64,
    /// Damage which does not touch the newest version's presence.
    pub problems: Vec<Damage>,
}

/// A page to commit.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PageWrite<'a> {
    /// Number of the area, from [`Store::area`].
    pub area: u32,
    /// Index of the page in the area.
    pub page: u64,
    /// What it is now.
    pub new: &'a Page,
    /// What it is in the newest version, if that is known: little changes
    /// then take little space.
    pub old: Option<&'a Page>,
    /// Where in the page bytes may differ from those of the newest version,
    /// if that is known.
    pub words: Option<&'a [Range<u16>]>,
}

impl<'a> PageWrite<'a> {
    /// A page, without what it was.
    #[must_use]
    pub fn new(area: u32, page: u64, new: &'a Page) -> Self {
        Self {
            area,
            page,
            new,
            old: None,
            words: None,
        }
    }

    /// What the page is in the newest version.  If it is not, versions to
    /// come may be damaged.
    #[must_use]
    pub fn old(mut self, old: &'a Page) -> Self {
        self.old = Some(old);
        self
    }

    /// Which bytes of the page may differ from the newest version, as a
    /// tracker logs it.  If others do, versions to come may be damaged.
    #[must_use]
    pub fn words(mut self, words: &'a [Range<u16>]) -> Self {
        self.words = Some(words);
        self
    }
}

/// An open store.
///
/// Dropping it writes what still waits, without telling of errors:
/// [`Self::flush`] tells.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    recovery: Recovery,
    claims: claim::Claims,
    threads: Vec<JoinHandle<()>>,
}

impl Store {
    /// Opens the store in a directory, or makes it.
    ///
    /// # Errors
    /// See [`StoreError`].  Nothing was changed, and nothing is left of what
    /// was made.
    pub fn open(directory: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let path = directory.as_ref();
        if let Some(name) = path.file_name().filter(|_| !options.read_only) {
            partial::sweep(path.parent().unwrap_or(Path::new("")), name);
        }
        let directory = Directory::new(path);
        if options.create && !options.read_only {
            directory
                .create()
                .map_err(|error| io_error("create", &directory.describe(), error))?;
        }
        Self::open_on(Arc::new(directory), options)
    }

    /// Opens the store which a backend keeps, or makes it.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_on(backend: Arc<dyn Backend>, options: StoreOptions) -> Result<Self, StoreError> {
        let mut made = Made::new(backend);
        Self::open_made(&mut made, options).inspect_err(|_| made.undo())
    }

    fn open_made(made: &mut Made, options: StoreOptions) -> Result<Self, StoreError> {
        let backend = made.backend.clone();
        if !options.read_only {
            fork::arm().map_err(|error| io_error("prepare for forks of", "this process", error))?;
            let lock = backend.lock().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => StoreError::NotAStore(backend.describe()),
                _ => io_error("lock", &backend.describe(), error),
            })?;
            made.lock = Some(lock.ok_or_else(|| StoreError::Locked {
                directory: backend.describe(),
                holder: backend.holder(),
            })?);
        }
        let lock = made.lock.clone();
        let epoch = match &lock {
            Some(_) => epoch::unfenced(&*backend)?,
            None => 0,
        };
        let key = options.key.as_ref();
        let mut scan = match scan::scan(&*backend, key) {
            Err(StoreError::NotAStore(_)) if options.create && lock.is_some() => {
                made.store = true;
                let images = Images::new(backend.clone(), options.key.clone());
                Writer::found(&images, store_id()?)?;
                scan::scan(&*backend, key)?
            }
            other => other?,
        };
        if let Some(error) = scan.ambiguous() {
            return Err(error);
        }
        let images = Images::found(backend, options.key.clone(), &scan);
        let images = Arc::new(images);
        if options.accept_loss {
            scan.fall_back(&images);
        } else if let Some(error) = scan.refusal() {
            return Err(scan.with_way_out(&images, error));
        }
        let scan = match &lock {
            Some(_) => prove::prove(scan, &images, options.accept_loss)?,
            None => scan,
        };
        let writer = Writer::new(images.clone(), &scan, &options);
        let mut writer = writer.map_err(|error| scan.with_way_out(&images, error))?;
        if lock.is_some() {
            writer.hold.clone_from(&lock);
            writer.open_ack(scan.acknowledged)?;
        }
        let recovery = Recovery {
            created: made.store,
            version: writer.last,
            torn_bytes: scan.torn,
            problems: if made.store {
                Vec::new()
            } else {
                scan.problems
            },
        };
        let at = options.at;
        let acknowledged = scan.acknowledged.unwrap_or(0).max(scan.used);
        let shared = Shared::new(writer, options, acknowledged, lock, epoch);
        let claims = claim::Claims::default();
        let mut store = Self {
            shared: Arc::new(shared),
            recovery,
            claims,
            threads: Vec::new(),
        };
        // Also to the newest one there is, or the loss would be told again.
        if let Some(version) = at
            && (version != store.recovery.version || acknowledged > version)
        {
            store
                .shared
                .alone(|writer, number| writer.roll_back(number, version))?;
        }
        store.start()?;
        Ok(store)
    }

    /// Removes the store again if opening made it; for who could not go on
    /// after that.
    #[doc(hidden)]
    pub fn discard(self) {
        let mut made = Made::new(self.shared.images.backend().clone());
        made.lock.clone_from(&self.shared.lock);
        made.store = self.recovery.created;
        drop(self);
        if made.store {
            made.undo();
        }
    }

    fn start(&mut self) -> Result<(), StoreError> {
        if self.shared.lock.is_none() {
            return Ok(());
        }
        let mut spawn = |name: &str, run: fn(&Shared)| {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread
                .spawn(move || run(&shared))
                .map_err(StoreError::Thread)?;
            self.threads.push(thread);
            Ok::<(), StoreError>(())
        };
        spawn("hvckpt-store", Shared::write_behind)?;
        if self.shared.options.auto_compact {
            spawn("hvckpt-compact", Shared::compact_behind)?;
        }
        if self.shared.follower.is_some() {
            spawn("hvckpt-replica", Shared::follow)?;
        }
        Ok(())
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The newest version, durable or not; zero for none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.shared.newest()
    }

    /// The newest version which is on stable storage; zero for none.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Bytes of asynchronous commits which wait in memory.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// How far the backup is; `None` without [`StoreOptions::replication`].
    #[must_use]
    pub fn replica(&self) -> Option<FollowerStatus> {
        self.shared.follower.as_ref().map(|it| it.status())
    }

    /// Waits until the backup has a version, whatever commits wait for.
    ///
    /// # Errors
    /// See [`FollowError`]; at once if there is no replication.
    pub fn wait_for_backup(&self, version: u64) -> Result<(), FollowError> {
        match &self.shared.follower {
            Some(follower) => follower.wait(version),
            None => Err(FollowError::Closing),
        }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What it counts, for a [`crate::metrics::Registry`].
    #[must_use]
    pub fn metrics(&self) -> Arc<StoreMetrics> {
        self.shared.metrics.clone()
    }

    /// Versions which can be viewed, oldest first.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        self.shared.catalog().versions.values().copied().collect()
    }

    /// The number of an area, which is made or grows as needed.
    ///
    /// # Errors
    /// [`StoreError::Shape`] if the name or the size is not possible, or the
    /// area is larger.
    pub fn area(&self, name: &str, address: u64, pages: u64) -> Result<u32, StoreError> {
        if let Some(area) = self.find_area(name)
            && area.1.pages == pages
        {
            return Ok(area.0);
        }
        self.shared
            .alone(|writer, version| writer.shape(version, name, address, pages))
    }

    /// An area as it is now, by name.
    #[must_use]
    pub fn find_area(&self, name: &str) -> Option<(u32, Area)> {
        let catalog = self.shared.catalog();
        let mut areas = (0..).zip(&catalog.areas);
        let (number, area) = areas.find(|(_, area)| area.name == name)?;
        Some((number, area.clone()))
    }

    /// Commits pages as one version; its number.
    ///
    /// [`Durability::Memory`] means as little as [`Durability::Async`] here:
    /// a store has no other memory.
    ///
    /// # Errors
    /// See [`StoreError`].  Nothing was committed.
    pub fn commit(
        &self,
        pages: &[PageWrite<'_>],
        durability: Durability,
    ) -> Result<u64, StoreError> {
        let changes = {
            let catalog = self.shared.catalog();
            let change = |write: &PageWrite<'_>| {
                let area = catalog.areas.get(write.area as usize);
                let area = area.ok_or_else(|| StoreError::NoArea(write.area.to_string()))?;
                if write.page >= area.pages {
                    return Err(StoreError::NoPage {
                        page: write.page,
                        pages: area.pages,
                    });
                }
                let words = write.words.and_then(|at| page::words_at(at, write.new));
                Ok(frame::Change {
                    area: write.area,
                    page: write.page,
                    new: page::share(write.new.0.iter().copied()),
                    before: write.old.map_or(frame::Before::Unknown, |old| {
                        frame::Before::runs(&old.0, &write.new.0)
                    }),
                    words,
                    shared: self.shared.handover(),
                })
            };
            pages.iter().map(change).collect::<Result<Vec<_>, _>>()?
        };
        self.shared.commit(Arc::new(changes), durability)
    }

    #[doc(hidden)]
    #[must_use]
    pub fn claim(&self, area: &str) -> Option<claim::Claim> {
        self.claims.claim(area)
    }

    /// A number which other stores do not have.
    #[doc(hidden)]
    #[must_use]
    pub fn seed(&self) -> u64 {
        format::u64_at(&self.shared.id, 0)
    }

    /// Waits until a version is on stable storage, and on the backup if commits
    /// wait for one.  Threads which wait at the same time share a sync.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] if there is no such version, or it was taken
    /// back; others: the version stays committed in memory, to be written
    /// later.
    pub fn wait(&self, version: u64) -> Result<(), StoreError> {
        self.shared.wait(version)
    }

    /// Makes every commit durable.
    ///
    /// # Errors
    /// See [`StoreError`].  What could not be written waits on.
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.shared.lock.is_none() {
            return Ok(());
        }
        if fork::is_child() {
            return Err(StoreError::ForkChild);
        }
        self.shared.lead()
    }

    /// A version to read; the newest durable one unless told.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`], or damage to its index.
    pub fn view(&self, version: Option<u64>) -> Result<View, StoreError> {
        self.shared.view(version)
    }

    /// Copies all that is kept into one base image and removes what is not
    /// needed any more.  Commits go on meanwhile.
    ///
    /// # Errors
    /// See [`StoreError`].  Nothing is lost.
    pub fn compact(
        &self,
        mut progress: impl FnMut(Progress),
    ) -> Result<Option<Compacted>, StoreError> {
        if self.shared.lock.is_none() {
            return Err(StoreError::ReadOnly);
        }
        if fork::is_child() {
            return Err(StoreError::ForkChild);
        }
        compact::compact(&self.shared, &self.shared.options, &mut |at| {
            progress(at);
            true
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Files and locks are the parent's, threads were not forked.
        if fork::is_child() {
            return;
        }
        // Nobody is left to tell.
        let _lost = self.flush();
        self.shared.stop();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
