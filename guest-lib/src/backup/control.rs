// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking a backup: through its local socket while it runs, in its directory
//! while it does not.  Who may enter the directory may ask.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hvckpt_wire::listen::{self, Door, Limits, Pass, Stop, Visit};

use super::server::{BackupError, Inner, lock};
use super::vault::Vaults;
use hvckpt_store::StoreKey;

const SOCKET: &str = "control.sock";
/// Longest question in bytes.
const LONGEST: u64 = 8192;
/// For a question to come, and its answer to be taken.
const WAIT: Duration = Duration::from_secs(5);
/// Questions at once.
pub(crate) const LIMITS: Limits = Limits {
    connections: 16,
    per_peer: 16,
    deadline: WAIT,
};
/// A promotion may have to wait for a large version.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a backup has of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The primary's name.
    pub name: String,
    /// Its epoch; zero before the first contact.
    pub epoch: u64,
    /// The state was handed out, in place.
    pub promoted: bool,
    /// Newest version here; `None` if there is none or it cannot be read.
    pub version: Option<u64>,
    /// The primary is connected.
    pub connected: bool,
    /// From where it was connected last.
    pub peer: Option<SocketAddr>,
    /// The newest version which it said it has; zero if it did not.
    pub primary_version: u64,
    /// When it was heard last, since the backup was started.
    pub contact: Option<SystemTime>,
    /// The store.
    pub path: PathBuf,
}

/// A state which was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promoted {
    /// The primary's name.
    pub name: String,
    /// The epoch which began.
    pub epoch: u64,
    /// The version.
    pub version: u64,
    /// The store to open.
    pub path: PathBuf,
}

/// What the backup in a directory has.
///
/// `key`: of the stores, if they are encrypted and no backup runs.
///
/// # Errors
/// See [`BackupError`].
pub fn status(directory: &Path, key: Option<&StoreKey>) -> Result<Vec<Status>, BackupError> {
    if let Some(_alone) = lock(directory)? {
        let vaults = Vaults::new(directory, key.cloned()).all()?;
        return Ok(vaults.iter().map(|vault| vault.status()).collect());
    }
    let lines = ask(directory, b"status\n")?;
    lines.iter().map(|line| parse_status(line)).collect()
}

/// Makes the backup's state of a primary the one that counts, from now on:
/// the primary is not acknowledged any more, whether it is connected or comes
/// back later.  `to`: a place on the same file system to move the store to;
/// the backup is then free for the next primary under the same key.
///
/// `key`: of the store, if it is encrypted and no backup runs.
///
/// Repeating it does nothing and tells the same.
///
/// # Errors
/// See [`BackupError`].
pub fn promote(
    directory: &Path,
    name: &str,
    to: Option<&Path>,
    key: Option<&StoreKey>,
) -> Result<Promoted, BackupError> {
    let to = to.map(std::path::absolute).transpose();
    let to = to.map_err(|error| BackupError::io("find", directory, error))?;
    if let Some(_alone) = lock(directory)? {
        let vaults = Vaults::new(directory, key.cloned());
        return vaults.get(name)?.promote(to.as_deref());
    }
    let mut question = format!("promote {name}").into_bytes();
    if let Some(to) = &to {
        question.push(b' ');
        question.extend(to.as_os_str().as_bytes());
    }
    if question.contains(&b'\n') {
        return Err(BackupError::Remote("a path has a line break".to_owned()));
    }
    question.push(b'\n');
    let lines = ask(directory, &question)?;
    let promoted = lines.first().and_then(|line| parse_promoted(line));
    promoted.ok_or_else(|| nonsense(directory))
}

fn nonsense(directory: &Path) -> BackupError {
    BackupError::io(
        "understand the backup in",
        directory,
        io::ErrorKind::InvalidData.into(),
    )
}

/// Sends a question; the lines of the answer.
fn ask(directory: &Path, question: &[u8]) -> Result<Vec<String>, BackupError> {
    let path = directory.join(SOCKET);
    let ask = || -> io::Result<String> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(question)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| BackupError::io("ask", &path, error))?;
    let mut lines: Vec<String> = answer.lines().map(str::to_owned).collect();
    match lines.pop().as_deref() {
        Some("ok") => Ok(lines),
        Some(last) if last.starts_with("error ") => {
            Err(BackupError::Remote(last["error ".len()..].to_owned()))
        }
        _ => Err(nonsense(directory)),
    }
}

