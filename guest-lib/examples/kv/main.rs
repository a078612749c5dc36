//! A key-value server which speaks the Redis protocol, and whose whole state
//! lives in a critical data area: killed at any moment it comes back with all
//! it acknowledged, and a backup can take over from it.
//!
//! One thread, one event loop.  Everything which arrived in one turn is one
//! transaction, and replies leave when it is as safe as was asked for (output
//! commit).  See `kv --help`.
//!
//! Clients cannot take each other's turn or memory: what a command and its
//! reply may be, what a client may have in one turn, and what all may hold is
//! bounded; who takes no replies gets no more of them.

#![allow(missing_docs, missing_debug_implementations)] // a program

mod client;
mod db;
mod resp;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hvckpt::arena::{Arena, UpdateError};
use hvckpt::backup::{Key, Replication, Require};
use hvckpt::store::{Durability, Durable, DurableError, StoreError, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind, explain};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use client::{Client, UNREAD};
use db::{Db, Full};
use resp::{Command, Replies};

const LISTENER: Token = Token(0);
/// Clients at once; of more, those who were served last the longest ago go.
const CLIENTS: usize = 900;
/// Accepted in one turn.
const ACCEPTED: usize = 64;
/// Bytes of memory for all clients' commands and replies; of more, the client
/// who holds most goes.
const HELD: usize = 256 << 20;
/// Bytes of replies after which a turn ends.
const TURN: usize = 64 << 20;
/// Exit status when another instance took over.
const FENCED: i32 = 3;

/// Whether a command may change something.
fn changes(command: &[u8]) -> bool {
    let names = [
        "SET", "DEL", "INCR", "DECR", "INCRBY", "MSET", "FLUSHALL", "FLUSHDB",
    ];
    let is = |name: &&str| command.eq_ignore_ascii_case(name.as_bytes());
    names.iter().any(is)
}

/// A key-value server for redis-cli and redis-benchmark, whose state survives.
#[derive(Parser)]
pub struct Args {
    /// Directory of the store; opened, recovered or made.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:6379")]
    listen: std::net::SocketAddr,
    /// Size of the area in pages of 4096 bytes; it can grow at a later start.
    #[arg(long, default_value_t = 16384)]
    pages: usize,
    /// Trackers in the order of preference.
    #[arg(long, value_delimiter = ',', default_value = "ptxen,pagemap-scan,pt")]
    trackers: Vec<TrackerKind>,
    /// host:port of a backup.
    #[arg(long, requires = "key")]
    backup: Option<String>,
    /// Key file from hvckpt backup key add.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Where a write must be before it is acknowledged, if there is a backup.
    #[arg(long, default_value = "both")]
    require: Require,
    /// Seconds to wait for the backup.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Go on without a backup which does not answer in time.
    #[arg(long)]
    degrade: bool,
}

struct Server {
    arena: Arena<Db>,
    /// Version which the backup may not have; it is not shown to anybody.
    in_doubt: Option<u64>,
    /// Another instance took over.
    over: bool,
}

/// Commands of one turn, by client.
type Turn = Vec<(Token, VecDeque<Command>)>;

/// Replies to so many of a client's commands.
type Served = (Replies, usize);

/// What each client is told; nothing for commands behind those which fill the
/// turn.
fn each<E>(
    turn: &Turn,
    mut one: impl FnMut(&str, &[Vec<u8>], &mut Replies) -> Result<(), E>,
) -> Result<Vec<Served>, E> {
    let mut total = 0;
    let client = |(_, commands): &(Token, VecDeque<Command>)| {
        let mut out = Replies::default();
        let mut served = 0;
        for command in commands {
            if out.0.len() >= UNREAD || total >= TURN {
                break;
            }
            let before = out.0.len();
            let name = &command[0][..command[0].len().min(64)];
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            one(&name, &command[1..], &mut out)?;
            total += out.0.len() - before;
            served += 1;
        }
        Ok((out, served))
    };
    turn.iter().map(client).collect()
}

impl Server {
    fn read(&self, db: &Db, name: &str, args: &[Vec<u8>], out: &mut Replies) {
        match (name, args) {
            ("PING", []) => out.simple("PONG"),
            ("PING" | "ECHO", [text]) => out.bulk(Some(text)),
            ("QUIT", _) | ("CLIENT" | "SELECT", [_, ..]) => out.simple("OK"),
            ("COMMAND", _) => out.array(0),
            ("CONFIG", [get, option]) if get.eq_ignore_ascii_case(b"GET") => {
                out.array(2);
                out.bulk(Some(option));
                out.bulk(Some(b""));
            }
            ("INFO", _) => out.bulk(Some(self.info().as_bytes())),
            ("!", [what]) => {
                let what = String::from_utf8_lossy(what);
                out.error(&format!("ERR Protocol error: {what}"));
            }
            _ if db.read(name, args, out) => {}
            _ => out.error(&format!("ERR unknown command '{name}', or wrong arguments")),
        }
    }

