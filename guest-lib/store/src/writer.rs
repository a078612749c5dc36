// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one who writes: appends versions, one sync for as many as are waiting.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};

use super::backend::{File, Held, Hold};
use super::counters::{StoreMetrics, add, set};
use super::error::{StoreError, io};
use super::format::{
    ACK_FILE, IMAGE_HEADER, ImageHeader, ImageKind, Link, MAX_AREAS, MAX_PAGES, encode_ack,
    image_name, image_number, name_fault, temporary,
};
use super::frame::{Change, Meta, Out, now};
use super::images::Images;
use super::index::{AreaIndex, Undo};
use super::options::StoreOptions;
use super::page::Encoder;
use super::scan::{Scan, Version};
use super::secure::withdrawn;
use super::ship::{Bulk, Changes};
use super::view::{Untied, load};
use hvckpt_sys::PAGE_SIZE;

/// A version which waits to be written.
#[derive(Debug)]
pub struct Batch {
    /// Its number.
    pub version: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its pages.
    pub changes: Arc<Vec<Change>>,
    /// Further pages, too many for memory.
    pub bulk: Option<Arc<dyn Bulk>>,
}

impl Batch {
    /// A version of these pages.
    #[must_use]
    pub fn new(version: u64, time: u64, changes: Arc<Vec<Change>>) -> Self {
        Self {
            version,
            time,
            changes,
            bulk: None,
        }
    }

    fn all(&self) -> Changes<'_> {
        let changes = self.changes.iter().map(|change| Ok(Cow::Borrowed(change)));
        match &self.bulk {
            None => Box::new(changes),
            Some(bulk) => Box::new(changes.chain(bulk.changes().map(|next| next.map(Cow::Owned)))),
        }
    }

    /// What it takes in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum::<usize>() + 64
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) images: Arc<Images>,
    pub(crate) store: [u8; 16],
    encoder: Encoder,
    pub(crate) areas: Vec<AreaIndex>,
    /// Those which are kept, and older ones not yet forgotten.
    pub(crate) versions: BTreeMap<u64, Version>,
    /// Those of them which only age: neither read nor copied.
    pub(crate) untied: Untied,
    /// Sizes of the images there are, in bytes.
    pub(crate) sizes: BTreeMap<u64, u64>,
    /// What tells the images apart.
    ids: BTreeMap<u64, [u8; 16]>,
    /// Where the index refers to besides the image of the newest version and
    /// those which that one continues.
    also: Link,
    /// Keeps other writers out; `None` if this one only reads.
    pub(crate) hold: Option<Arc<dyn Hold>>,
    /// That was so once.
    pub(super) lost: bool,
    /// The newest one; zero for none.
    pub(crate) last: u64,
    pub(super) out: Option<Out>,
    pub(super) next_image: u64,
    /// No image below is needed by the newest version.
    pub(crate) floor: Option<u64>,
    acknowledged: Option<Arc<dyn File>>,
    image_bytes: u64,
    keep: usize,
    /// An image, and from where on it must be cut before anything else is
    /// written: a commit was refused which may be on the disk.
    pub(super) refused: Option<(Out, u64)>,
    /// Versions are not where they were.
    pub(crate) moved: bool,
    pub(crate) metrics: Arc<StoreMetrics>,
}

impl Writer {
    /// Goes on where the newest version ended.
    pub(crate) fn new(
        images: Arc<Images>,
        scan: &Scan,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let newest = scan.versions.values().next_back().copied();
        let mut writer = Self {
            images,
            store: scan.store,
            encoder: Encoder::new(options.compression),
            areas: Vec::new(),
            versions: scan.available(),
            untied: scan.untied(options.accept_loss),
            sizes: scan
                .images
                .values()
                .map(|image| (image.number, image.bytes))
                .chain(
                    scan.unreadable
                        .iter()
                        .map(|(number, bytes)| (*number, *bytes)),
                )
                .filter(|(number, _)| !scan.strays.contains(number))
                .collect(),
            ids: scan
                .images
                .values()
                .map(|image| (image.number, image.id))
                .collect(),
            also: Link::default(),
            hold: None,
            lost: false,
            last: newest.map_or(0, |newest| newest.number),
            out: None,
            next_image: scan.highest + 1,
            floor: None,
            acknowledged: None,
            image_bytes: options.image_bytes,
            keep: options.keep.max(1),
            refused: None,
            moved: true,
            metrics: Arc::default(),
        };
        if let Some(newest) = newest {
            writer.areas = load(&writer.images, &newest)?;
            writer.find_floor();
        }
        writer.measure();
        Ok(writer)
    }

