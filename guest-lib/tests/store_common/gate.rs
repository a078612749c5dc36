// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated disk whose syncs wait until they are let through.

use std::io;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use hvckpt::store::backend::{Backend, CrashDisk, File, Hold};

#[derive(Debug, Default)]
struct State {
    closed: bool,
    fails: bool,
    /// A write of more bytes finds the disk full.
    largest: Option<usize>,
    waiting: usize,
    syncs: u64,
}

/// Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    pub disk: CrashDisk,
    inner: Arc<(Mutex<State>, Condvar)>,
}

impl Gate {
    /// Another disk.
    pub fn on(disk: CrashDisk) -> Self {
        Self {
            disk,
            inner: Arc::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner.0.lock().unwrap());
        self.inner.1.notify_all();
    }

    /// Lets no sync of a file return.
    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub fn open(&self) {
        self.change(|state| (state.closed, state.fails) = (false, false));
    }

    /// Opens, and lets the syncs fail which wait, and later ones.
    pub fn open_failing(&self) {
        self.change(|state| (state.closed, state.fails) = (false, true));
    }

    /// Lets the disk be full for longer writes; `None`: for none.
    pub fn largest(&self, bytes: Option<usize>) {
        self.change(|state| state.largest = bytes);
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.inner.0.lock().unwrap().syncs
    }

    /// Waits until a sync waits.
    pub fn until_blocked(&self) {
        eventually("a sync", || self.inner.0.lock().unwrap().waiting > 0);
    }

    fn pass(&self) -> io::Result<()> {
        let mut state = self.inner.0.lock().unwrap();
        state.syncs += 1;
        state.waiting += 1;
        while state.closed {
            state = self.inner.1.wait(state).unwrap();
        }
        state.waiting -= 1;
        if state.fails {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

/// Waits until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What must not wait for anything.
pub fn at_once<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear) = mpsc::channel();
    std::thread::spawn(move || tell.send(act()));
    let result = hear.recv_timeout(Duration::from_secs(120));
    result.unwrap_or_else(|_| panic!("{what} waits"))
}

#[derive(Debug)]
struct Gated {
    file: Arc<dyn File>,
    gate: Gate,
}

impl Gate {
    fn gated(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let gate = self.clone();
        Arc::new(Gated { file, gate })
    }
}

impl Backend for Gate {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.gated(self.disk.open(name, write)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.gated(self.disk.create(name)?))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.publish(from, to)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }

    fn lock(&self) -> io::Result<Option<Arc<dyn Hold>>> {
        self.disk.lock()
    }
}

impl File for Gated {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let largest = self.gate.inner.0.lock().unwrap().largest;
        if largest.is_some_and(|largest| bytes.len() > largest) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.file.write_at(bytes, offset)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync()
    }
}
