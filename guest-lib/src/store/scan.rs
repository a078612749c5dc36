//! What is in a store: its images, its versions, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::backend::Backend;
use super::error::{Damage, DamageKind, StoreError, damage, io};
use super::format::{
    ACK, FRAME_HEADER, FrameHeader, IMAGE_HEADER, ImageHeader, ImageKind, decode_ack, image_name,
    image_number,
};
use super::images::ImageFile;
use super::key::{KeyId, StoreKey};

/// File with the newest version which was acknowledged.
pub(crate) const ACK_FILE: &str = "acknowledged";
pub(crate) const CHUNK: usize = 1 << 20;

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
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) store: [u8; 16],
    pub(crate) images: BTreeMap<u64, Image>,
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
    /// Highest number of an image, or of a temporary one.
    pub(crate) highest: u64,
    pub(crate) temporary: Vec<String>,
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

    /// Damage because of which the newest version is not the one which it
    /// should be.
    pub(crate) fn loss(&self) -> Option<Damage> {
        let behind = |damage: &&Damage| matches!(damage.what, DamageKind::Acknowledged { .. });
        self.problems.iter().find(behind).cloned()
    }
}

struct Opened {
    header: ImageHeader,
    file: ImageFile,
    bytes: u64,
    name: String,
}

/// Looks at everything but the contents of versions which are known to be
/// durable.
pub(crate) fn scan(backend: &dyn Backend, key: Option<&StoreKey>) -> Result<Scan, StoreError> {
    // A live store removes old images meanwhile.
    for _ in 0..4 {
        match attempt(backend, key) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    attempt(backend, key)
}

fn attempt(backend: &dyn Backend, key: Option<&StoreKey>) -> Result<Scan, StoreError> {
    let describe = backend.describe();
    // Before the images, so that a live store is never behind it.
    let ack = read_ack(backend);
    let names = backend.list().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotAStore(describe.clone()),
        _ => io("list", &describe, error),
    })?;
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
        highest: 0,
        temporary: Vec::new(),
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| image_number(name)).collect();
    numbers.sort_unstable();
    scan.highest = numbers.last().copied().unwrap_or(0);
    scan.temporary = names
        .into_iter()
        .filter(|name| is_temporary(name))
        .collect();
    if numbers.is_empty() {
        return Err(match ack {
            Ok(_) => damage(&image_name(1), 0, DamageKind::Missing),
            Err(_) => StoreError::NotAStore(describe),
        });
    }
    let mut opened = BTreeMap::new();
    for number in numbers {
        match open_image(backend, number, key) {
            Ok(image) => {
                opened.insert(number, image);
            }
            Err(StoreError::Damaged(damage)) => scan.problems.push(damage),
            Err(error) => return Err(error),
        }
    }
    let Some(newest) = opened.values().next_back() else {
        return Err(scan.problems.remove(0).into());
    };
    scan.store = newest.header.store;
    let strangers: Vec<u64> = opened
        .iter()
        .filter(|(_, image)| image.header.store != scan.store)
        .map(|(number, _)| *number)
        .collect();
    for number in strangers {
        opened.remove(&number);
        let file = image_name(number);
        scan.problems.push(Damage {
            file,
            offset: 0,
            what: DamageKind::Stranger,
        });
    }
    match ack {
        Ok((version, store)) if store == scan.store[..8] => scan.acknowledged = Some(version),
        _ => scan.problems.push(Damage {
            file: ACK_FILE.to_owned(),
            offset: 0,
            what: DamageKind::AckRecord,
        }),
    }
    frames(&mut scan, &opened)?;
    gaps(&mut scan, &opened);
    let found = scan.versions.keys().next_back().copied().unwrap_or(0);
    let claimed = opened
        .values()
        .map(|image| image.header.parent_version)
        .max()
        .unwrap_or(0);
    let acknowledged = scan.acknowledged.unwrap_or(0).max(claimed);
    scan.acknowledged = scan.acknowledged.map(|_| acknowledged);
    scan.proven = scan.proven.max(acknowledged);
    if found < acknowledged {
        let last = scan.images.values().next_back();
        let (file, offset) =
            last.map_or((String::new(), 0), |last| (last.file.clone(), last.valid));
        let what = DamageKind::Acknowledged {
            acknowledged,
            found,
        };
        scan.problems.push(Damage { file, offset, what });
    }
    Ok(scan)
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp")
        .is_some_and(|name| image_number(name).is_some())
}

