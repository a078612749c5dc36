// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to read, for those who must not wait for the one who writes.

use std::collections::BTreeMap;

use super::scan::Version;
use super::view::{Area, Untied};
use super::writer::Writer;

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
