// SPDX-License-Identifier: MIT OR Apache-2.0
//! A key-value server which speaks the Redis protocol, and whose whole state
//! lives in a critical data area: killed at any moment it comes back with all
//! it acknowledged, and a backup can take over from it.
//!
//! One event loop.  All writes which arrived in one turn are one transaction,
//! and replies leave when it is as safe as was asked for (output commit).
//! Meanwhile others are served who read nothing of it.  See `kv --help`.
//!
//! Clients cannot take each other's turn or memory: what a command and its
//! reply may be, what a client may have in one turn, and what all may hold is
//! bounded; who takes no replies gets no more of them.

#![allow(missing_docs, missing_debug_implementations)] // a program

#[macro_use]
#[allow(clippy::duplicate_mod)] // of a test which has another example, too
#[path = "../common/say.rs"]
mod say;

mod client;
mod db;
mod resp;
mod writes;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hvckpt::arena::Arena;
use hvckpt::backup::{Key, Replication, Require};
use hvckpt::store::{Durable, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind, explain};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};

use client::Client;
use db::Db;
use writes::{Place, Served, Turn, Writes, each, read};

const LISTENER: Token = Token(0);
const WRITTEN: Token = Token(usize::MAX);
/// Clients at once; of more, those who were served last the longest ago go.
const CLIENTS: usize = 900;
/// Accepted in one turn.
const ACCEPTED: usize = 64;
/// Bytes of memory for all clients' commands and replies; of more, the client
/// who holds most goes.
const HELD: usize = 256 << 20;
/// Exit status when another instance took over.
const FENCED: i32 = 3;

/// A key-value server for redis-cli and redis-benchmark, whose state survives.
#[derive(Parser)]
pub struct Args {
    /// Directory of the store; opened, recovered or made.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:6379")]
    listen: std::net::SocketAddr,
    /// Size of the area in pages of 4096 bytes; it can grow at a later start.
    #[arg(long, default_value_t = 16384, value_parser = clap::value_parser!(u32).range(16..))]
    pages: u32,
    /// Trackers in the order of preference.
    #[arg(long, value_delimiter = ',', default_value = "ptxen,pagemap-scan,pt")]
    trackers: Vec<TrackerKind>,
    /// host:port of a backup.
    #[arg(long, requires = "key")]
    backup: Option<String>,
    /// Key file from hvckpt backup key add.
    #[arg(long, requires = "backup")]
    key: Option<PathBuf>,
    /// Where a write must be before it is acknowledged, if there is a backup.
    #[arg(long, default_value = "both", requires = "backup")]
    require: Require,
    /// Seconds to wait for the backup.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Go on without a backup which does not answer in time.
    #[arg(long, requires = "backup")]
    degrade: bool,
}

fn open(args: &Args) -> Result<Arena<Db>, Box<dyn Error>> {
    let mut options = StoreOptions::default();
    if let (Some(address), Some(key)) = (&args.backup, &args.key) {
        let mut replication = Replication::new(address, Key::load(key)?);
        replication.require = args.require;
        replication.timeout = Duration::from_secs(args.timeout);
        replication.degrade = args.degrade;
        options.replication = Some(replication.into());
    }
    let region = Durable::builder("kv")
        .pages(args.pages as usize)
        .trackers(args.trackers.clone())
        .lock(LockPolicy::IfAllowed)
        .options(options)
        .open(&args.dir)?;
    Ok(Arena::open(region, Db::new)?)
}

