// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the backup share: a server, a primary, and a network
//! which cuts.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hvckpt::backup::{Key, Replication, Require, Server, ServerOptions, add_key};
use hvckpt::store::{Durability, Page, PageWrite, Store, StoreError, StoreOptions};

pub const PAGES: u64 = 300;

/// Waits until it holds, three minutes at most.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn server(directory: &Path, listen: &str) -> Server {
    let mut options = ServerOptions::new(directory, listen);
    options.log = Arc::new(|line| println!("backup: {line}"));
    options.handshake = Duration::from_secs(60);
    options.idle = Duration::from_secs(60);
    Server::start(options).unwrap()
}

pub fn key(directory: &Path, name: &str) -> Key {
    add_key(directory, name).unwrap()
}

pub fn replication(address: SocketAddr, key: &Key, require: Require) -> Replication {
    let mut replication = Replication::new(address.to_string(), key.clone());
    replication.require = require;
    replication.timeout = Duration::from_secs(60);
    replication.heartbeat = Duration::from_millis(100);
    replication
}

pub fn options(replication: Option<Replication>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.interval = Duration::from_millis(1);
    options.replication = replication.map(Into::into);
    options
}

/// A store with one area, which commit `n` changes in a known way.
pub struct Primary {
    pub store: Store,
    pub area: u32,
    pages: Vec<Page>,
    n: u64,
}

impl Primary {
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let store = Store::open(path, options)?;
        let area = store.area("main", 0x10_0000, PAGES)?;
        let (pages, n) = content(&store);
        Ok(Self {
            store,
            area,
            pages,
            n,
        })
    }

    /// Commits; the number of the commit, which is the first word.
    pub fn commit(&mut self, durability: Durability) -> Result<u64, StoreError> {
        self.n += 1;
        let n = self.n;
        let before = self.pages.clone();
        let touched = touch(&mut self.pages, n);
        let writes: Vec<_> = touched
            .iter()
            .map(|&page| {
                let at = usize::try_from(page).unwrap();
                PageWrite::new(self.area, page, &self.pages[at]).old(&before[at])
            })
            .collect();
        let result = self.store.commit(&writes, durability);
        if let Err(error) = &result
            && !matches!(error, StoreError::Unreplicated { .. })
        {
            self.pages = before;
            self.n -= 1;
        }
        result.map(|_| n)
    }
}

/// What commit `n` does; the pages it changed.
fn touch(pages: &mut [Page], n: u64) -> Vec<u64> {
    let mut touched = vec![0];
    pages[0].0[0] = n;
    for k in 0..3 {
        let mixed = (n * 3 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let page = 1 + mixed % (PAGES - 1);
        let word = usize::try_from(mixed >> 9).unwrap() % 512;
        pages[usize::try_from(page).unwrap()].0[word] = n;
        // Pages come and go.
        if n.is_multiple_of(11) {
            pages[usize::try_from(page).unwrap()] = Page::ZERO;
        }
        touched.push(page);
    }
    touched.sort_unstable();
    touched.dedup();
    touched
}

/// The pages of the newest version, and the commit it is.
pub fn content(store: &Store) -> (Vec<Page>, u64) {
    let mut pages = vec![Page::ZERO; usize::try_from(PAGES).unwrap()];
    if let Ok(view) = store.view(None)
        && let Ok(area) = view.area("main")
    {
        for (at, page) in pages.iter_mut().enumerate() {
            *page = view.page(area, at as u64).unwrap();
        }
    }
    let n = pages[0].0[0];
    (pages, n)
}

/// Checks that a store holds exactly what some commit made; which one.
pub fn check(path: &Path) -> u64 {
    let mut options = StoreOptions::default();
    options.read_only = true;
    let store = Store::open(path, options).unwrap();
    let (found, n) = content(&store);
    let mut model = vec![Page::ZERO; usize::try_from(PAGES).unwrap()];
    for n in 1..=n {
        touch(&mut model, n);
    }
    let differs = (0..model.len()).find(|&page| found[page] != model[page]);
    assert_eq!(differs, None, "a page of commit {n} is not what it was");
    n
}

pub fn vault(directory: &Path, name: &str) -> PathBuf {
    directory.join(name).join("store")
}

/// A network between primary and backup, which can be cut.
pub struct Proxy {
    pub address: SocketAddr,
    inner: Arc<Wire>,
}

struct Wire {
    target: Mutex<SocketAddr>,
    /// Bytes until the next cut; negative: none.
    budget: AtomicI64,
    pub cuts: AtomicU64,
    closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Wire {
            target: Mutex::new(target),
            budget: AtomicI64::new(-1),
            cuts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let wire = inner.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let target = *wire.target.lock().unwrap();
                if wire.closed.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let wire = wire.clone();
                    std::thread::spawn(move || pump(&wire, from, to));
                }
                wire.open.lock().unwrap().extend([client, server]);
            }
        });
        Self { address, inner }
    }

    /// Cuts after this many bytes more.
    pub fn cut_after(&self, bytes: i64) {
        self.inner.budget.store(bytes, Ordering::Relaxed);
    }

    pub fn cuts(&self) -> u64 {
        self.inner.cuts.load(Ordering::Relaxed)
    }

    /// Nobody gets through until it is opened again.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        self.inner.cut();
    }

    pub fn open(&self) {
        self.inner.closed.store(false, Ordering::Relaxed);
    }

    pub fn retarget(&self, target: SocketAddr) {
        *self.inner.target.lock().unwrap() = target;
    }
}

impl Wire {
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(wire: &Wire, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        let mut pass = got;
        let left = wire.budget.load(Ordering::Relaxed);
        if left >= 0 {
            let now = wire
                .budget
                .fetch_sub(i64::try_from(got).unwrap(), Ordering::Relaxed);
            if now <= i64::try_from(got).unwrap() {
                pass = usize::try_from(now.max(0)).unwrap().min(got);
            }
        }
        if to.write_all(&buffer[..pass]).is_err() || pass < got {
            if pass < got {
                wire.budget.store(-1, Ordering::Relaxed);
                wire.cuts.fetch_add(1, Ordering::Relaxed);
                wire.cut();
            }
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Both);
    let _gone = from.shutdown(Shutdown::Both);
}
