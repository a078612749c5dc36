// SPDX-License-Identifier: MIT OR Apache-2.0
//! Versions as they come in, until they are applied.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::wire::{Begin, GROUP_PAGES, GROUP_VERSIONS, Reason, Refusal, WireError};
use hvckpt_store::parts::{AreaShape, Bulk, Record, read_record};
use hvckpt_store::parts::{Batch, Change, Shared, io_error};
use hvckpt_store::{Page, StoreError};

/// A group of versions, complete.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) batches: Vec<Arc<Batch>>,
    /// Areas from the first version on, and whether it is a base.
    pub(crate) shape: Option<(bool, Vec<AreaShape>)>,
}

#[derive(Debug)]
struct Current {
    begin: Begin,
    changes: Vec<Change>,
    spool: Option<Spool>,
    seen: u64,
}

/// Puts groups together.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The newest version which is there or complete.
    last: u64,
    group: Group,
    current: Option<Current>,
    /// Pages of the group, which later versions in it may differ from.
    fresh: HashMap<(u32, u64), Page>,
    pages: usize,
    /// Areas as the newest version has them.
    areas: Vec<AreaShape>,
}

fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, what)
}

impl Incoming {
    pub(crate) fn new(last: u64, areas: Vec<AreaShape>) -> Self {
        Self {
            last,
            group: Group::default(),
            current: None,
            fresh: HashMap::new(),
            pages: 0,
            areas,
        }
    }

    /// A version begins.  Large ones are kept in a file in the directory.
    pub(crate) fn begin(&mut self, begin: Begin, directory: &Path) -> Result<(), Refusal> {
        if self.current.is_some() {
            return Err(malformed("a version begins inside another"));
        }
        if begin.previous != self.last {
            let mut refusal = Refusal::new(
                Reason::Gap,
                format!("version {} follows {}", begin.version, begin.previous),
            );
            refusal.version = self.last;
            return Err(refusal);
        }
        let alone = begin.bulk || begin.areas.is_some();
        let full = self.group.batches.len() >= GROUP_VERSIONS;
        if full || (alone && !self.group.batches.is_empty()) || self.group.shape.is_some() {
            return Err(malformed("a group is too large"));
        }
        if let Some(areas) = &begin.areas {
            self.areas.clone_from(areas);
            self.group.shape = Some((begin.base, areas.clone()));
        }
        let spool = begin
            .bulk
            .then(|| Spool::new(directory))
            .transpose()
            .map_err(|error| disk(&error))?;
        self.current = Some(Current {
            begin,
            changes: Vec::new(),
            spool,
            seen: 0,
        });
        Ok(())
    }

    /// Pages of the version which began.
    pub(crate) fn pages(&mut self, mut bytes: &[u8], shared: &Shared) -> Result<(), Refusal> {
        let Some(current) = &mut self.current else {
            return Err(malformed("pages without a version"));
        };
        while !bytes.is_empty() {
            let (record, rest) =
                read_record(bytes).ok_or_else(|| malformed(WireError::Record.to_string()))?;
            let raw = &bytes[..bytes.len() - rest.len()];
            bytes = rest;
            let inside = self
                .areas
                .get(record.area() as usize)
                .is_some_and(|area| record.page() < area.pages);
            if !inside {
                return Err(malformed("a page is outside of every area"));
            }
            current.seen += 1;
            if let Some(spool) = &mut current.spool {
                let most: u64 = self.areas.iter().map(|area| area.pages).sum();
                if record.difference() || current.seen > most {
                    return Err(malformed("a large version has whole pages, each once"));
                }
                right(&record, None)?;
                spool.push(raw).map_err(|error| disk(&error))?;
                continue;
            }
            self.pages += 1;
            if self.pages > GROUP_PAGES {
                return Err(malformed("a group is too large"));
            }
            let key = (record.area(), record.page());
            let old = match self.fresh.get(&key) {
                _ if !record.difference() => None,
                Some(page) => Some(*page),
                None => Some(shared.page(key.0, key.1).map_err(|error| refuse(&error))?),
            };
            let change = right(&record, old.as_ref())?;
            self.fresh.insert(key, Page(*change.new));
            current.changes.push(change);
        }
        Ok(())
    }

    /// The version is complete.
    pub(crate) fn end(&mut self, version: u64, pages: u64) -> Result<(), Refusal> {
        let Some(current) = self.current.take() else {
            return Err(malformed("a version ends which did not begin"));
        };
        if current.begin.version != version || current.seen != pages {
            return Err(malformed("a version is not complete"));
        }
        let mut batch = Batch::new(version, current.begin.time, Arc::new(current.changes));
        if let Some(spool) = current.spool {
            batch.bulk = Some(Arc::new(spool.done().map_err(|error| disk(&error))?));
        }
        self.last = version;
        self.group.batches.push(Arc::new(batch));
        Ok(())
    }

    /// The versions since the last call, all complete.
    pub(crate) fn take(&mut self) -> Result<Group, Refusal> {
        if self.current.is_some() {
            return Err(malformed("a version is not complete"));
        }
        self.fresh.clear();
        self.pages = 0;
        Ok(core::mem::take(&mut self.group))
    }
}

fn right(record: &Record<'_>, old: Option<&Page>) -> Result<Change, Refusal> {
    record.change(old).ok_or_else(|| {
        Refusal::new(
            Reason::Mismatch,
            format!("page {} does not come out right", record.page()),
        )
    })
}

fn disk(error: &io::Error) -> Refusal {
    let reason = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::Full,
        _ => Reason::Unavailable,
    };
    Refusal::new(reason, error.to_string())
}

/// What a store's trouble is to a primary.
pub(crate) fn refuse(error: &StoreError) -> Refusal {
    let reason = match error {
        StoreError::Full { .. } => Reason::Full,
        StoreError::Damaged(_) | StoreError::Future { .. } => Reason::Damaged,
        StoreError::Shape { .. } => Reason::Mismatch,
        _ => Reason::Unavailable,
    };
    Refusal::new(reason, hvckpt_sys::explain(error))
}

/// Records of a large version in a file without a name, so that memory stays
/// bounded and a crash leaves nothing.
#[derive(Debug)]
pub(crate) struct Spool {
    file: BufWriter<File>,
}

/// A spool which is complete.
#[derive(Debug)]
struct Spooled(File);

impl Spool {
    fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join("incoming.tmp");
        // One of a run which was killed may be there.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self {
            file: BufWriter::with_capacity(256 << 10, file),
        })
    }

    fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(record)
    }

    fn done(self) -> io::Result<Spooled> {
        self.file
            .into_inner()
            .map(Spooled)
            .map_err(io::IntoInnerError::into_error)
    }
}

/// Reads from the beginning, whoever else reads.
struct From<'f> {
    file: &'f File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(out, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn next(from: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<Change>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    buffer.resize(u32::from_le_bytes(length) as usize, 0);
    from.read_exact(buffer)?;
    let change = read_record(buffer).and_then(|(record, _)| record.change(None));
    Ok(Some(change.ok_or(io::ErrorKind::InvalidData)?))
}

impl Bulk for Spooled {
    fn changes(&self) -> Box<dyn Iterator<Item = Result<Change, StoreError>> + '_> {
        let file = &self.0;
        let mut from = BufReader::with_capacity(256 << 10, From { file, at: 0 });
        let mut buffer = Vec::new();
        Box::new(core::iter::from_fn(move || {
            next(&mut from, &mut buffer)
                .map_err(|error| io_error("read", "incoming.tmp", error))
                .transpose()
        }))
    }
}
