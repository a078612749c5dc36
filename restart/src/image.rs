// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images of processes: `NNNNNN.hvproc` (docs/spec-process-image.md).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use crate::section::*;
use crate::{Context, Error};

/// Octets of a page.
pub const PAGE: u64 = 4096;
const MAGIC: &[u8; 8] = b"HVCKPROC";
const FORMAT: u32 = 1;
/// More is not believed: a section of this size is not ours.
const MOST_SECTION: u64 = 256 << 20;
/// Pages one checksum is for, at most.
pub(crate) const RUN_PAGES: u64 = 256;
const RUN_OCTETS: u64 = 24;
/// What the kernel takes as the size of a file.
const MOST_FILE: u64 = i64::MAX.cast_unsigned();
/// From here on no process has memory: contents of files without a name.
pub const CONTENTS: u64 = 1 << 47;

/// Pages of the address space which lie side by side in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Run {
    pub address: u64,
    pub at: u64,
    pub pages: u32,
    pub crc: u32,
}

/// An image which is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    runs: Vec<Run>,
    pages: u64,
}

impl Writer {
    pub fn create(dir: &Path, version: u64) -> Result<Self, Error> {
        let path = path_of(dir, version);
        let temporary = dir.join(format!(".{version:06}.tmp"));
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary);
        let file = file.context(|| format!("cannot create {}", temporary.display()))?;
        Ok(Self {
            file,
            temporary,
            path,
            runs: Vec::new(),
            pages: 0,
        })
    }

    /// Forgets all that was written.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.runs.clear();
        self.pages = 0;
        self.file.set_len(0).context(|| self.complaint())
    }

    /// Appends whole pages which lie side by side from `address` on.
    pub fn pages(&mut self, address: u64, octets: &[u8]) -> Result<(), Error> {
        let at = PAGE * (1 + self.pages);
        self.file
            .write_all_at(octets, at)
            .context(|| self.complaint())?;
        let pages = octets.len() as u64 / PAGE;
        self.pages += pages;
        #[expect(clippy::cast_possible_truncation, reason = "at most RUN_PAGES")]
        let pages = pages as u32;
        self.runs.push(Run {
            address,
            at,
            pages,
            crc: crc32c::crc32c(octets),
        });
        Ok(())
    }

    fn complaint(&self) -> String {
        format!("cannot write {}", self.temporary.display())
    }

    /// Writes what tells of the pages, and makes the image durable. Returns
    /// its octets and pages.
    pub fn finish(mut self, process: &Process) -> Result<(u64, u64), Error> {
        let section = serde_json::to_vec(process).map_err(|e| Error::refused(e.to_string()))?;
        let mut table = Vec::new();
        // Contents of files come first, but their addresses are the highest.
        self.runs.sort_unstable_by_key(|run| run.address);
        for run in &self.runs {
            table.extend(run.address.to_le_bytes());
            table.extend(run.at.to_le_bytes());
            table.extend(run.pages.to_le_bytes());
            table.extend(run.crc.to_le_bytes());
        }
        let table_at = PAGE * (1 + self.pages);
        let section_at = table_at + table.len() as u64;
        let mut head = Vec::with_capacity(4096);
        head.extend(MAGIC);
        head.extend(FORMAT.to_le_bytes());
        head.extend(4096_u32.to_le_bytes());
        for word in [
            self.pages,
            self.runs.len() as u64,
            section_at,
            section.len() as u64,
        ] {
            head.extend(word.to_le_bytes());
        }
        head.extend(crc32c::crc32c(&table).to_le_bytes());
        head.extend(crc32c::crc32c(&section).to_le_bytes());
        head.resize(4092, 0);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        let all = [(&table, table_at), (&section, section_at), (&head, 0)];
        all.iter()
            .try_for_each(|(octets, at)| self.file.write_all_at(octets, *at))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .and_then(|()| File::open(self.path.parent().unwrap_or(Path::new("."))))
            .and_then(|dir| dir.sync_all())
            .context(|| self.complaint())?;
        Ok((section_at + section.len() as u64, self.pages))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone already when the image was finished.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// An image which has been looked at: header, table and section are whole.
#[derive(Debug)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// What it tells of the process.
    pub process: Process,
    /// Where its pages are, by address.
    pub runs: Vec<Run>,
    pub(crate) file: File,
}

