// SPDX-License-Identifier: MIT OR Apache-2.0
//! What replication needs of a store: pages as they travel, the difference
//! between two versions, and versions which another store made.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::error::StoreError;
use super::format::{Place, RECORD_HEADER, RecordHeader, RecordKind};
use super::frame::{Before, Change};
use super::handover::{Encoded, Handover};
use super::images::{Images, parse_record};
use super::index::AreaIndex;
use super::options::StoreOptions;
use super::page::{Difference, Encoder, Page, apply, share};
use super::pipeline::Shared;
use super::scan::Version;
use super::view::View;
use super::writer::{Batch, Writer};
use hvckpt_sys::memory::as_bytes;

/// An area, without where its pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaShape {
    /// Its name.
    pub name: String,
    /// Where it lies in memory.
    pub address: u64,
    /// In pages of 4096 bytes.
    pub pages: u64,
}

impl AreaShape {
    fn of(index: &AreaIndex) -> Self {
        Self {
            name: index.name.clone(),
            address: index.address,
            pages: index.pages,
        }
    }
}

/// Pages of a version which are too many to be kept in memory.
pub trait Bulk: fmt::Debug + Send + Sync {
    /// Reads them, from the beginning.
    fn changes(&self) -> Box<dyn Iterator<Item = Result<Change, StoreError>> + '_>;
}

/// Pages of a version.
pub(crate) type Changes<'a> = Box<dyn Iterator<Item = Result<Cow<'a, Change>, StoreError>> + 'a>;

/// A page as it came.
#[derive(Debug)]
pub struct Record<'b> {
    header: RecordHeader,
    payload: &'b [u8],
}

impl Record<'_> {
    /// Number of the area.
    #[must_use]
    pub fn area(&self) -> u32 {
        self.header.area
    }

    /// Index of the page in the area.
    #[must_use]
    pub fn page(&self) -> u64 {
        self.header.page
    }

    /// Whether it says what changed since the page of the version before.
    #[must_use]
    pub fn difference(&self) -> bool {
        self.header.kind != RecordKind::Whole
    }

    /// The page; `None` if it does not come out as its sender had it.  `old`:
    /// the page of the version before, if this is a difference to it.
    #[must_use]
    pub fn change(&self, old: Option<&Page>) -> Option<Change> {
        let header = &self.header;
        let mut new = old.copied().unwrap_or(Page::ZERO);
        let right = apply(&mut new, header.kind, header.codec, self.payload)
            && crc32c::crc32c(as_bytes(&new.0)) == header.content;
        right.then(|| Change {
            area: header.area,
            page: header.page,
            new: share(new.0.iter().copied()),
            before: old.map_or(Before::Unknown, |old| Before::runs(&old.0, &new.0)),
            words: None,
            shared: Some(Handover::holding(Encoded::received(header, self.payload))),
        })
    }
}

/// Writes page records as they are in images, but that a difference is one to
/// the page of the version before, wherever that is.
#[derive(Debug)]
pub struct RecordWriter {
    encoder: Encoder,
    /// Room for what changed in a page.
    runs: Vec<u8>,
}

impl RecordWriter {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            encoder: Encoder::new(options.compression),
            runs: Vec::new(),
        }
    }

    /// Appends a page, whole unless `difference` allows what changed.
    pub fn write(&mut self, out: &mut Vec<u8>, change: &Change, difference: bool) {
        let runs = difference.then(|| change.runs(&mut self.runs)).flatten();
        let difference = difference.then_some(Difference {
            runs,
            words: change.words.as_deref(),
            base: Place::ZERO,
            depth: 0,
        });
        self.encoder.encode(
            out,
            change.area,
            change.page,
            &change.new,
            difference,
            change.shared.as_ref(),
        );
    }
}

/// Takes a record from the front; `None` if there is none.
#[must_use]
pub fn read_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let header = parse_record(bytes)?;
    let end = RECORD_HEADER + header.bytes as usize;
    let payload = bytes.get(RECORD_HEADER..end)?;
    let rest = bytes.get(end.next_multiple_of(8)..)?;
    Some((Record { header, payload }, rest))
}

/// A version as the difference to an older one, or to nothing.
#[derive(Debug)]
pub struct Delta {
    /// The newer one.
    pub version: Version,
    /// It is complete in itself.
    pub base: bool,
    /// All areas.
    pub areas: Vec<AreaShape>,
    view: View,
    pages: Vec<(u32, u64)>,
}

