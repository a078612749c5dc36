// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in a store: its images, its versions, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::backend::{Backend, irregular};
use super::error::{Damage, DamageKind, StoreError, damage, io, unread};
use super::format::{
    ACK, ACK_FILE, Chain, IMAGE_HEADER, ImageHeader, decode_ack, image_name, image_number,
};
use super::images::{ImageFile, Images};
use super::judge::{floor, judge};
use super::key::{KeyId, StoreKey};
use super::lineage::Lineage;
use super::view::{Untied, load};

/// How often a store is looked at which changes meanwhile.
pub(crate) const ATTEMPTS: usize = 100;

/// A version which a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// Its number; numbers grow, and may leave some out.
    pub number: u64,
    /// The version before; zero for none.
    pub previous: u64,
    /// When it was committed, in nanoseconds since 1970.
    pub time: u64,
    /// The image with its index.
    pub image: u64,
    /// Where in the image, in bytes.
    pub offset: u64,
    /// What it takes there, in bytes.
    pub bytes: u64,
    /// Pages which it wrote and which are not zero.
    pub records: u32,
    /// Nodes of the index which it wrote.
    pub nodes: u32,
    /// The lowest image which it needs.
    pub floor: u64,
    pub(crate) areas: u64,
    /// What the history is behind it.
    pub(crate) chain: Chain,
    /// The newest version which it says was durable.
    pub(crate) synced: u64,
}

/// An image of a store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Image {
    /// Its number.
    pub number: u64,
    /// Its file, within the store's directory.
    pub file: String,
    /// Written as a whole by compaction.
    pub base: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes which count; what is behind them was never committed.
    pub valid: u64,
    /// When it was made, in nanoseconds since 1970.
    pub created: u64,
    /// The key it is encrypted with.
    pub key: Option<KeyId>,
    pub(crate) id: [u8; 16],
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) store: [u8; 16],
    pub(crate) images: BTreeMap<u64, Image>,
    /// Versions of the history which was chosen.
    pub(crate) versions: BTreeMap<u64, Version>,
    /// Newest version known to be durable.
    pub(crate) acknowledged: Option<u64>,
    /// Newest version of which any file says that it was on the disk.  What is
    /// newer may be in the memory of the kernel only, where a sync that failed
    /// left it.
    pub(crate) proven: u64,
    /// Which image each one continues; zero for none.
    pub(crate) parents: BTreeMap<u64, u64>,
    /// What older images have of the versions of a base, if that is all.
    pub(crate) originals: BTreeMap<u64, Vec<Version>>,
    pub(crate) problems: Vec<Damage>,
    /// Bytes behind the last version, never committed.
    pub(crate) torn: u64,
    /// Highest number of an image.
    pub(crate) highest: u64,
    pub(crate) temporary: Vec<String>,
    /// Files as they were opened.
    pub(crate) files: BTreeMap<u64, ImageFile>,
    /// Sizes of images whose header is damaged.
    pub(crate) unreadable: BTreeMap<u64, u64>,
    pub(crate) lineage: Arc<Lineage>,
    /// Because of this nobody may open it who does not accept a loss.
    pub(crate) refused: Option<StoreError>,
    /// Versions of each image.
    pub(crate) found: BTreeMap<u64, Vec<Version>>,
    /// The highest number of a version which is not used again.
    pub(crate) used: u64,
    /// Images of other histories.
    pub(crate) strays: Vec<u64>,
    /// The history which was chosen, and what is left of it below gaps.
    pub(crate) line: BTreeSet<u64>,
    /// The history alone.
    pub(crate) group: u64,
}

impl Scan {
    /// Versions whose images were not removed as too old, and the newest in
    /// any case.
    pub(crate) fn available(&self) -> BTreeMap<u64, Version> {
        let newest = self.versions.keys().next_back().copied();
        let held = |version: &Version| {
            Some(version.number) == newest || self.images.contains_key(&version.floor)
        };
        let held = self.versions.values().filter(|version| held(version));
        held.map(|version| (version.number, *version)).collect()
    }

