// SPDX-License-Identifier: MIT OR Apache-2.0
//! `PagemapScan`: the kernel's own tracker (Linux 6.7).
//!
//! userfaultfd in asynchronous mode write-protects; a fault only clears the
//! protection, in the kernel; PAGEMAP_SCAN finds the pages written since and
//! protects them again in the same pass, atomically page by page.

use std::sync::Arc;

use super::{Count, Counters, CycleError, Log, Request, TrackError, Tracker, TrackerKind};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::fork;
use hvckpt_sys::uffd::{PageRegion, Pagemap, UffdError, Userfault};

const VEC: usize = 512;

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct ScanTracker {
    uffd: Userfault,
    pagemap: Pagemap,
    start: usize,
    bytes: usize,
    list: Vec<u64>,
    vec: Vec<PageRegion>,
    lost: bool,
}

impl ScanTracker {
    pub(super) fn new(request: &Request<'_>) -> Result<Self, TrackError> {
        let memory = request.memory;
        let uffd = Userfault::asynchronous()?;
        let pagemap = Pagemap::open()?;
        uffd.register(memory.start(), memory.bytes())?;
        let tracker = Self {
            uffd,
            pagemap,
            start: memory.start(),
            bytes: memory.bytes(),
            list: Vec::with_capacity(memory.pages()),
            vec: vec![PageRegion::default(); VEC],
            lost: false,
        };
        // A kernel may have one half of the mechanism only.
        tracker.protect().map_err(UffdError::NoScan)?;
        Ok(tracker)
    }

    fn end_address(&self) -> usize {
        self.start + self.bytes
    }

    fn protect(&self) -> std::io::Result<()> {
        self.pagemap.protect_all(self.start, self.end_address())
    }

    /// Fills the list.  EPERM means that part of the range is not watched any
    /// more, because something else was mapped there: everything is dirty.
    fn scan(&mut self, protect: bool) -> Result<(), CycleError> {
        let Self {
            pagemap,
            start,
            bytes,
            list,
            vec,
            ..
        } = self;
        let (start, end) = (*start, *start + *bytes);
        list.clear();
        let result = pagemap.written(start, end, protect, vec, |run| {
            let index = |address: u64| (address - start as u64) / PAGE_SIZE as u64;
            list.extend(index(run.start)..index(run.end));
        });
        self.lost = match result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => true,
            Err(source) => {
                return Err(CycleError::Os {
                    what: "PAGEMAP_SCAN",
                    source,
                });
            }
        };
        Ok(())
    }

    fn watch_again(&self) -> Result<(), CycleError> {
        self.uffd
            .register(self.start, self.bytes)
            .map_err(|error| CycleError::Os {
                what: "UFFDIO_REGISTER",
                source: std::io::Error::other(error),
            })?;
        self.protect().map_err(|source| CycleError::Os {
            what: "PAGEMAP_SCAN",
            source,
        })
    }
}

impl Tracker for ScanTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::PagemapScan
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        match self.protect() {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.watch_again(),
            Err(source) => Err(CycleError::Os {
                what: "PAGEMAP_SCAN",
                source,
            }),
        }
    }

    fn end(&mut self) -> Result<(), CycleError> {
        self.scan(false)
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        self.scan(true)?;
        if self.lost {
            self.watch_again()
        } else {
            Ok(())
        }
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        self.scan(false)
    }

    fn log(&self) -> Log<'_> {
        Log {
            entries: &self.list,
            lost: self.lost,
        }
    }

    fn count(&self) -> Arc<dyn Count> {
        Arc::new(Uncounted)
    }
}

/// The kernel does not count the faults it serves.
#[derive(Debug)]
struct Uncounted;

impl Count for Uncounted {
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

impl Drop for ScanTracker {
    fn drop(&mut self) {
        // The descriptor of a fork child still means the parent's memory.
        if !fork::is_child() {
            self.uffd.unregister(self.start, self.bytes);
        }
    }
}