    fn info(&self) -> String {
        let arena = &self.arena;
        let (tracker, version, used) = (arena.tracker(), arena.version(), arena.used());
        let mut text = format!(
            "redis_version:7.0.0\r\ntracker:{tracker}\r\nversion:{version}\r\nused_bytes:{used}\r\n"
        );
        if let Some(replica) = arena.store().replica() {
            let lag = replica.lag.as_millis();
            text += &format!(
                "role:master\r\nlink:{:?}\r\nacknowledged:{}\r\nlag_ms:{lag}\r\ntrouble:{}\r\n",
                replica.link,
                replica.acknowledged,
                replica.trouble.unwrap_or_default()
            );
        }
        text
    }

    /// Executes everything as one transaction; the replies of each client.
    fn turn(&mut self, turn: &Turn) -> Vec<Served> {
        let error = match self.try_turn(turn) {
            Ok(replies) => return replies,
            Err(UpdateError::Refused(full)) => full.to_string(),
            Err(UpdateError::Durable(error)) => {
                eprintln!("kv: {}", explain(&error));
                if let DurableError::Store(error) = &error {
                    self.over |= error.fenced();
                    if let StoreError::Unreplicated { version, .. } = error {
                        self.in_doubt = Some(*version);
                    }
                }
                format!("NOTDURABLE {}", explain(&error))
            }
        };
        let refuse = |_: &str, _: &[Vec<u8>], out: &mut Replies| {
            out.error(&error);
            Ok::<(), Infallible>(())
        };
        each(turn, refuse).unwrap_or_default()
    }

    fn try_turn(&mut self, turn: &Turn) -> Result<Vec<Served>, UpdateError<Full>> {
        let mut commands = turn.iter().flat_map(|(_, commands)| commands);
        if commands.any(|command| changes(&command[0])) {
            let (_, replies) = self.arena.update(Durability::Sync, |db| {
                each(turn, |name, args, out| {
                    if !db.write(name, args, out)? {
                        self.read(db, name, args, out);
                    }
                    Ok(())
                })
            })?;
            self.in_doubt = None;
            return Ok(replies);
        }
        if let Some(version) = self.in_doubt {
            let waited = self.arena.store().wait_for_backup(version);
            let error = |source| DurableError::Store(StoreError::Unreplicated { version, source });
            waited.map_err(error)?;
            self.in_doubt = None;
        }
        self.arena.read(|db| {
            each(turn, |name, args, out| {
                self.read(db, name, args, out);
                Ok(())
            })
        })
    }
}

fn open(args: &Args) -> Result<Arena<Db>, Box<dyn Error>> {
    let mut options = StoreOptions::default();
    if let (Some(address), Some(key)) = (&args.backup, &args.key) {
        let mut replication = Replication::new(address, Key::load(key)?);
        replication.require = args.require;
        replication.timeout = Duration::from_secs(args.timeout);
        replication.degrade = args.degrade;
        options.replication = Some(replication);
    }
    let region = Durable::builder("kv")
        .pages(args.pages)
        .trackers(args.trackers.clone())
        .lock(LockPolicy::IfAllowed)
        .options(options)
        .open(&args.dir)?;
    Ok(Arena::open(region, Db::new)?)
}

pub fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    let arena = open(args)?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(args.listen)?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let (version, tracker, address) = (arena.version(), arena.tracker(), listener.local_addr()?);
    let ready = format!("kv: version {version}, tracker {tracker}, ready on {address}\n");
    // Whoever started it need not read that.
    let _unread = std::io::Write::write_all(&mut std::io::stdout(), ready.as_bytes());
    let mut server = Server {
        arena,
        in_doubt: None,
        over: false,
    };
    let mut events = Events::with_capacity(1024);
    let mut clients: BTreeMap<Token, Client> = BTreeMap::new();
    let mut next = 1;
    // Who is first in the next turn.
    let mut first = Token(0);
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
        let mut turn = Turn::new();
        for (token, client) in &mut clients {
            let commands = client.commands();
            if !commands.is_empty() {
                turn.push((*token, commands));
            }
        }
        if !turn.is_empty() {
            let start = turn.partition_point(|(token, _)| *token < first);
            let start = start % turn.len();
            turn.rotate_left(start);
            let replies = server.turn(&turn);
            first = Token(0);
            for ((token, mut commands), (replies, served)) in turn.into_iter().zip(replies) {
                commands.drain(..served);
                if served == 0 && first == Token(0) {
                    first = token;
                }
                if let Some(client) = clients.get_mut(&token) {
                    client.serve(&replies, commands);
                }
            }
        }
        clients.values_mut().for_each(Client::write);
        clients.retain(|_, client| !client.dead);
        drop_largest(&mut clients);
        if server.over {
            std::process::exit(FENCED);
        }
    }
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
        eprintln!("kv: a client held {bytes} bytes: closed");
        clients.remove(&token);
        held -= bytes;
    }
}

#[allow(dead_code)] // a test has its own
fn main() {
    if let Err(error) = serve(&Args::parse()) {
        eprintln!("kv: {}", explain(&*error));
        std::process::exit(1);
    }
}