    /// Makes a store out of nothing: an empty image.
    pub(crate) fn found(images: &Images, store: [u8; 16]) -> Result<(), StoreError> {
        let header = ImageHeader::fresh(ImageKind::Increment, store, 1, now(), images.key())?;
        let out = Out::create(&**images.backend(), temporary(&image_name(1)), &header)?;
        publish(images, out, &mut None)?;
        Ok(())
    }

    /// Opens the file of acknowledgements, or makes one.  `said`: what it says.
    pub(crate) fn open_ack(&mut self, said: Option<u64>) -> Result<(), StoreError> {
        let backend = self.images.backend();
        let bytes = encode_ack(self.store, self.last);
        let failed = |error| io("write", ACK_FILE, error);
        let (file, fresh) = match backend.open(ACK_FILE, true) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (backend.create(ACK_FILE).map_err(failed)?, true)
            }
            Err(error) => return Err(failed(error)),
        };
        // More than there is was lost: that is told until something is
        // committed.
        if fresh || said.is_none_or(|said| said < self.last) {
            let made = file.write_at(&bytes, 0).and_then(|()| file.sync());
            let made = made.and_then(|()| backend.sync_names());
            if let Err(error) = made {
                if fresh {
                    let _leftover = backend.remove(ACK_FILE);
                }
                return Err(failed(error));
            }
        }
        self.acknowledged = Some(file);
        Ok(())
    }

    /// Says, without waiting for the disk, what is durable.  A reader which
    /// finds less knows that something was lost.
    pub(crate) fn acknowledge(&self) {
        if let Some(file) = &self.acknowledged {
            // It is a help; the version is durable without.
            let _refused = file.write_at(&encode_ack(self.store, self.last), 0);
        }
    }

    /// Tells what there is on disk.
    fn measure(&self) {
        set(&self.metrics.images, self.sizes.len() as u64);
        set(&self.metrics.disk_bytes, self.sizes.values().sum());
    }

    fn find_floor(&mut self) {
        let images: BTreeSet<u64> = self.areas.iter().flat_map(AreaIndex::images).collect();
        self.floor = images.first().copied();
    }

    fn id(&self, image: u64) -> [u8; 16] {
        self.ids.get(&image).copied().unwrap_or_default()
    }

    /// The place of a version, to refer to.
    pub(crate) fn link(&self, version: &Version) -> Link {
        let mut link = Link {
            image: version.image,
            chain: version.chain,
            id: [0; 4],
        };
        link.id.copy_from_slice(&self.id(version.image)[..4]);
        link
    }

    /// Makes sure that nobody else writes.
    ///
    /// # Errors
    /// Somebody may; nothing more is written here.
    pub(crate) fn alone(&mut self) -> Result<(), StoreError> {
        let Some(hold) = self.hold.clone() else {
            return Ok(());
        };
        let backend = self.images.backend();
        let lost = self.lost
            || match hold.check() {
                Ok(Held::Still) => return Ok(()),
                // Nobody may have been here meanwhile.
                Ok(Held::Again) => backend.list().map_or(true, |names| {
                    let images = names.iter().filter_map(|name| image_number(name));
                    images.max() >= Some(self.next_image)
                }),
                Ok(Held::Lost) | Err(_) => true,
            };
        if lost {
            self.lost = true;
            return Err(StoreError::LockLost(backend.describe()));
        }
        Ok(())
    }

    /// The next number of an image.
    pub(crate) fn reserve(&mut self) -> u64 {
        // Later images have higher numbers.
        self.out = None;
        self.next_image += 1;
        self.next_image - 1
    }

    /// The image to append to, and whether it is a new one, not published yet.
    fn out(&mut self) -> Result<(Out, bool), StoreError> {
        let room = |out: &Out| out.position() < self.image_bytes;
        if let Some(out) = self.out.take().filter(room) {
            return Ok((out, false));
        }
        let mut header = ImageHeader::fresh(
            ImageKind::Increment,
            self.store,
            self.next_image,
            now(),
            self.images.key(),
        )?;
        header.parent_version = self.last;
        header.also = self.also;
        if let Some(parent) = self.versions.get(&self.last) {
            header.parent = parent.image;
            header.parent_bytes = parent.offset + parent.bytes;
            header.parent_chain = parent.chain;
            header
                .parent_id
                .copy_from_slice(&self.id(parent.image)[..8]);
        }
        let name = temporary(&image_name(header.image));
        Out::create(&**self.images.backend(), name, &header).map(|out| (out, true))
    }

    /// Writes versions and makes them durable, or none of them.
    ///
    /// # Errors
    /// Nothing was committed, nor will be found after a crash; but for
    /// [`StoreError::Unsettled`], after which that is not known.
    pub(crate) fn write(&mut self, batches: &[Arc<Batch>]) -> Result<(), StoreError> {
        self.alone()?;
        self.settle()?;
        if batches.is_empty() {
            return Ok(());
        }
        let (mut out, fresh) = self.out()?;
        let (start, chain) = (out.position(), out.chain());
        let mut undo = Vec::new();
        let appended = self.append(&mut out, batches, &mut undo);
        let made = match appended {
            Ok(versions) => self.secure(out, start, fresh).map(|out| (out, versions)),
            Err(error) => Err(self.take_back(out, (start, chain), fresh, error)),
        };
        // Nobody is told of what another writer may not know.
        let made = made.and_then(|made| self.alone().map(|()| made));
        let (out, versions) = made.inspect_err(|_| {
            while let Some((area, undo)) = undo.pop() {
                self.areas[area].undo(undo);
            }
        })?;
        add(&self.metrics.bytes, out.position() - start);
        let pages = versions.iter().map(|version| u64::from(version.records));
        add(&self.metrics.pages, pages.sum());
        self.areas.iter_mut().for_each(AreaIndex::settle);
        self.floor = self.floor.or(Some(out.image));
        self.last = versions.last().map_or(self.last, |last| last.number);
        self.versions.extend(
            versions
                .into_iter()
                .map(|version| (version.number, version)),
        );
        self.sizes.insert(out.image, out.position());
        self.ids.insert(out.image, out.id);
        self.out = Some(out);
        self.acknowledge();
        self.forget();
        self.measure();
        Ok(())
    }

    fn append(
        &mut self,
        out: &mut Out,
        batches: &[Arc<Batch>],
        undo: &mut Vec<(usize, Undo)>,
    ) -> Result<Vec<Version>, StoreError> {
        let mut versions = Vec::new();
        let mut previous = self.last;
        for batch in batches {
            let meta = Meta {
                version: batch.version,
                previous,
                synced: self.last,
                floor: self.floor.unwrap_or(out.image),
                time: batch.time,
            };
            let areas = &mut self.areas;
            versions.push(out.frame(&mut self.encoder, areas, batch.all(), meta, undo)?);
            previous = batch.version;
        }
        out.flush().map(|()| versions)
    }

    /// Adds an area, or lets one grow, for the next version; its number.
    pub(crate) fn place(
        &mut self,
        name: &str,
        address: u64,
        pages: u64,
    ) -> Result<usize, StoreError> {
        let fault = |why| StoreError::Shape {
            name: name.to_owned(),
            pages,
            why,
        };
        if let Some(why) = name_fault(name) {
            return Err(fault(why));
        }
        let end = pages
            .checked_mul(PAGE_SIZE as u64)
            .and_then(|bytes| bytes.checked_add(address));
        if !(1..=MAX_PAGES).contains(&pages)
            || !address.is_multiple_of(PAGE_SIZE as u64)
            || end.is_none_or(|end| end > 1 << 47)
        {
            return Err(fault("not possible"));
        }
        let found = self.areas.iter().position(|area| area.name == name);
        match found {
            Some(number) if self.areas[number].pages > pages => Err(fault("areas do not shrink")),
            Some(number) => {
                self.areas[number].grow(pages);
                Ok(number)
            }
            None if self.areas.len() == MAX_AREAS => Err(fault("too many areas")),
            None => {
                self.areas.push(AreaIndex::new(name, address, pages));
                Ok(self.areas.len() - 1)
            }
        }
    }

    /// Adds an area, or lets one grow, as a version of its own.
    pub(crate) fn shape(
        &mut self,
        version: u64,
        name: &str,
        address: u64,
        pages: u64,
    ) -> Result<u32, StoreError> {
        let before = self.areas.clone();
        let number = self.place(name, address, pages)?;
        let batch = Batch::new(version, now(), Arc::default());
        if let Err(error) = self.write(&[Arc::new(batch)]) {
            self.areas = before;
            return Err(error);
        }
        // At most MAX_AREAS.
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// Makes the state of an older version the newest, without copying.
    pub(crate) fn roll_back(&mut self, version: u64, to: u64) -> Result<(), StoreError> {
        let found = self.versions.get(&to).copied();
        let target = found
            .filter(|_| !self.untied.has(to))
            .ok_or_else(|| self.untied.refusal(&self.images, to))?;
        let areas = load(&self.images, &target)?;
        let before = core::mem::replace(&mut self.areas, areas);
        let (floor, also) = (self.floor, self.also);
        self.also = self.link(&target);
        self.find_floor();
        self.out = None;
        let batch = Batch::new(version, now(), Arc::default());
        self.write(&[Arc::new(batch)]).inspect_err(|_| {
            self.areas = before;
            self.floor = floor;
            self.also = also;
        })
    }

    /// Versions which must stay.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Version> {
        self.versions.values().rev().take(self.keep)
    }

    /// Removes images which no version needs which is kept.  That it fails
    /// costs space only.
    pub(crate) fn forget(&mut self) {
        let Some(floor) = self.kept().map(|version| version.floor).min() else {
            return;
        };
        let old: Vec<u64> = self
            .sizes
            .range(..floor)
            .map(|(number, _)| *number)
            .collect();
        if old.is_empty() {
            return;
        }
        for number in old {
            if self.images.backend().remove(&image_name(number)).is_err() {
                break;
            }
            self.images.forget(number);
            self.sizes.remove(&number);
            self.ids.remove(&number);
        }
        let left = |version: &Version| version.image >= floor && version.floor >= floor;
        self.versions.retain(|_, version| left(version));
        self.untied.versions.retain(|_, version| left(version));
    }

    /// Counts on copies which compaction made: `old` became `new`.
    pub(crate) fn switch(
        &mut self,
        old: &[AreaIndex],
        new: &[AreaIndex],
        copies: &[Version],
        out: &Out,
    ) {
        let base = out.image;
        for (area, (old, new)) in self.areas.iter_mut().zip(old.iter().zip(new)) {
            area.switch(old, new);
        }
        self.versions
            .extend(copies.iter().map(|version| (version.number, *version)));
        self.moved = true;
        self.sizes.insert(base, out.position());
        self.ids.insert(base, out.id);
        if let Some(newest) = copies.last() {
            self.also = self.link(newest);
        }
        // What refers to the copies is in an image which says so.
        self.out = None;
        self.floor = Some(base);
        self.forget();
        self.measure();
    }
}

