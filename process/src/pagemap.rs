// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/PID/pagemap` and `/proc/PID/mem`.

use crate::error::Error;
use crate::raw::{Errno, Fd, call};

pub(crate) const TOP: usize = 0x7fff_ffff_f000;
pub(crate) const PAGE: usize = 4096;

const FILE: u64 = 4;
const PRESENT: u64 = 8;
const SWAPPED: u64 = 16;
const ZERO: u64 = 32;
const GUARD: u64 = 256;

const PAGEMAP_SCAN: usize = 0xc060_6610;

/// A populated range.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// What its pages are.
    pub categories: u64,
}

pub(crate) fn broken(what: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::Refused { what, errno: e.0 }
}

pub(crate) fn read_at(fd: &Fd, to: &mut [u8], at: usize) -> Result<(), Error> {
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

/// The populated part of either list at or behind `at`.
pub(crate) fn next(a: &[Region], b: &[Region], at: usize) -> Option<(usize, usize)> {
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

pub(crate) fn is_zero(list: &[Region], address: usize) -> bool {
    let i = list.partition_point(|r| r.end as usize <= address);
    list.get(i)
        .is_some_and(|r| r.start as usize <= address && r.categories & ZERO != 0)
}

/// Is there a page of the program's own between `start` and `end`?
pub(crate) fn any(map: &Fd, start: usize, end: usize, no_guards: &mut bool) -> Result<bool, Error> {
    let mut first = Region::default();
    loop {
        let own = PRESENT | SWAPPED | if *no_guards { 0 } else { GUARD };
        let (start, end) = (start as u64, end as u64);
        let to = &raw mut first as u64;
        let not = FILE | ZERO;
        let mut a = [96, 0, start, end, 0, to, 1, 1, not, not, own, own];
        // SAFETY: there is room for one.
        match unsafe { call!(libc::SYS_ioctl, map.raw(), PAGEMAP_SCAN, a.as_mut_ptr()) } {
            Err(Errno(libc::EINVAL)) if !*no_guards => *no_guards = true,
            Err(e) => return Err(broken("a scan of the pages")(e)),
            Ok(n) => return Ok(n > 0),
        }
    }
}

/// Populated ranges which are not a file's pages.
pub(crate) fn scan(map: &Fd, to: &mut [Region], no_guards: &mut bool) -> Result<usize, Error> {
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
        // Nothing was looked at: what is there would be missed.
        if a[4] as usize <= at {
            return Err(refused(libc::EIO));
        }
        at = a[4] as usize;
    }
    Ok(n)
}
