// SPDX-License-Identifier: MIT OR Apache-2.0
//! `process_vm_writev` which has looked up its target before a commit, and
//! writes after it.
//!
//! The kernel is stopped between the two: what it copies from is a page that
//! userfaultfd has not filled yet.

use core::ptr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::thread;

use hvckpt::{PAGE_SIZE, Region};

use super::{PAGE, map, word};

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
/// Octets of an event.
const EVENT: usize = 32;

fn ioctl(fd: RawFd, request: u64, argument: &mut [u64]) -> io::Result<()> {
    // SAFETY: each of these requests reads and writes a structure of so many
    // 64-bit fields as its caller passes.
    match unsafe { libc::ioctl(fd, request, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A page which is filled on demand, and who fills it.
struct Slow {
    page: *mut u8,
    faults: File,
}

impl Slow {
    fn new() -> io::Result<Self> {
        let page = map(PAGE_SIZE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        // SAFETY: plain system call; the descriptor is new.
        let faults = unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        let fd = faults.as_raw_fd();
        ioctl(fd, UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        let mut range = [page as u64, PAGE_SIZE as u64, MODE_MISSING, 0];
        ioctl(fd, UFFDIO_REGISTER, &mut range)?;
        Ok(Self { page, faults })
    }

    /// Until somebody wants the page.
    fn wanted(&mut self) -> io::Result<()> {
        self.faults.read_exact(&mut [0; EVENT])
    }

    /// Fills it, which lets him go on.
    fn fill(&self, value: u64) -> io::Result<()> {
        let mut content = vec![0u64; PAGE_SIZE / 8];
        content[0] = value;
        let from = content.as_ptr() as u64;
        let mut copy = [self.page as u64, from, PAGE_SIZE as u64, 0, 0];
        ioctl(self.faults.as_raw_fd(), UFFDIO_COPY, &mut copy)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody uses any more.
        unsafe { libc::munmap(self.page.cast(), PAGE_SIZE) };
    }
}

/// Writes the first word of the page in each of `count` cycles, looked up in
/// the cycle before; how often the page was in the list of the cycle in which
/// it was written.
pub(super) fn cycles(region: &Region, memory: *mut u8, count: u64) -> io::Result<u64> {
    let mut listed = 0;
    for value in 1..=count {
        let mut slow = Slow::new()?;
        let mut transaction = region.begin().map_err(io::Error::other)?;
        let (from, to) = (slow.page as usize, memory as usize + PAGE * PAGE_SIZE);
        let writer = thread::spawn(move || {
            let part = |at: usize| libc::iovec {
                iov_base: ptr::with_exposed_provenance_mut(at),
                iov_len: 8,
            };
            let (from, to) = (part(from), part(to));
            // SAFETY: eight bytes each, mapped until this thread was joined.
            unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) }
        });
        slow.wanted()?;
        // Its target is looked up, and pinned; nothing is written yet.
        let before = transaction
            .commit_and_continue()
            .map_err(io::Error::other)?;
        drop(before);
        assert_ne!(word(memory), value, "written too early");
        slow.fill(value)?;
        assert_eq!(writer.join().expect("no panic"), 8, "process_vm_writev");
        assert_eq!(word(memory), value, "the write itself");
        let list = transaction.commit().map_err(io::Error::other)?;
        listed += u64::from(list.iter().any(|page| page == PAGE));
    }
    Ok(listed)
}
