// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are there whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::sync_parent;

/// Replaces `path` with `data`, mode 0600: after a crash it holds the old or
/// the new contents, whole.
///
/// # Errors
/// From the file system; then `path` is as it was, unless only its directory
/// could not be synced: the new contents are there, until a crash perhaps.
pub fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    write_temporary(path, data, |temporary| fs::rename(temporary, path))?;
    sync_parent(path)
}

/// As [`replace`], but an existing file is an error (`AlreadyExists`).
///
/// # Errors
/// From the file system; then there is no such file.
pub fn create(path: &Path, data: &[u8]) -> io::Result<()> {
    write_temporary(path, data, |temporary| rename_new(temporary, path))?;
    sync_parent(path).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// Renames a file or a directory, unless there is one of the new name
/// (`AlreadyExists`).
///
/// # Errors
/// From the file system.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot; a link does not replace anything either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if from.is_file() => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

fn write_temporary(
    path: &Path,
    data: &[u8],
    publish: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let written = (|| {
        // One of a process which was killed, and had the same number.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(data)?;
        file.sync_all()?;
        publish(&temporary)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Another one for each call and each process: what one writes no other one
/// publishes.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn replaces_or_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        create(&path, b"one").unwrap();
        assert_eq!(
            create(&path, b"no").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // What cannot be replaced leaves nothing of the attempt either.
        fs::create_dir_all(dir.path().join("d/d")).unwrap();
        assert!(replace(&dir.path().join("d"), b"no").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn of_many_who_create_a_file_one_does_and_it_is_whole() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = &dir.path().join("f");
            let texts: Vec<Vec<u8>> = (b'a'..b'i').map(|c| vec![c; 10_000]).collect();
            let made = std::thread::scope(|scope| {
                let threads: Vec<_> = texts
                    .iter()
                    .map(|text| scope.spawn(move || create(path, text).is_ok()))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let winners: Vec<_> = (0..texts.len()).filter(|&n| made[n]).collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(fs::read(path).unwrap(), texts[winners[0]]);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
