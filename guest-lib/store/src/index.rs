// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where each page of an area is: a radix tree of 64 children a node, like
//! the page tables of the memory it describes.  A commit writes the nodes on
//! the way to what it changed, and so has a complete index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::StoreError;
use super::format::{AreaEntry, FANOUT, MAX_DELTA, NodeId, Place, levels};
use super::images::Images;

type Node = Box<[Place; FANOUT]>;

const WIDTH: u64 = FANOUT as u64;

/// The index of one area, in memory.
#[derive(Debug, Clone)]
pub(crate) struct AreaIndex {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) pages: u64,
    root: Place,
    /// Pages which are not zero.
    count: u64,
    /// Nodes by level and number; level 0 holds the places of pages.  What is
    /// not there is all zero.
    nodes: Vec<HashMap<u64, Node>>,
    /// Nodes which must be written with the next commit, and which of their
    /// slots, as bits.
    dirty: Vec<BTreeMap<u64, u64>>,
}

/// One place which a commit changed, to take it back.
#[derive(Debug)]
pub(crate) enum Undo {
    Child {
        level: usize,
        index: u64,
        old: Place,
    },
    Root(Place),
}

/// Where nodes are written.
pub(crate) trait NodeSink {
    /// Writes a node of which these slots changed (as bits) since the one at
    /// `old`; where it went.
    fn node(&mut self, id: NodeId, children: &[Place; FANOUT], slots: u64, old: Place) -> Place;
}

/// Of changed slots, what a delta says; `None` if there are too many.
pub(crate) fn delta(children: &[Place; FANOUT], slots: u64) -> Option<Vec<(usize, Place)>> {
    let few = slots.count_ones() as usize <= MAX_DELTA;
    let changed = children.iter().copied().enumerate();
    few.then(|| changed.filter(|(slot, _)| slots & 1 << slot != 0).collect())
}

fn slot(index: u64) -> (u64, usize) {
    (index / WIDTH, super::format::size(index % WIDTH))
}

impl AreaIndex {
    pub(crate) fn new(name: &str, address: u64, pages: u64) -> Self {
        let levels = levels(pages) as usize;
        Self {
            name: name.to_owned(),
            address,
            pages,
            root: Place::ZERO,
            count: 0,
            nodes: vec![HashMap::new(); levels],
            dirty: vec![BTreeMap::new(); levels],
        }
    }

    /// Reads the whole index of a version.
    pub(crate) fn load(images: &Images, area: u32, entry: &AreaEntry) -> Result<Self, StoreError> {
        let mut index = Self::new(&entry.name, entry.address, entry.pages);
        index.root = entry.root;
        let mut above = vec![(0, entry.root)];
        for level in (0..index.nodes.len()).rev() {
            let mut below = Vec::new();
            for (number, place) in above {
                if place.is_zero() {
                    continue;
                }
                // No more than six levels.
                let on_disk = u32::try_from(level).unwrap_or(u32::MAX);
                let node = images.node(place, (area, on_disk, number))?;
                below.extend((number * WIDTH..).zip(node.iter().copied()));
                index.nodes[level].insert(number, node);
            }
            above = below;
        }
        index.recount();
        Ok(index)
    }

    pub(crate) fn entry(&self) -> AreaEntry {
        AreaEntry {
            name: self.name.clone(),
            address: self.address,
            pages: self.pages,
            root: self.root,
        }
    }

    fn child(&self, level: usize, index: u64) -> Place {
        let (node, slot) = slot(index);
        self.nodes[level]
            .get(&node)
            .map_or(Place::ZERO, |node| node[slot])
    }

    fn put(&mut self, level: usize, index: u64, place: Place) -> Place {
        let (node, slot) = slot(index);
        let node = self.nodes[level]
            .entry(node)
            .or_insert_with(|| Box::new([Place::ZERO; FANOUT]));
        let old = core::mem::replace(&mut node[slot], place);
        if level == 0 {
            self.count += u64::from(!place.is_zero());
            self.count -= u64::from(!old.is_zero());
        }
        old
    }

    fn recount(&mut self) {
        let places = self.nodes[0].values().flat_map(|node| node.iter());
        self.count = places.filter(|place| !place.is_zero()).count() as u64;
    }

    /// How many pages are not zero.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Where a page is.
    pub(crate) fn get(&self, page: u64) -> Place {
        self.child(0, page)
    }

