// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mappings of a process, read from /proc/PID/smaps.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::image::{Area, Mapped};
use crate::{Context, Error};

/// What stands in the way of keeping the mappings.
pub type Objections = Vec<String>;

pub fn mapped(path: &Path) -> Option<Mapped> {
    let of = fs::metadata(path).ok()?;
    let mtime_ns = i128::from(of.mtime()) * 1_000_000_000 + i128::from(of.mtime_nsec());
    Some(Mapped {
        path: path.to_owned(),
        size: of.len(),
        mtime_ns,
    })
}

/// What the kernel calls anonymous memory that is shared.
const SHARED: &str = "/dev/zero (deleted)";

fn lines(pid: i32) -> std::io::Result<String> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Where the mappings of `pid` are, and no more: this takes little time.
pub fn outline(pid: i32) -> Result<Vec<[u64; 2]>, Error> {
    let text = lines(pid).context(|| format!("cannot read /proc/{pid}/maps"))?;
    let areas = text.lines().filter(|line| !line.ends_with("[vsyscall]"));
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let areas = areas.filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some([number(start)?, number(end)?])
    });
    Ok(areas.collect())
}

/// Shared memory which the program has at two places.
fn twice(areas: &[Area], objections: &mut Objections) {
    let mut all: Vec<&Area> = areas.iter().filter(|a| a.object != 0).collect();
    all.sort_by_key(|a| (a.object, a.offset));
    for pair in all.windows(2) {
        let end = pair[0].offset + (pair[0].end - pair[0].start);
        if pair[0].object == pair[1].object && pair[1].offset < end {
            objections.push(format!(
                "mapping {:x}: shared memory that is mapped at {:x} too, which is not kept yet",
                pair[1].start, pair[0].start
            ));
        }
    }
}

/// Shared memory of `pid` which others have as well.
pub fn shared(pid: i32, areas: &[Area]) -> Objections {
    let mut found = Vec::new();
    if areas.iter().all(|a| a.object == 0) {
        return found;
    }
    let others = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    for other in others.filter(|other| *other != pid) {
        // Whose memory cannot be looked at, or who has ended, tells nothing.
        let text = lines(other).unwrap_or_default();
        let mut theirs = text
            .lines()
            .filter(|line| line.ends_with(SHARED))
            .filter_map(|line| line.split(' ').nth(4)?.parse::<u64>().ok());
        if let Some(area) = theirs.find_map(|t| areas.iter().find(|a| a.object == t)) {
            found.push(format!(
                "mapping {:x}: shared memory that process {other} has too; end that first",
                area.start
            ));
        }
    }
    found
}

/// All mappings of `pid`, and what of them cannot be kept.
pub fn read(pid: i32) -> Result<(Vec<Area>, Objections), Error> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read(&path).context(|| format!("cannot read {path}"))?;
    let text = String::from_utf8_lossy(&text);
    let (mut areas, mut objections) = (Vec::new(), Vec::new());
    let mut newest: Option<Area> = None;
    for line in text.lines() {
        let first = line.split(' ').next().unwrap_or("");
        if first.contains('-') && !first.ends_with(':') {
            areas.extend(newest.take());
            newest = one(line, &mut objections);
        } else if let (Some(flags), Some(area)) = (line.strip_prefix("VmFlags:"), &mut newest) {
            judge(area, flags, &mut objections);
        }
    }
    areas.extend(newest);
    twice(&areas, &mut objections);
    Ok((areas, objections))
}

fn one(line: &str, objections: &mut Objections) -> Option<Area> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let perms = fields.next()?.as_bytes();
    let offset = number(fields.next()?)?;
    let _device = fields.next()?;
    let inode = fields.next()?;
    let name = fields.next().unwrap_or("").trim_start();
    if name == "[vsyscall]" {
        return None;
    }
    let mut area = Area {
        start,
        end,
        read: perms.first() == Some(&b'r'),
        write: perms.get(1) == Some(&b'w'),
        exec: perms.get(2) == Some(&b'x'),
        shared: perms.get(3) == Some(&b's'),
        offset,
        file: None,
        special: None,
        grows_down: name == "[stack]",
        no_reserve: false,
        dont_fork: false,
        wipe_on_fork: false,
        object: 0,
    };
    if matches!(name, "[vdso]" | "[vvar]" | "[vvar_vclock]") {
        area.special = Some(name.to_owned());
    } else if area.shared && name == SHARED {
        area.object = inode.parse().ok()?;
    } else if inode != "0" {
        let path = PathBuf::from(name);
        area.file = mapped(&path).filter(|_| name.starts_with('/') && path.is_file());
        if area.file.is_none() {
            objections.push(format!(
                "mapping {start:x} of {name}: not a file that can be mapped again; unmap it before"
            ));
        }
    }
    if area.shared && area.write && area.object == 0 {
        objections.push(format!(
            "mapping {start:x} ({name}): writable shared memory of a file is not kept; \
             use private or anonymous memory"
        ));
    }
    Some(area)
}

fn judge(area: &mut Area, flags: &str, objections: &mut Objections) {
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    area.grows_down |= has("gd");
    area.no_reserve = has("nr");
    area.dont_fork = has("dc");
    area.wipe_on_fork = has("wf");
    if area.special.is_some() {
        return;
    }
    for (flag, what) in [
        ("pf", "memory of a device"),
        ("io", "memory of a device"),
        ("ht", "huge pages of hugetlbfs"),
        ("sl", "sealed (mseal)"),
        ("um", "watched by userfaultfd"),
        ("uw", "watched by userfaultfd"),
        ("ss", "a shadow stack"),
    ] {
        if has(flag) {
            objections.push(format!(
                "mapping {:x}: {what}, which is not kept yet",
                area.start
            ));
        }
    }
}
