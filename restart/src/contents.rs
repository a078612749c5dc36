// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files without a name: only the image can keep what they hold.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::image::{CONTENTS, Content, Descriptor, Image, Kind, Octets, PAGE, RUN_PAGES, Writer};
use crate::memory::write_run;
use crate::sys::{fcntl, ok, owned};
use crate::{Context, Error};

/// They are read while the program stands still; more would take too long.
const MOST: u64 = 1 << 30;
/// File systems whose files are no octets on a disk or in memory: of POSIX
/// queues, /proc, and huge pages.
const OTHERS: [i64; 3] = [0x1980_0202, 0x9fa0, 0x9584_58f6];

/// Those which were found, by device and inode.
#[derive(Default)]
pub struct Unlinked {
    found: HashMap<(u64, u64), Content>,
    next: u64,
    octets: u64,
}

impl Unlinked {
    /// What is kept of a file or directory to which `link` does not lead;
    /// `path` leads to it through /proc.
    pub fn examine(
        &mut self,
        path: &Path,
        link: &Path,
        of: &fs::Metadata,
        offset: u64,
    ) -> Result<Kind, String> {
        let name = link.as_os_str().as_bytes();
        let elsewhere = || Err("its name does not lead to it; close it before".to_owned());
        let Some(name) = name.strip_suffix(b" (deleted)") else {
            return elsewhere();
        };
        if of.is_dir() {
            return Err("a deleted directory is not kept; close it before".into());
        }
        if of.nlink() > 0 {
            return Err(
                "its name was removed, but it has another one, which cannot be found; \
                 give it the old name again, or close it"
                    .into(),
            );
        }
        let file = File::open(path).map_err(|e| {
            format!("a deleted file which cannot be read ({e}); give it a name, or close it")
        })?;
        let system = kind_of_system(&file).map_err(|e| e.to_string())?;
        if OTHERS.contains(&system) {
            return elsewhere();
        }
        let mode = of.mode() & 0o7777;
        if let Some(name) = name.strip_prefix(b"/memfd:")
            && system == libc::TMPFS_MAGIC
        {
            let seals = fcntl(file.as_raw_fd(), libc::F_GET_SEALS, 0);
            return Ok(Kind::Memfd {
                name: Octets(name.to_vec()),
                offset,
                mode,
                seals: seals.map_err(|e| e.to_string())?,
                content: self.content(of)?,
            });
        }
        Ok(Kind::Unlinked {
            path: Path::new(OsStr::from_bytes(name)).to_owned(),
            offset,
            mode,
            content: self.content(of)?,
        })
    }

    /// Where the contents are to be in the image.
    fn content(&mut self, of: &fs::Metadata) -> Result<Content, String> {
        let one = (of.dev(), of.ino());
        if let Some(content) = self.found.get(&one) {
            return Ok(*content);
        }
        let size = of.len();
        self.octets += size.min(of.blocks().saturating_mul(512));
        let at = CONTENTS + self.next;
        let end = at
            .checked_add(size)
            .and_then(|e| e.checked_next_multiple_of(PAGE));
        match end {
            Some(end) if self.octets <= MOST => {
                // A page between them, so that an empty file has its own place.
                self.next = end - CONTENTS + PAGE;
                let content = Content { at, size };
                self.found.insert(one, content);
                Ok(content)
            }
            _ => Err(format!(
                "files without a name hold more than {MOST} octets; give it a name, or close it"
            )),
        }
    }
}

fn kind_of_system(file: &File) -> io::Result<i64> {
    // SAFETY: numbers only; zeroes are a value of it.
    let mut of: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure.
    ok(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut of) }.into())?;
    Ok(of.f_type)
}