fn read_ack(backend: &dyn Backend) -> Result<(u64, [u8; 8]), StoreError> {
    let mut bytes = [0; ACK + 1];
    let read = backend
        .open(ACK_FILE, false)
        .and_then(|file| file.read_at(&mut bytes, 0));
    let got = read.map_err(|error| io("read", ACK_FILE, error))?;
    decode_ack(&bytes[..got]).ok_or_else(|| damage(ACK_FILE, 0, DamageKind::AckRecord))
}

fn open_image(
    backend: &dyn Backend,
    number: u64,
    key: Option<&StoreKey>,
) -> Result<Opened, StoreError> {
    let name = image_name(number);
    let file = backend
        .open(&name, false)
        .map_err(|error| io("open", &name, error))?;
    let bytes = file.len().map_err(|error| io("measure", &name, error))?;
    let mut header = [0; IMAGE_HEADER];
    let got = file
        .read_at(&mut header, 0)
        .map_err(|error| io("read", &name, error))?;
    let header = ImageHeader::decode(&name, &header[..got], key)?;
    if header.image != number {
        return Err(damage(&name, 0, DamageKind::Stranger));
    }
    let seal = header.sealing.as_ref().map(|sealing| sealing.seal.clone());
    let file = ImageFile { file, seal };
    Ok(Opened {
        header,
        file,
        bytes,
        name,
    })
}

/// Goes from header to header through every image.
fn frames(scan: &mut Scan, opened: &BTreeMap<u64, Opened>) -> Result<(), StoreError> {
    // What the youngest child says counts.
    let limits: BTreeMap<u64, u64> = opened
        .values()
        .map(|image| (image.header.parent, image.header.parent_bytes))
        .collect();
    for (&number, image) in opened {
        let base = image.header.kind == ImageKind::Base;
        let limit = limits.get(&number).copied();
        let (mut found, synced) = hop(image, limit.unwrap_or(image.bytes).min(image.bytes))?;
        scan.proven = scan.proven.max(synced);
        scan.parents.insert(number, image.header.parent);
        if limit.is_none() && !base {
            found = intact(image, found, scan.acknowledged.unwrap_or(0))?;
        }
        let end = found
            .last()
            .map_or(IMAGE_HEADER as u64, |last| last.offset + last.bytes);
        let expected = if base {
            image.bytes
        } else {
            limit.unwrap_or(0)
        };
        if end < expected {
            scan.problems.push(Damage {
                file: image.name.clone(),
                offset: end,
                what: DamageKind::FrameHeader,
            });
        } else if limit.is_none() {
            scan.torn = image.bytes - end;
        }
        let copies = found.len();
        let insert = |version: Version| scan.versions.insert(version.number, version);
        let older: Vec<Version> = found.into_iter().filter_map(insert).collect();
        if base && older.len() == copies {
            scan.originals.insert(number, older);
        }
        scan.images.insert(
            number,
            Image {
                number,
                file: image.name.clone(),
                base,
                bytes: image.bytes,
                valid: end,
                created: image.header.created,
                key: image.header.sealing.as_ref().map(|sealing| sealing.id),
            },
        );
    }
    Ok(())
}

