// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the images of a store counts, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{Damage, DamageKind, StoreError};
use super::format::{ImageKind, image_name};
use super::frames::{hop, intact};
use super::lineage::{Found, Lineage};
use super::scan::{Image, Opened, Scan, Version};

/// Goes from header to header through every image, and finds out which belong
/// together.
pub(crate) fn judge(scan: &mut Scan, opened: BTreeMap<u64, Opened>) -> Result<(), StoreError> {
    let mut images: Found = BTreeMap::new();
    let mut unread: BTreeMap<u64, Damage> = BTreeMap::new();
    for (number, image) in opened {
        let (found, damage) = hop(&image)?;
        unread.extend(damage.map(|damage| (number, damage)));
        scan.files.insert(number, image.file.clone());
        images.insert(number, (image, found));
    }
    let mut lineage = Lineage::of(&images);
    let holder = images
        .iter()
        .rev()
        .find(|(_, (_, found))| !found.is_empty());
    let newest = holder.or(images.iter().next_back());
    let group = newest.map_or(0, |(number, _)| lineage.group(*number));
    // What the youngest child says counts.
    let mut limits: BTreeMap<u64, u64> = BTreeMap::new();
    for (&number, (image, _)) in &images {
        let header = &image.header;
        if lineage.continues(number, header.parent) {
            limits.insert(header.parent, header.parent_bytes);
        }
    }
    lineage.unreadable = scan.unreadable.keys().copied().collect();
    scan.lineage = Arc::new(lineage);
    for (&number, (image, found)) in &images {
        let limit = limits.get(&number).copied();
        cut(scan, image, found, limit, group, unread.remove(&number))?;
    }
    scan.choose(group);
    gaps(scan, &images);
    mixtures(scan);
    lost(scan, &images, group);
    Ok(())
}

/// Takes the versions of an image which count.
fn cut(
    scan: &mut Scan,
    image: &Opened,
    found: &[Version],
    limit: Option<u64>,
    group: u64,
    mut unread: Option<Damage>,
) -> Result<(), StoreError> {
    let number = image.header.image;
    let base = image.header.kind == ImageKind::Base;
    let ours = scan.lineage.group(number) == group;
    let most = limit.unwrap_or(image.bytes).min(image.bytes);
    let inside = |version: &&Version| version.offset + version.bytes <= most;
    let mut found: Vec<Version> = found.iter().take_while(inside).copied().collect();
    if ours {
        let synced = found.iter().map(|version| version.synced).max();
        scan.proven = scan.proven.max(synced.unwrap_or(0));
        scan.parents.insert(number, image.header.parent);
    }
    if limit.is_none() && !base {
        let (left, damage) = intact(image, found, scan.acknowledged.unwrap_or(0))?;
        found = left;
        // Nobody can tell what is there from what was never committed.
        unread = damage.or(unread);
        if let Some(damage) = unread.clone().filter(|_| ours) {
            scan.refused.get_or_insert(damage.into());
        }
    }
    let end = found
        .last()
        .map_or(image.header.bytes() as u64, |last| last.offset + last.bytes);
    let expected = if base {
        image.bytes
    } else {
        limit.unwrap_or(0)
    };
    if let Some(damage) = unread.filter(|_| end < expected || limit.is_none()) {
        scan.problems.push(damage);
    } else if end < expected {
        scan.problems
            .push(Damage::new(&image.name, end, DamageKind::FrameHeader));
    } else if limit.is_none() && ours {
        scan.torn = image.bytes - end.min(image.bytes);
    }
    scan.found.insert(number, found);
    scan.images.insert(
        number,
        Image {
            number,
            file: image.name.clone(),
            base,
            bytes: image.bytes,
            valid: end,
            created: image.header.created,
            key: image.header.sealing.as_ref().map(|sealing| sealing.id),
            id: image.header.id,
        },
    );
    Ok(())
}

/// Names images which are of another history.
fn mixtures(scan: &mut Scan) {
    let floor = floor(scan);
    let newest = scan
        .versions
        .values()
        .next_back()
        .map_or(0, |newest| newest.image);
    for &(image, other) in &scan.lineage.broken {
        scan.problems.push(Damage::new(
            &image_name(image),
            0,
            DamageKind::Mixed { other },
        ));
    }
    let missing = |damage: &Damage| damage.what == DamageKind::Missing;
    let explained = !scan.lineage.broken.is_empty()
        || !scan.unreadable.is_empty()
        || scan.problems.iter().any(missing);
    for (&image, found) in &scan.found {
        // What is older than all that is needed may be left over.
        let left = image < floor || found.is_empty();
        if left || explained || scan.ours(image) {
            continue;
        }
        scan.problems.push(Damage::new(
            &image_name(image),
            0,
            DamageKind::Mixed { other: newest },
        ));
    }
}

/// The lowest image which the newest version needs.
pub(crate) fn floor(scan: &Scan) -> u64 {
    let newest = scan.versions.values().next_back();
    newest.map_or(0, |newest| newest.floor)
}

/// Images which should be there and are not: those which another continues,
/// unless all that is there is newer.
fn gaps(scan: &mut Scan, images: &Found) {
    let floor = floor(scan);
    let ours = images.iter().filter(|(number, _)| scan.ours(**number));
    let apart = scan.untied(false).versions;
    let apart: BTreeSet<u64> = apart.values().map(|version| version.image).collect();
    let parents: BTreeSet<u64> = ours.map(|(_, (image, _))| image.header.parent).collect();
    for parent in parents {
        let name = image_name(parent);
        let named = scan.problems.iter().any(|damage| damage.file == name);
        // Lower ones go first where they go because of their age.
        let between = || apart.iter().any(|image| *image < parent);
        let needed = parent > 0 && (parent >= floor || between());
        if needed && !images.contains_key(&parent) && !named {
            scan.problems
                .push(Damage::new(&name, 0, DamageKind::Missing));
        }
    }
}

/// Whether versions are missing which were acknowledged.
fn lost(scan: &mut Scan, images: &Found, group: u64) {
    let found = scan.versions.keys().next_back().copied().unwrap_or(0);
    let claimed = images
        .iter()
        .filter(|(number, _)| scan.lineage.group(**number) == group)
        .map(|(_, (image, _))| image.header.parent_version)
        .max()
        .unwrap_or(0);
    let acknowledged = scan.acknowledged.unwrap_or(0).max(claimed);
    scan.acknowledged = scan.acknowledged.map(|_| acknowledged);
    scan.proven = scan.proven.max(acknowledged);
    if found < acknowledged {
        let last = scan.images.values().next_back();
        let (file, offset) =
            last.map_or((String::new(), 0), |last| (last.file.clone(), last.valid));
        let what = DamageKind::Acknowledged {
            acknowledged,
            found,
        };
        scan.problems.push(Damage::new(&file, offset, what));
    }
}
