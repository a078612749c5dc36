//! What durable commits cost, next to redb, SQLite and LMDB, for the same
//! updates on the same disk, in turn; what asynchronous commits cost next to
//! the tracker alone; and how long recovery takes.
//!
//! usage: hvckpt-bench-store DIRECTORY [COMMITS [RECOVERY_MIB]]

mod peers;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hvckpt::store::{Compression, Durability, Durable, StoreKey, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind};
use peers::{Lmdb, Peer, Redb, Result, Sqlite};

const PAGES: usize = 1024;
const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

fn usage() -> String {
    "usage: hvckpt-bench-store DIRECTORY [COMMITS [RECOVERY_MIB]]".into()
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn region(directory: &Path, name: &str, pages: usize, options: StoreOptions) -> Result<Durable> {
    Ok(Durable::builder(name)
        .pages(pages)
        .tracker(TrackerKind::Pt)
        .lock(LockPolicy::IfAllowed)
        .options(options)
        .open(directory.join(name))?)
}

fn row(name: &str, times: &mut [Duration], bare: Duration) -> Duration {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    let (median, tail) = (at(50), at(99));
    println!(
        "{name:<34} {:>10.1} {:>10.1} {:>8.2}",
        median.as_secs_f64() * 1e6,
        tail.as_secs_f64() * 1e6,
        median.as_secs_f64() / bare.as_secs_f64()
    );
    median
}

/// One page a transaction, synchronously, in turn.
fn synchronous(directory: &Path, commits: usize) -> Result<()> {
    let mut sealed = StoreOptions::default();
    sealed.key = Some(StoreKey::generate()?);
    let stores = [
        region(directory, "plain", PAGES, StoreOptions::default())?,
        region(directory, "sealed", PAGES, sealed)?,
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
    let bytes = |page: &[u64]| -> Vec<u8> { page.iter().flat_map(|w| w.to_le_bytes()).collect() };
    for store in &stores {
        let transaction = store.begin()?;
        for (word, cell) in model.iter().flatten().zip(store.atomics_u64()) {
            cell.store(*word, Relaxed);
        }
        transaction.commit(Durability::Sync)?;
    }
    for peer in &mut peers {
        for (number, page) in (0..).zip(&model) {
            peer.commit(number, &bytes(page))?;
        }
    }
    let path = directory.join("bare");
    let bare = File::create(&path)?;
    let mut offset = 0;
    let mut times = vec![Vec::with_capacity(commits); 4 + peers.len()];
    for _ in 0..commits {
        let page = random(&mut seed) as usize % PAGES;
        let word = random(&mut seed) as usize % WORDS;
        model[page][word] = random(&mut seed);
        for (n, store) in stores.iter().enumerate() {
            let transaction = store.begin()?;
            store.atomics_u64()[page * WORDS + word].store(model[page][word], Relaxed);
            let start = Instant::now();
            transaction.commit(Durability::Sync)?;
            times[2 * n + 1].push(start.elapsed());
            // As many bytes, bare.
            let size = store.store().versions().last().map_or(0, |last| last.bytes);
            let data = bytes(&model[page])[..usize::try_from(size)?.min(PAGE)].to_vec();
            let start = Instant::now();
            bare.write_all_at(&data, offset)?;
            bare.sync_data()?;
            times[2 * n].push(start.elapsed());
            offset += data.len() as u64;
        }
        let content = bytes(&model[page]);
        for (n, peer) in peers.iter_mut().enumerate() {
            let start = Instant::now();
            peer.commit(page as u64, &content)?;
            times[4 + n].push(start.elapsed());
        }
    }
    for peer in &peers {
        for (number, page) in (0..).zip(&model) {
            if peer.read(number)? != bytes(page) {
                return Err(format!("{} lost page {number}", peer.name()).into());
            }
        }
    }
    println!("synchronous commit of one word of {PAGES} pages, {commits} times, in turn");
    println!(
        "{:<34} {:>10} {:>10} {:>8}",
        "", "median us", "99 % us", "x bare"
    );
    let mut times = times.into_iter();
    let mut next = || times.next().unwrap_or_default();
    let base = row(
        "bare write and fdatasync",
        &mut next(),
        Duration::from_nanos(1),
    );
    row("hvckpt", &mut next(), base);
    let base = row(
        "bare, as long as encrypted",
        &mut next(),
        Duration::from_nanos(1),
    );
    row("hvckpt, encrypted", &mut next(), base);
    for peer in &peers {
        row(peer.name(), &mut next(), base);
    }
    for (name, store) in ["hvckpt", "hvckpt, encrypted"].iter().zip(&stores) {
        let written = store.store().versions();
        let bytes: u64 = written.iter().map(|version| version.bytes).sum();
        println!(
            "{name}: {} bytes a commit",
            bytes / written.len().max(1) as u64
        );
    }
    Ok(fs::remove_file(path)?)
}

/// What an asynchronous commit adds to the tracker.
fn asynchronous(directory: &Path, commits: usize) -> Result<()> {
    println!("\nasynchronous commit, PT tracker (us; median of {commits})");
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>16}",
        "pages", "tracker", "commit", "one copy", "(added) / copy"
    );
    let mut options = StoreOptions::default();
    options.compression = Compression::None;
    options.queue_bytes = 1 << 30;
    options.interval = Duration::from_secs(3600);
    let durable = region(directory, "async", PAGES, options)?;
    let plain = hvckpt::register_cda()
        .pages(PAGES)
        .tracker(TrackerKind::Pt)
        .lock(LockPolicy::IfAllowed)
        .register()?;
    let mut copy = vec![0_u64; PAGES * WORDS];
    for dirty in [1, 16, 256] {
        let (mut tracked, mut committed, mut copied) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = plain.begin()?;
        for n in 0..commits as u64 {
            let pages = (0..dirty).map(|page| page * (PAGES / dirty) * WORDS);
            pages
                .clone()
                .for_each(|at| plain.atomics_u64()[at].store(n + 1, Relaxed));
            let start = Instant::now();
            drop(open.commit_and_continue()?);
            tracked.push(start.elapsed());
            let transaction = durable.begin()?;
            pages
                .clone()
                .for_each(|at| durable.atomics_u64()[at].store(n + 1, Relaxed));
            let start = Instant::now();
            transaction.commit(Durability::Async)?;
            committed.push(start.elapsed());
            let start = Instant::now();
            for at in pages {
                let from = &plain.atomics_u64()[at..at + WORDS];
                for (to, word) in copy[at..at + WORDS].iter_mut().zip(from) {
                    *to = word.load(Relaxed);
                }
            }
            copied.push(start.elapsed());
            std::hint::black_box(&copy);
            if n % 16 == 0 {
                durable.store().flush()?;
            }
        }
        drop(open);
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        };
        let (tracked, committed, copied) = (
            median(&mut tracked),
            median(&mut committed),
            median(&mut copied),
        );
        println!(
            "{dirty:>8} {tracked:>12.1} {committed:>12.1} {copied:>12.1} {:>16.2}",
            (committed - tracked) / copied
        );
    }
    Ok(())
}

