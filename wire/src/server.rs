// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's half: handshake, one request, one answer.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::deadline::DeadlineStream;
use crate::wire::{self, Answer, Request, WireError};
use crate::{ALPN, Channel, PublicKey, Secret, tls};

/// Fills `out` from the operating system's random numbers.
///
/// # Errors
/// When the system gives none.
pub fn random(out: &mut [u8]) -> io::Result<()> {
    crate::key::random(out)
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Not done by the deadline.
    #[error("not done by the deadline")]
    Timeout,
    /// The handshake failed: no TLS 1.3, no Ed25519 key, no proof, other ALPN.
    #[error("handshake failed: {0}")]
    Handshake(String),
    /// The request is not one of this protocol.
    #[error("malformed request: {0}")]
    Malformed(WireError),
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return Self::Handshake(tls.to_string());
            }
            if let Some(&wire) = inner.downcast_ref::<WireError>() {
                return Self::Malformed(wire);
            }
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

/// Turns TCP connections into authenticated ones. Shared by all threads.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    alpn: &'static [u8],
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

impl Acceptor {
    /// A policy daemon which proves `secret`.
    ///
    /// # Errors
    /// When TLS cannot be configured; never with a sound build.
    pub fn new(secret: &Secret) -> Result<Self, ServerError> {
        Self::speaking(secret, ALPN)
    }

    /// A server of another application protocol, for [`Self::channel`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn speaking(secret: &Secret, alpn: &'static [u8]) -> Result<Self, ServerError> {
        let config =
            tls::server(secret, alpn).map_err(|e| ServerError::Handshake(e.to_string()))?;
        Ok(Self {
            config: Arc::new(config),
            alpn,
        })
    }

    /// Does the handshake. All that happens on the connection, the answer
    /// included, must be done by `deadline`.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn accept(&self, tcp: TcpStream, deadline: Instant) -> Result<Peer, ServerError> {
        tcp.set_nonblocking(false)?;
        let _ = tcp.set_nodelay(true);
        let connection = ServerConnection::new(Arc::clone(&self.config))
            .map_err(|e| ServerError::Handshake(e.to_string()))?;
        let mut stream = StreamOwned::new(connection, DeadlineStream::new(tcp, deadline));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        if stream.conn.alpn_protocol() != Some(self.alpn) {
            return Err(ServerError::Handshake(
                "no common application protocol".into(),
            ));
        }
        let key = stream
            .conn
            .peer_certificates()
            .and_then(|chain| PublicKey::from_spki(chain.first()?))
            .ok_or_else(|| ServerError::Handshake("no client key".into()))?;
        Ok(Peer { key, stream })
    }

    /// As [`Self::accept`], for a conversation of any length.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn channel(&self, tcp: TcpStream, deadline: Instant) -> Result<Channel, ServerError> {
        let peer = self.accept(tcp, deadline)?;
        Ok(Channel::server(peer.key, peer.stream))
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
        let frame = wire::read_frame(&mut self.stream)?;
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
