// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading the log: the last lines, or those to come. Works beside a running
//! daemon and without one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hvckpt_files::open_at_once;

use super::{FILE, Record, numbered};

/// Longest line taken for one; the daemon writes none so long.
const LINE_MAX: u64 = 64 << 10;

/// A line, with its contents if it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As it is in the file, without the end; octets that are not UTF-8 are
    /// replaced.
    pub text: String,
    /// What it says; `None` when it is torn.
    pub record: Option<Record>,
}

impl Line {
    fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let record = serde_json::from_str(&text).ok();
        Self { text, record }
    }
}

/// The last `count` lines, oldest first, over all files kept.
///
/// # Errors
/// From the file system; that there is no log is not an error.
pub fn tail(dir: &Path, count: usize) -> io::Result<Vec<Line>> {
    let mut newest_first: Vec<Line> = Vec::new();
    for path in files(dir) {
        if newest_first.len() >= count {
            break;
        }
        let mut lines = read_lines(&path)?;
        lines.reverse();
        newest_first.extend(lines);
    }
    newest_first.truncate(count);
    newest_first.reverse();
    Ok(newest_first)
}

/// The highest number in the log; 0 if there is none.
pub(super) fn last_seq(dir: &Path) -> io::Result<u64> {
    for path in files(dir) {
        let lines = read_lines(&path)?;
        if let Some(seq) = lines
            .iter()
            .filter_map(|l| Some(l.record.as_ref()?.seq))
            .max()
        {
            return Ok(seq);
        }
    }
    Ok(0)
}

/// The files there are, newest first.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let newest = dir.join(FILE);
    let older: Vec<PathBuf> = (1..)
        .map(|n| numbered(&newest, n))
        .take_while(|path| path.exists())
        .collect();
    std::iter::once(newest).chain(older)
}

fn read_lines(path: &Path) -> io::Result<Vec<Line>> {
    let file = match open_at_once(path, OpenOptions::new().read(true)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // A device in the place of the file has length 0 and no lines.
    let length = file.metadata()?.len();
    let mut reader = BufReader::new(file.take(length));
    let mut lines = Vec::new();
    loop {
        let mut bytes = Vec::new();
        if reader
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut bytes)?
            == 0
        {
            return Ok(lines);
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if !text.is_empty() {
            lines.push(Line::new(text));
        }
    }
}

/// Shows lines as they are written, through rotations.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: Option<File>,
    /// Octets of a line whose end is not there yet.
    partial: Vec<u8>,
}

impl Follow {
    /// From the present end of the log in `dir` on.
    ///
    /// # Errors
    /// From the file system.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let mut follow = Self {
            path: dir.join(FILE),
            file: None,
            partial: Vec::new(),
        };
        follow.reopen()?;
        if let Some(file) = &mut follow.file {
            file.seek(SeekFrom::End(0))?;
        }
        Ok(follow)
    }

    /// The whole lines since the last call.
    ///
    /// # Errors
    /// From the file system.
    pub fn next_lines(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        self.read_rest(&mut lines)?;
        let moved = match (&self.file, std::fs::metadata(&self.path)) {
            (Some(file), Ok(there)) => file.metadata()?.ino() != there.ino(),
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        if moved {
            // The old file may have grown before it was renamed.
            self.read_rest(&mut lines)?;
            self.partial.clear();
            self.reopen()?;
            self.read_rest(&mut lines)?;
        }
        Ok(lines)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = match open_at_once(&self.path, OpenOptions::new().read(true)) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(())
    }

    fn read_rest(&mut self, lines: &mut Vec<Line>) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.read_to_end(&mut self.partial)?;
        while let Some(end) = self.partial.iter().position(|&c| c == b'\n') {
            let rest = self.partial.split_off(end + 1);
            let line = std::mem::replace(&mut self.partial, rest);
            if end > 0 {
                lines.push(Line::new(&line[..end]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::AuditLog;
    use super::*;

    #[test]
    fn follows_through_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AuditLog::open(dir.path(), 400, 2).unwrap();
        log.append(Record::new("start", "done")).unwrap();
        let mut follow = Follow::start(dir.path()).unwrap();
        let mut seen = Vec::new();
        for _ in 0..20 {
            log.append(Record::new("token", "granted")).unwrap();
            seen.extend(
                follow
                    .next_lines()
                    .unwrap()
                    .into_iter()
                    .map(|l| l.record.unwrap().seq),
            );
        }
        assert_eq!(seen, (2..=21).collect::<Vec<u64>>());
        assert!(follow.next_lines().unwrap().is_empty());
    }
}
