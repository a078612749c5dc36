// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a server accepts: the handshake, and who is at the other end.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::deadline::DeadlineStream;
use crate::frame::FrameError;
use crate::{Channel, PublicKey, Secret, tls};

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
    Malformed(FrameError),
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
        }
        if let Some(wrong) = FrameError::of(&error) {
            return Self::Malformed(wrong);
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
    /// A server which proves `secret` and speaks the application protocol
    /// `alpn`.
    ///
    /// # Errors
    /// When TLS cannot be configured; never with a sound build.
    pub fn speaking(secret: &Secret, alpn: &'static [u8]) -> Result<Self, ServerError> {
        let config =
            tls::server(secret, alpn).map_err(|e| ServerError::Handshake(e.to_string()))?;
        Ok(Self {
            config: Arc::new(config),
            alpn,
        })
    }

    /// Does the handshake. All that happens on the connection must be done by
    /// `deadline`. The key the client has proven.
    pub(crate) fn shake(
        &self,
        tcp: TcpStream,
        deadline: Instant,
    ) -> Result<(PublicKey, StreamOwned<ServerConnection, DeadlineStream>), ServerError> {
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
        Ok((key, stream))
    }

    /// Does the handshake, for a conversation of any length. `deadline` is the
    /// first one of the channel.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn channel(&self, tcp: TcpStream, deadline: Instant) -> Result<Channel, ServerError> {
        let (key, stream) = self.shake(tcp, deadline)?;
        Ok(Channel::server(key, stream))
    }
}
