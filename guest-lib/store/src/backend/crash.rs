// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated disk which loses power.  For tests: everything is in memory.
//!
//! Until a sync returns, the disk may have any of the 512-byte sectors of any
//! write, in any order, and anything in between them; and any of the changes
//! of names.
//!
//! A sync which fails does what Linux does: what it was for counts as written
//! from then on, though the disk has some of it at most.  Programs go on seeing
//! it until the power fails, and later syncs, which succeed, leave it out.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, File, Held, Hold};

const SECTOR: usize = 512;

/// A disk in memory.  Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::Truncate(len) => bytes.resize(*len, 0),
        }
    }
}

#[derive(Debug, Clone)]
enum Name {
    Create(String, usize),
    /// From, to, and the file.
    Rename(String, String, usize),
    Remove(String),
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// As programs see it.
    now: Vec<u8>,
    /// As it is on the platter.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<Name>,
    locked: Option<Arc<AtomicBool>>,
    /// Changes and syncs until the power fails.
    left: Option<u64>,
    /// Bytes until the disk is full.
    space: Option<u64>,
    read_only: bool,
    refusal: Option<Refusal>,
    operations: u64,
}

/// Syncs which fail.
#[derive(Debug)]
struct Refusal {
    errno: i32,
    /// One in so many does.
    one_in: u64,
    seed: u64,
}

/// xorshift64*: repeatable.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl State {
    /// Counts a change; no more once the power failed.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => return Err(error(libc::EIO)),
            Some(left) => *left -= 1,
            None => {}
        }
        self.operations += 1;
        if self.read_only {
            Err(error(libc::EROFS))
        } else {
            Ok(())
        }
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| error(libc::ENOENT))
    }

    /// The answer to a sync which fails, and how much of it reaches the disk
    /// all the same, of 100.
    fn refuse(&mut self) -> Option<(i32, u64, &mut u64)> {
        let refusal = self.refusal.as_mut()?;
        if !random(&mut refusal.seed).is_multiple_of(refusal.one_in) {
            return None;
        }
        let luck = random(&mut refusal.seed) % 101;
        Some((refusal.errno, luck, &mut refusal.seed))
    }

    fn name(&mut self, change: Name) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl CrashDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes and syncs so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets the power fail after so many more changes and syncs.
    pub fn cut_after(&self, operations: u64) {
        self.state().left = Some(operations);
    }

    /// Whether the power did not fail yet.
    #[must_use]
    pub fn powered(&self) -> bool {
        self.state().left != Some(0)
    }

    /// Lets the disk be full after so many more bytes; `None`: never.
    pub fn space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Refuses every change.
    pub fn read_only(&self, yes: bool) {
        self.state().read_only = yes;
    }

    /// Lets one sync in `one_in` fail, with the number of an error, repeatably;
    /// `None`: no more.
    pub fn fail_syncs(&self, errno: Option<i32>, one_in: u64, seed: u64) {
        self.state().refusal = errno.map(|errno| Refusal {
            errno,
            one_in: one_in.max(1),
            seed: seed | 1,
        });
    }

    /// Lets every sync fail.
    pub fn fail_sync(&self, yes: bool) {
        self.fail_syncs(yes.then_some(libc::EIO), 1, 1);
    }

    /// Bytes of a file as they are now.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .node(name)
            .ok()
            .map(|node| state.nodes[node].now.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let node = state.nodes.len();
        let (now, durable) = (bytes.to_vec(), bytes.to_vec());
        state.nodes.push(Node {
            now,
            durable,
            unsynced: Vec::new(),
        });
        state.names.insert(name.to_owned(), node);
        state.durable_names.insert(name.to_owned(), node);
    }

    /// A disk with the same files.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let state = self.state();
        for (name, &node) in &state.names {
            copy.put(name, &state.nodes[node].now);
        }
        copy
    }

    /// What a machine finds which starts after the power failed now.
    #[must_use]
    pub fn after_crash(&self, seed: u64) -> Self {
        let mut seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let state = self.state();
        let mut names = state.durable_names.clone();
        // Some disks lose nearly everything, some nearly nothing.
        let luck = random(&mut seed) % 101;
        for change in &state.unsynced_names {
            if random(&mut seed) % 100 < luck {
                change.apply(&mut names);
            }
        }
        let found = Self::new();
        for (name, node) in names {
            let node = &state.nodes[node];
            let mut bytes = node.durable.clone();
            for change in &node.unsynced {
                tear(change, &mut bytes, luck, &mut seed);
            }
            found.put(&name, &bytes);
        }
        found
    }
}

