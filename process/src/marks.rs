// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that the program marked as not to be inherited, or as empty in children.
//!
//! A pre-image needs it. `VmFlags` would name it, but reading them walks all pages; so a copy
//! is taken and compared, and taken anew without the marks where there are any.

use crate::error::Error;
use crate::maps::Mapping;
use crate::pagemap;
use crate::raw::{Errno, Fd, call};

const MARKS: usize = 1024;
const NEVER: usize = 64;

/// What was marked when the speculation began.
#[derive(Debug)]
pub struct Marks {
    /// Start, end and advice.
    marked: [(usize, usize, i32); MARKS],
    count: usize,
    /// Memory of devices, which the kernel copies for nobody.
    never: [(usize, usize); NEVER],
    never_count: usize,
}

pub(crate) fn refused(e: Errno) -> Error {
    Error::Refused {
        what: "a look at what the copy of the process has",
        errno: e.0,
    }
}

fn advise(start: usize, end: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: these advices concern children only.
    unsafe { call!(libc::SYS_madvise, start, end - start, advice) }.map(drop)
}

impl Marks {
    /// Is it memory which no copy can have? It stays as it is.
    pub fn never_copied(&self, start: usize, end: usize) -> bool {
        let mut never = self.never[..self.never_count].iter();
        never.any(|n| n.0 <= start && end <= n.1)
    }

    /// Of a new pre-image nothing is known.
    pub fn clear(&mut self) {
        (self.count, self.never_count) = (0, 0);
    }

    /// How much was found.
    pub fn found(&self) -> usize {
        self.count + self.never_count
    }

    /// Takes the mark away, and notes it.
    ///
    /// # Errors
    /// There is no room for more, or the kernel refused.
    pub fn unmark(&mut self, start: usize, end: usize, mark: i32) -> Result<(), Error> {
        let full = Error::Refused {
            what: "a copy of so many areas marked with MADV_DONTFORK or MADV_WIPEONFORK",
            errno: libc::E2BIG,
        };
        let opposite = if mark == libc::MADV_DONTFORK {
            libc::MADV_DOFORK
        } else {
            libc::MADV_KEEPONFORK
        };
        let place = self.marked.get_mut(self.count).ok_or(full)?;
        match advise(start, end, opposite) {
            Ok(()) => {
                *place = (start, end, mark);
                self.count += 1;
            }
            Err(Errno(libc::EINVAL)) => {
                *self.never.get_mut(self.never_count).ok_or(full)? = (start, end);
                self.never_count += 1;
            }
            Err(e) => return Err(refused(e)),
        }
        Ok(())
    }

    /// Marks again what was marked.
    ///
    /// # Errors
    /// The kernel had no memory for it.
    pub fn mark(&self) -> Result<(), Error> {
        for &(start, end, mark) in &self.marked[..self.count] {
            advise(start, end, mark).map_err(refused)?;
        }
        Ok(())
    }

    /// Marks what was marked, and nothing else, in the mappings of the pre-image. Where that is
    /// empty it does not tell, and whether children find it empty stays as it is.
    ///
    /// # Errors
    /// The kernel had no memory for it.
    pub fn restore(&self, wanted: &[Mapping], their_map: &Fd) -> Result<(), Error> {
        for m in wanted {
            match advise(m.start, m.end, libc::MADV_DOFORK) {
                Ok(()) | Err(Errno(libc::EINVAL)) => {}
                Err(e) => return Err(refused(e)),
            }
            if m.inode == 0 && !m.shared && pagemap::any(their_map, m.start, m.end, &mut false)? {
                advise(m.start, m.end, libc::MADV_KEEPONFORK).map_err(refused)?;
            }
        }
        self.mark()
    }
}
