// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to read, for those who must not wait for the one who writes.

use std::collections::BTreeMap;

use super::error::{Damage, DamageKind, StoreError};
use super::images::Images;
use super::scan::Version;
use super::view::{Area, load};
use super::writer::Writer;

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

/// The versions and areas of a store, as they are on stable storage.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) versions: BTreeMap<u64, Version>,
    pub(crate) areas: Vec<Area>,
    /// The newest version; zero for none.
    pub(crate) last: u64,
    /// What is not told of to who did not accept a loss.
    pub(crate) untied: Untied,
}

impl Catalog {
    /// Takes over what the writer did.
    pub(crate) fn follow(&mut self, writer: &mut Writer) {
        let tied = |(number, _): &(&u64, &Version)| !writer.untied.has(**number);
        let new = writer.versions.range(self.last.saturating_add(1)..);
        self.versions.extend(new.filter(tied));
        let shown = writer.versions.len() - writer.untied.versions.len();
        let fewer = self.untied.versions.len() != writer.untied.versions.len();
        if writer.moved || fewer || self.versions.len() != shown {
            self.versions.clear();
            self.versions.extend(writer.versions.iter().filter(tied));
            self.untied.clone_from(&writer.untied);
        }
        writer.moved = false;
        self.last = writer.last;
        let same = self.areas.len() == writer.areas.len()
            && self.areas.iter().zip(&writer.areas).all(|(known, now)| {
                known.name == now.name && (known.address, known.pages) == (now.address, now.pages)
            });
        if same {
            for (known, now) in self.areas.iter_mut().zip(&writer.areas) {
                known.present = now.count();
            }
            return;
        }
        let area = |now: &super::index::AreaIndex| Area {
            name: now.name.clone(),
            address: now.address,
            pages: now.pages,
            present: now.count(),
        };
        self.areas = writer.areas.iter().map(area).collect();
    }
}