impl Image {
    /// Opens an image; checks all but its pages.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not as it was written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let cannot = || format!("cannot read {}", path.display());
        let damaged = |why: &str| {
            Error::Damaged(format!(
                "{}: {why}; restart an older version",
                path.display()
            ))
        };
        let file = File::open(path).context(cannot)?;
        let size = file.metadata().context(cannot)?.len();
        let read = |at: u64, len: u64| -> io::Result<Vec<u8>> {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut octets = vec![0; len];
            file.read_exact_at(&mut octets, at)?;
            Ok(octets)
        };
        if size < PAGE {
            return Err(damaged("shorter than its header"));
        }
        let head = read(0, PAGE).context(cannot)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        if &head[..8] != MAGIC {
            return Err(damaged("not an image of a process"));
        }
        if crc32c::crc32c(&head[..4092]) != word(4092) {
            return Err(damaged("checksum of the header is wrong"));
        }
        if word(8) != FORMAT || word(12) != 4096 {
            return Err(Error::refused(format!(
                "{}: format {} is not known here; use the hvckpt that wrote it",
                path.display(),
                word(8)
            )));
        }
        let (pages, runs, section_at, section_len) = (long(16), long(24), long(32), long(40));
        let fits = || {
            let table_at = pages.checked_add(1)?.checked_mul(PAGE)?;
            let table_len = runs.checked_mul(RUN_OCTETS)?;
            let whole = table_at.checked_add(table_len)? == section_at
                && section_at.checked_add(section_len)? == size
                && section_len <= MOST_SECTION;
            whole.then_some((table_at, table_len))
        };
        let (table_at, table_len) = fits().ok_or_else(|| damaged("its size is wrong"))?;
        let table = read(table_at, table_len).context(cannot)?;
        let section = read(section_at, section_len).context(cannot)?;
        if crc32c::crc32c(&table) != word(48) || crc32c::crc32c(&section) != word(52) {
            return Err(damaged("checksum of the process section is wrong"));
        }
        let runs =
            parse_runs(&table, table_at).ok_or_else(|| damaged("its table of pages is wrong"))?;
        let process: Process = serde_json::from_slice(&section)
            .map_err(|error| damaged(&format!("process section: {error}")))?;
        check(&process).map_err(damaged)?;
        Ok(Self {
            path: path.to_owned(),
            process,
            runs,
            file,
        })
    }

    /// Reads all pages and compares their checksums.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first address that is wrong.
    pub fn verify(&self) -> Result<(), Error> {
        let mut octets = Vec::new();
        for run in &self.runs {
            octets.resize(run.pages as usize * 4096, 0);
            let read = self.file.read_exact_at(&mut octets, run.at);
            read.context(|| format!("cannot read {}", self.path.display()))?;
            if crc32c::crc32c(&octets) != run.crc {
                return Err(Error::Damaged(format!(
                    "{}: checksum of the pages at {:#x} is wrong; restart an older version",
                    self.path.display(),
                    run.address
                )));
            }
        }
        Ok(())
    }
}

fn parse_runs(table: &[u8], end: u64) -> Option<Vec<Run>> {
    let mut below = 0;
    let mut runs = Vec::new();
    for entry in table.chunks_exact(24) {
        let (address, rest) = entry.split_first_chunk::<8>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (pages, crc) = rest.split_first_chunk::<4>()?;
        let run = Run {
            address: u64::from_le_bytes(*address),
            at: u64::from_le_bytes(*at),
            pages: u32::from_le_bytes(*pages),
            crc: u32::from_le_bytes(crc.try_into().ok()?),
        };
        let length = u64::from(run.pages) * PAGE;
        let sound = run.pages > 0
            && u64::from(run.pages) <= RUN_PAGES
            && run.address >= below
            && (run.address | run.at).is_multiple_of(PAGE)
            && run.at >= PAGE
            && run.at.checked_add(length)? <= end;
        below = run.address.checked_add(length)?;
        if !sound {
            return None;
        }
        runs.push(run);
    }
    Some(runs)
}

/// What a restart relies on. The checksum is no protection against malice:
/// an image is as trusted as a program.
fn check(process: &Process) -> Result<(), &'static str> {
    let top = 0x7fff_ffff_f000;
    let mut below = 0;
    for area in &process.areas {
        if area.start < below
            || area.end <= area.start
            || area.end > top
            || (area.start | area.end) % PAGE != 0
        {
            return Err("its mappings overlap");
        }
        below = area.end;
    }
    if process.threads.first().is_none_or(|t| t.tid != process.pid) {
        return Err("its first thread is missing");
    }
    if process
        .threads
        .iter()
        .any(|t| t.tid <= 0 || t.name.0.len() > 15)
        || process.actions.len() != 64
    {
        return Err("its threads or signal actions are wrong");
    }
    let mut last = -1;
    for one in &process.descriptors {
        if one.fd <= last || one.fd >= 1 << 20 {
            return Err("its descriptors are wrong");
        }
        last = one.fd;
        let sound = |c: Content| {
            let end = c.at.checked_add(c.size);
            c.at >= CONTENTS && c.at.is_multiple_of(PAGE) && end.is_some() && c.size <= MOST_FILE
        };
        if !one.kind.content().is_none_or(sound) {
            return Err("what its files without a name hold is wrong");
        }
    }
    Ok(())
}

/// The file of a version.
#[must_use]
pub fn path_of(dir: &Path, version: u64) -> PathBuf {
    dir.join(format!("{version:06}.hvproc"))
}

/// The versions in a directory, oldest first.
#[must_use]
pub fn versions(dir: &Path) -> Vec<u64> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let number = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".hvproc")?.parse().ok();
    let mut found: Vec<u64> = names.filter_map(number).collect();
    found.sort_unstable();
    found
}

/// The file `DIR`, `DIR@VERSION` or `FILE.hvproc` means.
///
/// # Errors
/// Nothing there.
pub fn find(name: &str) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let (dir, version) = match name.rsplit_once('@') {
        Some((dir, version)) if !path.is_dir() => (Path::new(dir), version.parse().ok()),
        _ => (path, versions(path).last().copied()),
    };
    let missing = || {
        Error::refused(format!(
            "no image of a process in {name}; `hvckpt checkpoint` writes one"
        ))
    };
    let path = path_of(dir, version.ok_or_else(missing)?);
    if path.is_file() {
        Ok(path)
    } else {
        Err(missing())
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
