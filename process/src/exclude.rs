// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that no rollback touches.

use crate::agent;
use crate::error::Error;
use crate::pagemap::{PAGE, TOP};
use crate::state::{Reply, State};

const RANGES: usize = 256;

/// What the program excluded.
#[derive(Debug)]
pub struct Excluded {
    ranges: [(usize, usize); RANGES],
    count: usize,
}

impl Excluded {
    /// Is `start` excluded, and up to where, but not behind `end`, is it the same?
    pub fn at(&self, start: usize, end: usize) -> (bool, usize) {
        let (mut until, ranges) = (end, &self.ranges[..self.count]);
        for &(from, to) in ranges {
            if from <= start && start < to {
                return (true, to.min(end));
            }
            if start < from {
                until = until.min(from);
            }
        }
        (false, until)
    }

    fn add(&mut self, start: usize, length: usize) -> Result<(), Error> {
        let whole = start.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length != 0;
        let end = start.checked_add(length).filter(|&end| end <= TOP);
        let end = end.filter(|_| whole && start != 0);
        let end = end.ok_or(Error::NotPages { address: start })?;
        let mut known = self.ranges[..self.count].iter();
        if known.any(|r| r.0 <= start && end <= r.1) {
            return Ok(());
        }
        *self
            .ranges
            .get_mut(self.count)
            .ok_or(Error::TooManyExcluded)? = (start, end);
        self.count += 1;
        Ok(())
    }
}

unsafe fn add(state: &'static State, argument: usize) -> Reply {
    // SAFETY: `exclude` waits, with these on its stack; the list is the agent's.
    let result = unsafe {
        let (start, length) = *(argument as *const (usize, usize));
        state.excluded.get().add(start, length)
    };
    (result.map(|()| 0), None)
}

/// From now on no rollback undoes what is in these pages; their mapping and protection are
/// still put back. For the rest of the process's life.
///
/// # Errors
/// [`Error::NotPages`]: `address` and `length` are not those of whole pages.
/// [`Error::TooManyExcluded`]. Nothing is excluded then.
///
/// # Safety
/// No code of the program relies for soundness on these pages agreeing with other memory after
/// a rollback; they hold no stack and no memory of an allocator.
pub unsafe fn exclude(address: usize, length: usize) -> Result<(), Error> {
    agent::init(0)?;
    let range = (address, length);
    // SAFETY: made for the agent, with an argument that lives until the answer.
    unsafe { agent::ask(add, (&raw const range) as usize) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_pages() {
        let mut list = Excluded {
            ranges: [(0, 0); RANGES],
            count: 0,
        };
        for (start, length) in [
            (0x1000, 0),
            (0x1001, 0x1000),
            (0x1000, 0xfff),
            (0, 0x1000),
            (usize::MAX - 0xfff, 0x1000),
            (0x1000, usize::MAX - 0xfff),
            (TOP, 0x1000),
        ] {
            let refused = Err(Error::NotPages { address: start });
            assert_eq!(list.add(start, length), refused, "{start:#x} {length:#x}");
        }
        list.add(0x3000, 0x2000).unwrap();
        assert_eq!(list.at(0x1000, 0x9000), (false, 0x3000));
        assert_eq!(list.at(0x3000, 0x4000), (true, 0x4000));
        assert_eq!(list.at(0x4000, 0x9000), (true, 0x5000));
        assert_eq!(list.at(0x5000, 0x9000), (false, 0x9000));
        for n in 1..RANGES {
            list.add(0x10_0000 + n * 0x2000, 0x1000).unwrap();
        }
        assert_eq!(list.add(0x8000, 0x1000), Err(Error::TooManyExcluded));
        assert_eq!(list.add(0x4000, 0x1000), Ok(()));
    }
}
