// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection on which frames are sent and awaited.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hvckpt_wire::Channel;

use super::wire::{self, Message};

/// Frames gather up to this many bytes before they are written.
const GATHER: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Conversation {
    channel: Channel,
    out: Vec<u8>,
    body: Vec<u8>,
    /// For each frame to come, and each write.
    timeout: Duration,
    written: usize,
}

impl Conversation {
    pub(crate) fn new(channel: Channel, timeout: Duration) -> Self {
        Self {
            channel,
            out: Vec::new(),
            body: Vec::new(),
            timeout,
            written: 0,
        }
    }

    pub(crate) fn handle(&self) -> Option<TcpStream> {
        self.channel.handle().ok()
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Bytes written since the last call.
    pub(crate) fn take_written(&mut self) -> usize {
        core::mem::take(&mut self.written)
    }

    /// Sends, sooner or later.
    pub(crate) fn put(&mut self, message: &Message) -> io::Result<()> {
        message.encode(&mut self.out);
        if self.out.len() >= GATHER {
            return self.flush();
        }
        Ok(())
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.channel.set_deadline(Instant::now() + self.timeout);
        self.channel.write_all(&self.out)?;
        self.channel.flush()?;
        self.written += self.out.len();
        self.out.clear();
        Ok(())
    }

    /// The next frame.
    pub(crate) fn get(&mut self) -> io::Result<Message> {
        self.channel.set_deadline(Instant::now() + self.timeout);
        wire::read(&mut self.channel, &mut self.body)
    }

    /// Sends a last frame and closes, in a second at most.
    pub(crate) fn end(mut self, message: &Message) {
        self.timeout = Duration::from_secs(1);
        // The other side may be gone.
        if self.put(message).and_then(|()| self.flush()).is_ok() {
            self.channel.finish();
        }
    }
}
