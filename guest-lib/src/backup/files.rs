// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small files which are replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(crate) use hvckpt_wire::files::sync_directory;
use hvckpt_wire::files::{make_directory, open_regular};

/// Longest small file in bytes.
const LONGEST: u64 = 4096;

/// Makes a directory which only its owner may enter, unless it exists.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    make_directory(path).map(|_made| ())
}

/// Replaces a file, mode 0600, durably and as a whole.
///
/// # Errors
/// It is as it was; or as it shall be, and perhaps not after a crash.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    // One of a run which was killed may be there.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    if let Err(error) = written() {
        let _leftover = fs::remove_file(temporary);
        return Err(error);
    }
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Reads a small file; `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match open_regular(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The values of `name: value` lines below a first line, in the order of the
/// names; `None` if anything else is there.
pub(crate) fn fields<const N: usize>(
    text: &str,
    first: &str,
    names: [&str; N],
) -> Option<[String; N]> {
    let mut lines = text.lines();
    if lines.next()? != first {
        return None;
    }
    let mut values = [const { String::new() }; N];
    for (value, name) in values.iter_mut().zip(names) {
        let rest = lines.next()?.strip_prefix(name)?.strip_prefix(": ")?;
        rest.clone_into(value);
    }
    lines.next().is_none().then_some(values)
}
