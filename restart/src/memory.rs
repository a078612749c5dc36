// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages of a process are its own, and their way into an image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hvckpt_sys::uffd::{
    Categories, PAGE_IS_FILE, PAGE_IS_GUARD, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED,
    PageRegion, Pagemap,
};

use crate::image::{Area, PAGE, RUN_PAGES, Writer};
use crate::{Context, Error};

/// What a process has of its own.
const NOT_OWN: u64 = PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_GUARD;
const OWN: Categories = Categories {
    inverted: NOT_OWN,
    all: NOT_OWN,
    any: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    told: PAGE_IS_PRESENT | PAGE_IS_GUARD,
};
const GUARDS: Categories = Categories {
    inverted: 0,
    all: PAGE_IS_GUARD,
    any: 0,
    told: PAGE_IS_GUARD,
};

/// Ranges of pages of these categories.
fn scan(pagemap: &Pagemap, start: u64, end: u64, which: &Categories) -> io::Result<Vec<[u64; 2]>> {
    let (mut found, mut space) = (Vec::new(), [PageRegion::default(); 256]);
    pagemap.scan(start, end, which, &mut space, |region| {
        found.push([region.start, region.end]);
    })?;
    Ok(found)
}

/// Whether this kernel can tell which pages a process has.
pub fn supported() -> Result<(), Error> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pagemap = Pagemap::of(own).context(|| "cannot open /proc/self/pagemap".into())?;
    scan(&pagemap, 0x1_0000, 0x1_1000, &GUARDS)
        .map(drop)
        .map_err(|_| {
            Error::refused(
                "this kernel's PAGEMAP_SCAN is missing, or does not know of guard pages; \
                 use a newer one",
            )
        })
}

/// Writes the pages of `pid`'s private memory; returns the guard pages.
pub fn write(
    pid: i32,
    areas: &[Area],
    memory: &File,
    to: &mut Writer,
) -> Result<Vec<[u64; 2]>, Error> {
    let pagemap = Pagemap::of(pid).context(|| format!("cannot open /proc/{pid}/pagemap"))?;
    let mut guards = Vec::new();
    let mut octets = Vec::new();
    for area in areas.iter().filter(|a| a.special.is_none() && !a.shared) {
        let cannot = || format!("cannot look at the pages of {:x}", area.start);
        for [start, end] in scan(&pagemap, area.start, area.end, &OWN).context(cannot)? {
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
        guards.extend(scan(&pagemap, area.start, area.end, &GUARDS).context(cannot)?);
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
