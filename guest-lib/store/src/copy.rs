// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies of a store, also of one which is being written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use hvckpt_files as files;

use super::backend::Directory;
use super::error::{StoreError, io as failed};
use super::format::{ACK_FILE, IMAGE_HEADER, encode_ack, image_name};
use super::images::{ImageFile, Images};
use super::key::StoreKey;
use super::options::StoreOptions;
use super::partial::Partial;
use super::prove::{self, Readable};
use super::scan::{ATTEMPTS, Scan, acknowledged, scan};
use super::view::load;
use super::{Backend, Store, epoch};

/// Bytes which are read at a time.
const CHUNK: usize = 1 << 20;

/// What a copy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The version of the original which is the newest state of the copy.
    pub version: u64,
    /// Images in it.
    pub images: usize,
    /// Those of them which both share, as hard links.
    pub linked: usize,
    /// Bytes which were copied.
    pub bytes: u64,
}

/// How to copy a store.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// The key of an encrypted store.
    pub key: Option<StoreKey>,
    /// The state which is to be the newest of the copy; newer ones stay as
    /// history.
    pub version: Option<u64>,
    /// Accept that acknowledged versions are gone: the copy goes on from the
    /// newest version whose index is whole.  What the disk cannot read is zeros
    /// in it, and damage.
    pub accept_loss: bool,
}

/// Copies the store in a directory to a new directory, with all versions it
/// keeps.  The store may be in use: the copy has everything that was
/// acknowledged before, and nothing that was not.  Images which nobody appends
/// to any more are shared as hard links where both are on one file system.
///
/// `version`: the state which is to be the newest of the copy; newer ones stay
/// as history.
///
/// # Errors
/// See [`StoreError`].  The new directory is complete, or not there.
pub fn copy(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    key: Option<&StoreKey>,
    version: Option<u64>,
) -> Result<Copied, StoreError> {
    let options = CopyOptions {
        key: key.cloned(),
        version,
        accept_loss: false,
    };
    copy_with(from, to, &options)
}

/// As [`copy`], with options.
///
/// # Errors
/// See [`StoreError`].  The new directory is complete, or not there.
pub fn copy_with(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    options: &CopyOptions,
) -> Result<Copied, StoreError> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let shown = to.display().to_string();
    let make = |error| failed("make", &shown, error);
    if fs::symlink_metadata(to).is_ok() {
        let there = "something is there; name a new directory";
        return Err(make(io::Error::new(io::ErrorKind::AlreadyExists, there)));
    }
    let name = to
        .file_name()
        .ok_or_else(|| make(io::ErrorKind::InvalidInput.into()))?;
    let parent = to.parent().unwrap_or(Path::new(""));
    let backend = Directory::new(from);
    let mut changed = None;
    // A live store makes and removes images meanwhile.
    for _ in 0..ATTEMPTS {
        let Some((scan, newest)) = look(&backend, options)? else {
            continue;
        };
        if let Some(version) = options.version
            && !scan.available().contains_key(&version)
        {
            return Err(StoreError::NoVersion { version });
        }
        let made = files::make_directory(parent).map_err(make)?;
        let partial = Partial::make(parent, name).map_err(make);
        let result = partial.and_then(|partial| {
            let filled = fill(from, &partial.path, &scan, newest, options);
            Ok(match filled {
                Ok(copied) => Ok(partial.keep(to).map(|()| copied).map_err(make)?),
                // An image went meanwhile.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Err(source)
                }
                Err(error) => return Err(error),
            })
        });
        match result {
            Ok(Ok(copied)) => return Ok(copied),
            Ok(Err(source)) => changed = Some(source),
            Err(error) => {
                files::remove_directories(&made);
                return Err(error);
            }
        }
        files::remove_directories(&made);
    }
    let source = changed.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
    Err(failed("copy", &backend.describe(), source))
}

/// What there is, and the newest version which was acknowledged; `None` if it
/// changed too much meanwhile.
fn look(backend: &Directory, options: &CopyOptions) -> Result<Option<(Scan, u64)>, StoreError> {
    let key = options.key.as_ref();
    let mut found = scan(backend, key)?;
    if let Some(error) = found.ambiguous() {
        return Err(error);
    }
    let images = Images::found(Arc::new(backend.clone()), key.cloned(), &found).hold(&found);
    if options.accept_loss {
        found.fall_back(&images);
        let newest = found.versions.keys().next_back();
        let newest = newest.copied().unwrap_or(0);
        return Ok(Some((found, newest)));
    }
    let newest = found.versions.values().next_back().copied();
    let damaged = || newest.and_then(|newest| load(&images, &newest).err());
    if let Some(error) = found.refusal().or_else(damaged) {
        return Err(found.with_way_out(&images, error));
    }
    if let Some(version) = options.version
        && found.untied(false).has(version)
    {
        return Err(found.untied(false).refusal(&images, version));
    }
    let before = found.acknowledged;
    // Of what is there, what a program was told of by now.
    let most = before.and(acknowledged(backend)).unwrap_or(u64::MAX);
    let newest = found
        .available()
        .range(..=most)
        .next_back()
        .map(|(number, _)| *number);
    Ok(match newest {
        Some(newest) if Some(newest) >= before => Some((found, newest)),
        None if found.versions.is_empty() => Some((found, 0)),
        _ => None,
    })
}

