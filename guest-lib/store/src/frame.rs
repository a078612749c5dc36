// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing images: frames appended to a file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::backend::{Backend, File};
use super::error::{IMAGE_NUMBERS, StoreError, io};
use super::format::{
    Chain, FANOUT, FRAME_HEADER, FrameHeader, IMAGE_HEADER, ImageHeader, NodeId, Place,
    encode_areas, encode_delta, encode_node,
};
use super::handover::Handover;
use super::images::ImageFile;
use super::index::{AreaIndex, NodeSink, Undo, delta};
use super::page::{Difference, Encoder, WORDS, Words, runs, runs_into};
use super::scan::Version;
use super::seal::{Object, Seal};
use hvckpt_sys::PAGE_SIZE;

/// A frame which is larger is not kept in memory as a whole.
const SPILL: usize = 8 << 20;
/// Differences on top of each other at most, of pages and of nodes.  Every
/// page is read alone, but an index as a whole.
const MAX_DEPTH: u8 = 16;
const MAX_NODE_DEPTH: u8 = 8;

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A page to write.
#[derive(Debug, Clone)]
pub struct Change {
    /// Number of the area.
    pub area: u32,
    /// Index of the page in the area.
    pub page: u64,
    /// What it is now.
    pub new: Words,
    /// What it was.
    pub before: Before,
    /// What changed, as words, where a tracker logged them.
    pub words: Option<Vec<u8>>,
    /// With whoever else encodes it.
    pub shared: Option<Handover>,
}

/// What is known of a page in the version before.
#[derive(Debug, Clone)]
pub enum Before {
    /// Nothing.
    Unknown,
    /// All of it.
    Page(Words),
    /// What differs, as runs.
    Runs(Vec<u8>),
}

impl Before {
    /// What differs from an older page, if that is little.
    pub fn runs(old: &[u64; WORDS], new: &[u64; WORDS]) -> Self {
        runs(old, new).map_or(Self::Unknown, Self::Runs)
    }
}

impl Change {
    /// What changed, as runs, if that is known and little.  `room`: a buffer
    /// which is used again.
    pub(crate) fn runs<'r>(&'r self, room: &'r mut Vec<u8>) -> Option<&'r [u8]> {
        match &self.before {
            Before::Unknown => None,
            Before::Page(old) => runs_into(old, &self.new, room).then_some(&**room),
            Before::Runs(runs) => Some(runs),
        }
    }

    /// Whether the page is known to be what it was.
    #[must_use]
    pub fn same(&self) -> bool {
        matches!(&self.before, Before::Page(old) if **old == *self.new)
    }

    /// What it takes in memory, in bytes.  The page before is mostly that of
    /// another change, and counted there.
    pub(crate) fn bytes(&self) -> usize {
        let runs = match &self.before {
            Before::Runs(runs) => runs.len(),
            Before::Unknown | Before::Page(_) => 0,
        };
        PAGE_SIZE + runs + self.words.as_ref().map_or(0, Vec::len)
    }
}

/// What a frame says about its version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) version: u64,
    pub(crate) previous: u64,
    pub(crate) synced: u64,
    pub(crate) floor: u64,
    pub(crate) time: u64,
}

/// An image being written.
#[derive(Debug)]
pub(crate) struct Out {
    file: Arc<dyn File>,
    seal: Option<Seal>,
    pub(crate) name: String,
    pub(crate) image: u64,
    pub(crate) id: [u8; 16],
    /// What the next frame continues.
    chain: Chain,
    /// Where in the file `buffer` begins.
    at: u64,
    buffer: Vec<u8>,
    /// Room for what changed in a page.
    runs: Vec<u8>,
    /// How deep the pages lie which this image has.
    depths: HashMap<(u32, u64), u8>,
    node_depths: HashMap<NodeId, u8>,
}

