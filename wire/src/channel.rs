// SPDX-License-Identifier: MIT OR Apache-2.0
//! An authenticated connection for other protocols than that of tokens, open
//! as long as both sides like.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use crate::deadline::DeadlineStream;
use crate::{Error, Key, PublicKey, connect};

/// A TLS 1.3 connection on which both sides have proven a raw key.
///
/// Every read and write must be done by a deadline, which is moved with
/// [`Self::set_deadline`]; after it they fail with `TimedOut`.
#[derive(Debug)]
pub struct Channel {
    peer: PublicKey,
    end: End,
}

#[derive(Debug)]
enum End {
    Client(Box<StreamOwned<ClientConnection, DeadlineStream>>),
    Server(Box<StreamOwned<ServerConnection, DeadlineStream>>),
}

impl Channel {
    /// Connects to the holder of the server key which `key` names, and proves
    /// `key`. `alpn` names the protocol which will be spoken. Blocks for at
    /// most `timeout` (name resolution excepted), which is also the first
    /// deadline.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn connect(
        addr: impl ToSocketAddrs,
        key: &Key,
        alpn: &[u8],
        timeout: Duration,
    ) -> Result<Self, Error> {
        let stream = connect::open(addr, key, alpn, connect::deadline(timeout))?;
        Ok(Self {
            peer: key.server(),
            end: End::Client(Box::new(stream)),
        })
    }

    pub(crate) fn server(
        peer: PublicKey,
        stream: StreamOwned<ServerConnection, DeadlineStream>,
    ) -> Self {
        Self {
            peer,
            end: End::Server(Box::new(stream)),
        }
    }

    /// The key which the other side has proven.
    #[must_use]
    pub fn peer_key(&self) -> PublicKey {
        self.peer
    }

    /// When reads and writes from now on must be done.
    pub fn set_deadline(&mut self, deadline: Instant) {
        match &mut self.end {
            End::Client(stream) => stream.sock.set_deadline(deadline),
            End::Server(stream) => stream.sock.set_deadline(deadline),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.end {
            End::Client(stream) => stream.sock.tcp(),
            End::Server(stream) => stream.sock.tcp(),
        }
    }

    /// A handle by which another thread can shut the connection down.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.tcp().try_clone()
    }

    /// Says that nothing more follows, and gives the other side until the
    /// deadline to close, so that what was written last arrives.
    pub fn finish(mut self) {
        match &mut self.end {
            End::Client(stream) => stream.conn.send_close_notify(),
            End::Server(stream) => stream.conn.send_close_notify(),
        }
        if self.flush().is_err() || self.tcp().shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut rest = [0; 4096];
        // Bounded: a peer may go on sending for ever.
        for _ in 0..64 {
            if !matches!(self.read(&mut rest), Ok(1..)) {
                break;
            }
        }
    }
}

impl Read for Channel {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.end {
            End::Client(stream) => stream.read(out),
            End::Server(stream) => stream.read(out),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.end {
            End::Client(stream) => stream.write(data),
            End::Server(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.end {
            End::Client(stream) => stream.flush(),
            End::Server(stream) => stream.flush(),
        }
    }
}
