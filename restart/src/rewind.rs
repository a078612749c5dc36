// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that grew since the version, cut back to what they were.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::files::{Grown, grown};
use crate::image::Descriptor;
use crate::{Context, Error};

/// One file that is longer than it was.
#[derive(Debug)]
struct Cut {
    path: PathBuf,
    file: File,
    size: u64,
    /// Holds what was behind `size`, durably.
    tail: PathBuf,
    done: bool,
}

/// Tails which are saved. Unless [`Cuts::keep`] is called, dropping this puts
/// back what was cut.
#[derive(Debug, Default)]
pub struct Cuts(Vec<Cut>);

/// Saves what was appended to files that the program had open for writing, a
/// file for each, named after `beside`. Cuts nothing.
pub fn save(table: &[Descriptor], beside: &Path) -> Result<Cuts, Error> {
    let mut cuts = Cuts::default();
    let written = |one: &&Descriptor| one.flags & libc::O_ACCMODE != libc::O_RDONLY;
    for file in grown(table.iter().filter(written)) {
        let Grown { of, path, size, .. } = file?;
        let cannot = || {
            format!(
                "cannot save what {} has after {size} octets",
                path.display()
            )
        };
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).open(path).context(cannot)?;
        let (tail, mut to) = new_tail(beside, of.fd)?;
        // In the list before it is whole, so that an error removes it.
        cuts.0.push(Cut {
            path: path.to_owned(),
            file: file.try_clone().context(cannot)?,
            size,
            tail: tail.clone(),
            done: false,
        });
        file.seek(SeekFrom::Start(size)).context(cannot)?;
        io::copy(&mut file, &mut to)
            .and_then(|_| to.sync_all())
            .and_then(|()| File::open(tail.parent().unwrap_or(Path::new("."))))
            .and_then(|dir| dir.sync_all())
            .context(|| format!("cannot write {}", tail.display()))?;
    }
    Ok(cuts)
}

fn new_tail(beside: &Path, fd: i32) -> Result<(PathBuf, File), Error> {
    for n in 0_u32.. {
        let path = beside.with_extension(format!("cut-{fd}-{n}"));
        match File::create_new(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let file = made.context(|| format!("cannot create {}", path.display()))?;
                return Ok((path, file));
            }
        }
    }
    Err(Error::refused("no name is left for what is cut"))
}

impl Cuts {
    /// Cuts all files, durably.
    pub fn cut(&mut self) -> Result<(), Error> {
        for cut in &mut self.0 {
            // Also if it fails half way: what is there again is written over.
            cut.done = true;
            let Cut { path, size, .. } = &*cut;
            let cannot = || format!("cannot cut {} back to {size} octets", path.display());
            let done = cut.file.set_len(*size).and_then(|()| cut.file.sync_all());
            done.context(cannot)?;
        }
        Ok(())
    }

    /// The program goes on: the files stay cut, the tails stay beside the image.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Cut {
    fn put_back(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.size))?;
        io::copy(&mut File::open(&self.tail)?, &mut self.file)?;
        self.file.sync_all()
    }
}

impl Drop for Cuts {
    fn drop(&mut self) {
        for cut in &mut self.0 {
            if !cut.done {
                let _ = fs::remove_file(&cut.tail);
            } else if let Err(error) = cut.put_back() {
                eprintln!(
                    "hvckpt: {} stays cut ({error}); what it had is in {}",
                    cut.path.display(),
                    cut.tail.display()
                );
            } else {
                let _ = fs::remove_file(&cut.tail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Kind;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    fn open(path: &Path, fd: i32, size: u64) -> Descriptor {
        let kind = Kind::File {
            path: path.to_owned(),
            offset: 0,
            size,
            dir: false,
        };
        Descriptor {
            fd,
            flags: libc::O_RDWR,
            cloexec: false,
            kind,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_long_file_is_cut_without_being_read_and_keeps_its_tail() {
        let dir = tempfile::tempdir().unwrap();
        let (log, size) = (dir.path().join("log"), 64_u64 << 30);
        let file = File::create(&log).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(b"since then", size).unwrap();
        let mut cuts = save(&[open(&log, 7, size)], &dir.path().join("000001.hvproc")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size + 10, "cut too early");
        cuts.cut().unwrap();
        cuts.keep();
        assert_eq!(file.metadata().unwrap().len(), size);
        let tail = fs::read(dir.path().join("000001.cut-7-0")).unwrap();
        assert_eq!(tail, b"since then");
    }

    #[test]
    fn what_was_cut_comes_back_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|n| dir.path().join(n));
        for path in &paths {
            File::create(path).unwrap().write_all(b"12345").unwrap();
        }
        let table = [open(&paths[0], 3, 2), open(&paths[1], 4, 4)];
        let mut cuts = save(&table, &dir.path().join("000001.hvproc")).unwrap();
        cuts.cut().unwrap();
        assert_eq!(fs::read(&paths[0]).unwrap(), b"12");
        assert_eq!(fs::read(&paths[1]).unwrap(), b"1234");
        drop(cuts);
        for path in &paths {
            assert_eq!(fs::read(path).unwrap(), b"12345");
        }
        assert_eq!(names(dir.path()), ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_saved_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"12345").unwrap();
        let table = [open(&path, 3, 2), open(&dir.path().join("none"), 4, 0)];
        save(&table, &dir.path().join("000001.hvproc")).unwrap_err();
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(fs::read(&path).unwrap(), b"12345");
    }
}
