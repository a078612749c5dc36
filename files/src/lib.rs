// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stores and servers need of a file system: files that are what they
//! should be, are whole or not at all, and are locked by one at a time;
//! directories which are private.
#![forbid(unsafe_code)]

mod lock;
mod replace;

pub use lock::{LockFile, holder, same};
pub use replace::{create, rename_new, replace};

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a regular file.  A pipe, a device, a directory or a link to nothing in
/// its place is an error (`InvalidInput` or `IsADirectory`), and nobody waits
/// for its other end.
///
/// # Errors
/// From the file system.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open_at_once(path, options).map_err(|error| {
        // A name which leads nowhere is not a name which is free.
        let linked = || fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
        if error.kind() == io::ErrorKind::NotFound && linked() {
            not_regular()
        } else {
            error
        }
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_regular())
    }
}

/// As [`open_regular`], but a device will do: who writes a log may have chosen
/// one.
///
/// # Errors
/// From the file system.
pub fn open_at_once(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            // A socket, a pipe which nobody reads, links in a circle.
            Some(Errno::NXIO | Errno::LOOP) => not_regular(),
            _ => error,
        })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() {
        Ok(file)
    } else {
        Err(not_regular())
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Reads a regular file as a whole; see [`open_regular`].
///
/// # Errors
/// From the file system.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open_regular(path, OpenOptions::new().read(true))?;
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// From the file system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

/// Makes a rename or a new name in the directory of `path` durable.
///
/// # Errors
/// From the file system.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes a directory which only its owner may enter (0700), and those above
/// it which are missing, and makes their names durable.  Those which were
/// made, the topmost first; after an error none of them is left.
///
/// # Errors
/// From the file system.
pub fn make_directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at.as_os_str().is_empty() && !at.is_dir() {
        missing.push(at);
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    let mut made = Vec::new();
    for at in missing.into_iter().rev() {
        let result = fs::DirBuilder::new().mode(0o700).create(at);
        let result = match result {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at.is_dir() => Ok(()),
            Ok(()) => {
                made.push(at.to_owned());
                at.parent().map_or(Ok(()), sync_directory)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            remove_directories(&made);
            return Err(error);
        }
    }
    Ok(made)
}

/// Removes directories which [`make_directory`] made, if nothing is in them.
pub fn remove_directories(made: &[PathBuf]) {
    for path in made.iter().rev() {
        if fs::remove_dir(path).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        std::os::unix::fs::symlink(at("nothing/there"), at("nowhere")).unwrap();
        for name in ["pipe", "socket", "directory", "loop", "device", "nowhere"] {
            for (write, append) in [(false, false), (true, false), (false, true)] {
                let mut options = OpenOptions::new();
                options.read(!write && !append).write(write).append(append);
                let refused = open_regular(&at(name), &mut options).unwrap_err();
                assert_ne!(refused.kind(), io::ErrorKind::NotFound, "{name}");
            }
        }
        fs::write(at("file"), b"text").unwrap();
        assert_eq!(read_regular(&at("file")).unwrap(), b"text");
    }

    #[test]
    fn directories_are_private_and_go_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        let made = make_directory(&path).unwrap();
        assert_eq!(made.len(), 3);
        for path in &made {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
        assert!(make_directory(&path).unwrap().is_empty());
        remove_directories(&made);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::write(directory.path().join("file"), b"").unwrap();
        assert!(make_directory(&directory.path().join("file/b")).is_err());
    }
}
