// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages of a process are its own, and their way into an image.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::image::{Area, PAGE, RUN_PAGES, Writer};
use crate::sys::ok;
use crate::{Context, Error};

// <linux/fs.h>
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
const GUARD: u64 = 1 << 8;

struct Ask {
    inverted: u64,
    all_of: u64,
    any_of: u64,
}

/// Ranges of pages in `area` for which the answer is yes.
fn scan(pagemap: &File, area: &Area, ask: &Ask) -> io::Result<Vec<[u64; 2]>> {
    let mut found = Vec::new();
    let mut start = area.start;
    while start < area.end {
        let mut regions = [[0_u64; 3]; 256];
        let at: *mut [u64; 3] = regions.as_mut_ptr();
        let mut args = [
            96,
            0,
            start,
            area.end,
            0,
            at as u64,
            256,
            0,
            ask.inverted,
            ask.all_of,
            ask.any_of,
            PRESENT | GUARD,
        ];
        let arguments: *mut u64 = args.as_mut_ptr();
        // SAFETY: the structure tells the lengths of itself and of the answer.
        let got = ok(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, arguments) }.into())?;
        let got = usize::try_from(got).unwrap_or(0);
        found.extend(regions.iter().take(got).map(|r| [r[0], r[1]]));
        if args[4] <= start {
            break;
        }
        start = args[4];
    }
    Ok(found)
}

fn pagemap(pid: i32) -> Result<File, Error> {
    let path = format!("/proc/{pid}/pagemap");
    File::open(&path).context(|| format!("cannot open {path}"))
}

/// Whether this kernel can tell which pages a process has.
pub fn supported() -> Result<(), Error> {
    let here = Area {
        start: 0x10000,
        end: 0x11000,
        read: true,
        write: false,
        exec: false,
        shared: false,
        offset: 0,
        file: None,
        special: None,
        grows_down: false,
        no_reserve: false,
    };
    let ask = Ask {
        inverted: 0,
        all_of: 0,
        any_of: PRESENT,
    };
    let pagemap =
        File::open("/proc/self/pagemap").context(|| "cannot open /proc/self/pagemap".into())?;
    scan(&pagemap, &here, &ask).map(drop).map_err(|_| {
        Error::refused("this kernel has no PAGEMAP_SCAN; Linux 6.7 or later is needed")
    })
}

/// Writes the pages of `pid`'s private memory; returns the guard pages.
pub fn write(
    pid: i32,
    areas: &[Area],
    memory: &File,
    to: &mut Writer,
) -> Result<Vec<[u64; 2]>, Error> {
    let pagemap = pagemap(pid)?;
    let mut guards = Vec::new();
    let none = FILE | ZERO | GUARD;
    let mut octets = Vec::new();
    for area in areas.iter().filter(|a| a.special.is_none() && !a.shared) {
        let cannot = || format!("cannot look at the pages of {:x}", area.start);
        let own = Ask {
            inverted: none,
            all_of: none,
            any_of: PRESENT | SWAPPED,
        };
        for [start, end] in scan(&pagemap, area, &own).context(cannot)? {
            let mut from = start;
            while from < end {
                let until = end.min(from + RUN_PAGES * PAGE);
                octets.resize(usize::try_from(until - from).unwrap_or(0), 0);
                memory.read_exact_at(&mut octets, from).context(cannot)?;
                // Below a private file, a page of zeroes is something else than no page.
                write_run(from, &octets, area.file.is_some(), to)?;
                from = until;
            }
        }
        let marks = Ask {
            inverted: 0,
            all_of: GUARD,
            any_of: 0,
        };
        // A kernel that does not know of guard pages has none.
        guards.extend(scan(&pagemap, area, &marks).unwrap_or_default());
    }
    Ok(guards)
}

fn write_run(address: u64, octets: &[u8], zeroes: bool, to: &mut Writer) -> Result<(), Error> {
    let mut first = 0;
    let mut at = 0;
    for page in octets.chunks(4096) {
        if !zeroes && page.iter().all(|b| *b == 0) {
            if first < at {
                to.pages(address + first as u64, &octets[first..at])?;
            }
            first = at + page.len();
        }
        at += page.len();
    }
    if first < at {
        to.pages(address + first as u64, &octets[first..at])?;
    }
    Ok(())
}