    /// Why it is not opened unless a loss is accepted: the newest version is
    /// not the one which it should be, or may not be.
    pub(crate) fn refusal(&mut self) -> Option<StoreError> {
        let refused = |damage: &&Damage| {
            matches!(
                damage.what,
                DamageKind::Acknowledged { .. } | DamageKind::Mixed { .. }
            )
        };
        let damage = self.problems.iter().find(refused).cloned();
        self.refused.take().or(damage.map(StoreError::from))
    }

    /// Whether nobody can tell which store this is, whatever is accepted.
    pub(crate) fn ambiguous(&self) -> Option<StoreError> {
        let ambiguous = |damage: &&Damage| damage.what == DamageKind::Ambiguous;
        self.problems
            .iter()
            .find(ambiguous)
            .cloned()
            .map(StoreError::from)
    }

    /// The newest version whose index is whole, of all histories.
    pub(crate) fn newest_whole(&self, images: &Images) -> Option<Version> {
        let all = self
            .found
            .values()
            .rev()
            .flat_map(|found| found.iter().rev());
        all.copied().find(|version| load(images, version).is_ok())
    }

    /// An error, with the version which can be opened all the same.
    pub(crate) fn with_way_out(&self, images: &Images, error: StoreError) -> StoreError {
        match error {
            StoreError::Damaged(mut damage) => {
                damage.intact = self.newest_whole(images).map(|version| version.number);
                StoreError::Damaged(damage)
            }
            other => other,
        }
    }

    /// Makes the newest version whose index is whole the newest there is.
    pub(crate) fn fall_back(&mut self, images: &Images) {
        let numbers = self.found.values().flatten().map(|version| version.number);
        self.used = numbers.max().unwrap_or(0);
        let Some(whole) = self.newest_whole(images) else {
            return;
        };
        self.choose(self.lineage.group(whole.image));
        self.versions.split_off(&(whole.number + 1));
        // A copy in a base may be whole where the original is not.
        self.versions.insert(whole.number, whole);
        let floor = floor(self);
        // Or it would be asked again each time.
        let in_the_way = |image: &u64| {
            let parted = |&(one, other): &(u64, u64)| one == *image || other == *image;
            let frames = self.found.get(image).is_some_and(|found| !found.is_empty());
            self.lineage.broken.iter().any(parted) || (frames && *image >= floor)
        };
        let images = self.images.keys().copied();
        self.strays = images
            .filter(|image| !self.ours(*image) && in_the_way(image))
            .collect();
    }

    /// Versions which are not told of to who accepts no loss.
    pub(crate) fn untied(&self, accept_loss: bool) -> Untied {
        let mut untied = Untied::default();
        if accept_loss || self.line.len() < 2 {
            return untied;
        }
        untied.versions = self.available();
        let apart = |version: &Version| self.lineage.group(version.image) != self.group;
        untied.versions.retain(|_, version| apart(version));
        if let Some(newest) = untied.versions.values().next_back() {
            let gap = self.lineage.above(newest.image, &self.line);
            let name = image_name(gap.unwrap_or(newest.image));
            let told = self.problems.iter().find(|problem| problem.file == name);
            let told = told.cloned();
            untied.lost = told.or_else(|| Some(Damage::new(&name, 0, DamageKind::Missing)));
        }
        untied
    }

    /// Whether an image is of the history which was chosen, or of what is left
    /// of it below a gap.
    pub(crate) fn ours(&self, image: u64) -> bool {
        self.line.contains(&self.lineage.group(image))
    }

