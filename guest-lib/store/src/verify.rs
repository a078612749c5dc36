// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at everything a store has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::backend::Backend;
use super::compact::Progress;
use super::error::{Damage, StoreError};
use super::format::{Place, size};
use super::frames::body_intact;
use super::images::Images;
use super::key::StoreKey;
use super::scan::{Image, Scan, Version, scan};
use super::view::{Area, View};

/// What a store has.
#[derive(Debug)]
#[non_exhaustive]
pub struct Examined {
    /// Its id.
    pub store: [u8; 16],
    /// Its images, oldest first.
    pub images: Vec<Image>,
    /// Its versions, oldest first.
    pub versions: Vec<Version>,
    /// Areas of the newest version; empty if it cannot be read.
    pub areas: Vec<Area>,
    /// The newest version known to be durable, if that is known.
    pub acknowledged: Option<u64>,
    /// The newest version of which the store itself says that it was on the
    /// disk; see [`Self::unproven`].
    pub proven: u64,
    /// Bytes which were never committed, and are ignored.
    pub torn_bytes: u64,
    /// Pages which the kept versions wrote most often: area, page, times;
    /// the hottest first.  By [`examine`] only.
    pub hot: Vec<(String, u64, u64)>,
    /// Pages which were read and are right.  By [`verify`] only.
    pub pages: u64,
    /// What is wrong.
    pub problems: Vec<Damage>,
    /// Versions which are whole: all that was looked at is as it was written.
    pub whole: Vec<u64>,
}

const HOT: usize = 10;

fn start(
    backend: &Arc<dyn Backend>,
    key: Option<&StoreKey>,
) -> Result<(Scan, Images, Examined), StoreError> {
    let mut scan = scan(&**backend, key)?;
    let images = Images::found(backend.clone(), key.cloned(), &scan).hold(&scan);
    let newest = scan.versions.values().next_back().copied();
    let mut problems = core::mem::take(&mut scan.problems);
    let mut areas = Vec::new();
    match newest.map(|newest| View::new(&images, newest)) {
        Some(Ok(view)) => areas = view.areas(),
        Some(Err(StoreError::Damaged(damage))) => problems.push(damage),
        Some(Err(error)) => return Err(error),
        None => {}
    }
    let examined = Examined {
        store: scan.store,
        images: scan.images.values().cloned().collect(),
        versions: scan.available().into_values().collect(),
        areas,
        acknowledged: scan.acknowledged,
        proven: scan.proven,
        torn_bytes: scan.torn,
        hot: Vec::new(),
        pages: 0,
        problems,
        whole: Vec::new(),
    };
    Ok((scan, images, examined))
}

/// What a store has, from its index; pages are not read.
///
/// # Errors
/// [`StoreError::NotAStore`], or what the operating system refuses.  Damage
/// is in [`Examined::problems`].
pub fn examine(
    backend: &Arc<dyn Backend>,
    key: Option<&StoreKey>,
    mut progress: impl FnMut(Progress),
) -> Result<Examined, StoreError> {
    let (scan, images, mut examined) = start(backend, key)?;
    let mut counts: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    let versions: Vec<Version> = scan.available().into_values().collect();
    let mut before: Option<View> = None;
    for (done, version) in versions.iter().enumerate() {
        progress(Progress {
            versions: done,
            of: versions.len(),
            pages: 0,
        });
        let Ok(view) = View::new(&images, *version) else {
            continue;
        };
        examined.whole.push(version.number);
        for (area, index) in view.indexes().iter().enumerate() {
            let old = before
                .as_ref()
                .and_then(|before| before.indexes().get(area));
            for (page, place) in index.present() {
                if old.is_some_and(|old| old.get(page) != place) {
                    *counts.entry((area, page)).or_default() += 1;
                }
            }
        }
        before = Some(view);
    }
    let mut hot: Vec<_> = counts.into_iter().collect();
    hot.sort_by_key(|(page, count)| (core::cmp::Reverse(*count), *page));
    hot.truncate(HOT);
    let name = |area: usize| {
        examined
            .areas
            .get(area)
            .map_or(String::new(), |a| a.name.clone())
    };
    examined.hot = hot
        .into_iter()
        .map(|((area, page), count)| (name(area), page, count))
        .collect();
    Ok(examined)
}

/// Reads everything: every version's frame, index and pages.
///
/// # Errors
/// See [`examine`].
pub fn verify(
    backend: &Arc<dyn Backend>,
    key: Option<&StoreKey>,
    mut progress: impl FnMut(Progress),
) -> Result<Examined, StoreError> {
    let (scan, images, mut examined) = start(backend, key)?;
    let versions: Vec<Version> = scan.available().into_values().collect();
    // And whether it is right.
    let mut seen: HashMap<(u32, u64, Place), bool> = HashMap::new();
    for (done, version) in versions.iter().enumerate() {
        let mut at = Progress {
            versions: done,
            of: versions.len(),
            pages: examined.pages,
        };
        progress(at);
        let mut whole = true;
        let mut problem = |error: StoreError| match error {
            StoreError::Damaged(damage) => {
                whole = false;
                if !examined.problems.contains(&damage) {
                    examined.problems.push(damage);
                }
                Ok(())
            }
            other => Err(other),
        };
        let name = super::format::image_name(version.image);
        match images
            .file(version.image)
            .and_then(|file| body_intact(&file, &name, version))
        {
            Ok(true) => {}
            Ok(false) => problem(super::error::damage(
                &name,
                version.offset,
                super::error::DamageKind::FrameBody,
            ))?,
            Err(error) => problem(error)?,
        }
        let view = match View::new(&images, *version) {
            Ok(view) => view,
            Err(error) => {
                problem(error)?;
                continue;
            }
        };
        let mut bad = false;
        for (number, index) in (0_u32..).zip(view.indexes()) {
            for (page, place) in index.present() {
                if let Some(right) = seen.get(&(number, page, place)) {
                    bad |= !right;
                    continue;
                }
                let read = images.page(place, number, page);
                seen.insert((number, page, place), read.is_ok());
                match read {
                    Ok(_) => at.pages += 1,
                    Err(error) => problem(error)?,
                }
                if at.pages.is_multiple_of(4096) {
                    progress(at);
                }
            }
        }
        examined.pages = at.pages;
        if whole && !bad {
            examined.whole.push(version.number);
        }
    }
    Ok(examined)
}

impl Examined {
    /// Size of all images in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.images.iter().map(|image| image.bytes).sum()
    }

    /// The newest version, if it may be in the memory of the kernel only: its
    /// commit did not return, and perhaps a sync failed.  Opening for writing
    /// makes it safe.
    #[must_use]
    pub fn unproven(&self) -> Option<u64> {
        let newest = self.versions.last()?.number;
        (newest > self.proven).then_some(newest)
    }

    /// The id in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        self.store
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Whether there is nothing wrong which loses anything: the record of
    /// acknowledgements may be missing.
    #[must_use]
    pub fn sound(&self) -> bool {
        let harmless = |damage: &Damage| damage.what == super::error::DamageKind::AckRecord;
        self.problems.iter().all(harmless) && size(self.bytes()) > 0
    }
}
