// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which images belong to the same history.
//!
//! From format 3 on an image says by hash what it continues, and where else
//! it refers to.  Images of two copies of a store which went on separately
//! have the same store and the same numbers, and do not fit together.

use std::collections::{BTreeMap, BTreeSet};

use super::format::{Chain, Link};
use super::scan::{Opened, Version};

/// How images hang together.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    /// Images which each one continues or refers to, as far as they are there
    /// and are the ones which it means.
    ties: BTreeMap<u64, Vec<u64>>,
    /// Images of formats which say so by number only.
    unchained: BTreeSet<u64>,
    /// Images which another one names, and which are not the ones it means.
    pub(crate) broken: Vec<(u64, u64)>,
    /// Images whose parent is not there, which one that is, and the newest
    /// version in it.
    gaps: BTreeMap<u64, (u64, u64)>,
    /// Images whose header is damaged.
    pub(crate) unreadable: BTreeSet<u64>,
    /// A name for the history of each image.
    groups: BTreeMap<u64, u64>,
}

/// Images with their frames.
pub(crate) type Found = BTreeMap<u64, (Opened, Vec<Version>)>;

#[derive(PartialEq)]
enum Tie {
    Holds,
    Broken,
}

impl Lineage {
    pub(crate) fn of(images: &Found) -> Self {
        let mut lineage = Self::default();
        // Who continues the same image, which is gone.
        let mut orphans: BTreeMap<Chain, u64> = BTreeMap::new();
        let mut first_unchained = None;
        for (&number, (image, _)) in images {
            lineage.groups.insert(number, number);
            let header = &image.header;
            if !header.chained() {
                lineage.unchained.insert(number);
                let first = *first_unchained.get_or_insert(number);
                lineage.join(first, number);
                continue;
            }
            let parent = Link {
                image: header.parent,
                chain: header.parent_chain,
                id: [0; 4],
            };
            for (link, parent) in [(parent, true), (header.also, false)] {
                if link.image == 0 {
                    continue;
                }
                match images.get(&link.image) {
                    None => {
                        if parent {
                            let gap = (link.image, header.parent_version);
                            lineage.gaps.insert(number, gap);
                        }
                        let first = *orphans.entry(link.chain).or_insert(number);
                        lineage.join(first, number);
                    }
                    Some(other) if tie(image, other, &link, parent) == Tie::Holds => {
                        lineage.ties.entry(number).or_default().push(link.image);
                        lineage.join(link.image, number);
                    }
                    Some(_) => lineage.broken.push((number, link.image)),
                }
            }
        }
        lineage
    }

    fn join(&mut self, one: u64, other: u64) {
        let (one, other) = (self.group(one), self.group(other));
        for group in self.groups.values_mut() {
            if *group == other {
                *group = one;
            }
        }
    }

    /// The history of an image.
    pub(crate) fn group(&self, image: u64) -> u64 {
        self.groups.get(&image).copied().unwrap_or(image)
    }

    /// Whether an image counts as the child which its header says it is.
    pub(crate) fn continues(&self, child: u64, parent: u64) -> bool {
        self.unchained.contains(&child)
            || self
                .ties
                .get(&child)
                .is_some_and(|ties| ties.contains(&parent))
    }

    /// Images to which a version in this image may refer.
    pub(crate) fn reach(&self, image: u64) -> BTreeSet<u64> {
        let mut reach = BTreeSet::new();
        let mut next = vec![image];
        while let Some(image) = next.pop() {
            if !reach.insert(image) {
                continue;
            }
            if self.unchained.contains(&image) {
                next.extend(self.unchained.range(..image));
            }
            next.extend(self.ties.get(&image).into_iter().flatten());
        }
        reach
    }

    /// An image which is missing in what this one continues.
    pub(crate) fn gap(&self, image: u64) -> Option<u64> {
        let reach = self.reach(image);
        reach
            .iter()
            .find_map(|image| self.gaps.get(image).map(|gap| gap.0))
    }

    /// The history of an image, and those below what is missing or damaged in
    /// it, as far as nothing says that they are of another one.
    pub(crate) fn line(&self, group: u64, found: &BTreeMap<u64, Vec<Version>>) -> BTreeSet<u64> {
        let mut line = BTreeSet::from([group]);
        // Two histories: what has no tie may be of either.
        if !self.broken.is_empty() {
            return line;
        }
        let mut tops: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (&image, versions) in found {
            let most = versions.iter().map(|version| version.number).max();
            if let Some(most) = most {
                let top = tops.entry(self.group(image)).or_default();
                *top = (image, most.max(top.1));
            }
        }
        // From the top: a lower one may be below a gap in a higher one.
        let mut lower: Vec<_> = tops.into_iter().map(|(group, top)| (top, group)).collect();
        lower.sort_unstable();
        for ((image, version), lower) in lower.into_iter().rev() {
            let below = |(child, gap): (&u64, &(u64, u64))| {
                line.contains(&self.group(*child)) && image < gap.0 && version <= gap.1
            };
            if self.gaps.iter().any(below) {
                line.insert(lower);
            }
        }
        line
    }

    /// The lowest image which is missing in these histories above an image.
    pub(crate) fn above(&self, image: u64, line: &BTreeSet<u64>) -> Option<u64> {
        let of = self
            .gaps
            .iter()
            .filter(|(child, _)| line.contains(&self.group(**child)));
        of.map(|(_, gap)| gap.0).filter(|gap| *gap > image).min()
    }

    /// Whether it knows the image: not one which was made since.
    pub(crate) fn knows(&self, image: u64) -> bool {
        self.groups.contains_key(&image)
    }
}

/// Whether an image refers to another one as that is.
fn tie(image: &Opened, other: &(Opened, Vec<Version>), link: &Link, parent: bool) -> Tie {
    let (opened, frames) = other;
    let holds = if parent {
        let bytes = image.header.parent_bytes;
        let at = frames
            .iter()
            .find(|frame| frame.offset + frame.bytes == bytes)
            .map(|frame| frame.chain);
        let start = (bytes == opened.header.bytes() as u64).then_some(opened.chain);
        at.or(start).map(|chain| chain == link.chain)
    } else {
        let there = frames.iter().any(|frame| frame.chain == link.chain);
        let end = frames.last().map(|last| last.offset + last.bytes);
        let whole = end == Some(opened.bytes);
        (there || whole).then_some(there)
    };
    // Where a header is damaged no hash can be had behind it.
    let same = if parent {
        opened.header.id[..8] == image.header.parent_id
    } else {
        opened.header.id[..4] == image.header.also.id
    };
    match holds {
        Some(true) => Tie::Holds,
        None if same => Tie::Holds,
        Some(false) | None => Tie::Broken,
    }
}