    pub(crate) fn set(&mut self, page: u64, place: Place, undo: &mut Vec<Undo>) {
        let old = self.put(0, page, place);
        undo.push(Undo::Child {
            level: 0,
            index: page,
            old,
        });
        self.touch(0, page);
    }

    /// The node with this child must be written.
    fn touch(&mut self, level: usize, index: u64) {
        let (node, slot) = slot(index);
        *self.dirty[level].entry(node).or_default() |= 1 << slot;
    }

    /// Where a node is on disk.
    fn place(&self, level: usize, number: u64) -> Place {
        if level + 1 < self.nodes.len() {
            self.child(level + 1, number)
        } else {
            self.root
        }
    }

    /// Pages which are not zero, in order.
    pub(crate) fn present(&self) -> Vec<(u64, Place)> {
        let mut nodes: Vec<_> = self.nodes[0].iter().collect();
        nodes.sort_unstable_by_key(|(number, _)| **number);
        let children = nodes
            .into_iter()
            .flat_map(|(number, node)| (number * WIDTH..).zip(node.iter().copied()));
        children
            .filter(|&(page, place)| !place.is_zero() && page < self.pages)
            .collect()
    }

    /// Every image it refers to.
    pub(crate) fn images(&self) -> BTreeSet<u64> {
        let children = self
            .nodes
            .iter()
            .flat_map(HashMap::values)
            .flat_map(|node| node.iter());
        let all = children
            .chain([&self.root])
            .filter(|place| !place.is_zero());
        all.map(|place| place.image()).collect()
    }

    /// Writes the nodes which changed.  Returns how many.
    pub(crate) fn write(&mut self, area: u32, out: &mut dyn NodeSink, undo: &mut Vec<Undo>) -> u32 {
        let mut written = 0;
        for level in 0..self.nodes.len() {
            for (number, slots) in self.dirty[level].clone() {
                let old = self.place(level, number);
                let place = match self.nodes[level].get(&number) {
                    Some(node) if node.iter().any(|child| !child.is_zero()) => {
                        // No more than six levels.
                        let on_disk = u32::try_from(level).unwrap_or(u32::MAX);
                        written += 1;
                        out.node((area, on_disk, number), node, slots, old)
                    }
                    _ => Place::ZERO,
                };
                if level + 1 < self.nodes.len() {
                    let old = self.put(level + 1, number, place);
                    undo.push(Undo::Child {
                        level: level + 1,
                        index: number,
                        old,
                    });
                    self.touch(level + 1, number);
                } else {
                    undo.push(Undo::Root(self.root));
                    self.root = place;
                }
            }
        }
        written
    }

    /// What was written is safe.
    pub(crate) fn settle(&mut self) {
        self.dirty.iter_mut().for_each(BTreeMap::clear);
    }

    /// Takes one change back; the youngest first.  What is dirty stays so,
    /// which costs a node and no more.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Root(root) => self.root = root,
            Undo::Child { level, index, old } => {
                self.put(level, index, old);
            }
        }
    }

    /// More pages, all zero.
    pub(crate) fn grow(&mut self, pages: u64) {
        let old = self.nodes.len();
        self.pages = pages;
        for level in old..levels(pages) as usize {
            self.nodes.push(HashMap::new());
            self.dirty.push(BTreeMap::new());
            self.put(level, 0, self.root);
            // The new root must be written.
            self.touch(level, 0);
        }
    }

    /// Takes over copies: whatever is still where `old` has it is from now on
    /// where `new` has it.  Nodes which are not copies must be written in full.
    pub(crate) fn switch(&mut self, old: &Self, new: &Self) {
        // Numbers mean the same in trees of different height.
        for level in 0..self.nodes.len().min(old.nodes.len()) {
            for (&number, before) in &old.nodes[level] {
                // Written anew meanwhile: what lies on disk refers to old places.
                let moved = self.place(level, number) != old.place(level, number);
                let Some(now) = self.nodes[level].get_mut(&number) else {
                    continue;
                };
                for (slot, (now, before)) in now.iter_mut().zip(before.iter()).enumerate() {
                    if *now == *before {
                        *now = new.child(level, number * WIDTH + slot as u64);
                    }
                }
                if moved {
                    self.dirty[level].insert(number, u64::MAX);
                }
            }
        }
        self.recount();
        let top = old.nodes.len() - 1;
        if self.nodes.len() == old.nodes.len() {
            if self.root == old.root {
                self.root = new.root;
            }
        } else if self.child(top + 1, 0) == old.root {
            self.put(top + 1, 0, new.root);
            self.touch(top + 1, 0);
        }
    }
}