/// Makes a new image durable under its name.
///
/// # Errors
/// There is nothing of it; or the image may be there after a crash, and is
/// left in `refused`, to be cut.
pub(crate) fn publish(
    images: &Images,
    mut out: Out,
    refused: &mut Option<(Out, u64)>,
) -> Result<Out, StoreError> {
    let name = image_name(out.image);
    let backend = images.backend();
    let synced = out.flush().and_then(|()| {
        let synced = out.file().sync();
        synced.map_err(|error| io("sync", &out.name, error))
    });
    let _naming = images.naming.lock().unwrap_or_else(PoisonError::into_inner);
    let named = synced.and_then(|()| {
        let renamed = backend.publish(&out.name, &name);
        renamed.map_err(|error| match error.kind() {
            // Somebody else took the number.
            ErrorKind::AlreadyExists => StoreError::LockLost(backend.describe()),
            _ => io("rename", &out.name, error),
        })
    });
    if let Err(error) = named {
        let _leftover = backend.remove(&out.name);
        return Err(error);
    }
    out.name = name;
    if let Err(source) = backend.sync_names() {
        // The name may be on the disk, and stay there whatever is done about
        // it: what it names goes first.
        return Err(match out.cut(IMAGE_HEADER as u64) {
            Ok(()) => {
                withdrawn(images, &out, IMAGE_HEADER as u64);
                io("sync the directory of", &out.name, source)
            }
            Err(_) => {
                let name = out.name.clone();
                *refused = Some((out, IMAGE_HEADER as u64));
                StoreError::Unsettled { name, source }
            }
        });
    }
    images.put(out.image, out.opened());
    Ok(out)
}
