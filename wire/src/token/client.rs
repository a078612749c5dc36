// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application's half.

use std::io::Write as _;
use std::net::ToSocketAddrs;
use std::time::Duration;

use super::ALPN;
use super::message::{Answer, Grant, Request, read_frame};
use crate::connect::{classify, deadline, open};
use crate::{Error, Key};

/// Asks the daemon at `addr` for a one-time token, with all that `key`
/// allows. Blocks for at most `timeout` (name resolution excepted: give an
/// IP address where that matters).
///
/// # Errors
/// See [`Error`]. After [`Error::Timeout`] and [`Error::Closed`] a token may
/// exist; nobody knows it and it expires by itself.
pub fn request_token(
    addr: impl ToSocketAddrs,
    key: &Key,
    timeout: Duration,
) -> Result<Grant, Error> {
    request_token_with(addr, key, &Request::default(), timeout)
}

/// As [`request_token`], asking for less than the key allows or for
/// particular trackers.
///
/// # Errors
/// As [`request_token`].
pub fn request_token_with(
    addr: impl ToSocketAddrs,
    key: &Key,
    request: &Request,
    timeout: Duration,
) -> Result<Grant, Error> {
    let deadline = deadline(timeout);
    let mut stream = open(addr, key, ALPN, deadline)?;
    stream.write_all(&request.encode()).map_err(classify)?;
    stream.flush().map_err(classify)?;
    let frame = read_frame(&mut stream).map_err(classify)?;
    match Answer::decode(&frame)? {
        Answer::Grant(grant) => Ok(grant),
        Answer::Refusal(refusal) => Err(Error::Refused(refusal)),
    }
}
