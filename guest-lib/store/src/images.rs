// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading images: nodes and page records by place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::backend::{Backend, File};
use super::error::{DamageKind, StoreError, damage, unread};
use super::format::{
    FANOUT, IMAGE_HEADER, ImageHeader, NODE, Node, NodeId, Place, RECORD_HEADER, RecordHeader,
    RecordKind, decode_node, image_name, size,
};
use super::key::StoreKey;
use super::lineage::Lineage;
use super::page::{Page, apply};
use super::scan::Scan;
use super::seal::{Fault, Object, SEALED, Seal};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::memory::as_bytes;

/// Bytes of which a disk loses all or none.
pub(crate) const SECTOR: usize = 512;
/// Differences to follow at most; no writer comes near.
const MAX_DEPTH: usize = 64;

/// A file of an image, and the cipher of what is in it.
#[derive(Debug, Clone)]
pub(crate) struct ImageFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) seal: Option<Seal>,
}

impl ImageFile {
    /// Reads what there is up to the first sector which cannot be read: it may
    /// be behind the object, whose size is not known before.
    fn some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let whole = self.file.read_at(bytes, offset);
        if whole.is_ok() {
            return whole;
        }
        let mut got = 0;
        while got < bytes.len() {
            let at = offset + got as u64;
            let next = got + SECTOR - size(at % SECTOR as u64);
            let end = next.min(bytes.len());
            match self.file.read_at(&mut bytes[got..end], at) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(_) if got > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    /// The object at an offset, of `plain` bytes at most: what is there, or
    /// what it says if it is sealed.
    pub(crate) fn object(
        &self,
        object: Object,
        place: Place,
        plain: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let name = || image_name(place.image());
        let seal = self.seal.as_ref();
        let mut bytes = vec![0; plain + seal.map_or(0, |_| SEALED)];
        let got = self
            .some(&mut bytes, place.offset())
            .map_err(|error| unread(&name(), place.offset(), error))?;
        bytes.truncate(got);
        let Some(seal) = seal else {
            return Ok(bytes);
        };
        seal.open(object, place.offset(), &bytes).map_err(|fault| {
            let what = match (fault, object) {
                (Fault::Forged, _) => DamageKind::Forged,
                (_, Object::Node) => DamageKind::Node,
                (_, Object::Areas) => DamageKind::Areas,
                _ => DamageKind::Record,
            };
            damage(&name(), place.offset(), what)
        })
    }
}

/// The images of a store, opened when first needed.
#[derive(Debug)]
pub(crate) struct Images {
    backend: Arc<dyn Backend>,
    key: Option<StoreKey>,
    files: RwLock<BTreeMap<u64, ImageFile>>,
    /// How the images hang together which were there at opening.
    lineage: Option<Arc<Lineage>>,
    /// Held from a rename until the directory is synced: a sync which fails
    /// leaves out what others renamed as well, and only one of them is told.
    pub(crate) naming: Mutex<()>,
}

impl Images {
    pub(crate) fn new(backend: Arc<dyn Backend>, key: Option<StoreKey>) -> Self {
        Self {
            backend,
            key,
            files: RwLock::default(),
            lineage: None,
            naming: Mutex::default(),
        }
    }

    /// The images of a store which was looked at.
    pub(crate) fn found(backend: Arc<dyn Backend>, key: Option<StoreKey>, scan: &Scan) -> Self {
        let mut images = Self::new(backend, key);
        images.lineage = Some(scan.lineage.clone());
        images
    }

    /// Keeps the files which were found, whatever a live store removes.
    pub(crate) fn hold(self, scan: &Scan) -> Self {
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = scan.files.clone();
        self
    }

    /// Whether a version in an image may refer to all of these.
    ///
    /// # Errors
    /// Names the first which is not known to be of the same history.
    pub(crate) fn related(&self, image: u64, others: &BTreeSet<u64>) -> Result<(), StoreError> {
        // What was made since refers to what was found to be right.
        let Some(lineage) = self.lineage.as_ref().filter(|all| all.knows(image)) else {
            return Ok(());
        };
        let reach = lineage.reach(image);
        let Some(&other) = others.iter().find(|other| !reach.contains(other)) else {
            return Ok(());
        };
        let gone = |image| {
            if lineage.unreadable.contains(&image) {
                DamageKind::ImageHeader
            } else {
                DamageKind::Missing
            }
        };
        Err(match lineage.gap(image) {
            Some(gap) => damage(&image_name(gap), 0, gone(gap)),
            None if lineage.knows(other) => {
                damage(&image_name(image), 0, DamageKind::Mixed { other })
            }
            None => damage(&image_name(other), 0, gone(other)),
        })
    }

