// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening for writing: nothing is built on bytes which may be in the memory of
//! the kernel only.
//!
//! After a sync which failed the kernel takes the pages for written, shows them
//! to whoever reads, and has nothing to do at the next sync.  So what no file
//! says to have reached the disk is written again, byte by byte, and synced.
//! That is little: all that is older was synced by whoever wrote what follows.

use std::collections::BTreeSet;
use std::io;

use super::backend::File;
use super::error::{DamageKind, StoreError, damage, io as failed, lost};
use super::format::{IMAGE_HEADER, image_name, size, temporary};
use super::frames::{CHUNK, body_intact};
use super::images::{ImageFile, Images, SECTOR};
use super::scan::{Image, Scan, Version, scan};
use super::view::View;

/// Bytes can change at most so often because the kernel drops what did not
/// reach the disk.
const ATTEMPTS: usize = 8;

/// Makes all that was found durable, and removes what was never finished.
/// What is there then.
pub(crate) fn prove(
    mut found: Scan,
    images: &Images,
    accept_loss: bool,
) -> Result<Scan, StoreError> {
    put_aside(&mut found, images)?;
    for _ in 0..ATTEMPTS {
        if once(&found, images)? {
            return Ok(found);
        }
        found = scan(&**images.backend(), images.key())?;
        if accept_loss {
            found.fall_back(images);
            put_aside(&mut found, images)?;
        } else if let Some(error) = found.refusal() {
            return Err(found.with_way_out(images, error));
        }
    }
    let newest = found.versions.values().next_back();
    let (image, offset) = newest.map_or((1, 0), |newest| (newest.image, newest.offset));
    Err(damage(&image_name(image), offset, DamageKind::FrameBody))
}

/// Renames images of other histories, in which nothing is looked up any more.
fn put_aside(found: &mut Scan, images: &Images) -> Result<(), StoreError> {
    for image in core::mem::take(&mut found.strays) {
        let name = image_name(image);
        images
            .backend()
            .publish(&name, &format!("{name}.stray"))
            .map_err(|error| failed("put aside", &name, error))?;
        images.forget(image);
        found.images.remove(&image);
        found.found.remove(&image);
        found.parents.remove(&image);
    }
    Ok(())
}

/// False: something else is there now.
fn once(found: &Scan, images: &Images) -> Result<bool, StoreError> {
    let backend = images.backend();
    let remove = |name: &str| {
        let removed = backend.remove(name);
        removed.map_err(|error| failed("remove", name, error))
    };
    for name in &found.temporary {
        remove(name)?;
    }
    let mut same = true;
    let continued: BTreeSet<u64> = found.parents.values().copied().collect();
    let newest = found.images.keys().next_back().copied();
    for (&number, image) in &found.images {
        if continued.contains(&number) {
            // Who continued it knew that it was safe.
            sync(images, number)?;
            continue;
        }
        let mut own = found.versions.values().filter(|it| it.image == number);
        if image.base {
            let counted = |it: &Version| it.image > number && it.floor == number;
            let known = found.versions.values().any(counted);
            if !known && sound(found) && spare(found, images, number) {
                // Nobody says that its name is on the disk, nor needs it.
                images.forget(number);
                remove(&image.file)?;
                same = false;
            } else {
                sync(images, number)?;
            }
        } else if image.bytes <= IMAGE_HEADER as u64
            && superseded(found, number)
            && newest > Some(number)
            && sound(found)
        {
            // Left behind by an attempt which failed.
            images.forget(number);
            remove(&image.file)?;
            same = false;
        } else if image.valid <= IMAGE_HEADER as u64
            || own
                .next()
                .is_some_and(|oldest| oldest.number > found.proven)
        {
            same &= renew(images, found, image)?;
        } else {
            same &= again(images, found, image)?;
        }
    }
    let named = backend.sync_names();
    named.map_err(|error| failed("sync", &backend.describe(), error))?;
    Ok(same)
}

/// Whether older images have everything which a base has: none of them was
/// removed, as they are once the base is safe.
fn spare(found: &Scan, images: &Images, base: u64) -> bool {
    let originals = found.originals.get(&base);
    originals.is_some_and(|all| all.iter().all(|it| View::new(images, *it).is_ok()))
}