fn fill(
    from: &Path,
    to: &Path,
    scan: &Scan,
    newest: u64,
    options: &CopyOptions,
) -> Result<Copied, StoreError> {
    let shown = to.display().to_string();
    let target = Directory::new(to);
    let mut copied = Copied {
        version: options.version.unwrap_or(newest),
        images: 0,
        linked: 0,
        bytes: 0,
    };
    for (number, bytes, complete) in parts(scan, newest) {
        let Some(file) = scan.files.get(&number) else {
            continue;
        };
        let name = image_name(number);
        let path = to.join(&name);
        copied.images += 1;
        if options.accept_loss {
            salvage(&name, file, &target, bytes)?;
            copied.bytes += bytes;
        } else if complete && link(&from.join(&name), &path, file) {
            copied.linked += 1;
        } else {
            duplicate(&from.join(&name), &path, file, bytes)
                .map_err(|error| failed("copy", &name, error))?;
            copied.bytes += bytes;
        }
    }
    if let Some(told) = scan.acknowledged {
        // Numbers which were lost are not used again.
        let most = if options.accept_loss {
            told.max(scan.used)
        } else {
            newest
        };
        write(&to.join(ACK_FILE), &encode_ack(scan.store, most))
            .map_err(|error| failed("write", ACK_FILE, error))?;
    }
    match files::read_regular(&from.join(epoch::FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and_then(|bytes| write(&to.join(epoch::FILE), &bytes)),
    }
    .map_err(|error| failed("copy", epoch::FILE, error))?;
    if options.accept_loss || options.version.is_some_and(|version| version != newest) {
        let opening = StoreOptions {
            create: false,
            auto_compact: false,
            keep: usize::MAX,
            key: options.key.clone(),
            accept_loss: options.accept_loss,
            at: options.version.or(Some(newest)).filter(|at| *at > 0),
            ..StoreOptions::default()
        };
        Store::open_on(Arc::new(target), opening)?.flush()?;
    }
    files::sync_directory(to).map_err(|error| failed("sync", &shown, error))?;
    Ok(copied)
}

/// Images to copy: number, bytes, and whether nobody appends to it.
fn parts(scan: &Scan, newest: u64) -> Vec<(u64, u64, bool)> {
    let kept: BTreeMap<_, _> = scan.available();
    let Some(last) = kept.get(&newest) else {
        // An empty store.
        let empty = scan.images.values().next_back();
        return empty
            .map(|image| (image.number, image.valid, false))
            .into_iter()
            .collect();
    };
    let floor = kept
        .range(..=newest)
        .map(|(_, version)| version.floor)
        .min()
        .unwrap_or(0);
    let images = scan.images.range(floor..=last.image);
    images
        .filter(|(number, _)| scan.ours(**number))
        .map(|(number, image)| {
            let end = last.offset + last.bytes;
            let cut = *number == last.image && !image.base;
            (*number, if cut { end } else { image.valid }, !cut)
        })
        .collect()
}

/// Whether the new name is a link to the file which was looked at.
fn link(from: &Path, to: &Path, file: &ImageFile) -> bool {
    if fs::hard_link(from, to).is_err() {
        return false;
    }
    let same = fs::File::open(to).is_ok_and(|linked| is(&linked, file));
    if !same {
        let _wrong = fs::remove_file(to);
    }
    same
}

/// Whether both have the same header, in which there is a number that no other
/// image has.
fn is(one: &fs::File, other: &ImageFile) -> bool {
    let mut headers = [[0; IMAGE_HEADER]; 2];
    let [first, second] = &mut headers;
    std::os::unix::fs::FileExt::read_at(one, first, 0).is_ok()
        && other.file.read_at(second, 0).is_ok()
        && headers[0] == headers[1]
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Copies what can be read of the beginning of an image.
fn salvage(name: &str, file: &ImageFile, to: &Directory, bytes: u64) -> Result<(), StoreError> {
    let out = Backend::create(to, name).map_err(|error| failed("create", name, error))?;
    prove::copy(name, &Readable(&*file.file), &*out, 0, bytes)?;
    out.sync().map_err(|error| failed("sync", name, error))
}

/// Copies the beginning of an image.
fn duplicate(from: &Path, to: &Path, file: &ImageFile, bytes: u64) -> io::Result<()> {
    let mut out = create(to)?;
    let opened = files::open_regular(from, fs::OpenOptions::new().read(true));
    if let Ok(source) = opened
        && is(&source, file)
    {
        // The kernel shares blocks where the file system can.
        let done = io::copy(&mut source.take(bytes), &mut out)?;
        if done < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return out.sync_all();
    }
    // It was removed meanwhile.
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let want = buffer.len().min(super::format::size(bytes - at));
        let got = file.file.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.write_all(&buffer[..got])?;
        at += got as u64;
    }
    out.sync_all()
}