impl Delta {
    fn between(view: View, old: Option<&View>) -> Self {
        let now = view.indexes();
        // Somebody may have gone back to a version with fewer or other areas.
        let old = old.map(View::indexes).filter(|old| {
            old.len() <= now.len()
                && old.iter().zip(now).all(|(old, now)| {
                    old.name == now.name && old.address == now.address && old.pages <= now.pages
                })
        });
        let mut pages = Vec::new();
        for (number, now) in (0_u32..).zip(now) {
            let old = old.and_then(|old| old.get(number as usize));
            let mut list: BTreeSet<u64> = now.present().iter().map(|(page, _)| *page).collect();
            if let Some(old) = old {
                list.extend(old.present().iter().map(|(page, _)| *page));
                list.retain(|&page| old.get(page) != now.get(page));
            }
            pages.extend(list.into_iter().map(|page| (number, page)));
        }
        Self {
            version: view.version(),
            base: old.is_none(),
            areas: now.iter().map(AreaShape::of).collect(),
            pages,
            view,
        }
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The pages, whole.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn changes(&self) -> impl Iterator<Item = Result<Change, StoreError>> + '_ {
        self.pages.iter().map(|&(area, page)| {
            let new = self.view.page(area as usize, page)?;
            Ok(Change {
                area,
                page,
                new: share(new.0.iter().copied()),
                before: Before::Unknown,
                words: None,
                shared: None,
            })
        })
    }
}

impl Shared {
    /// A version to read; the newest durable one unless told.
    pub(crate) fn view(&self, version: Option<u64>) -> Result<View, StoreError> {
        loop {
            let (number, found) = {
                let catalog = self.catalog();
                let number = version.unwrap_or(catalog.last);
                let found = catalog.versions.get(&number).copied();
                let why = || catalog.untied.refusal(&self.images, number);
                (number, found.ok_or_else(why)?)
            };
            let view = View::new(&self.images, found);
            if view.is_ok() {
                return view;
            }
            // Who removes images tells the catalog before he is done.
            drop(self.writer());
            let now = self.catalog().versions.get(&number).copied();
            if now == Some(found) {
                return view;
            }
            // Its images went meanwhile: there are copies, or newer ones.
        }
    }

    /// The newest durable version as the difference to another, or to nothing
    /// if that one is not kept.
    pub(crate) fn delta(&self, since: Option<u64>) -> Result<Delta, StoreError> {
        let old = since.and_then(|since| self.view(Some(since)).ok());
        Ok(Delta::between(self.view(None)?, old.as_ref()))
    }

    /// When a version was committed, if it is kept; nanoseconds since 1970.
    #[must_use]
    pub fn time_of(&self, version: u64) -> Option<u64> {
        let catalog = self.catalog();
        catalog.versions.get(&version).map(|version| version.time)
    }

    /// Takes over versions which another store made, with their numbers, and
    /// makes them durable; all or none.  `shape`: the areas as they are from
    /// the first one on, and whether that is complete in itself.
    ///
    /// # Errors
    /// They do not fit, or cannot be made durable.
    pub fn adopt(
        &self,
        shape: Option<(bool, &[AreaShape])>,
        batches: &[Arc<Batch>],
    ) -> Result<u64, StoreError> {
        let mut writer = self.writer();
        let result = adopt(&mut writer, shape, batches);
        self.settle(&mut writer);
        result.map(|()| writer.last)
    }

    /// Areas as they are now.
    #[must_use]
    pub fn shapes(&self) -> Vec<AreaShape> {
        self.writer().areas.iter().map(AreaShape::of).collect()
    }

    /// A page as it is in the newest version.
    ///
    /// # Errors
    /// There is no such area, or the page is damaged.
    pub fn page(&self, area: u32, page: u64) -> Result<Page, StoreError> {
        let (images, place): (Arc<Images>, Place) = {
            let writer = self.writer();
            let index = writer.areas.get(area as usize);
            let index = index.ok_or_else(|| StoreError::NoArea(area.to_string()))?;
            (writer.images.clone(), index.get(page))
        };
        images.page(place, area, page)
    }
}

fn adopt(
    writer: &mut Writer,
    shape: Option<(bool, &[AreaShape])>,
    batches: &[Arc<Batch>],
) -> Result<(), StoreError> {
    let Some((base, shapes)) = shape else {
        return writer.write(batches);
    };
    let before = writer.areas.clone();
    let floor = writer.floor;
    if base {
        writer.areas.clear();
        writer.floor = None;
    }
    let result = reshape(writer, shapes).and_then(|()| writer.write(batches));
    if result.is_err() {
        writer.areas = before;
        writer.floor = floor;
    }
    result
}

fn reshape(writer: &mut Writer, shapes: &[AreaShape]) -> Result<(), StoreError> {
    for (number, shape) in shapes.iter().enumerate() {
        let there = writer.areas.get(number);
        let same =
            there.is_none_or(|there| there.name == shape.name && there.address == shape.address);
        // A name stands once.
        let placed = writer.place(&shape.name, shape.address, shape.pages)?;
        if !same || placed != number {
            return Err(StoreError::Shape {
                name: shape.name.clone(),
                pages: shape.pages,
                why: "another area has its place",
            });
        }
    }
    Ok(())
}