    /// Takes the versions of one history.
    pub(crate) fn choose(&mut self, group: u64) {
        self.group = group;
        self.line = self.lineage.line(group, &self.found);
        self.versions.clear();
        self.originals.clear();
        for (image, found) in &self.found {
            if !self.line.contains(&self.lineage.group(*image)) {
                continue;
            }
            let insert = |version: &Version| self.versions.insert(version.number, *version);
            let older: Vec<Version> = found.iter().filter_map(insert).collect();
            let base = self.images.get(image).is_some_and(|image| image.base);
            if base && older.len() == found.len() {
                self.originals.insert(*image, older);
            }
        }
    }
}

/// An image, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) header: ImageHeader,
    pub(crate) file: ImageFile,
    pub(crate) bytes: u64,
    pub(crate) name: String,
    /// What the history is behind the header.
    pub(crate) chain: Chain,
}

/// Looks at everything but the contents of versions which are known to be
/// durable.
pub(crate) fn scan(backend: &dyn Backend, key: Option<&StoreKey>) -> Result<Scan, StoreError> {
    // A live store makes and removes images meanwhile.
    for _ in 0..ATTEMPTS {
        match attempt(backend, key) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Ok(None) => {}
            Ok(Some(scan)) => return Ok(scan),
            Err(error) => return Err(error),
        }
    }
    Err(io(
        "read, because it keeps changing,",
        &backend.describe(),
        io::ErrorKind::TimedOut.into(),
    ))
}

fn numbers(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| image_number(name)).collect();
    numbers.sort_unstable();
    numbers
}

fn list(backend: &dyn Backend) -> Result<Vec<String>, StoreError> {
    let describe = backend.describe();
    backend.list().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotAStore(describe.clone()),
        _ => io("list", &describe, error),
    })
}

/// `None` if images came or went meanwhile.
fn attempt(backend: &dyn Backend, key: Option<&StoreKey>) -> Result<Option<Scan>, StoreError> {
    // Before the images, so that a live store is never behind it.
    let ack = read_ack(backend);
    let names = list(backend)?;
    let numbers = numbers(&names);
    let mut scan = Scan {
        store: [0; 16],
        images: BTreeMap::new(),
        versions: BTreeMap::new(),
        acknowledged: None,
        proven: 0,
        parents: BTreeMap::new(),
        originals: BTreeMap::new(),
        problems: Vec::new(),
        torn: 0,
        highest: numbers.last().copied().unwrap_or(0),
        temporary: names
            .into_iter()
            .filter(|name| is_temporary(name))
            .collect(),
        files: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        lineage: Arc::default(),
        refused: None,
        found: BTreeMap::new(),
        used: 0,
        strays: Vec::new(),
        line: BTreeSet::new(),
        group: 0,
    };
    if numbers.is_empty() {
        return Err(match ack {
            Ok(_) => damage(&image_name(1), 0, DamageKind::Missing),
            Err(_) => StoreError::NotAStore(backend.describe()),
        });
    }
    let mut opened = open_all(&mut scan, backend, &numbers, key)?;
    if self::numbers(&list(backend)?) != numbers {
        return Ok(None);
    }
    if opened.is_empty() {
        return Err(match scan.refused {
            Some(error) => error,
            None => scan.problems.remove(0).into(),
        });
    }
    identify(&mut scan, &mut opened, ack.as_ref().ok());
    match ack {
        Ok((version, store)) if store == scan.store[..8] => scan.acknowledged = Some(version),
        _ => scan
            .problems
            .push(Damage::new(ACK_FILE, 0, DamageKind::AckRecord)),
    }
    judge(&mut scan, opened)?;
    Ok(Some(scan))
}

