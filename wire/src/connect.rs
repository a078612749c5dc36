// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a client connects: name resolution, TCP, the handshake.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::deadline::{DeadlineStream, remaining};
use crate::frame::FrameError;
use crate::{Error, Key, tls};

/// The moment after which nothing is waited for. A timeout too long for the
/// clock is as good as a year.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(31_536_000))
}

/// Connects and does the handshake.
pub(crate) fn open(
    addr: impl ToSocketAddrs,
    key: &Key,
    alpn: &[u8],
    deadline: Instant,
) -> Result<StreamOwned<ClientConnection, DeadlineStream>, Error> {
    let tcp = connect(addr, deadline)?;
    let _ = tcp.set_nodelay(true);

    let config = tls::client(key.secret(), key.server(), alpn).map_err(handshake)?;
    let name = ServerName::try_from("hvckpt-policy").expect("a valid name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(handshake)?;
    let mut stream = StreamOwned::new(connection, DeadlineStream::new(tcp, deadline));

    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(classify)?;
    }
    if stream.conn.alpn_protocol() != Some(alpn) {
        return Err(Error::Handshake(
            "the server speaks another protocol".into(),
        ));
    }
    Ok(stream)
}

/// Tries every address until one connects or the deadline passes.
fn connect(addr: impl ToSocketAddrs, deadline: Instant) -> Result<TcpStream, Error> {
    let addresses: Vec<SocketAddr> = addr.to_socket_addrs().map_err(Error::Connect)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        let left = remaining(deadline).map_err(|_| Error::Timeout)?;
        match TcpStream::connect_timeout(&address, left) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    match last.kind() {
        io::ErrorKind::TimedOut => Err(Error::Timeout),
        _ => Err(Error::Connect(last)),
    }
}

fn handshake(error: rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) => Error::ServerNotAuthentic(error.to_string()),
        _ => Error::Handshake(error.to_string()),
    }
}

/// Finds out what an I/O error stands for.
pub(crate) fn classify(error: io::Error) -> Error {
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return handshake(tls.clone());
        }
    }
    if let Some(wrong) = FrameError::of(&error) {
        return Error::Malformed(wrong);
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Error::Timeout,
        _ => Error::Closed(error),
    }
}
