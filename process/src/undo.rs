// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory as it was: mappings, break, protections, pages.

use crate::error::Error;
use crate::maps::{self, Kind, Mapping};
use crate::raw::{Errno, Fd, Path, call};
use crate::room::{CHUNK, Region, Room};
use crate::state::State;
use core::ffi::CStr;
use core::sync::atomic::Ordering::SeqCst;

const TOP: usize = 0x7fff_ffff_f000;
const PAGE: usize = 4096;

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

const FILE: u64 = 4;
const PRESENT: u64 = 8;
const SWAPPED: u64 = 16;
const ZERO: u64 = 32;
const GUARD: u64 = 256;

/// Everything that undoing needs, opened and checked while nothing has changed.
#[derive(Debug)]
pub struct Undo<'a> {
    room: &'a mut Room,
    state: (usize, usize),
    child: i32,
    forked: bool,
    our_map: Fd,
    their_map: Fd,
    our_memory: Fd,
    their_memory: Fd,
    mapped: usize,
    wanted: usize,
    /// Pages copied back.
    pub copied: u64,
}

fn broken(what: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::Refused { what, errno: e.0 }
}

impl<'a> Undo<'a> {
    /// Checks whether the pre-image in `child` can be returned to.
    ///
    /// # Errors
    /// Why not. Nothing has changed.
    ///
    /// # Safety
    /// The caller is the agent and everybody is parked.
    pub unsafe fn prepare(state: &'a State, child: i32, forked: bool) -> Result<Self, Error> {
        // SAFETY: the room is the agent's.
        let room = unsafe { state.room.get() };
        let open = |pid, what, flags| {
            Fd::open(Path::proc(pid, what).as_c_str(), flags)
                .map_err(broken("a look at the pre-image"))
        };
        let start = core::ptr::from_ref(state) as usize;
        let mut undo = Self {
            our_map: open(0, "pagemap", libc::O_RDONLY)?,
            their_map: open(child, "pagemap", libc::O_RDONLY)?,
            our_memory: open(0, "mem", libc::O_RDWR)?,
            their_memory: open(child, "mem", libc::O_RDONLY)?,
            room,
            state: (start, start + size_of::<State>()),
            child,
            forked,
            mapped: 0,
            wanted: 0,
            copied: 0,
        };
        undo.read_ours()?;
        undo.wanted = undo.read_theirs()?;
        if undo.wanted == 0 {
            return Err(Error::PreimageGone);
        }
        undo.mappings(false)?;
        Ok(undo)
    }

    fn read_ours(&mut self) -> Result<(), Error> {
        let room = &mut *self.room;
        let n = maps::read(0, &mut room.our_text, &mut room.ours)
            .map_err(broken("a list of the mappings"))?;
        self.mapped = self.keep(n, true);
        Ok(())
    }

    fn read_theirs(&mut self) -> Result<usize, Error> {
        let room = &mut *self.room;
        let n = maps::read(self.child, &mut room.their_text, &mut room.theirs)
            .map_err(broken("a list of the pre-image's mappings"))?;
        Ok(self.keep(n, false))
    }

    /// Without the kernel's own mappings and the library's.
    fn keep(&mut self, n: usize, ours: bool) -> usize {
        let maps = if ours {
            &mut self.room.ours
        } else {
            &mut self.room.theirs
        };
        let mut kept = 0;
        for i in 0..n {
            let m = maps[i];
            let state = m.start >= self.state.0 && m.end <= self.state.1;
            if m.kind != Kind::Special && !state {
                maps[kept] = m;
                kept += 1;
            }
        }
        kept
    }

    /// Undoes everything. From here on there is no way back.
    ///
    /// # Errors
    /// The process is neither here nor there and must not go on.
    ///
    /// # Safety
    /// As [`prepare`](Self::prepare), and younger threads have ended.
    pub unsafe fn run(&mut self, end_of_heap: usize) -> Result<(), Error> {
        self.unmap_younger()?;
        // SAFETY: what the program's break was; nobody runs.
        unsafe {
            if call!(libc::SYS_brk, 0) != Ok(end_of_heap) {
                let _ = call!(libc::SYS_brk, end_of_heap);
            }
        }
        self.read_ours()?;
        self.mappings(true)?;
        self.pages()
    }