impl Out {
    /// A file with a header, not durable yet.
    pub(crate) fn create(
        backend: &dyn Backend,
        name: String,
        header: &ImageHeader,
    ) -> Result<Self, StoreError> {
        if header.image > Place::MAX_IMAGE {
            return Err(StoreError::Exhausted(IMAGE_NUMBERS));
        }
        let create = || match backend.create(&name) {
            // Of an attempt which failed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                backend.remove(&name)?;
                backend.create(&name)
            }
            other => other,
        };
        let file = create().map_err(|error| io("create", &name, error))?;
        let bytes = header.encode();
        if let Err(error) = file.write_at(&bytes, 0) {
            let _leftover = backend.remove(&name);
            return Err(io("write", &name, error));
        }
        let at = IMAGE_HEADER as u64;
        Ok(Self {
            file,
            seal: header.sealing.as_ref().map(|sealing| sealing.seal.clone()),
            name,
            image: header.image,
            id: header.id,
            chain: Chain::image(&bytes),
            at,
            buffer: Vec::new(),
            runs: Vec::new(),
            depths: HashMap::new(),
            node_depths: HashMap::new(),
        })
    }

    /// For those who read it.
    pub(crate) fn opened(&self) -> ImageFile {
        ImageFile {
            file: self.file.clone(),
            seal: self.seal.clone(),
        }
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// What the next frame continues.
    pub(crate) fn chain(&self) -> Chain {
        self.chain
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        self.file
            .write_at(&self.buffer, self.at)
            .map_err(|error| io("write", &self.name, error))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is still in memory.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            self.spill()
        }
    }

    /// Forgets what was written behind a position.  What is appended after that
    /// needs [`Self::resume`].
    ///
    /// # Errors
    /// It may come back after a crash.
    pub(crate) fn cut(&mut self, position: u64) -> std::io::Result<()> {
        self.buffer.clear();
        self.depths.clear();
        self.node_depths.clear();
        self.at = position;
        self.file.truncate(position).and_then(|()| self.file.sync())
    }

    /// Goes on where the chain was this.
    pub(crate) fn resume(&mut self, chain: Chain) {
        self.chain = chain;
    }

    /// Appends a version: records, nodes, areas, and the header in front.
    pub(crate) fn frame<'a>(
        &mut self,
        encoder: &mut Encoder,
        areas: &mut [AreaIndex],
        changes: impl Iterator<Item = Result<Cow<'a, Change>, StoreError>>,
        meta: Meta,
        undo: &mut Vec<(usize, Undo)>,
    ) -> Result<Version, StoreError> {
        let start = self.position();
        self.buffer.resize(self.buffer.len() + FRAME_HEADER, 0);
        let mut crc = 0;
        // Where in the buffer the checksum has not been yet.
        let mut summed = self.buffer.len();
        let mut records = 0;
        let mut list = Vec::new();
        for change in changes {
            let change = change?;
            let Some(index) = areas.get_mut(change.area as usize) else {
                continue;
            };
            let old = index.get(change.page);
            let zero = change.new.iter().all(|&word| word == 0);
            if change.same() || (zero && old.is_zero()) {
                // Trackers may name more than was changed.
                continue;
            }
            let place = if zero {
                Place::ZERO
            } else {
                records += 1;
                self.record(encoder, old, &change)
            };
            index.set(change.page, place, &mut list);
            undo.extend(list.drain(..).map(|undo| (change.area as usize, undo)));
            if self.buffer.len() > SPILL {
                crc = crc32c::crc32c_append(crc, &self.buffer[summed..]);
                summed = 0;
                self.spill()?;
            }
        }
        let mut nodes = 0;
        for (number, index) in areas.iter_mut().enumerate() {
            // At most MAX_AREAS.
            let area = u32::try_from(number).unwrap_or(u32::MAX);
            nodes += index.write(area, self, &mut list);
            undo.extend(list.drain(..).map(|undo| (number, undo)));
        }
        let table = self.position() - start - FRAME_HEADER as u64;
        let entries: Vec<_> = areas.iter().map(AreaIndex::entry).collect();
        self.object(Object::Areas, |out| encode_areas(out, &entries));
        crc = crc32c::crc32c_append(crc, &self.buffer[summed..]);
        let body = self.position() - start - FRAME_HEADER as u64;
        if self.position() > Place::MAX_OFFSET {
            return Err(StoreError::Exhausted("bytes in an image"));
        }
        let header = FrameHeader {
            image: self.image,
            version: meta.version,
            previous: meta.previous,
            time: meta.time,
            synced: meta.synced,
            floor: meta.floor,
            body,
            records,
            nodes,
            areas: table,
            body_crc: crc,
            chain: self.chain,
        };
        self.header(start, &header)?;
        Ok(Version {
            number: meta.version,
            previous: meta.previous,
            time: meta.time,
            image: self.image,
            offset: start,
            bytes: FRAME_HEADER as u64 + body,
            records,
            nodes,
            floor: meta.floor,
            areas: table,
            chain: self.chain,
            synced: meta.synced,
        })
    }

    /// Appends an object, sealed if the image is.
    fn object<T>(&mut self, object: Object, encode: impl FnOnce(&mut Vec<u8>) -> T) -> (Place, T) {
        let (position, start) = (self.position(), self.buffer.len());
        let result = encode(&mut self.buffer);
        if let Some(seal) = &self.seal {
            seal.seal(object, position, &mut self.buffer, start);
        }
        (Place::new(self.image, position), result)
    }

    fn record(&mut self, encoder: &mut Encoder, old: Place, change: &Change) -> Place {
        let key = (change.area, change.page);
        // A difference never leaves its image: images can be removed.
        let depth = self.depths.get(&key).copied();
        let depth = depth.filter(|&depth| depth < MAX_DEPTH && old.image() == self.image);
        let mut room = core::mem::take(&mut self.runs);
        let runs = depth.and_then(|_| change.runs(&mut room));
        let difference = depth
            .map(|depth| Difference {
                runs,
                words: change.words.as_deref(),
                base: old,
                depth,
            })
            .filter(|difference| difference.runs.is_some() || difference.words.is_some());
        let (place, depth) = self.object(Object::Record, |out| {
            let shared = change.shared.as_ref();
            encoder.encode(
                out,
                change.area,
                change.page,
                &change.new,
                difference,
                shared,
            )
        });
        self.runs = room;
        self.depths.insert(key, depth);
        place
    }

    fn header(&mut self, start: u64, header: &FrameHeader) -> Result<(), StoreError> {
        let bytes = header.encode(self.seal.as_ref(), start);
        self.chain = self.chain.then(&bytes);
        if start >= self.at {
            let from = super::format::size(start - self.at);
            self.buffer[from..from + FRAME_HEADER].copy_from_slice(&bytes);
            return Ok(());
        }
        self.spill()?;
        self.file
            .write_at(&bytes, start)
            .map_err(|error| io("write", &self.name, error))
    }
}

impl NodeSink for Out {
    fn node(&mut self, id: NodeId, children: &[Place; FANOUT], slots: u64, old: Place) -> Place {
        let depth = self.node_depths.get(&id).copied();
        let changed = match depth {
            Some(depth) if depth < MAX_NODE_DEPTH && old.image() == self.image => {
                delta(children, slots).map(|changed| (changed, depth + 1))
            }
            _ => None,
        };
        let (place, ()) = self.object(Object::Node, |out| match &changed {
            Some((changed, _)) => encode_delta(out, id, old, changed),
            None => encode_node(out, id, children),
        });
        self.node_depths
            .insert(id, changed.map_or(0, |(_, depth)| depth));
        place
    }
}
