// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages of a process are its own, and their way into an image.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;

use hvckpt_sys::uffd::{
    Categories, PAGE_IS_FILE, PAGE_IS_GUARD, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED,
    PageRegion, Pagemap,
};

use crate::image::{Area, PAGE, RUN_PAGES, Writer};
use crate::remote::Worker;
use crate::{Context, Error, maps};

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

/// Where in memory, and what is there.
type Octets = (u64, Vec<u8>);

/// What is in areas of which a fork has no copy, taken while the program stands
/// still.
#[derive(Debug, Default)]
pub struct Apart {
    areas: Vec<(Area, Vec<Octets>)>,
    pub guards: Vec<[u64; 2]>,
}

impl Apart {
    /// Takes what is in those of `areas`, as they were a moment ago, of the
    /// stopped program whose thread `worker` is. 512 octets at `scratch` are its.
    pub fn take(
        pid: i32,
        areas: &[Area],
        worker: &mut Worker<'_>,
        scratch: u64,
    ) -> Result<Self, Error> {
        let mut taken = Self::default();
        let mut of = areas.iter().filter(|a| a.apart()).peekable();
        if of.peek().is_none() {
            return Ok(taken);
        }
        let there = maps::outline(pid)?;
        let pagemap = Pagemap::of(pid).context(|| format!("cannot open /proc/{pid}/pagemap"))?;
        for area in of.filter(|a| there.contains(&[a.start, a.end])) {
            let cannot = || format!("cannot look at the pages of {:x}", area.start);
            let guards = scan(&pagemap, area.start, area.end, &GUARDS).context(cannot)?;
            let ranges = if area.object == 0 {
                if area.shared {
                    Vec::new() // a file's
                } else {
                    scan(&pagemap, area.start, area.end, &OWN).context(cannot)?
                }
            } else {
                let all = resident(area, worker, scratch).context(cannot)?;
                without(all, &guards)
            };
            let mut runs = Vec::new();
            for [start, end] in ranges {
                let mut octets = Vec::new();
                let length = usize::try_from(end - start).unwrap_or(usize::MAX);
                octets.try_reserve_exact(length).map_err(|_| {
                    Error::refused(format!(
                        "no memory for a copy of mapping {:x}, which a fork does not copy",
                        area.start
                    ))
                })?;
                let mut memory = worker.memory;
                memory.seek(io::SeekFrom::Start(start)).context(cannot)?;
                let read = memory.take(end - start).read_to_end(&mut octets);
                if read.context(cannot)? != length {
                    return Err(Error::refused(cannot()));
                }
                runs.push((start, octets));
            }
            taken.guards.extend(guards);
            taken.areas.push((area.clone(), runs));
        }
        Ok(taken)
    }

    /// The areas of the program, of those which its copy has. `None`: they have
    /// changed since somebody looked, and what is in some was not taken.
    pub fn with(&self, copied: Vec<Area>, there: &[[u64; 2]]) -> Option<Vec<Area>> {
        let mut all = copied;
        for (area, _) in &self.areas {
            if !all
                .iter()
                .any(|a| (a.start, a.end) == (area.start, area.end))
            {
                all.push(area.clone());
            }
        }
        all.sort_by_key(|a| a.start);
        let as_before = all
            .iter()
            .map(|a| [a.start, a.end])
            .eq(there.iter().copied());
        let complete = all.iter().all(|a| !a.apart() || self.runs(a).is_some());
        (as_before && complete).then_some(all)
    }

    fn runs(&self, of: &Area) -> Option<&[Octets]> {
        let found = self
            .areas
            .iter()
            .find(|(a, _)| (a.start, a.end) == (of.start, of.end));
        found.map(|(_, runs)| &runs[..])
    }
}

/// Ranges of shared memory that may be something else than zero.
fn resident(area: &Area, worker: &mut Worker<'_>, scratch: u64) -> io::Result<Vec<[u64; 2]>> {
    // What is swapped out looks as if it were not there.
    if swaps() {
        return Ok(vec![[area.start, area.end]]);
    }
    let mut found: Vec<[u64; 2]> = Vec::new();
    let mut from = area.start;
    while from < area.end {
        let length = (area.end - from).min(512 * PAGE);
        worker.call(libc::SYS_mincore, &[from, length, scratch])?;
        let told: [u8; 512] = worker.read(scratch)?;
        for (n, page) in (0..length / PAGE).zip(told) {
            let at = from + n * PAGE;
            match found.last_mut() {
                _ if page & 1 == 0 => {}
                Some([_, end]) if *end == at => *end += PAGE,
                _ => found.push([at, at + PAGE]),
            }
        }
        from += length;
    }
    Ok(found)
}

/// Whether memory may be swapped out on this machine.
fn swaps() -> bool {
    let text = std::fs::read_to_string("/proc/swaps");
    text.map_or(true, |t| t.lines().count() > 1)
}

/// `ranges` without what lies in `holes`; both are in order.
fn without(ranges: Vec<[u64; 2]>, holes: &[[u64; 2]]) -> Vec<[u64; 2]> {
    let mut rest = ranges;
    for [from, to] in holes {
        rest = rest
            .iter()
            .flat_map(|[start, end]| [[*start, (*end).min(*from)], [(*start).max(*to), *end]])
            .filter(|[start, end]| start < end)
            .collect();
    }
    rest
}

/// Writes the pages of `pid`'s memory, and what was taken apart; returns the
/// guard pages.
pub fn write(
    pid: i32,
    areas: &[Area],
    memory: &File,
    apart: &Apart,
    to: &mut Writer,
) -> Result<Vec<[u64; 2]>, Error> {
    let pagemap = Pagemap::of(pid).context(|| format!("cannot open /proc/{pid}/pagemap"))?;
    let mut guards = apart.guards.clone();
    let mut octets = Vec::new();
    for area in areas.iter().filter(|a| a.special.is_none()) {
        let cannot = || format!("cannot look at the pages of {:x}", area.start);
        if let Some(runs) = apart.runs(area) {
            let most = usize::try_from(RUN_PAGES * PAGE).unwrap_or(usize::MAX);
            for (start, octets) in runs {
                for (at, some) in (*start..).step_by(most).zip(octets.chunks(most)) {
                    write_run(at, some, area.file.is_some(), to)?;
                }
            }
            continue;
        }
        if area.shared {
            continue;
        }
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

/// Writes pages, but none of zeroes unless `zeroes`.
pub fn write_run(address: u64, octets: &[u8], zeroes: bool, to: &mut Writer) -> Result<(), Error> {
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