    /// The same images, none of them open yet.
    pub(crate) fn again(&self) -> Self {
        let mut images = Self::new(self.backend.clone(), self.key.clone());
        images.lineage.clone_from(&self.lineage);
        images
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn key(&self) -> Option<&StoreKey> {
        self.key.as_ref()
    }

    /// The file of an image.
    pub(crate) fn file(&self, image: u64) -> Result<ImageFile, StoreError> {
        if let Some(file) = self
            .files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&image)
        {
            return Ok(file.clone());
        }
        let name = image_name(image);
        let file = self
            .backend
            .open(&name, false)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damage(&name, 0, DamageKind::Missing),
                _ => unread(&name, 0, error),
            })?;
        let mut seal = None;
        if let Some(key) = &self.key {
            let mut header = [0; IMAGE_HEADER];
            let got = file
                .read_at(&mut header, 0)
                .map_err(|error| unread(&name, 0, error))?;
            let header = ImageHeader::decode(&name, &header[..got], Some(key))?;
            seal = header.sealing.map(|sealing| sealing.seal);
        }
        let file = ImageFile { file, seal };
        self.put(image, file.clone());
        Ok(file)
    }

    pub(crate) fn put(&self, image: u64, file: ImageFile) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(image, file);
    }

    pub(crate) fn forget(&self, image: u64) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&image);
    }

    fn object(&self, object: Object, place: Place, plain: usize) -> Result<Vec<u8>, StoreError> {
        self.file(place.image())?.object(object, place, plain)
    }

    /// The children of a node.
    pub(crate) fn node(
        &self,
        place: Place,
        id: NodeId,
    ) -> Result<Box<[Place; FANOUT]>, StoreError> {
        let bad =
            |place: Place| damage(&image_name(place.image()), place.offset(), DamageKind::Node);
        let mut at = place;
        let mut changes = Vec::new();
        for _ in 0..MAX_DEPTH {
            let bytes = self.object(Object::Node, at, NODE)?;
            match decode_node(&bytes, id).ok_or_else(|| bad(at))? {
                Node::Full(mut children) => {
                    // The youngest last.
                    for (slot, place) in changes.into_iter().rev().flatten() {
                        children[slot] = place;
                    }
                    return Ok(children);
                }
                Node::Delta { base, changed } => {
                    if !below(base, at) {
                        break;
                    }
                    changes.push(changed);
                    at = base;
                }
            }
        }
        Err(bad(at))
    }

    /// A page.
    pub(crate) fn page(&self, place: Place, area: u32, page: u64) -> Result<Page, StoreError> {
        let mut result = Page::ZERO;
        if place.is_zero() {
            return Ok(result);
        }
        let bad = |place: Place, what| damage(&image_name(place.image()), place.offset(), what);
        let mut at = place;
        let mut records = Vec::new();
        loop {
            let bytes = self.object(Object::Record, at, RECORD_HEADER + PAGE_SIZE)?;
            let header = parse_record(&bytes)
                .filter(|header| header.area == area && header.page == page)
                .ok_or_else(|| bad(at, DamageKind::Record))?;
            records.push((at, header, bytes));
            if header.kind == RecordKind::Whole {
                break;
            }
            if !below(header.base, at) || records.len() == MAX_DEPTH {
                return Err(bad(at, DamageKind::Record));
            }
            at = header.base;
        }
        let content = records.first().map(|(_, header, _)| header.content);
        for (at, header, bytes) in records.iter().rev() {
            let payload = &bytes[RECORD_HEADER..][..header.bytes as usize];
            if !apply(&mut result, header.kind, header.codec, payload) {
                return Err(bad(*at, DamageKind::Record));
            }
        }
        if content == Some(crc32c::crc32c(as_bytes(&result.0))) {
            Ok(result)
        } else {
            Err(bad(place, DamageKind::Page))
        }
    }
}

/// Whether a difference may be to what is there: before it, in the same
/// image.
fn below(base: Place, at: Place) -> bool {
    base.image() == at.image() && base < at && !base.is_zero()
}

/// The header of the record at the beginning of the bytes, if there is one.
pub(crate) fn parse_record(bytes: &[u8]) -> Option<RecordHeader> {
    let header = RecordHeader::decode(bytes)?;
    let record = bytes.get(..RECORD_HEADER + header.bytes as usize)?;
    (header.crc == crc32c::crc32c(&record[4..])).then_some(header)
}