    fn unmap_younger(&mut self) -> Result<(), Error> {
        let mut h = 0;
        for i in 0..self.mapped {
            let p = self.room.ours[i];
            // `brk` takes the heap's end away by itself.
            if p.kind == Kind::Heap {
                continue;
            }
            let mut at = p.start;
            while at < p.end {
                while h < self.wanted && self.room.theirs[h].end <= at {
                    h += 1;
                }
                let next = (h < self.wanted).then(|| self.room.theirs[h]);
                if let Some(c) = next.filter(|c| c.start <= at) {
                    at = c.end;
                    continue;
                }
                let end = next.map_or(p.end, |c| c.start.min(p.end));
                // SAFETY: did not exist when the pre-image was taken.
                unsafe { call!(libc::SYS_munmap, at, end - at) }.map_err(broken("munmap"))?;
                at = end;
            }
        }
        Ok(())
    }

    /// Compares mappings, and brings back what is missing or replaced, and protections, if
    /// `change`; else only looks whether that will be possible.
    fn mappings(&mut self, change: bool) -> Result<(), Error> {
        let mut h = 0;
        for i in 0..self.wanted {
            let c = self.room.theirs[i];
            let mut at = c.start;
            while at < c.end {
                while h < self.mapped && self.room.ours[h].end <= at {
                    h += 1;
                }
                let p = (h < self.mapped).then(|| self.room.ours[h]);
                let here = p.filter(|p| p.start <= at);
                let end = here.map_or_else(
                    || p.map_or(c.end, |p| p.start.min(c.end)),
                    |p| p.end.min(c.end),
                );
                match here {
                    Some(p) if p.same_at(&c, at) => {
                        if change && p.protection != c.protection {
                            // SAFETY: as it was.
                            unsafe { call!(libc::SYS_mprotect, at, end - at, c.protection) }
                                .map_err(broken("mprotect"))?;
                        }
                    }
                    _ => self.map_again(&c, at, end, change)?,
                }
                at = end;
            }
        }
        Ok(())
    }

    fn map_again(&self, c: &Mapping, at: usize, end: usize, change: bool) -> Result<(), Error> {
        let mut flags = libc::MAP_FIXED | libc::MAP_NORESERVE;
        flags |= if c.shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        if c.kind == Kind::Stack {
            flags |= libc::MAP_GROWSDOWN;
        }
        let mut file = None;
        if c.inode != 0 {
            let lost = Error::MappingLost { address: at };
            let write = c.shared && c.protection & libc::PROT_WRITE != 0;
            let path = self.room.their_text.get(c.path.0 as usize..).ok_or(lost)?;
            let path = CStr::from_bytes_until_nul(path).map_err(|_| lost)?;
            let mode = if write { libc::O_RDWR } else { libc::O_RDONLY };
            let opened = Fd::open(path, mode).map_err(|_| lost)?;
            if opened.stat().map_err(|_| lost)?.st_ino != c.inode {
                return Err(lost);
            }
            file = Some(opened);
        } else {
            flags |= libc::MAP_ANONYMOUS;
        }
        if change {
            let fd = file.as_ref().map_or(-1, Fd::raw);
            let offset = c.offset + (at - c.start);
            let offset = if file.is_some() { offset } else { 0 };
            // SAFETY: a place which the pre-image had mapped, and nobody runs.
            unsafe {
                call!(
                    libc::SYS_mmap,
                    at,
                    end - at,
                    c.protection,
                    flags,
                    fd as isize,
                    offset
                )
            }
            .map_err(broken("mmap"))?;
        }
        Ok(())
    }

    fn pages(&mut self) -> Result<(), Error> {
        let ours = scan(
            &self.our_map,
            &mut self.room.our_regions,
            &mut self.room.no_guards,
        )?;
        let theirs = scan(
            &self.their_map,
            &mut self.room.their_regions,
            &mut self.room.no_guards,
        )?;
        // Both lists are sorted: walk them together, mapping by mapping.
        for i in 0..self.wanted {
            let c = self.room.theirs[i];
            if c.shared {
                continue;
            }
            let mut at = c.start;
            while at < c.end {
                let Some((start, end)) = next(
                    &self.room.our_regions[..ours],
                    &self.room.their_regions[..theirs],
                    at,
                ) else {
                    break;
                };
                let (start, end) = (start.max(at), end.min(c.end));
                if start >= c.end {
                    break;
                }
                self.range(start, end, &c, ours)?;
                at = end;
            }
        }
        Ok(())
    }