pub(crate) fn read_header(
    image: &ImageFile,
    name: &str,
    offset: u64,
) -> Result<Option<FrameHeader>, StoreError> {
    let mut bytes = [0; FRAME_HEADER];
    let got = image
        .file
        .read_at(&mut bytes, offset)
        .map_err(|error| io("read", name, error))?;
    Ok(FrameHeader::decode(
        &bytes[..got],
        image.seal.as_ref(),
        offset,
    ))
}

/// The versions of an image, and the newest one which they say was durable.
fn hop(image: &Opened, end: u64) -> Result<(Vec<Version>, u64), StoreError> {
    let mut found: Vec<Version> = Vec::new();
    let mut synced = 0;
    let mut offset = IMAGE_HEADER as u64;
    while offset + FRAME_HEADER as u64 <= end {
        let Some(header) = read_header(&image.file, &image.name, offset)? else {
            break;
        };
        let bytes = FRAME_HEADER as u64 + header.body;
        let last = found
            .last()
            .map_or(image.header.parent_version, |last| last.number);
        // In a base the first one has no predecessor.
        let follows =
            header.previous == last || (found.is_empty() && image.header.kind == ImageKind::Base);
        let sane = header.image == image.header.image
            && follows
            && header.version > header.previous
            && header.floor <= header.image
            && bytes <= end - offset;
        if !sane {
            break;
        }
        synced = header.synced.max(synced);
        found.push(Version {
            number: header.version,
            previous: header.previous,
            time: header.time,
            image: header.image,
            offset,
            bytes,
            records: header.records,
            nodes: header.nodes,
            floor: header.floor,
            areas: header.areas,
        });
        offset += bytes;
    }
    Ok((found, synced))
}

/// Leaves out what follows the first version whose contents did not reach the
/// disk.
fn intact(
    image: &Opened,
    mut found: Vec<Version>,
    acknowledged: u64,
) -> Result<Vec<Version>, StoreError> {
    let mut safe = acknowledged;
    for version in &found {
        if let Some(header) = read_header(&image.file, &image.name, version.offset)? {
            safe = safe.max(header.synced);
        }
    }
    let newest = found.last().map_or(0, |last| last.number);
    for at in 0..found.len() {
        // The newest in any case: who opens wants that one.
        let check = found[at].number > safe || found[at].number == newest;
        if check && !body_intact(&image.file, &image.name, &found[at])? {
            found.truncate(at);
            break;
        }
    }
    Ok(found)
}

/// Whether the contents of a version are what was written.
pub(crate) fn body_intact(
    image: &ImageFile,
    name: &str,
    version: &Version,
) -> Result<bool, StoreError> {
    let Some(header) = read_header(image, name, version.offset)? else {
        return Ok(false);
    };
    let mut crc = 0;
    let mut at = version.offset + FRAME_HEADER as u64;
    let end = version.offset + version.bytes;
    let mut buffer = vec![0; CHUNK.min(super::format::size(end.saturating_sub(at)))];
    while at < end {
        let want = CHUNK.min(super::format::size(end - at));
        let got = image
            .file
            .read_at(&mut buffer[..want], at)
            .map_err(|error| io("read", name, error))?;
        if got < want {
            return Ok(false);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..want]);
        at += want as u64;
    }
    Ok(crc == header.body_crc)
}

/// Images which should be there and are not: those which another continues,
/// unless all that is kept is newer.
fn gaps(scan: &mut Scan, opened: &BTreeMap<u64, Opened>) {
    let floor = scan
        .versions
        .values()
        .next_back()
        .map_or(0, |newest| newest.floor);
    let parents: BTreeSet<u64> = opened.values().map(|image| image.header.parent).collect();
    for parent in parents {
        let named = scan
            .problems
            .iter()
            .any(|damage| damage.file == image_name(parent));
        if parent > 0 && parent >= floor && !opened.contains_key(&parent) && !named {
            let file = image_name(parent);
            scan.problems.push(Damage {
                file,
                offset: 0,
                what: DamageKind::Missing,
            });
        }
    }
}
