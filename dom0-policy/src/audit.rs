// SPDX-License-Identifier: MIT OR Apache-2.0
//! The audit log: one JSON object a line, appended and synced before the
//! decision it records takes effect outside. When it cannot be written, the
//! daemon issues nothing.
//!
//! The file is replaced by a new one before it would exceed its size; a fixed
//! number of old files is kept, so the log cannot fill the disk by itself.

mod read;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hvckpt_files::{open_at_once, sync_parent};
use serde::{Deserialize, Serialize};

pub use read::{Follow, Line, tail};

use crate::units;

const FILE: &str = "audit.log";

/// Size of one file, in octets, unless configured.
pub const DEFAULT_BYTES: u64 = 16 << 20;

/// Old files kept, unless configured.
pub const DEFAULT_KEEP: u32 = 8;

/// One line. Fields which do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Record {
    /// Counts up by one from line to line, across restarts and files.
    #[serde(default)]
    pub seq: u64,
    /// When, in UTC.
    #[serde(default)]
    pub time: String,
    /// What it is about: `start`, `stop`, `token`, `connection`, `key-add`,
    /// `key-revoke`, `key-expire`, `session-end`, `limits-set`, `audit-resumed`.
    pub event: String,
    /// `granted`, `refused`, `done` or `failed`.
    pub decision: String,
    /// Why refused or failed: a fixed word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Number of the key, or its public half if it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The domain as the key names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Its number at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domid: Option<u32>,
    /// Who asked: address and port, or `uid … pid …`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// More for a human reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Lines of this kind left out since the last one, to bound the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

impl Record {
    /// A line about `event`, `decision` taken.
    #[must_use]
    pub fn new(event: &str, decision: &str) -> Self {
        Self {
            event: event.to_owned(),
            decision: decision.to_owned(),
            ..Self::default()
        }
    }

    /// The same with the asking address.
    #[must_use]
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer.to_string());
        self
    }

    /// The same with a reason.
    #[must_use]
    pub fn reason(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// The same with more detail, cut to a bounded length.
    #[must_use]
    pub fn detail(mut self, detail: &str) -> Self {
        self.detail = Some(hvckpt_wire::token::cut(detail, 300).to_owned());
        self
    }
}

/// The log, open for appending.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    length: u64,
    max_bytes: u64,
    keep: u32,
    next: u64,
    /// The last line may be torn: end it before writing another.
    torn: bool,
    /// The last attempt failed.
    failing: bool,
}

impl AuditLog {
    /// Opens the log in `dir`. A last line without an end, left by a crash,
    /// is ended, so that it spoils no other.
    ///
    /// # Errors
    /// When it cannot be opened or read. That it cannot be *written* shows
    /// when it is written.
    pub fn open(dir: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let path = dir.join(FILE);
        let file = open(&path)?;
        let length = file.metadata()?.len();
        let torn = length > 0 && !ends_with_newline(&path, length)?;
        let next = 1 + read::last_seq(dir)?;
        Ok(Self {
            path,
            file,
            length,
            max_bytes,
            keep,
            next,
            torn,
            failing: false,
        })
    }

    /// Writes one line and waits until it is on disk.
    ///
    /// # Errors
    /// From the file system, disk full for one. The line may then be in the
    /// log or not.
    pub fn append(&mut self, record: Record) -> io::Result<()> {
        let result = self.try_append(record);
        self.failing = result.is_err();
        if let Err(error) = &result {
            crate::log(format_args!("cannot write the audit log: {error}"));
        }
        result
    }

    /// Makes sure, after a failure, that the log can be written again. Costs
    /// nothing otherwise.
    ///
    /// # Errors
    /// From the file system: the log still cannot be written.
    pub fn check(&mut self) -> io::Result<()> {
        if self.failing {
            self.append(Record::new("audit-resumed", "done"))?;
        }
        Ok(())
    }

    fn try_append(&mut self, record: Record) -> io::Result<()> {
        let record = Record {
            seq: self.next,
            time: units::rfc3339(units::now()),
            ..record
        };
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, &record)?;
        line.push(b'\n');
        let bytes = line.len() as u64;
        if self.length > 0 && self.length + bytes > self.max_bytes {
            self.rotate()?;
        }
        if let Err(error) = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
        {
            // Take back what part of the line is there, or else end it later.
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.torn = false;
        self.length += bytes;
        self.next += 1;
        Ok(())
    }

    /// `audit.log` becomes `audit.log.1`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            rename_if_there(
                &numbered(&self.path, number),
                &numbered(&self.path, number + 1),
            )?;
        }
        if self.keep > 0 {
            rename_if_there(&self.path, &numbered(&self.path, 1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        sync_parent(&self.path)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    open_at_once(path, options.append(true).create(true).mode(0o600))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn ends_with_newline(path: &Path, length: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    open_at_once(path, OpenOptions::new().read(true))?.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path) -> AuditLog {
        AuditLog::open(dir, DEFAULT_BYTES, 3).unwrap()
    }

    fn record(n: u64) -> Record {
        Record::new("token", "granted").detail(&n.to_string())
    }

    fn seqs(dir: &Path) -> Vec<u64> {
        tail(dir, usize::MAX)
            .unwrap()
            .into_iter()
            .filter_map(|line| line.record.map(|r| r.seq))
            .collect()
    }

    #[test]
    fn numbers_go_on_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path()).append(record(1)).unwrap();
        let mut again = log(dir.path());
        again.append(record(2)).unwrap();
        again.append(record(3)).unwrap();
        assert_eq!(seqs(dir.path()), [1, 2, 3]);
        assert_eq!(tail(dir.path(), 2).unwrap().len(), 2);
    }

    #[test]
    fn torn_last_line_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path()).append(record(1)).unwrap();
        let path = dir.path().join(FILE);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(br#"{"seq":2,"time":"20"#);
        fs::write(&path, text).unwrap();
        let mut again = log(dir.path());
        again.append(record(2)).unwrap();
        assert_eq!(seqs(dir.path()), [1, 2]);
        let lines = tail(dir.path(), 10).unwrap();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].record.is_none(), "the torn line is shown as it is");
    }

    #[test]
    fn rotation_bounds_the_disk_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = AuditLog::open(dir.path(), 1000, 3).unwrap();
        for n in 0..200 {
            log.append(record(n)).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]
        );
        for name in names {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
        let seqs = seqs(dir.path());
        assert_eq!(seqs.last(), Some(&200));
        assert!(
            seqs.windows(2).all(|w| w[1] == w[0] + 1),
            "in order, none missing"
        );
        drop(log);
        let next = AuditLog::open(dir.path(), 1000, 3).unwrap().next;
        assert_eq!(next, 201);
    }

    #[test]
    fn full_disk_is_an_error_until_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = log(dir.path());
        log.check().unwrap();
        let full = log.append(record(1)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(log.check().is_err(), "still full");
        // Room again: /dev/full cannot be truncated, so the line counts as torn.
        assert!(log.torn);
        fs::remove_file(&path).unwrap();
        log.file = open(&path).unwrap();
        log.check().unwrap();
        log.append(record(2)).unwrap();
        let events: Vec<_> = tail(dir.path(), 9)
            .unwrap()
            .into_iter()
            .filter_map(|l| l.record.map(|r| r.event))
            .collect();
        assert_eq!(events, ["audit-resumed", "token"]);
    }
}