    fn range(&mut self, start: usize, end: usize, c: &Mapping, ours: usize) -> Result<(), Error> {
        let mut at = start;
        while at < end {
            let n = ((end - at) / PAGE).min(CHUNK);
            read_at(
                &self.our_map,
                bytes_of(&mut self.room.our_pages[..n]),
                at / PAGE * 8,
            )?;
            read_at(
                &self.their_map,
                bytes_of(&mut self.room.their_pages[..n]),
                at / PAGE * 8,
            )?;
            let mut run = (Action::Keep, at);
            for k in 0..n {
                let address = at + k * PAGE;
                let action = self.decide(address, k, ours)?;
                if action != run.0 {
                    self.act(run, address, c)?;
                    run = (action, address);
                }
            }
            self.act(run, at + n * PAGE, c)?;
            at += n * PAGE;
        }
        Ok(())
    }

    fn decide(&mut self, address: usize, k: usize, ours: usize) -> Result<Action, Error> {
        let (now, then) = (self.room.our_pages[k], self.room.their_pages[k]);
        if now | then == 0 {
            return Ok(Action::Keep);
        }
        let bit = |entry: u64, n: u32| entry >> n & 1 != 0;
        let mut present = bit(now, 63);
        let mut swapped = bit(now, 62);
        let (file, exclusive) = (bit(now, 61), bit(now, 56));
        match (bit(now, 58), bit(then, 58)) {
            (true, true) => return Ok(Action::Keep),
            (false, true) => {
                return advise(address, PAGE, GUARD_INSTALL)
                    .map(|()| Action::Keep)
                    .map_err(broken("a guard page"));
            }
            (true, false) => {
                advise(address, PAGE, GUARD_REMOVE).map_err(broken("a guard page"))?;
                (present, swapped) = (false, false);
            }
            (false, false) => {}
        }
        let zero =
            present && !file && !exclusive && is_zero(&self.room.our_regions[..ours], address);
        let own_then = (bit(then, 63) && !bit(then, 61)) || bit(then, 62);
        if !own_then {
            let drop = (present && !file && !zero) || swapped;
            return Ok(if drop { Action::Drop } else { Action::Keep });
        }
        if !(present && !file && !exclusive && !zero && !swapped) || bit(then, 56) {
            return Ok(Action::Copy);
        }
        let frame = (1u64 << 55) - 1;
        if now & frame != 0 && then & frame != 0 {
            return Ok(if (now ^ then) & frame != 0 {
                Action::Copy
            } else {
                Action::Keep
            });
        }
        if self.forked {
            let room = &mut *self.room;
            read_at(&self.our_memory, &mut room.our_bytes[..PAGE], address)?;
            read_at(&self.their_memory, &mut room.their_bytes[..PAGE], address)?;
            if room.our_bytes[..PAGE] != room.their_bytes[..PAGE] {
                return Ok(Action::Copy);
            }
        }
        Ok(Action::Keep)
    }

    fn act(
        &mut self,
        (action, start): (Action, usize),
        end: usize,
        c: &Mapping,
    ) -> Result<(), Error> {
        let copy = match action {
            Action::Keep => false,
            Action::Copy => true,
            // Refused where memory is locked: then zeroes, or the file's page, are copied.
            Action::Drop => advise(start, end - start, libc::MADV_DONTNEED).is_err(),
        };
        if !copy || start == end {
            return Ok(());
        }
        self.copied += ((end - start) / PAGE) as u64;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        if c.protection & both == both {
            let vector = libc::iovec {
                iov_base: start as *mut _,
                iov_len: end - start,
            };
            let v = &raw const vector;
            // SAFETY: the program's memory, put back as it was; nobody runs.
            let got = unsafe { call!(libc::SYS_process_vm_readv, self.child, v, 1, v, 1, 0) };
            if got == Ok(end - start) {
                return Ok(());
            }
        }
        let mut at = start;
        while at < end {
            let n = (end - at).min(self.room.our_bytes.len());
            read_at(&self.their_memory, &mut self.room.their_bytes[..n], at)?;
            let from = self.room.their_bytes.as_ptr();
            // SAFETY: the buffer has `n` octets; the target is the program's memory.
            let put = unsafe { call!(libc::SYS_pwrite64, self.our_memory.raw(), from, n, at) };
            if put != Ok(n) {
                return Err(Error::Refused {
                    what: "writing a page back",
                    errno: put.err().map_or(0, |e| e.0),
                });
            }
            at += n;
        }
        Ok(())
    }

