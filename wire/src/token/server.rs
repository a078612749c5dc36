// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's half: one request, one answer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};

use super::ALPN;
use super::message::{Answer, Request, read_frame};
use crate::deadline::DeadlineStream;
use crate::{Acceptor, PublicKey, Secret, ServerError};

impl Acceptor {
    /// A policy daemon which proves `secret`.
    ///
    /// # Errors
    /// When TLS cannot be configured; never with a sound build.
    pub fn new(secret: &Secret) -> Result<Self, ServerError> {
        Self::speaking(secret, ALPN)
    }

    /// Does the handshake. All that happens on the connection, the answer
    /// included, must be done by `deadline`.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn accept(&self, tcp: TcpStream, deadline: Instant) -> Result<Peer, ServerError> {
        let (key, stream) = self.shake(tcp, deadline)?;
        Ok(Peer { key, stream })
    }
}

/// Bounds what is read from a client which goes on sending after its answer.
const DRAIN_READS: usize = 16;

/// A client which has proven a key.
#[derive(Debug)]
pub struct Peer {
    key: PublicKey,
    stream: StreamOwned<ServerConnection, DeadlineStream>,
}

impl Peer {
    /// The key it has proven.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Reads its one request.
    ///
    /// # Errors
    /// See [`ServerError`]; after `Malformed` an answer can still be sent.
    pub fn read_request(&mut self) -> Result<Request, ServerError> {
        let frame = read_frame(&mut self.stream)?;
        Request::decode(&frame).map_err(ServerError::Malformed)
    }

    /// Sends the answer, then waits until the client closes the connection or
    /// the deadline passes.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn answer(mut self, answer: &Answer) -> Result<(), ServerError> {
        self.stream.write_all(&answer.encode())?;
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        let _ = self.stream.sock.tcp().shutdown(Shutdown::Write);
        // Closing with octets unread would reset the connection and might
        // take the answer from the client: wait until it closes, too.
        let mut rest = [0; 4096];
        for _ in 0..DRAIN_READS {
            if !matches!(self.stream.sock.read(&mut rest), Ok(1..)) {
                break;
            }
        }
        Ok(())
    }
}
