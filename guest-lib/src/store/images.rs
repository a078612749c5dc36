//! Reading images: nodes and page records by place.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::backend::{Backend, File};
use super::error::{DamageKind, StoreError, damage, io};
use super::format::{
    FANOUT, NODE, Place, RECORD_HEADER, RecordHeader, RecordKind, decode_node, image_name,
};
use super::page::{Page, decode};
use crate::sys::PAGE_SIZE;

/// Differences to follow at most; no writer comes near.
const MAX_DEPTH: usize = 64;

/// The images of a store, opened when first needed.
#[derive(Debug)]
pub(crate) struct Images {
    backend: Arc<dyn Backend>,
    files: RwLock<BTreeMap<u64, Arc<dyn File>>>,
}

impl Images {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            files: RwLock::default(),
        }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The file of an image.
    pub(crate) fn file(&self, image: u64) -> Result<Arc<dyn File>, StoreError> {
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
                _ => io("open", &name, error),
            })?;
        self.put(image, file.clone());
        Ok(file)
    }

    pub(crate) fn put(&self, image: u64, file: Arc<dyn File>) {
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

    fn read(&self, place: Place, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let file = self.file(place.image())?;
        file.read_at(buffer, place.offset())
            .map_err(|error| io("read", &image_name(place.image()), error))
    }

    /// The children of a node.
    pub(crate) fn node(
        &self,
        place: Place,
        area: u32,
        level: u32,
        first: u64,
    ) -> Result<[Place; FANOUT], StoreError> {
        let mut bytes = [0; NODE];
        let got = self.read(place, &mut bytes)?;
        decode_node(&bytes[..got], area, level, first)
            .ok_or_else(|| damage(&image_name(place.image()), place.offset(), DamageKind::Node))
    }

    /// A page.
    pub(crate) fn page(&self, place: Place, area: u32, page: u64) -> Result<Page, StoreError> {
        let mut result = Page::ZERO;
        if place.is_zero() {
            return Ok(result);
        }
        let bad = |place: Place, what| damage(&image_name(place.image()), place.offset(), what);
        let mut at = place;
        let mut content = None;
        for _ in 0..MAX_DEPTH {
            let (header, part) = self.record(at, area, page)?;
            content.get_or_insert(header.content);
            result
                .0
                .iter_mut()
                .zip(part.0)
                .for_each(|(word, part)| *word ^= part);
            if header.kind == RecordKind::Whole {
                return if content == Some(crc32c::crc32c(&result.to_bytes())) {
                    Ok(result)
                } else {
                    Err(bad(place, DamageKind::Page))
                };
            }
            // Bases lie before, in the same image.
            if header.base.image() != at.image() || header.base >= at || header.base.is_zero() {
                break;
            }
            at = header.base;
        }
        Err(bad(at, DamageKind::Record))
    }

    /// One record: its header, and what it holds.
    pub(crate) fn record(
        &self,
        place: Place,
        area: u32,
        page: u64,
    ) -> Result<(RecordHeader, Page), StoreError> {
        let mut bytes = [0; RECORD_HEADER + PAGE_SIZE];
        let got = self.read(place, &mut bytes)?;
        parse_record(&bytes[..got])
            .filter(|(header, _)| header.area == area && header.page == page)
            .ok_or_else(|| {
                damage(
                    &image_name(place.image()),
                    place.offset(),
                    DamageKind::Record,
                )
            })
    }
}

/// A record at the beginning of the bytes, if there is one.
pub(crate) fn parse_record(bytes: &[u8]) -> Option<(RecordHeader, Page)> {
    let header = RecordHeader::decode(bytes)?;
    let record = bytes.get(..RECORD_HEADER + header.bytes as usize)?;
    if header.crc != crc32c::crc32c(&record[4..]) {
        return None;
    }
    Some((
        header,
        decode(header.kind, header.codec, &record[RECORD_HEADER..])?,
    ))
}