/// Has the kernel forget what it read.
fn cool(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
    }
    // Needs root; without it the figure is of a warm cache.
    let _refused = fs::write("/proc/sys/vm/drop_caches", "3");
    Ok(())
}

fn recovery(directory: &Path, mib: usize) -> Result<()> {
    let pages = mib << 8;
    println!("\nrecovery of {mib} MiB");
    for (name, encrypt, noise) in [
        ("recover-compressible", false, false),
        ("recover-noise", false, true),
        ("recover-encrypted", true, true),
    ] {
        let mut options = StoreOptions::default();
        options.key = encrypt.then(StoreKey::generate).transpose()?;
        options.image_bytes = 1 << 40;
        let store = region(directory, name, pages, options.clone())?;
        let transaction = store.begin()?;
        let mut seed = 7;
        for (n, cell) in store.atomics_u64().iter().enumerate() {
            let word = if noise || n % 8 == 0 {
                random(&mut seed)
            } else {
                5
            };
            cell.store(word, Relaxed);
        }
        transaction.commit(Durability::Sync)?;
        drop(store);
        let path = directory.join(name);
        cool(&path)?;
        let start = Instant::now();
        let store = region(directory, name, pages, options)?;
        let took = start.elapsed().as_secs_f64();
        drop(store);
        println!(
            "{name:<24} {took:>8.2} s, {:>8.2} s a GiB",
            took * 1024.0 / mib as f64
        );
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let commits = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let mib = arguments.next().map_or(Ok(256), |text| text.parse())?;
    if directory.exists() {
        return Err(format!("{} exists; name a new directory", directory.display()).into());
    }
    fs::create_dir_all(&directory)?;
    let result = synchronous(&directory, commits)
        .and_then(|()| asynchronous(&directory, commits))
        .and_then(|()| recovery(&directory, mib));
    fs::remove_dir_all(&directory)?;
    result
}
