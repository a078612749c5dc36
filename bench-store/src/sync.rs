// SPDX-License-Identifier: MIT OR Apache-2.0
//! Synchronous commits, in turn with bare writes of as many bytes and with the
//! peers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hvckpt::store::{Durability, Durable, StoreKey, StoreOptions};

use crate::peers::{Lmdb, Peer, Redb, Result, Sqlite};
use crate::{PAGES, WORDS, micros, percentile, random, region};

/// A store, and a plain file to which as many bytes are written.
struct Pair {
    name: &'static str,
    store: Durable,
    bare: File,
    /// End of the plain file.
    offset: u64,
    /// What the commit before wrote, in bytes.
    bytes: u64,
    committed: Vec<Duration>,
    written: Vec<Duration>,
    overwritten: Vec<Duration>,
}

impl Pair {
    fn new(directory: &Path, name: &'static str, options: StoreOptions) -> Result<Self> {
        Ok(Self {
            name,
            store: region(directory, name, PAGES, options)?,
            bare: File::create(directory.join(format!("{name}.bare")))?,
            offset: 0,
            bytes: 424,
            committed: Vec::new(),
            written: Vec::new(),
            overwritten: Vec::new(),
        })
    }

    fn commit(&mut self, word: usize, value: u64) -> Result<()> {
        let transaction = self.store.begin()?;
        self.store.atomics_u64()[word].store(value, Relaxed);
        let start = Instant::now();
        transaction.commit(Durability::Sync)?;
        self.committed.push(start.elapsed());
        let versions = self.store.store().versions();
        self.bytes = versions.last().map_or(self.bytes, |last| last.bytes);
        Ok(())
    }

    fn write(&mut self, value: u64) -> Result<()> {
        let data = vec![value.to_le_bytes()[0]; usize::try_from(self.bytes)?];
        let start = Instant::now();
        self.bare.write_all_at(&data, self.offset)?;
        self.bare.sync_data()?;
        self.written.push(start.elapsed());
        self.offset += self.bytes;
        // The same where the file has its blocks already: no size changes.
        let start = Instant::now();
        self.bare.write_all_at(&data, 0)?;
        self.bare.sync_data()?;
        self.overwritten.push(start.elapsed());
        Ok(())
    }

    /// Both, now the one first, now the other.
    fn both(&mut self, turn: usize, word: usize, value: u64) -> Result<()> {
        if turn.is_multiple_of(2) {
            self.commit(word, value)?;
            self.write(value)
        } else {
            self.write(value)?;
            self.commit(word, value)
        }
    }
}

/// Prints a line; the median.
fn row(name: &str, times: &mut [Duration], bare: Option<Duration>) -> Duration {
    let (median, tail) = (percentile(times, 50), percentile(times, 99));
    let ratio = bare.map_or_else(String::new, |bare| {
        format!("{:.2}", micros(median) / micros(bare))
    });
    println!(
        "{name:<34} {:>10.1} {:>10.1} {ratio:>8}",
        micros(median),
        micros(tail)
    );
    median
}

fn bytes(page: &[u64]) -> Vec<u8> {
    page.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// One word a transaction, synchronously, in turn.
pub fn run(directory: &Path, commits: usize) -> Result<()> {
    let mut sealed = StoreOptions::default();
    sealed.key = Some(StoreKey::generate()?);
    let mut pairs = [
        Pair::new(directory, "hvckpt", StoreOptions::default())?,
        Pair::new(directory, "hvckpt, encrypted", sealed)?,
    ];
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(Redb::open(directory)?),
        Box::new(Sqlite::open(directory)?),
        Box::new(Lmdb::open(directory)?),
    ];
    // Everybody has all pages, of incompressible bytes.
    let mut seed = 0x5eed;
    let mut model: Vec<Vec<u64>> = (0..PAGES)
        .map(|_| (0..WORDS).map(|_| random(&mut seed)).collect())
        .collect();
    for pair in &pairs {
        let transaction = pair.store.begin()?;
        for (word, cell) in model.iter().flatten().zip(pair.store.atomics_u64()) {
            cell.store(*word, Relaxed);
        }
        transaction.commit(Durability::Sync)?;
    }
    for peer in &mut peers {
        for (number, page) in (0..).zip(&model) {
            peer.commit(number, &bytes(page))?;
        }
    }
    let mut times = vec![Vec::with_capacity(commits); peers.len()];
    for turn in 0..commits {
        let page = random(&mut seed) as usize % PAGES;
        let word = random(&mut seed) as usize % WORDS;
        model[page][word] = random(&mut seed);
        for pair in &mut pairs {
            pair.both(turn, page * WORDS + word, model[page][word])?;
        }
        let content = bytes(&model[page]);
        for (peer, times) in peers.iter_mut().zip(&mut times) {
            let start = Instant::now();
            peer.commit(page as u64, &content)?;
            times.push(start.elapsed());
        }
    }
    for peer in &peers {
        for (number, page) in (0..).zip(&model) {
            if peer.read(number)? != bytes(page) {
                return Err(format!("{} lost page {number}", peer.name()).into());
            }
        }
    }
    println!("\nsynchronous commit of one word of {PAGES} pages, {commits} times, in turn");
    println!(
        "{:<34} {:>10} {:>10} {:>8}",
        "", "median us", "99 % us", "x bare"
    );
    let mut first = None;
    for pair in &mut pairs {
        let name = format!("bare append and fdatasync, {} B", pair.bytes);
        let bare = row(&name, &mut pair.written, None);
        row("bare, overwriting", &mut pair.overwritten, Some(bare));
        row(pair.name, &mut pair.committed, Some(bare));
        first.get_or_insert(bare);
        fs::remove_file(directory.join(format!("{}.bare", pair.name)))?;
    }
    for (peer, times) in peers.iter().zip(&mut times) {
        row(peer.name(), times, first);
    }
    Ok(())
}
