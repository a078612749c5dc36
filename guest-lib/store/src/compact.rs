// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compaction: copies what is kept into one base image, beside the commits,
//! and lets the older images go.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Instant;

use super::error::{DamageKind, StoreError};
use super::format::{ImageHeader, ImageKind, image_name, temporary};
use super::frame::{Before, Change, Meta, Out, now};
use super::images::Images;
use super::index::AreaIndex;
use super::options::StoreOptions;
use super::page::{Encoder, share};
use super::pipeline::Shared;
use super::scan::Version;
use super::view::View;
use super::writer::publish;

/// What compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Versions in the new base image.
    pub versions: usize,
    /// Size of all images before, in bytes.
    pub before: u64,
    /// Size of all images now, in bytes; those which a version needs that was
    /// committed meanwhile go later.
    pub after: u64,
}

/// How far long work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Versions done.
    pub versions: usize,
    /// Versions in all.
    pub of: usize,
    /// Pages done of the version at hand.
    pub pages: u64,
}

struct Copy {
    images: Images,
    out: Out,
    encoder: Encoder,
    areas: Vec<AreaIndex>,
    copies: Vec<Version>,
}

/// Compacts.  `go_on` hears how far it is; when it says no, nothing was done
/// and the answer is `None`.
pub(crate) fn compact(
    shared: &Shared,
    options: &StoreOptions,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Compacted>, StoreError> {
    let _one = shared.maintenance();
    let start = Instant::now();
    shared.lead()?;
    let images = shared.images.again();
    let (old, kept, newest, store, base, before) = {
        let mut writer = shared.writer();
        if writer.last == 0 {
            return Ok(None);
        }
        writer.settle()?;
        let tied = |version: &&Version| !writer.untied.has(version.number);
        let mut kept: Vec<Version> = writer.kept().filter(tied).copied().collect();
        kept.reverse();
        let newest = kept.last().map(|newest| writer.link(newest));
        let before = writer.sizes.values().sum();
        // Held open: commits may let go of versions meanwhile.
        for &image in writer.sizes.keys() {
            if let Ok(file) = shared.images.file(image) {
                images.put(image, file);
            }
        }
        // Of this moment: later commits go to later images.
        (
            writer.areas.clone(),
            kept,
            newest.unwrap_or_default(),
            writer.store,
            writer.reserve(),
            before,
        )
    };
    let mut header = ImageHeader::fresh(ImageKind::Base, store, base, now(), images.key())?;
    header.also = newest;
    let backend = shared.images.backend();
    let name = temporary(&image_name(base));
    let mut copy = Copy {
        images,
        out: Out::create(&**backend, name.clone(), &header)?,
        encoder: Encoder::new(options.compression),
        areas: Vec::new(),
        copies: Vec::new(),
    };
    match copy.all(&kept, go_on) {
        Ok(true) => {}
        stopped => {
            let _leftover = backend.remove(&name);
            return stopped.map(|_| None);
        }
    }
    // Nothing is removed which somebody else may need.
    if let Err(error) = shared.writer().alone() {
        let _leftover = backend.remove(&name);
        return Err(error);
    }
    let out = publish(&shared.images, copy.out, &mut None)?;
    let mut writer = shared.writer();
    writer.alone()?;
    writer.switch(&old, &copy.areas, &copy.copies, &out);
    shared.catalog().follow(&mut writer);
    let after = writer.sizes.values().sum();
    shared.metrics.compactions.observe(start.elapsed());
    Ok(Some(Compacted {
        versions: kept.len(),
        before,
        after,
    }))
}

impl Copy {
    fn all(
        &mut self,
        kept: &[Version],
        go_on: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<bool, StoreError> {
        let mut before: Option<View> = None;
        for (versions, version) in kept.iter().enumerate() {
            let view = match View::new(&self.images, *version) {
                // A crash while old images went can leave a part of them.
                Err(StoreError::Damaged(damage))
                    if damage.what == DamageKind::Missing && versions + 1 < kept.len() =>
                {
                    continue;
                }
                other => other?,
            };
            let progress = Progress {
                versions,
                of: kept.len(),
                pages: 0,
            };
            if !self.one(&view, before.as_ref(), progress, go_on)? {
                return Ok(false);
            }
            before = Some(view);
        }
        Ok(true)
    }

    /// Copies a version, as difference to the one before.
    fn one(
        &mut self,
        view: &View,
        before: Option<&View>,
        mut progress: Progress,
        go_on: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<bool, StoreError> {
        let mut before = before.map(View::indexes).unwrap_or_default();
        let shrunk = before.len() > view.indexes().len()
            || before.iter().zip(view.indexes()).any(|(before, now)| {
                before.name != now.name || before.pages > now.pages || before.address != now.address
            });
        if shrunk {
            // Somebody went back to an older version.
            before = &[];
            self.areas.clear();
        }
        let mut list = Vec::new();
        for (number, now) in (0_u32..).zip(view.indexes()) {
            let place = number as usize;
            match self.areas.get_mut(place) {
                Some(area) if area.pages < now.pages => area.grow(now.pages),
                Some(_) => {}
                None => self
                    .areas
                    .push(AreaIndex::new(&now.name, now.address, now.pages)),
            }
            let old = before.get(place);
            let mut pages: BTreeSet<u64> = now.present().iter().map(|(page, _)| *page).collect();
            pages.extend(
                old.into_iter()
                    .flat_map(AreaIndex::present)
                    .map(|(page, _)| page),
            );
            let changed = pages
                .into_iter()
                .filter(|&page| old.is_none_or(|old| old.get(page) != now.get(page)));
            list.extend(changed.map(|page| (number, page)));
        }
        let images = &self.images;
        let mut stopped = false;
        let changes = list.into_iter().map_while(|(area, page)| {
            progress.pages += 1;
            if progress.pages % 256 == 1 && !go_on(progress) {
                stopped = true;
                return None;
            }
            let read = |index: &AreaIndex| images.page(index.get(page), area, page);
            Some(read(&view.indexes()[area as usize]).and_then(|new| {
                let old = before.get(area as usize).map(read).transpose()?;
                let before = old.map(|old| Before::runs(&old.0, &new.0));
                Ok(Cow::Owned(Change {
                    area,
                    page,
                    new: share(new.0.iter().copied()),
                    before: before.unwrap_or(Before::Unknown),
                    words: None,
                    shared: None,
                }))
            }))
        });
        let version = view.version();
        // Those between may be lost.
        let last = self.copies.last();
        let meta = Meta {
            version: version.number,
            previous: last.map_or(version.previous, |last| last.number),
            synced: version.previous,
            floor: self.out.image,
            time: version.time,
        };
        let mut undo = Vec::new();
        let copy = self
            .out
            .frame(&mut self.encoder, &mut self.areas, changes, meta, &mut undo)?;
        self.areas.iter_mut().for_each(AreaIndex::settle);
        self.copies.push(copy);
        Ok(!stopped)
    }
}
