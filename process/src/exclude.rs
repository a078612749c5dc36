// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that no rollback touches.

use crate::error::Error;
use crate::pagemap::{PAGE, TOP};

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

    /// Excludes `length` octets at `start`.
    ///
    /// # Errors
    /// They are not whole pages, or there is no room.
    pub fn add(&mut self, start: usize, length: usize) -> Result<(), Error> {
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
