// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line's end of the local socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{REPLY_MAX, Reply, Request, socket_path};

/// For an answer. Xen may take its time to end sessions.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody listens.
    #[error(
        "the daemon is not running with state directory {0} (start it with `hvckpt-policy serve`)"
    )]
    NotRunning(String),
    /// The socket cannot be used.
    #[error("cannot talk to the daemon: {0}")]
    Io(#[source] io::Error),
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// The daemon is of another version.
    #[error("the daemon's answer is not understood: {0}")]
    Answer(#[source] serde_json::Error),
}

/// Asks the daemon whose state directory is `state`.
///
/// # Errors
/// See [`CallError`].
pub fn call<T: DeserializeOwned>(state: &Path, request: &Request) -> Result<T, CallError> {
    let stream = UnixStream::connect(socket_path(state)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            CallError::NotRunning(state.display().to_string())
        }
        _ => CallError::Io(e),
    })?;
    let reply = exchange(&stream, request).map_err(CallError::Io)?;
    match serde_json::from_slice(&reply).map_err(CallError::Answer)? {
        Reply::Ok(value) => serde_json::from_value(value).map_err(CallError::Answer),
        Reply::Error(message) => Err(CallError::Refused(message)),
    }
}

fn exchange(stream: &UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    (&*stream).write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream)
        .take(REPLY_MAX)
        .read_until(b'\n', &mut reply)?;
    Ok(reply)
}
