// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection: what came in, what goes out, and how much of both.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;

use super::resp::{Command, HTTP, KEPT, Parser, Replies};

/// Bytes read from a client in one turn.
const READ: usize = 256 << 10;
/// Commands of a client in one turn.
const BATCH: usize = 1024;
/// A client with more replies than this to take gets no further ones.
pub const UNREAD: usize = 1 << 20;

/// Bytes of memory, about.
fn size(commands: &VecDeque<Command>) -> usize {
    let arguments = commands.iter().flatten();
    arguments.map(|argument| argument.len() + 64).sum()
}

pub struct Client {
    tcp: TcpStream,
    parser: Parser,
    /// Commands which the last turn had no room for.
    pending: VecDeque<Command>,
    output: Replies,
    /// So much of it is gone.
    sent: usize,
    /// Bytes of commands which are being executed; none: nothing is.
    away: usize,
    /// Its commands read what others are writing.
    waiting: bool,
    /// There may be more to read.
    readable: bool,
    /// It sends no more.
    finished: bool,
    /// There may be complete commands among what was read.
    unparsed: bool,
    /// Closed as soon as the replies are gone.
    closing: bool,
    pub dead: bool,
    /// When it was served last.
    pub served: Instant,
}

impl Client {
    pub fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            parser: Parser::default(),
            pending: VecDeque::new(),
            output: Replies::default(),
            sent: 0,
            away: 0,
            waiting: false,
            readable: true,
            finished: false,
            unparsed: false,
            closing: false,
            dead: false,
            served: Instant::now(),
        }
    }

    pub fn may_read(&mut self) {
        self.readable = true;
    }

    fn unread(&self) -> usize {
        self.output.0.len() - self.sent
    }

    /// Whether more replies would have to wait.
    fn busy(&self) -> bool {
        self.away > 0 || self.waiting || self.unread() >= UNREAD
    }

    /// Whether there is something to do for it without waiting.
    pub fn wants(&self) -> bool {
        let more = self.readable && !self.finished && !self.closing;
        !self.busy() && (more || self.unparsed || !self.pending.is_empty())
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.parser.held() + size(&self.pending) + self.away + self.output.0.capacity()
    }

    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        let mut got = 0;
        while self.readable && !self.finished && !self.closing && got < READ {
            match self.tcp.read(&mut buffer) {
                Ok(0) => self.finished = true,
                Ok(n) => {
                    self.parser.feed(&buffer[..n]);
                    self.unparsed = true;
                    got += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => (self.readable, self.dead) = (false, true),
            }
        }
    }

    /// What it wants done next: nothing while that has to wait, as it does for
    /// one who does not take his replies.
    pub fn commands(&mut self) -> VecDeque<Command> {
        if self.busy() {
            return VecDeque::new();
        }
        if !self.unparsed && self.pending.is_empty() {
            self.read();
        }
        let mut bytes = 0;
        while self.unparsed && self.pending.len() < BATCH && bytes < READ {
            match self.parser.command() {
                Ok(None) => self.unparsed = false,
                Ok(Some(command)) => {
                    bytes += command.iter().map(Vec::len).sum::<usize>();
                    let is = |name: &[u8]| command[0].eq_ignore_ascii_case(name);
                    if is(b"POST") || is(b"Host:") {
                        return self.http();
                    }
                    self.closing |= is(b"QUIT");
                    self.pending.push_back(command);
                }
                Err(HTTP) => return self.http(),
                Err(what) => {
                    let words = [b"!", what.as_bytes()];
                    self.pending.push_back(words.map(<[u8]>::to_vec).into());
                    self.closing = true;
                }
            }
            self.unparsed &= !self.closing;
        }
        core::mem::take(&mut self.pending)
    }

    /// A web page had a browser send this: what follows must not be taken for
    /// commands.
    fn http(&mut self) -> VecDeque<Command> {
        let peer = self.tcp.peer_addr().ok();
        complain!("kv: an HTTP request from {peer:?}: closed");
        self.dead = true;
        VecDeque::new()
    }

    /// These are being executed, and replies to them come.
    pub fn executing(&mut self, commands: &VecDeque<Command>) {
        self.away = size(commands);
    }

    /// These cannot be executed now.
    pub fn put_off(&mut self, commands: VecDeque<Command>) {
        (self.pending, self.waiting) = (commands, true);
    }

    /// What could not be executed can.
    pub fn go_on(&mut self) {
        self.waiting = false;
    }

    /// Replies to the first commands; the others have to wait.
    pub fn serve(&mut self, replies: &Replies, others: VecDeque<Command>) {
        self.away = 0;
        // Else it would grow for one who takes all, but never the last of it.
        self.output.0.drain(..self.sent);
        self.sent = 0;
        self.output.0.extend(&replies.0);
        self.pending = others;
        self.served = Instant::now();
    }

    pub fn write(&mut self) {
        while self.unread() > 0 {
            match self.tcp.write(&self.output.0[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.dead = true,
            }
        }
        self.sent = 0;
        self.output.0.clear();
        if self.output.0.capacity() > KEPT {
            self.output = Replies::default();
        }
        let no_more = self.closing || self.finished && !self.unparsed;
        self.dead |= no_more && self.pending.is_empty() && self.away == 0;
    }
}
