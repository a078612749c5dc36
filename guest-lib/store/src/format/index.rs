// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of a version: its table of areas, and the nodes of their trees.

use super::{AREA, FANOUT, MAX_AREAS, MAX_PAGES, NODE, Place, put, u32_at, u64_at};
use hvckpt_sys::PAGE_SIZE;

const NAME: usize = 48;
/// Levels which `u64` pages could need.
const MAX_LEVELS: u32 = 6;
/// Bytes in front of the children.
const HEAD: usize = 24;
/// Children in a node which says what changed, at most: their slots are one
/// word.
pub(crate) const MAX_DELTA: usize = 8;

/// An area as a version has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AreaEntry {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) pages: u64,
    pub(crate) root: Place,
}

/// Levels of nodes over `pages` pages.
pub(crate) fn levels(pages: u64) -> u32 {
    let mut levels = 1;
    let mut reach = FANOUT as u64;
    while reach < pages && levels < MAX_LEVELS {
        reach *= FANOUT as u64;
        levels += 1;
    }
    levels
}

/// What is wrong with a name, if anything.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME {
        Some("a name has 1 to 48 bytes")
    } else if name.contains('\0') {
        Some("a name has no zero byte")
    } else {
        None
    }
}

pub(crate) fn encode_areas(out: &mut Vec<u8>, areas: &[AreaEntry]) {
    let start = out.len();
    out.extend([0; 8]);
    for area in areas {
        let mut entry = [0; AREA];
        put(&mut entry, 0, area.name.as_bytes());
        put(&mut entry, 56, &area.address.to_le_bytes());
        put(&mut entry, 64, &area.pages.to_le_bytes());
        put(&mut entry, 72, &area.root.0.to_le_bytes());
        out.extend(entry);
    }
    // No more than MAX_AREAS.
    let count = u32::try_from(areas.len()).unwrap_or(u32::MAX);
    put(&mut out[start..], 4, &count.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..]);
    put(&mut out[start..], 0, &crc.to_le_bytes());
}

pub(crate) fn decode_areas(bytes: &[u8]) -> Option<Vec<AreaEntry>> {
    if bytes.len() < 8 || u32_at(bytes, 0) != crc32c::crc32c(&bytes[4..]) {
        return None;
    }
    let count = u32_at(bytes, 4) as usize;
    if count > MAX_AREAS || bytes.len() != 8 + count * AREA {
        return None;
    }
    bytes[8..]
        .chunks_exact(AREA)
        .map(|entry| {
            let end = entry[..NAME].iter().position(|&b| b == 0).unwrap_or(NAME);
            let name = core::str::from_utf8(&entry[..end]).ok()?.to_owned();
            let area = AreaEntry {
                name,
                address: u64_at(entry, 56),
                pages: u64_at(entry, 64),
                root: Place(u64_at(entry, 72)),
            };
            let page = PAGE_SIZE as u64;
            let sane = name_fault(&area.name).is_none()
                && (1..=MAX_PAGES).contains(&area.pages)
                && area.address.is_multiple_of(page)
                && area
                    .address
                    .checked_add(area.pages * page)
                    .is_some_and(|end| end <= 1 << 47);
            sane.then_some(area)
        })
        .collect()
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// The places of 64 pages, or of 64 nodes of the level below.
    Full(Box<[Place; FANOUT]>),
    /// Which places differ from those of another node.
    Delta {
        /// That node, which lies before in the same image.
        base: Place,
        /// Slots and what is there now.
        changed: Vec<(usize, Place)>,
    },
}

/// Where a node belongs: its area, its level, its number in the level.
pub(crate) type NodeId = (u32, u32, u64);

fn encode(
    out: &mut Vec<u8>,
    (area, level, number): NodeId,
    size: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let start = out.len();
    out.resize(start + size, 0);
    let node = &mut out[start..];
    put(node, 4, &level.to_le_bytes());
    put(node, 8, &area.to_le_bytes());
    put(node, 16, &number.to_le_bytes());
    fill(node);
    let crc = crc32c::crc32c(&node[4..]);
    put(node, 0, &crc.to_le_bytes());
}

/// Appends a node with all its children.
pub(crate) fn encode_node(out: &mut Vec<u8>, id: NodeId, children: &[Place; FANOUT]) {
    encode(out, id, NODE, |node| {
        for (n, child) in children.iter().enumerate() {
            put(node, HEAD + 8 * n, &child.0.to_le_bytes());
        }
    });
}

/// Appends a node which says what changed: 1 to [`MAX_DELTA`] children.
pub(crate) fn encode_delta(out: &mut Vec<u8>, id: NodeId, base: Place, changed: &[(usize, Place)]) {
    encode(out, id, HEAD + 16 + 8 * changed.len(), |node| {
        // At most MAX_DELTA, and slots are below 64.
        node[12] = u8::try_from(changed.len()).unwrap_or(u8::MAX);
        put(node, HEAD, &base.0.to_le_bytes());
        for (n, (slot, child)) in changed.iter().enumerate() {
            node[HEAD + 8 + n] = u8::try_from(*slot).unwrap_or(u8::MAX);
            put(node, HEAD + 16 + 8 * n, &child.0.to_le_bytes());
        }
    });
}

/// The node at the beginning of the bytes, if it is the one expected.
pub(crate) fn decode_node(bytes: &[u8], (area, level, number): NodeId) -> Option<Node> {
    let entries = usize::from(*bytes.get(12)?);
    let size = match entries {
        0 => NODE,
        1..=MAX_DELTA => HEAD + 16 + 8 * entries,
        _ => return None,
    };
    let bytes = bytes.get(..size)?;
    let good = u32_at(bytes, 0) == crc32c::crc32c(&bytes[4..])
        && u32_at(bytes, 4) == level
        && u32_at(bytes, 8) == area
        && u64_at(bytes, 16) == number;
    if !good {
        return None;
    }
    let place = |at: usize| Place(u64_at(bytes, at));
    if entries == 0 {
        let children = core::array::from_fn(|n| place(HEAD + 8 * n));
        return Some(Node::Full(Box::new(children)));
    }
    let slots = bytes[HEAD + 8..HEAD + 8 + entries]
        .iter()
        .map(|&slot| usize::from(slot));
    let changed: Vec<_> = slots.zip((HEAD + 16..).step_by(8).map(place)).collect();
    let sane = changed.iter().all(|(slot, _)| *slot < FANOUT);
    sane.then(|| Node::Delta {
        base: place(HEAD),
        changed,
    })
}
