// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs below a supervisor, and how it is asked for a version.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Context, Error};

/// A program which runs below a supervisor.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Session {
    /// What `--name` said, or the program's name and a number.
    pub name: String,
    /// Where its versions go.
    pub store: PathBuf,
    /// The program's command.
    pub program: String,
    /// The command in the foreground; what a shell knows of the program.
    pub front: i32,
    /// Pids are in a namespace of the program's own.
    pub own_ids: bool,
}

/// What a checkpoint answers.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub struct Answer {
    /// The version's number in its store.
    pub version: u64,
    /// How long the threads stood still, in microseconds.
    pub frozen_us: u64,
    /// Octets of the image.
    pub bytes: u64,
    /// Pages in the image.
    pub pages: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Taken(Answer),
    Seen(Vec<String>),
    Refused(Vec<String>),
    Failed(String),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    pub kill: bool,
    /// No version: what one could not keep.
    #[serde(default)]
    pub look: bool,
}

/// The directory of the sockets, for this user only.
pub(crate) fn run_dir() -> Result<PathBuf, Error> {
    // SAFETY: cannot fail.
    let uid = unsafe { libc::geteuid() };
    let given = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute());
    let dir = match given {
        Some(dir) if dir.is_dir() => dir.join("hvckpt"),
        _ => std::env::temp_dir().join(format!("hvckpt-{uid}")),
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Io(format!("cannot create {}", dir.display()), e));
        }
        _ => {}
    }
    let of = fs::symlink_metadata(&dir).context(|| format!("cannot look at {}", dir.display()))?;
    if !of.is_dir() || of.uid() != uid || of.mode() & 0o077 != 0 {
        return Err(Error::refused(format!(
            "{} is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR",
            dir.display()
        )));
    }
    Ok(dir)
}

/// All programs which can be asked.
///
/// # Errors
/// The directory of the sockets is not usable.
pub fn sessions() -> Result<Vec<Session>, Error> {
    let dir = run_dir()?;
    let entries = fs::read_dir(&dir).context(|| format!("cannot read {}", dir.display()))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        if UnixStream::connect(path.with_extension("sock")).is_ok() {
            let session = fs::read(&path)
                .ok()
                .and_then(|o| serde_json::from_slice(&o).ok());
            found.extend(session);
        } else {
            // Left behind by one that was killed.
            let _ = fs::remove_file(path.with_extension("sock"));
            let _ = fs::remove_file(&path);
        }
    }
    found.sort_by(|a: &Session, b: &Session| a.name.cmp(&b.name));
    Ok(found)
}

/// The parent of a process.
fn parent(pid: i32) -> Option<i32> {
    crate::stop::status(&pid.to_string(), "PPid")?.parse().ok()
}

fn is(session: &Session, name: &str) -> bool {
    let path = fs::canonicalize(name);
    if session.name == name || path.is_ok_and(|p| p == session.store) {
        return true;
    }
    // The front, the supervisor or the program itself.
    let mut pid = name.parse().ok();
    for _ in 0..3 {
        match pid {
            Some(p) if p == session.front => return true,
            Some(p) => pid = parent(p),
            None => return false,
        }
    }
    false
}

/// Has a version written, and waits until it is durable. `of` is a name, a
/// store's directory or a pid.
///
/// # Errors
/// Refused: nothing was changed, and the program runs on.
pub fn checkpoint(of: &str, kill: bool) -> Result<Answer, Error> {
    match ask(of, &Request { kill, look: false })? {
        None => Err(Error::refused(outside(of))),
        Some(Reply::Taken(answer)) => Ok(answer),
        Some(_) => Err(Error::refused("its supervisor is of another version")),
    }
}

fn outside(of: &str) -> String {
    format!("{of} does not run below hvckpt; start it with `hvckpt run`, see `hvckpt ps`")
}

/// What a version of `of`, a name, a store's directory or a pid, could not keep,
/// each with its cause: of any process of this user. Nothing is touched. `None`:
/// there is no such program.
///
/// # Errors
/// It cannot be looked at.
pub fn look(of: &str) -> Result<Option<Vec<String>>, Error> {
    let request = Request {
        kill: false,
        look: true,
    };
    match ask(of, &request)? {
        None => {}
        Some(Reply::Seen(found)) => return Ok(Some(found)),
        Some(_) => return Err(Error::refused("its supervisor is of another version")),
    }
    let there = |pid: &i32| *pid > 0 && Path::new(&format!("/proc/{pid}")).exists();
    let Some(pid) = of.parse().ok().filter(there) else {
        return Ok(None);
    };
    let mut found = vec![outside(of)];
    found.extend(crate::preflight::objections(pid, pid)?);
    Ok(Some(found))
}

/// Asks the program that is meant. `None`: there is none.
fn ask(of: &str, request: &Request) -> Result<Option<Reply>, Error> {
    let until = Instant::now() + Duration::from_secs(2);
    let mut gone: Vec<i32> = Vec::new();
    loop {
        let all = sessions()?;
        let meant = |s: &&Session| is(s, of) && !gone.contains(&s.front);
        if let Some(session) = all.iter().find(meant) {
            match ask_one(session, request) {
                Ok(Some(reply)) => return Ok(Some(reply)),
                Ok(None) => gone.push(session.front),
                Err(error) => return Err(error),
            }
        } else if gone.is_empty() {
            return Ok(None);
        } else if Instant::now() > until {
            return Err(Error::refused("the program ended meanwhile"));
        } else {
            // It was ending; perhaps it has been restarted.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `None`: its supervisor has ended without an answer.
fn ask_one(session: &Session, request: &Request) -> Result<Option<Reply>, Error> {
    let socket = run_dir()?.join(format!("{}.sock", session.name));
    let line = serde_json::to_string(request).unwrap_or_default() + "\n";
    let asked = UnixStream::connect(&socket).and_then(|mut stream| {
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    });
    let answer = match asked {
        Ok(answer) if answer.is_empty() => return Ok(None),
        Ok(answer) => answer,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::BrokenPipe
                    | ErrorKind::NotFound
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(Error::Io(format!("cannot ask {}", socket.display()), error)),
    };
    match serde_json::from_str(&answer) {
        Ok(Reply::Refused(why)) => Err(Error::Refused(why)),
        Ok(Reply::Failed(why)) => Err(Error::refused(why)),
        Ok(reply) => Ok(Some(reply)),
        Err(_) => Err(Error::refused("its supervisor is of another version")),
    }
}

/// Where versions of a program go when nobody said.
pub(crate) fn default_store(name: &str) -> Result<PathBuf, Error> {
    let var = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|h| h.join(".local/state")));
    let state = state.ok_or_else(|| Error::refused("no home directory; give --store"))?;
    Ok(Path::new(&state).join("hvckpt").join(name))
}
