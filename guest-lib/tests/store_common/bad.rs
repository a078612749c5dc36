// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated disk with sectors which cannot be read.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk, File, Hold};

/// A disk with a bad place.
#[derive(Debug, Clone)]
pub struct Bad {
    pub disk: CrashDisk,
    pub name: String,
    pub bytes: Range<u64>,
}

#[derive(Debug)]
struct BadFile(Arc<dyn File>, Range<u64>);

impl Bad {
    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        if name == self.name {
            Arc::new(BadFile(file, self.bytes.clone()))
        } else {
            file
        }
    }
}

impl Backend for Bad {
    fn describe(&self) -> String {
        self.disk.describe()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.file(name, self.disk.open(name, write)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
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

impl File for BadFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = (offset + buffer.len() as u64).min(self.0.len()?);
        if offset < self.1.end && end > self.1.start {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
