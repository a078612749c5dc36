// SPDX-License-Identifier: MIT OR Apache-2.0
//! A directory which gets its name when it is complete, and what is left of
//! those whose makers died.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hvckpt_files::{rename_new, same, sync_directory};

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) path: PathBuf,
    /// Held: others do not take it for left behind.
    _lock: fs::File,
    kept: bool,
}

impl Partial {
    /// Makes one beside where it will be, and removes what is left of earlier
    /// ones.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn make(parent: &Path, name: &OsStr) -> io::Result<Self> {
        sweep(parent, name);
        let mut own = OsString::from(".");
        own.push(name);
        own.push(format!(".{}.partial", std::process::id()));
        let path = parent.join(own);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = hold(&path).ok_or(io::ErrorKind::ResourceBusy)?;
        Ok(Self {
            path,
            _lock: lock,
            kept: false,
        })
    }

    /// Gives it its name, which must be free, and makes that durable.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn keep(mut self, to: &Path) -> io::Result<()> {
        rename_new(&self.path, to)?;
        self.kept = true;
        sync_directory(to.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            let _left = fs::remove_dir_all(&self.path);
        }
    }
}

/// Locks a directory, unless somebody has, or it went meanwhile.
fn hold(path: &Path) -> Option<fs::File> {
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    directory.try_lock().ok()?;
    let (held, named) = (directory.metadata().ok()?, fs::symlink_metadata(path).ok()?);
    same(&held, &named).then_some(directory)
}

/// Removes what processes which are gone left behind of a directory.
pub(crate) fn sweep(parent: &Path, name: &OsStr) {
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let left = |found: &OsStr| {
        let middle = found.as_bytes().strip_prefix(b".")?;
        let middle = middle.strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
        let process = str::from_utf8(middle.strip_suffix(b".partial")?).ok()?;
        process.parse::<u32>().ok()
    };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let Some(process) = left(&entry.file_name()) else {
            continue;
        };
        let alive = || Path::new("/proc").join(process.to_string()).exists();
        // The lock tells of those whom the system does not show.
        if (process == std::process::id() || !alive())
            && let Some(_lock) = hold(&entry.path())
        {
            let _left = fs::remove_dir_all(entry.path());
        }
    }
}