/// The next range that is not a hole, or `None` at the end.
fn data(file: &File, from: u64) -> io::Result<Option<[u64; 2]>> {
    let find = |from: u64, what: i32| {
        // SAFETY: touches no memory; the offset is of this open file alone.
        let at = unsafe { libc::lseek(file.as_raw_fd(), from.cast_signed(), what) };
        ok(at).map(i64::cast_unsigned)
    };
    match find(from, libc::SEEK_DATA) {
        Ok(start) => Ok(Some([start, find(start, libc::SEEK_HOLE)?])),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes what the files of `table` hold that have no name. The program
/// stands still.
pub fn save(pid: i32, table: &[Descriptor], to: &mut Writer) -> Result<(), Error> {
    let mut done = HashSet::new();
    for one in table {
        let Some(content) = one.kind.content() else {
            continue;
        };
        if !done.insert(content.at) {
            continue;
        }
        let cannot = || format!("cannot read descriptor {} of process {pid}", one.fd);
        let file = File::open(format!("/proc/{pid}/fd/{}", one.fd)).context(cannot)?;
        let mut octets = Vec::new();
        let mut at = 0;
        while let Some([start, end]) = data(&file, at).context(cannot)? {
            at = at.max(start / PAGE * PAGE);
            let end = end.min(content.size);
            while at < end {
                let length = (end - at).min(RUN_PAGES * PAGE);
                octets.clear();
                octets.resize(usize::try_from(length).unwrap_or(0), 0);
                file.read_exact_at(&mut octets, at).context(cannot)?;
                octets.resize(octets.len().next_multiple_of(4096), 0);
                write_run(content.at + at, &octets, false, to)?;
                at += octets.len() as u64;
            }
            if at >= content.size {
                break;
            }
        }
    }
    Ok(())
}

/// Files without a name, made of what an image holds.
pub struct Contents<'a> {
    image: &'a Image,
    made: HashMap<u64, Made>,
}

struct Made {
    fd: RawFd,
    mode: u32,
    seals: i32,
}

impl<'a> Contents<'a> {
    pub fn new(image: &'a Image) -> Self {
        let made = HashMap::new();
        Self { image, made }
    }

    /// A descriptor of the file, for reading and writing. It stays open as long
    /// as the process has descriptors which nobody asked for.
    /// It has its mode from [`Contents::finish`] on.
    pub fn file(&mut self, path: &Path, content: Content, mode: u32) -> io::Result<RawFd> {
        if let Some(made) = self.made.get(&content.at) {
            return Ok(made.fd);
        }
        // Where it was; beside the image if that is not there any more.
        let beside = |of: &Path| of.parent().unwrap_or(Path::new("/")).to_owned();
        let file = tempfile::tempfile_in(beside(path))
            .or_else(|_| tempfile::tempfile_in(beside(&self.image.path)))?;
        self.add(file, content, mode, 0)
    }

    /// As [`Contents::file`], of `memfd_create`; the seals, too, come last.
    pub fn memory(
        &mut self,
        name: &Octets,
        content: Content,
        mode: u32,
        seals: i32,
    ) -> io::Result<RawFd> {
        if let Some(made) = self.made.get(&content.at) {
            return Ok(made.fd);
        }
        let name = CString::new(&name.0[..])?;
        let exec = if seals & libc::F_SEAL_EXEC == 0 {
            libc::MFD_EXEC
        } else {
            libc::MFD_NOEXEC_SEAL
        };
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | exec;
        // SAFETY: a string with its end.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        let file = File::from(owned(fd.into())?);
        self.add(file, content, mode, seals)
    }

    fn add(&mut self, file: File, content: Content, mode: u32, seals: i32) -> io::Result<RawFd> {
        self.fill(&file, content)?;
        let fd = file.into_raw_fd();
        self.made.insert(content.at, Made { fd, mode, seals });
        Ok(fd)
    }

    /// Gives the files their modes and seals, which may allow less than what
    /// was done with them before.
    pub fn finish(&self) -> io::Result<()> {
        for Made { fd, mode, seals } in self.made.values() {
            // SAFETY: touches no memory.
            ok(unsafe { libc::fchmod(*fd, *mode) }.into())?;
            if *seals != 0 {
                fcntl(*fd, libc::F_ADD_SEALS, *seals)?;
            }
        }
        Ok(())
    }

    fn fill(&self, file: &File, content: Content) -> io::Result<()> {
        file.set_len(content.size)?;
        let mut octets = Vec::new();
        let first = self.image.runs.partition_point(|r| r.address < content.at);
        for run in &self.image.runs[first..] {
            let Some(left) = (content.at + content.size).checked_sub(run.address) else {
                break;
            };
            if left == 0 {
                break;
            }
            octets.resize(run.pages as usize * 4096, 0);
            self.image.file.read_exact_at(&mut octets, run.at)?;
            let length = octets
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all_at(&octets[..length], run.address - content.at)?;
        }
        Ok(())
    }
}