fn tear(change: &Change, bytes: &mut Vec<u8>, luck: u64, seed: &mut u64) {
    let Change::Write(at, data) = change else {
        if random(seed) % 100 < luck {
            change.apply(bytes);
        }
        return;
    };
    let old = bytes.len();
    let mut from = 0;
    while from < data.len() {
        // Sectors of the disk, not of the write.
        let to = data.len().min(from + SECTOR - (at + from) % SECTOR);
        if random(seed) % 100 < luck {
            Change::Write(at + from, data[from..to].to_vec()).apply(bytes);
        } else if random(seed).is_multiple_of(8) && at + from >= old {
            // A block which was somebody else's before.
            let junk = (from..to).map(|_| random(seed).to_le_bytes()[0]).collect();
            Change::Write(at + from, junk).apply(bytes);
        }
        from = to;
    }
}

impl Backend for CrashDisk {
    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        let node = state.node(name)?;
        if write && state.read_only {
            return Err(error(libc::EROFS));
        }
        Ok(Arc::new(Opened {
            disk: self.clone(),
            node,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(name) {
            return Err(error(libc::EEXIST));
        }
        let node = state.nodes.len();
        state.nodes.push(Node::default());
        state.name(Name::Create(name.to_owned(), node));
        Ok(Arc::new(Opened {
            disk: self.clone(),
            node,
        }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        if self.state().names.contains_key(to) {
            return Err(error(libc::EEXIST));
        }
        self.rename(from, to)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let node = state.node(from)?;
        state.name(Name::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.node(name)?;
        state.name(Name::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let changes = core::mem::take(&mut state.unsynced_names);
        let mut names = core::mem::take(&mut state.durable_names);
        let refused = state.refuse().map(|(errno, luck, seed)| {
            let some = changes.iter().filter(|_| random(seed) % 100 < luck);
            some.for_each(|change| change.apply(&mut names));
            errno
        });
        if refused.is_none() {
            changes.iter().for_each(|change| change.apply(&mut names));
        }
        state.durable_names = names;
        refused.map_or(Ok(()), |errno| Err(error(errno)))
    }

    fn lock(&self) -> io::Result<Option<Arc<dyn Hold>>> {
        let mut state = self.state();
        if state.read_only {
            return Err(error(libc::EROFS));
        }
        if state
            .locked
            .as_ref()
            .is_some_and(|held| held.load(Ordering::Acquire))
        {
            return Ok(None);
        }
        let held = Arc::new(AtomicBool::new(true));
        state.locked = Some(held.clone());
        Ok(Some(Arc::new(Lock(held))))
    }
}

#[derive(Debug)]
struct Lock(Arc<AtomicBool>);

impl Hold for Lock {
    fn check(&self) -> io::Result<Held> {
        Ok(Held::Still)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct Opened {
    disk: CrashDisk,
    node: usize,
}

impl File for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().nodes[self.node].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = &state.nodes[self.node].now;
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let at = usize::try_from(offset).map_err(|_| error(libc::EFBIG))?;
        let room = state.space.map_or(bytes.len(), |space| {
            bytes
                .len()
                .min(usize::try_from(space).unwrap_or(usize::MAX))
        });
        if let Some(space) = &mut state.space {
            *space -= room as u64;
        }
        let change = Change::Write(at, bytes[..room].to_vec());
        let node = &mut state.nodes[self.node];
        change.apply(&mut node.now);
        node.unsynced.push(change);
        if room < bytes.len() {
            Err(error(libc::ENOSPC))
        } else {
            Ok(())
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let change = Change::Truncate(usize::try_from(bytes).map_err(|_| error(libc::EFBIG))?);
        let node = &mut state.nodes[self.node];
        change.apply(&mut node.now);
        node.unsynced.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let node = &mut state.nodes[self.node];
        let changes = core::mem::take(&mut node.unsynced);
        let mut durable = core::mem::take(&mut node.durable);
        let refused = state.refuse().map(|(errno, luck, seed)| {
            for change in &changes {
                tear(change, &mut durable, luck, seed);
            }
            // Where blocks are found late, what has none is not there any more.
            (
                errno,
                errno == libc::ENOSPC && random(seed).is_multiple_of(2),
            )
        });
        if refused.is_none() {
            changes.iter().for_each(|change| change.apply(&mut durable));
        }
        let node = &mut state.nodes[self.node];
        if let Some((_, true)) = refused {
            let size = node.now.len();
            node.now.clone_from(&durable);
            node.now.resize(size, 0);
        }
        node.durable = durable;
        refused.map_or(Ok(()), |(errno, _)| Err(error(errno)))
    }
}
