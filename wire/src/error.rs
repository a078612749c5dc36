// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong on the client's side. Who was asked is for the caller to
//! say: servers of several kinds are.

use std::io;

use crate::frame::FrameError;
use crate::token::Refusal;

/// Why no token was obtained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No TCP connection (nobody listens, no route, bad address).
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The deadline passed; nothing can be said about the request.
    #[error("no answer in time")]
    Timeout,
    /// The peer did not prove the server key which the key file names.
    #[error("the server is not the one the key file names: {0}")]
    ServerNotAuthentic(String),
    /// The TLS handshake failed otherwise (not such a server, other version).
    #[error("secure connection failed: {0}")]
    Handshake(String),
    /// The connection broke. Worth retrying: a server whose places are all
    /// taken closes.
    #[error("the connection was closed: {0}")]
    Closed(#[source] io::Error),
    /// The daemon answered, and the answer is no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The answer is not one of this protocol.
    #[error("malformed answer: {0}")]
    Malformed(#[from] FrameError),
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read key file {path}: {source}")]
    Read {
        /// The file, as given.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Group or others have access; the mode must be 0600 or 0400.
    #[error("key file {path} has mode {mode:04o}; others must have no access (chmod 600)")]
    Permissions {
        /// The file, as given.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is longer than any key file.
    #[error("not a key file: longer than {} bytes", crate::key::FILE_MAX)]
    TooLong,
    /// The first line names no version known here.
    #[error("not a key file of a known version (first line must be `{0}`)")]
    Version(&'static str),
    /// A line is not understood.
    #[error("key file line {line}: {what}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A field is missing.
    #[error("key file has no `{0}` line")]
    Missing(&'static str),
}
