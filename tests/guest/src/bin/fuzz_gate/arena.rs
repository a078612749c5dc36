// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory which is given to the gate, and taken away under it.

use std::ptr;
use std::sync::atomic::AtomicU64;

use hvckpt_guest_tests::{Area, CHUNK, PAGE, Rng, may_store};

const DATA: usize = 6 * CHUNK;
const LOGS: usize = CHUNK;
const STRUCTURES: usize = 16 * PAGE;
/// In pieces of this many pages at most it changes.
const MOST_PAGES: usize = 24;

/// Addresses that no process has, and edges.
const HOSTILE: [u64; 12] = [
    0,
    1,
    0xfff,
    0x7fff_ffff_f000,
    0x7fff_ffff_ffc0,
    0x8000_0000_0000,
    0xffff_7fff_ffff_ffc0,
    0xffff_8000_0000_0000,
    0xffff_82d0_4020_0000,
    0xffff_8880_0000_0000,
    0xffff_ffff_ff60_0000,
    u64::MAX - 63,
];

/// One mapping: data, logs, structures; the first page of a file is mapped in
/// several places.
#[derive(Debug)]
pub struct Arena {
    all: Area,
    file: i32,
    /// One more than the highest number that a range was given.
    pub ranges: AtomicU64,
}

impl Arena {
    pub fn new() -> Self {
        let raw = Area::map(
            0,
            DATA + LOGS + STRUCTURES + 2 * CHUNK,
            libc::MAP_NORESERVE,
            -1,
        );
        let all = Area {
            start: raw.start.next_multiple_of(CHUNK),
            bytes: DATA + LOGS + STRUCTURES,
        };
        // SAFETY: a name and no flags.
        let file = unsafe { libc::memfd_create(c"fuzz".as_ptr(), 0) };
        // SAFETY: our file.
        assert!(file >= 0 && unsafe { libc::ftruncate(file, CHUNK as i64) } == 0);
        for page in (0..all.pages()).step_by(2) {
            all.set(page * PAGE, page as u8);
        }
        Self {
            all,
            file,
            ranges: AtomicU64::new(0),
        }
    }

    /// A page of the data, and how many follow it at most.
    pub fn data(&self, rng: &mut Rng) -> (u64, usize) {
        let page = rng.below(DATA / PAGE);
        ((self.all.start + page * PAGE) as u64, DATA / PAGE - page)
    }

    /// Where a log may be.
    pub fn log(&self, rng: &mut Rng) -> u64 {
        let at = rng.below(LOGS / 64) * 64;
        (self.all.start
            + DATA
            + if rng.below(4) == 0 {
                at
            } else {
                at & !(PAGE - 1)
            }) as u64
    }

    /// Where a structure may be: often across the end of a page.
    pub fn structure(&self, rng: &mut Rng) -> u64 {
        let page = self.all.start + DATA + LOGS + rng.below(STRUCTURES / PAGE - 1) * PAGE;
        let offset = match rng.below(4) {
            0 => PAGE - 32,
            1 => PAGE - 64,
            2 => rng.below(PAGE),
            _ => 0,
        };
        (page + offset) as u64
    }

    /// Any of these, or an address of nobody's.
    pub fn pointer(&self, rng: &mut Rng) -> u64 {
        match rng.below(10) {
            0 => self.data(rng).0,
            1 => self.log(rng),
            2 | 3 => HOSTILE[rng.below(HOSTILE.len())],
            _ => self.structure(rng),
        }
    }

    /// Writes bytes there; they may not arrive.
    pub fn fill(&self, address: u64, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            if !may_store(address as usize + offset, *byte) {
                return;
            }
        }
    }

    fn piece(&self, rng: &mut Rng) -> Area {
        let pages = 1 + rng.below(MOST_PAGES);
        // Structures and logs are few and would be hit seldom.
        let first = match rng.below(6) {
            0 => (DATA + LOGS) / PAGE + rng.below(STRUCTURES / PAGE),
            1 => DATA / PAGE + rng.below(LOGS / PAGE),
            _ => rng.below(DATA / PAGE),
        };
        self.all.part(first, pages.min(self.all.pages() - first))
    }

    /// One change of the address space.
    pub fn disturb(&self, rng: &mut Rng) {
        let piece = self.piece(rng);
        let at = piece.start as *mut libc::c_void;
        match rng.below(16) {
            0 => {
                piece.unmap();
                Area::map(piece.start, piece.bytes, libc::MAP_NORESERVE, -1);
            }
            1 => drop(piece.protect_mapped(libc::PROT_READ)),
            2 => drop(piece.protect_mapped(libc::PROT_NONE)),
            3 | 4 => drop(self.all.protect_mapped(libc::PROT_READ | libc::PROT_WRITE)),
            5 => drop(piece.advise(libc::MADV_DONTNEED)),
            6 => drop(piece.advise(libc::MADV_FREE)),
            7 => drop(piece.advise(libc::MADV_MERGEABLE)),
            8 => drop(Area::map(
                piece.start,
                piece.bytes,
                libc::MAP_SHARED,
                self.file,
            )),
            9 => drop(Area::map(piece.start, piece.bytes, 0, self.file)),
            10 => {
                let piece = self
                    .all
                    .part(rng.below(DATA / CHUNK) * CHUNK / PAGE, CHUNK / PAGE);
                self.swap(&piece, self.all.start + rng.below(DATA / CHUNK) * CHUNK);
            }
            11 => {
                let other = self.piece(rng);
                let pages = piece.pages().min(other.pages());
                self.swap(&piece.part(0, pages), other.start);
            }
            // SAFETY: locking changes no content.
            12 => drop(unsafe { libc::mlock(at, piece.bytes) }),
            // SAFETY: as above.
            13 => drop(unsafe { libc::munlock(at, piece.bytes) }),
            14 => self.foreign_write(&piece),
            _ => {
                for page in 0..piece.pages() {
                    may_store(
                        piece.start + page * PAGE + rng.below(PAGE),
                        rng.draw() as u8,
                    );
                }
            }
        }
    }

    /// Moves a piece over another one; what was there is gone, and where it
    /// was there is something new.
    fn swap(&self, piece: &Area, to: usize) {
        if piece.start.abs_diff(to) < piece.bytes {
            return;
        }
        // Fails where the piece is of several kinds: as good as not done.
        // SAFETY: nobody holds references into the arena.
        let moved = unsafe {
            libc::mremap(
                piece.start as *mut libc::c_void,
                piece.bytes,
                piece.bytes,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to as *mut libc::c_void,
            )
        };
        // A failed move may have unmapped the target all the same.
        let hole = if moved == libc::MAP_FAILED {
            to
        } else {
            piece.start
        };
        Area::map(hole, piece.bytes, libc::MAP_NORESERVE, -1);
    }

    /// The kernel writes, through pages it looked up.
    fn foreign_write(&self, piece: &Area) {
        let word = piece.start as u64;
        let local = libc::iovec {
            iov_base: ptr::from_ref(&word).cast_mut().cast(),
            iov_len: 8,
        };
        let remote = libc::iovec {
            iov_base: (piece.start + PAGE / 2) as *mut libc::c_void,
            iov_len: 8,
        };
        // SAFETY: into the arena, or refused.
        unsafe {
            libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        };
    }
}
