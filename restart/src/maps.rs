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
    };
    if matches!(name, "[vdso]" | "[vvar]" | "[vvar_vclock]") {
        area.special = Some(name.to_owned());
    } else if inode != "0" {
        let path = PathBuf::from(name);
        area.file = mapped(&path).filter(|_| name.starts_with('/') && path.is_file());
        if area.file.is_none() {
            objections.push(format!(
                "mapping {start:x} of {name}: not a file that can be mapped again; unmap it before"
            ));
        }
    }
    if area.shared && area.write {
        objections.push(format!(
            "mapping {start:x} ({}): shared memory is not kept; use private memory",
            if name.is_empty() { "anonymous" } else { name }
        ));
    }
    Some(area)
}

fn judge(area: &mut Area, flags: &str, objections: &mut Objections) {
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    area.grows_down |= has("gd");
    area.no_reserve = has("nr");
    if area.special.is_some() {
        return;
    }
    for (flag, what) in [
        ("dc", "marked MADV_DONTFORK"),
        ("wf", "marked MADV_WIPEONFORK"),
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
