// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small files, and the directories they are in.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::Path;

use hvckpt_files::{make_directory, open_regular};

/// Longest small file in bytes.
const LONGEST: u64 = 4096;

/// Makes a directory which only its owner may enter, unless it exists.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    make_directory(path).map(|_made| ())
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
