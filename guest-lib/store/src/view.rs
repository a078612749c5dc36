// SPDX-License-Identifier: MIT OR Apache-2.0
//! One version, to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{Damage, DamageKind, StoreError, damage};
use super::format::{AREA, FRAME_HEADER, MAX_AREAS, Place, decode_areas, image_name, size};
use super::images::{ImageFile, Images};
use super::index::AreaIndex;
use super::page::Page;
use super::scan::Version;
use super::seal::{Object, SEALED};

/// Reads the areas of a version and their index.
pub(crate) fn load(images: &Images, version: &Version) -> Result<Vec<AreaIndex>, StoreError> {
    let name = image_name(version.image);
    let from = version.offset + FRAME_HEADER as u64 + version.areas;
    let bytes = version
        .bytes
        .saturating_sub(FRAME_HEADER as u64 + version.areas);
    let bad = || damage(&name, from, DamageKind::Areas);
    let most = 8 + AREA * MAX_AREAS + SEALED;
    if bytes > most as u64 || from > Place::MAX_OFFSET {
        return Err(bad());
    }
    let file = images.file(version.image)?;
    let place = Place::new(version.image, from);
    let table = file.object(Object::Areas, place, size(bytes))?;
    let entries = decode_areas(&table).ok_or_else(bad)?;
    let areas: Vec<AreaIndex> = (0..)
        .zip(&entries)
        .map(|(number, entry)| AreaIndex::load(images, number, entry))
        .collect::<Result<_, _>>()?;
    let others = areas.iter().flat_map(AreaIndex::images).collect();
    images.related(version.image, &others)?;
    Ok(areas)
}

/// One version of a store, to read.  The files it needs stay there for it,
/// whatever becomes of the store.
#[derive(Debug)]
pub struct View {
    version: Version,
    areas: Vec<AreaIndex>,
    images: Arc<Images>,
    _held: BTreeMap<u64, ImageFile>,
}

/// An area of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Area {
    /// Its name.
    pub name: String,
    /// Where it belongs in memory.
    pub address: u64,
    /// Its size in pages of 4096 bytes.
    pub pages: u64,
    /// Pages which are not zero.
    pub present: u64,
}

impl View {
    pub(crate) fn new(images: &Images, version: Version) -> Result<Self, StoreError> {
        let own = images.again();
        let areas = load(images, &version)?;
        let mut held = BTreeMap::new();
        for image in areas
            .iter()
            .flat_map(AreaIndex::images)
            .chain([version.image])
        {
            let file = images.file(image)?;
            own.put(image, file.clone());
            held.insert(image, file);
        }
        Ok(Self {
            version,
            areas,
            images: Arc::new(own),
            _held: held,
        })
    }

    /// Which version this is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its areas.
    #[must_use]
    pub fn areas(&self) -> Vec<Area> {
        let area = |index: &AreaIndex| Area {
            name: index.name.clone(),
            address: index.address,
            pages: index.pages,
            present: index.present().len() as u64,
        };
        self.areas.iter().map(area).collect()
    }

    /// The number of an area, by name.
    ///
    /// # Errors
    /// [`StoreError::NoArea`].
    pub fn area(&self, name: &str) -> Result<usize, StoreError> {
        let found = self.areas.iter().position(|area| area.name == name);
        found.ok_or_else(|| StoreError::NoArea(name.to_owned()))
    }

    fn index(&self, area: usize) -> Result<(u32, &AreaIndex), StoreError> {
        let number = u32::try_from(area).ok();
        number
            .zip(self.areas.get(area))
            .ok_or_else(|| StoreError::NoArea(area.to_string()))
    }

    /// One page.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the record which is not what was
    /// written.
    pub fn page(&self, area: usize, page: u64) -> Result<Page, StoreError> {
        let (number, index) = self.index(area)?;
        if page >= index.pages {
            return Err(StoreError::NoPage {
                page,
                pages: index.pages,
            });
        }
        self.images.page(index.get(page), number, page)
    }

    /// Numbers of the pages which are not zero, in order.
    ///
    /// # Errors
    /// [`StoreError::NoArea`].
    pub fn present(&self, area: usize) -> Result<Vec<u64>, StoreError> {
        let (_, index) = self.index(area)?;
        Ok(index.present().into_iter().map(|(page, _)| page).collect())
    }

    pub(crate) fn indexes(&self) -> &[AreaIndex] {
        &self.areas
    }
}

/// Older versions which nothing ties to the newest one, since an image between
/// is lost: of the same history most likely, and perhaps of another copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Untied {
    pub(crate) versions: BTreeMap<u64, Version>,
    /// What is lost.
    pub(crate) lost: Option<Damage>,
}

impl Untied {
    pub(crate) fn has(&self, version: u64) -> bool {
        self.versions.contains_key(&version)
    }

    /// Why a version cannot be had, and how it can.
    pub(crate) fn refusal(&self, images: &Images, version: u64) -> StoreError {
        let Some(found) = self.versions.get(&version) else {
            return StoreError::NoVersion { version };
        };
        if let Err(error) = load(images, found) {
            return error;
        }
        let mut damage = self
            .lost
            .clone()
            .unwrap_or_else(|| Damage::new("", 0, DamageKind::Missing));
        damage.intact = Some(version);
        damage.into()
    }
}