    /// Compares every page that is populated on either side: how many, and how many differ.
    ///
    /// # Errors
    /// The pages could not be listed.
    pub fn verify(&mut self, skip: impl Fn(usize) -> bool) -> Result<(u64, u64), Error> {
        let ours = scan(
            &self.our_map,
            &mut self.room.our_regions,
            &mut self.room.no_guards,
        )?;
        let theirs = scan(
            &self.their_map,
            &mut self.room.their_regions,
            &mut self.room.no_guards,
        )?;
        let (mut looked, mut wrong) = (0, 0);
        for i in 0..self.wanted {
            let c = self.room.theirs[i];
            let mut at = c.start;
            while !c.shared && at < c.end {
                let room = &mut *self.room;
                let Some((start, end)) =
                    next(&room.our_regions[..ours], &room.their_regions[..theirs], at)
                else {
                    break;
                };
                let (start, end) = (start.max(at), end.min(c.end));
                at = end;
                for page in (start..end).step_by(PAGE) {
                    let a = read_at(&self.our_memory, &mut room.our_bytes[..PAGE], page);
                    let b = read_at(&self.their_memory, &mut room.their_bytes[..PAGE], page);
                    if a.is_err() && b.is_err() || skip(page) {
                        continue;
                    }
                    looked += 1;
                    wrong += u64::from(
                        a.is_err()
                            || b.is_err()
                            || room.our_bytes[..PAGE] != room.their_bytes[..PAGE],
                    );
                }
            }
        }
        Ok((looked, wrong))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Keep,
    Copy,
    Drop,
}

fn bytes_of(entries: &mut [u64]) -> &mut [u8] {
    // SAFETY: any octets are entries.
    unsafe { core::slice::from_raw_parts_mut(entries.as_mut_ptr().cast(), size_of_val(entries)) }
}

fn read_at(fd: &Fd, to: &mut [u8], at: usize) -> Result<(), Error> {
    // SAFETY: the buffer is as long as said.
    let got = unsafe { call!(libc::SYS_pread64, fd.raw(), to.as_mut_ptr(), to.len(), at) };
    if got == Ok(to.len()) {
        Ok(())
    } else {
        Err(Error::Refused {
            what: "reading a page",
            errno: got.err().map_or(0, |e| e.0),
        })
    }
}

fn advise(at: usize, length: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the pre-image says what is there.
    unsafe { call!(libc::SYS_madvise, at, length, advice) }.map(drop)
}

/// The populated part of either list at or behind `at`.
fn next(a: &[Region], b: &[Region], at: usize) -> Option<(usize, usize)> {
    let first = |list: &[Region]| {
        list.get(list.partition_point(|r| r.end as usize <= at))
            .copied()
    };
    let (x, y) = (first(a), first(b));
    let pick = match (x, y) {
        (Some(x), Some(y)) => {
            if x.start.max(at as u64) <= y.start.max(at as u64) {
                x
            } else {
                y
            }
        }
        (x, y) => x.or(y)?,
    };
    Some((pick.start as usize, pick.end as usize))
}

fn is_zero(list: &[Region], address: usize) -> bool {
    let i = list.partition_point(|r| r.end as usize <= address);
    list.get(i)
        .is_some_and(|r| r.start as usize <= address && r.categories & ZERO != 0)
}

/// Populated ranges which are not a file's pages.
fn scan(map: &Fd, to: &mut [Region], no_guards: &mut bool) -> Result<usize, Error> {
    const PAGEMAP_SCAN: usize = 0xc060_6610;
    let refused = |errno| Error::Refused {
        what: "a scan of the pages",
        errno,
    };
    let (mut at, mut n) = (PAGE, 0);
    while at < TOP {
        let any = PRESENT | SWAPPED | if *no_guards { 0 } else { GUARD };
        let ret = any | FILE | ZERO;
        let room = to.len() - n;
        // size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, return
        let mut a = [
            96,
            0,
            at as u64,
            TOP as u64,
            0,
            to[n..].as_mut_ptr() as u64,
            room as u64,
            0,
            FILE,
            FILE,
            any,
            ret,
        ];
        // SAFETY: the vector has room for as many as said.
        match unsafe { call!(libc::SYS_ioctl, map.raw(), PAGEMAP_SCAN, a.as_mut_ptr()) } {
            Err(Errno(libc::EINVAL)) if !*no_guards => {
                *no_guards = true;
                continue;
            }
            Err(e) => return Err(refused(e.0)),
            Ok(got) => n += got,
        }
        if n == to.len() {
            return Err(refused(libc::E2BIG));
        }
        if a[4] as usize <= at {
            break;
        }
        at = a[4] as usize;
    }
    Ok(n)
}

/// Whether a program forked is the state's to count.
pub fn forks(state: &State) -> u32 {
    state.forks.load(SeqCst)
}
