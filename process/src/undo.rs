// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory as it was: mappings, break, protections, pages.

use crate::error::Error;
use crate::maps::{Kind, Mapping};
use crate::marks::Marks;
use crate::pagemap::broken;
use crate::raw::{Errno, Fd, Path, call};
use crate::room::Room;
use crate::state::State;
use core::ffi::CStr;
use core::sync::atomic::Ordering::SeqCst;

/// Everything that undoing needs, opened and checked while nothing has changed.
#[derive(Debug)]
pub struct Undo<'a> {
    pub(crate) room: &'a mut Room,
    pub(crate) state: &'a State,
    pub(crate) child: i32,
    pub(crate) forked: bool,
    pub(crate) our_map: Fd,
    pub(crate) their_map: Fd,
    pub(crate) our_memory: Fd,
    pub(crate) their_memory: Fd,
    mapped: usize,
    pub(crate) wanted: usize,
    pub(crate) our_regions: usize,
    pub(crate) their_regions: usize,
    /// Pages copied back.
    pub copied: u64,
}

impl<'a> Undo<'a> {
    /// Checks whether the pre-image in `child` can be returned to.
    ///
    /// # Errors
    /// Why not. Nothing has changed.
    ///
    /// # Safety
    /// The caller is the agent and everybody is parked.
    pub unsafe fn prepare(
        state: &'a State,
        child: i32,
        marks: &Marks,
        forked: bool,
    ) -> Result<Self, Error> {
        // SAFETY: the room is the agent's.
        let room = unsafe { state.room.get() };
        let open = |pid, what, flags| {
            Fd::open(Path::proc(pid, what).as_c_str(), flags).map_err(|e| match e {
                Errno(libc::ESRCH) => Error::PreimageGone,
                e => broken("a look at the pre-image")(e),
            })
        };
        let mut undo = Self {
            our_map: open(0, "pagemap", libc::O_RDONLY)?,
            their_map: open(child, "pagemap", libc::O_RDONLY)?,
            our_memory: open(0, "mem", libc::O_RDWR)?,
            their_memory: open(child, "mem", libc::O_RDONLY)?,
            room,
            state,
            child,
            forked,
            mapped: 0,
            wanted: 0,
            our_regions: 0,
            their_regions: 0,
            copied: 0,
        };
        undo.read_ours(marks)?;
        undo.wanted = (undo.room.read_theirs(state.place(), child))
            .map_err(broken("a list of the pre-image's mappings"))?;
        if undo.wanted == 0 {
            return Err(Error::PreimageGone);
        }
        undo.mappings(false)?;
        undo.list_regions()?;
        Ok(undo)
    }

    fn read_ours(&mut self, marks: &Marks) -> Result<(), Error> {
        self.mapped = (self.room.read_ours(self.state.place(), marks))
            .map_err(broken("a list of the mappings"))?;
        Ok(())
    }

    /// Undoes everything. From here on there is no way back.
    ///
    /// # Errors
    /// The process is neither here nor there and must not go on.
    ///
    /// # Safety
    /// As [`prepare`](Self::prepare), and younger threads have ended.
    pub unsafe fn run(&mut self, end_of_heap: usize, marks: &Marks) -> Result<(), Error> {
        self.unmap_younger()?;
        // SAFETY: what the program's break was; nobody runs.
        unsafe {
            if call!(libc::SYS_brk, 0) != Ok(end_of_heap)
                && call!(libc::SYS_brk, end_of_heap) != Ok(end_of_heap)
            {
                return Err(broken("the end of the heap")(Errno(libc::ENOMEM)));
            }
        }
        self.read_ours(marks)?;
        self.mappings(true)?;
        marks.restore(&self.room.theirs[..self.wanted], &self.their_map)?;
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
        let mut flags = libc::MAP_NORESERVE;
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
        let fd = file.as_ref().map_or(-1, Fd::raw) as isize;
        let offset = c.offset + (at - c.start);
        let offset = if file.is_some() { offset } else { 0 };
        // Whether the kernel would is tried elsewhere.
        let (place, fixed) = if change {
            (at, libc::MAP_FIXED)
        } else {
            (0, 0)
        };
        let flags = flags | fixed;
        // SAFETY: a place which the pre-image had mapped, and nobody runs; or a new one, which
        // nobody knows of.
        unsafe {
            let made = call!(
                libc::SYS_mmap,
                place,
                end - at,
                c.protection,
                flags,
                fd,
                offset
            )
            .map_err(broken("a mapping as there was one"))?;
            if !change {
                let _ = call!(libc::SYS_munmap, made, end - at);
            }
        }
        Ok(())
    }
}

/// Whether a program forked is the state's to count.
pub fn forks(state: &State) -> u32 {
    state.forks.load(SeqCst)
}