fn show_status(status: &Status) -> String {
    let number = |time: Option<SystemTime>| {
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_secs())
    };
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        status.name,
        status.epoch,
        status.promoted,
        status.version.map_or("-".to_owned(), |n| n.to_string()),
        status.connected,
        status.peer.map_or("-".to_owned(), |peer| peer.to_string()),
        status.primary_version,
        number(status.contact),
        status.path.display()
    )
}

fn parse_status(line: &str) -> Result<Status, BackupError> {
    let parse = || {
        let mut fields = line.splitn(9, '\t');
        let mut next = || fields.next();
        Some(Status {
            name: next()?.to_owned(),
            epoch: next()?.parse().ok()?,
            promoted: next()?.parse().ok()?,
            version: next()?.parse().ok(),
            connected: next()?.parse().ok()?,
            peer: next()?.parse().ok(),
            primary_version: next()?.parse().ok()?,
            contact: match next()?.parse().ok()? {
                0 => None,
                seconds => Some(UNIX_EPOCH + Duration::from_secs(seconds)),
            },
            path: next()?.into(),
        })
    };
    parse().ok_or_else(|| nonsense(Path::new(line)))
}

fn parse_promoted(line: &str) -> Option<Promoted> {
    let mut fields = line.splitn(4, '\t');
    Some(Promoted {
        name: fields.next()?.to_owned(),
        epoch: fields.next()?.parse().ok()?,
        version: fields.next()?.parse().ok()?,
        path: fields.next()?.into(),
    })
}

/// The local socket of a backup.
pub(crate) fn bind(directory: &Path) -> Result<UnixListener, BackupError> {
    let path = directory.join(SOCKET);
    // Who holds the lock may replace what an earlier backup left.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::io("replace", &path, error));
        }
        _ => {}
    }
    UnixListener::bind(&path).map_err(|error| BackupError::io("listen on", &path, error))
}

/// Answers. Who connects and asks nothing makes room for those who do.
pub(crate) fn serve(listener: &UnixListener, inner: &Arc<Inner>, door: &Door, stop: &Stop) {
    let start = |visit: Visit<UnixStream>| {
        let server = inner.clone();
        let spawned = std::thread::Builder::new()
            .name("hvckpt-question".to_owned())
            // Who asks and does not listen has himself to blame.
            .spawn(move || drop(answer(visit.stream, &visit.pass, &server.vaults)));
        if let Err(error) = spawned {
            inner.say(&format!("no thread for a question, {error}"));
        }
    };
    let trouble = |error: &io::Error| inner.say(&format!("cannot accept a question: {error}"));
    listen::serve(listener, door, stop, start, |_, _| {}, trouble);
}

fn answer(mut stream: UnixStream, pass: &Pass, vaults: &Vaults) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let mut question = Vec::new();
    BufReader::new((&stream).take(LONGEST)).read_until(b'\n', &mut question)?;
    // From here on it is not closed for another; a promotion takes its time.
    if !pass.prove(&std::os::fd::AsRawFd::as_raw_fd(&stream).to_ne_bytes()) {
        return stream.write_all(b"error too many questions at once\n");
    }
    let answer = match act(question.trim_ascii_end(), vaults) {
        Ok(lines) => format!("{lines}ok\n"),
        Err(error) => format!("error {}\n", hvckpt_sys::explain(&error).replace('\n', " ")),
    };
    stream.write_all(answer.as_bytes())
}

fn act(question: &[u8], vaults: &Vaults) -> Result<String, BackupError> {
    let mut words = question.splitn(3, |&byte| byte == b' ');
    let verb = words.next().unwrap_or_default();
    let name = String::from_utf8_lossy(words.next().unwrap_or_default());
    let to = words
        .next()
        .map(|path| Path::new(std::ffi::OsStr::from_bytes(path)));
    let mut lines = String::new();
    match verb {
        b"status" => {
            for vault in vaults.all()? {
                // Writing to a string does not fail.
                let _infallible = writeln!(lines, "{}", show_status(&vault.status()));
            }
        }
        b"promote" => {
            let done = vaults.get(&name)?.promote(to)?;
            let (name, epoch, version) = (done.name, done.epoch, done.version);
            let path = done.path.display();
            let _infallible = writeln!(lines, "{name}\t{epoch}\t{version}\t{path}");
        }
        _ => return Err(BackupError::Remote("no such question".to_owned())),
    }
    Ok(lines)
}