pub fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    let arena = open(args)?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(args.listen)
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let (version, tracker, address) = (arena.version(), arena.tracker(), listener.local_addr()?);
    let ready = format!("kv: version {version}, tracker {tracker}, ready on {address}\n");
    // Whoever started it need not read that.
    let _unread = std::io::Write::write_all(&mut std::io::stdout(), ready.as_bytes());
    let arena = Arc::new(arena);
    let mut writes = Writes::start(arena.clone(), Waker::new(poll.registry(), WRITTEN)?)?;
    let mut events = Events::with_capacity(1024);
    let mut clients: BTreeMap<Token, Client> = BTreeMap::new();
    let mut next = 1;
    // Who is first in the next turn, of reads and of writes.
    let mut first = [Token(0); 2];
    let mut come = true;
    loop {
        let more = come || clients.values().any(Client::wants);
        match poll.poll(&mut events, more.then_some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            come |= event.token() == LISTENER;
            if let Some(client) = clients.get_mut(&event.token())
                && event.is_readable()
            {
                client.may_read();
            }
        }
        for _ in 0..if come { ACCEPTED } else { 0 } {
            match listener.accept() {
                Ok((mut tcp, _)) => {
                    let token = Token(next);
                    next += 1;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let registered = poll.registry().register(&mut tcp, token, both);
                    let _slower = tcp.set_nodelay(true);
                    if registered.is_ok() {
                        clients.insert(token, Client::new(tcp));
                    }
                    if clients.len() > CLIENTS {
                        drop_idle(&mut clients);
                    }
                }
                Err(error) => {
                    let kind = error.kind();
                    come = kind != io::ErrorKind::WouldBlock;
                    // Out of descriptors, perhaps.
                    if come && kind != io::ErrorKind::ConnectionAborted {
                        drop_idle(&mut clients);
                    }
                    break;
                }
            }
        }
        let mut over = false;
        if let Some(done) = writes.done() {
            over = done.over;
            first[1] = tell(&mut clients, done.turn, done.replies);
            clients.values_mut().for_each(Client::go_on);
        }
        let (mut reading, mut writing) = (Turn::new(), Turn::new());
        for (token, client) in &mut clients {
            let commands = client.commands();
            if commands.is_empty() {
                continue;
            }
            match writes.place(&commands) {
                Place::Now => reading.push((*token, commands)),
                Place::Later => client.put_off(commands),
                Place::Writes => {
                    client.executing(&commands);
                    writing.push((*token, commands));
                }
            }
        }
        if !reading.is_empty() {
            rotate(&mut reading, first[0]);
            let replies = arena.read(|db| {
                each(&reading, |name, args, out| {
                    read(&arena, db, name, args, out);
                    Ok::<(), Infallible>(())
                })
            });
            first[0] = tell(&mut clients, reading, replies.unwrap_or_default());
        }
        if !writing.is_empty() {
            rotate(&mut writing, first[1]);
            writes.begin(writing);
        }
        clients.values_mut().for_each(Client::write);
        clients.retain(|_, client| !client.dead);
        drop_largest(&mut clients);
        if over {
            std::process::exit(FENCED);
        }
    }
}

/// Lets a client be the first.
fn rotate(turn: &mut Turn, first: Token) {
    let start = turn.partition_point(|(token, _)| *token < first);
    let start = start % turn.len();
    turn.rotate_left(start);
}

/// Gives the clients their replies; the first one who got none.
fn tell(clients: &mut BTreeMap<Token, Client>, turn: Turn, replies: Vec<Served>) -> Token {
    let mut first = Token(0);
    for ((token, mut commands), (replies, served)) in turn.into_iter().zip(replies) {
        commands.drain(..served);
        if served == 0 && first == Token(0) {
            first = token;
        }
        if let Some(client) = clients.get_mut(&token) {
            client.serve(&replies, commands);
        }
    }
    first
}

/// Closes the client who was served last the longest ago.
fn drop_idle(clients: &mut BTreeMap<Token, Client>) {
    let idle = clients.iter().min_by_key(|(_, client)| client.served);
    if let Some(token) = idle.map(|(&token, _)| token) {
        clients.remove(&token);
    }
}

/// Closes those who hold most, until all together do not hold too much.
fn drop_largest(clients: &mut BTreeMap<Token, Client>) {
    let mut held: usize = clients.values().map(Client::held).sum();
    while held > HELD {
        let largest = clients.iter().map(|(&token, c)| (c.held(), token)).max();
        let Some((bytes, token)) = largest else {
            return;
        };
        complain!("kv: a client held {bytes} bytes: closed");
        clients.remove(&token);
        held -= bytes;
    }
}

#[allow(dead_code)] // a test has its own
fn main() {
    if let Err(error) = serve(&Args::parse()) {
        complain!("kv: {}", explain(&*error));
        std::process::exit(1);
    }
}