/// Whether nothing is wrong but perhaps the hint what was acknowledged.
fn sound(found: &Scan) -> bool {
    let mut problems = found.problems.iter();
    problems.all(|damage| damage.what == DamageKind::AckRecord)
}

/// Whether a younger image says as well where the one before ends.
fn superseded(found: &Scan, number: u64) -> bool {
    let parent = found.parents.get(&number);
    let mut younger = found.parents.range(number + 1..);
    younger.any(|(_, other)| Some(other) == parent)
}

fn sync(images: &Images, number: u64) -> Result<(), StoreError> {
    let synced = images.file(number)?.file.sync();
    synced.map_err(|error| failed("sync", &image_name(number), error))
}

/// The versions of an image which nobody says to be on the disk.
fn doubtful(found: &Scan, image: u64) -> impl Iterator<Item = &Version> {
    let versions = found.versions.range(found.proven.saturating_add(1)..);
    versions
        .map(|(_, version)| version)
        .filter(move |version| version.image == image)
}

/// Writes the doubtful part of an image again.  False: it is not intact.
fn again(images: &Images, found: &Scan, image: &Image) -> Result<bool, StoreError> {
    let name = &image.file;
    let from = images.file(image.number)?;
    let opened = images.backend().open(name, true);
    let to = opened.map_err(|error| failed("open", name, error))?;
    let mut intact = true;
    for version in doubtful(found, image.number) {
        let end = version.offset + version.bytes;
        copy(name, &&*from.file, &*to, version.offset, end)?;
        intact &= body_intact(&from, name, version)?;
    }
    // An earlier cut may not have reached the disk either.
    to.truncate(image.bytes)
        .and_then(|()| to.sync())
        .map_err(|error| failed("sync", name, error))?;
    Ok(intact)
}

/// Writes an image again of which nobody says that its name is on the disk.
/// False: it is not intact.
fn renew(images: &Images, found: &Scan, image: &Image) -> Result<bool, StoreError> {
    let (name, other) = (&image.file, temporary(&image.file));
    let backend = images.backend();
    let from = images.file(image.number)?;
    let copied = || {
        let to = backend
            .create(&other)
            .map_err(|error| failed("create", &other, error))?;
        // What is lost is zeros there, which are no part of any version.
        copy(name, &Readable(&*from.file), &*to, 0, image.bytes)?;
        to.sync().map_err(|error| failed("sync", &other, error))?;
        let to = ImageFile {
            file: to,
            seal: from.seal.clone(),
        };
        for version in doubtful(found, image.number) {
            if !body_intact(&to, name, version)? {
                return Ok(false);
            }
        }
        backend
            .rename(&other, name)
            .map_err(|error| failed("rename", &other, error))?;
        Ok(true)
    };
    let result = copied();
    if !matches!(result, Ok(true)) {
        let _leftover = backend.remove(&other);
    }
    images.forget(image.number);
    result
}

/// A file in which sectors that cannot be read are zeros.
pub(crate) struct Readable<'f>(pub(crate) &'f dyn File);

/// Where the bytes of a copy come from.
pub(crate) trait Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for &dyn File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        File::read_at(*self, buffer, offset)
    }
}

impl Source for Readable<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.0.read_at(buffer, offset) {
            Err(error) if lost(&error) => {}
            other => return other,
        }
        // All chunks begin at a sector.
        let piece = SECTOR.min(buffer.len());
        match self.0.read_at(&mut buffer[..piece], offset) {
            Err(error) if lost(&error) => {
                buffer[..piece].fill(0);
                Ok(piece)
            }
            other => other,
        }
    }
}

pub(crate) fn copy(
    name: &str,
    from: &dyn Source,
    to: &dyn File,
    at: u64,
    end: u64,
) -> Result<(), StoreError> {
    let mut at = at;
    let mut buffer = vec![0; CHUNK.min(size(end.saturating_sub(at)))];
    while at < end {
        let want = CHUNK.min(size(end - at));
        let got = from
            .read_at(&mut buffer[..want], at)
            .map_err(|error| failed("read", name, error))?;
        if got == 0 {
            break;
        }
        to.write_at(&buffer[..got], at)
            .map_err(|error| failed("write", name, error))?;
        at += got as u64;
    }
    Ok(())
}