fn open_all(
    scan: &mut Scan,
    backend: &dyn Backend,
    numbers: &[u64],
    key: Option<&StoreKey>,
) -> Result<BTreeMap<u64, Opened>, StoreError> {
    let mut opened = BTreeMap::new();
    for &number in numbers {
        let mut bytes = 0;
        match open_image(backend, number, key, &mut bytes) {
            Ok(image) => {
                opened.insert(number, image);
            }
            Err((StoreError::Damaged(damage), _)) => {
                // It may have the newest versions, and be read next time.
                if damage.what == DamageKind::Unreadable && Some(&number) == numbers.last() {
                    scan.refused.get_or_insert(damage.clone().into());
                }
                scan.problems.push(damage);
                scan.unreadable.insert(number, bytes);
            }
            // As it may be; but more likely an accident.
            Err((error @ StoreError::Future { .. }, true)) => {
                scan.problems
                    .push(Damage::new(&image_name(number), 8, DamageKind::ImageHeader));
                scan.unreadable.insert(number, bytes);
                scan.refused.get_or_insert(error);
            }
            Err((error, _)) => return Err(error),
        }
    }
    Ok(opened)
}

/// Finds out which store this is, and leaves out what is of another one.
fn identify(scan: &mut Scan, opened: &mut BTreeMap<u64, Opened>, ack: Option<&(u64, [u8; 8])>) {
    let mut stores: BTreeMap<[u8; 16], Vec<u64>> = BTreeMap::new();
    for (number, image) in opened.iter() {
        stores.entry(image.header.store).or_default().push(*number);
    }
    let told = ack.and_then(|(_, id)| stores.keys().find(|store| store[..8] == *id).copied());
    // To look at; nobody writes.
    let most = stores
        .iter()
        .max_by_key(|(_, images)| (images.len(), core::cmp::Reverse(images[0])));
    let most = most.map_or([0; 16], |(store, _)| *store);
    let what = if told.is_none() && stores.len() > 1 {
        DamageKind::Ambiguous
    } else {
        DamageKind::Stranger
    };
    scan.store = told.unwrap_or(most);
    opened.retain(|number, image| {
        let ours = image.header.store == scan.store;
        if !ours {
            scan.problems
                .push(Damage::new(&image_name(*number), 16, what));
        }
        ours
    });
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp")
        .is_some_and(|name| image_number(name).is_some())
}

/// The newest version which was acknowledged by now, if that is told.
pub(crate) fn acknowledged(backend: &dyn Backend) -> Option<u64> {
    read_ack(backend).ok().map(|(version, _)| version)
}

fn read_ack(backend: &dyn Backend) -> Result<(u64, [u8; 8]), StoreError> {
    let mut bytes = [0; ACK + 1];
    let read = backend
        .open(ACK_FILE, false)
        .and_then(|file| file.read_at(&mut bytes, 0));
    let got = read.map_err(|error| io("read", ACK_FILE, error))?;
    decode_ack(&bytes[..got]).ok_or_else(|| damage(ACK_FILE, 0, DamageKind::AckRecord))
}

/// An error comes with whether it is a known format with a damaged number.
fn open_image(
    backend: &dyn Backend,
    number: u64,
    key: Option<&StoreKey>,
    bytes: &mut u64,
) -> Result<Opened, (StoreError, bool)> {
    let name = image_name(number);
    let plain = |error| (error, false);
    let file = backend.open(&name, false).map_err(|error| {
        plain(if irregular(&error) {
            damage(&name, 0, DamageKind::Irregular)
        } else {
            unread(&name, 0, error)
        })
    })?;
    *bytes = file
        .len()
        .map_err(|error| plain(io("measure", &name, error)))?;
    let mut header = [0; IMAGE_HEADER];
    let got = file
        .read_at(&mut header, 0)
        .map_err(|error| plain(unread(&name, 0, error)))?;
    let raw = &header[..got];
    let header =
        ImageHeader::decode(&name, raw, key).map_err(|error| (error, ImageHeader::mangled(raw)))?;
    if header.image != number {
        return Err(plain(damage(&name, 0, DamageKind::Stranger)));
    }
    let seal = header.sealing.as_ref().map(|sealing| sealing.seal.clone());
    let chain = Chain::image(&raw[..header.bytes()]);
    Ok(Opened {
        header,
        file: ImageFile { file, seal },
        bytes: *bytes,
        name,
        chain,
    })
}
