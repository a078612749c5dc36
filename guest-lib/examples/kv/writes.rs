// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes, in a thread of their own: who reads something else does not wait
//! for the disk or for the backup.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use hvckpt::arena::{Arena, UpdateError};
use hvckpt::explain;
use hvckpt::store::{Durability, DurableError, StoreError};
use mio::{Token, Waker};

use super::client::UNREAD;
use super::db::{Db, Full};
use super::resp::{Command, Replies};

/// Bytes of replies after which a turn ends.
const TURN: usize = 64 << 20;

/// Commands of one turn, by client.
pub type Turn = Vec<(Token, VecDeque<Command>)>;

/// Replies to so many of a client's commands.
pub type Served = (Replies, usize);

/// What each client is told; nothing for commands behind those which fill the
/// turn.
pub fn each<E>(
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

/// Whether a command may change something.
fn changes(command: &[u8]) -> bool {
    let names = [
        "SET", "DEL", "INCR", "DECR", "INCRBY", "MSET", "FLUSHALL", "FLUSHDB",
    ];
    let is = |name: &&str| command.eq_ignore_ascii_case(name.as_bytes());
    names.iter().any(is)
}

/// What a turn of writes may change.
#[derive(Default)]
struct Touched {
    all: bool,
    /// Hashes of keys, and perhaps of values.
    keys: HashSet<u64>,
    state: RandomState,
}

impl Touched {
    fn by(turn: &Turn) -> Self {
        let mut touched = Self::default();
        let commands = turn.iter().flat_map(|(_, commands)| commands);
        for command in commands.filter(|command| changes(&command[0])) {
            let name = &command[0];
            touched.all |= name.len() > 5 && name[..5].eq_ignore_ascii_case(b"FLUSH");
            let hashes = command[1..].iter().map(|key| touched.state.hash_one(key));
            touched.keys.extend(hashes);
        }
        touched
    }

    /// Whether a command may read it.
    fn read_by(&self, command: &Command) -> bool {
        let every = ["KEYS", "DBSIZE"];
        let is = |name: &&str| command[0].eq_ignore_ascii_case(name.as_bytes());
        let touched = |key: &Vec<u8>| self.all || self.keys.contains(&self.state.hash_one(key));
        every.iter().any(is) || command[1..].iter().any(touched)
    }
}

/// What became of a turn.
pub struct Done {
    pub turn: Turn,
    pub replies: Vec<Served>,
    /// Another instance took over.
    pub over: bool,
    in_doubt: bool,
}

/// Where a client's commands belong.
pub enum Place {
    /// They can be executed now, beside a turn of writes.
    Now,
    /// In the next turn of writes.
    Writes,
    /// Behind the turn which is under way.
    Later,
}

/// The thread.
pub struct Writes {
    to: Sender<Turn>,
    from: Receiver<Done>,
    /// A turn is under way.
    touched: Option<Touched>,
    in_doubt: bool,
}

impl Writes {
    pub fn start(arena: Arc<Arena<Db>>, waker: Waker) -> io::Result<Self> {
        let (to, turns) = channel();
        let (tell, from) = channel();
        let mut server = Server {
            arena,
            in_doubt: None,
            over: false,
        };
        let run = move || {
            let _fatal = Fatal;
            for turn in turns {
                let replies = server.turn(&turn);
                let done = Done {
                    turn,
                    replies,
                    over: server.over,
                    in_doubt: server.in_doubt.is_some(),
                };
                if tell.send(done).is_err() {
                    return;
                }
                waker.wake().expect("the loop cannot be woken");
            }
        };
        std::thread::Builder::new()
            .name("kv-writes".to_owned())
            .spawn(run)?;
        Ok(Self {
            to,
            from,
            touched: None,
            in_doubt: false,
        })
    }

    pub fn place(&self, commands: &VecDeque<Command>) -> Place {
        let writes = self.in_doubt || commands.iter().any(|command| changes(&command[0]));
        match &self.touched {
            None if writes => Place::Writes,
            None => Place::Now,
            Some(touched) if writes || commands.iter().any(|it| touched.read_by(it)) => {
                Place::Later
            }
            Some(_) => Place::Now,
        }
    }

    /// Begins a turn; none is under way.
    pub fn begin(&mut self, turn: Turn) {
        self.touched = Some(Touched::by(&turn));
        self.to.send(turn).expect("the thread is there");
    }

    /// The turn which was under way, once it is done.
    pub fn done(&mut self) -> Option<Done> {
        match self.from.try_recv() {
            Ok(done) => {
                (self.touched, self.in_doubt) = (None, done.in_doubt);
                Some(done)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => unreachable!("the thread is there"),
        }
    }
}

/// Without the thread nobody would be served.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

struct Server {
    arena: Arc<Arena<Db>>,
    /// Version which the backup may not have; it is not shown to anybody.
    in_doubt: Option<u64>,
    /// Another instance took over.
    over: bool,
}

impl Server {
    /// Executes everything as one transaction; the replies of each client.
    fn turn(&mut self, turn: &Turn) -> Vec<Served> {
        let error = match self.try_turn(turn) {
            Ok(replies) => return replies,
            Err(UpdateError::Refused(full)) => full.to_string(),
            Err(UpdateError::Durable(error)) => {
                complain!("kv: {}", explain(&error));
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
                        read(&self.arena, db, name, args, out);
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
                read(&self.arena, db, name, args, out);
                Ok(())
            })
        })
    }
}

/// Executes a command which changes nothing.
pub fn read(arena: &Arena<Db>, db: &Db, name: &str, args: &[Vec<u8>], out: &mut Replies) {
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
        ("INFO", _) => out.bulk(Some(info(arena).as_bytes())),
        ("!", [what]) => {
            let what = String::from_utf8_lossy(what);
            out.error(&format!("ERR Protocol error: {what}"));
        }
        _ if db.read(name, args, out) => {}
        _ => out.error(&format!("ERR unknown command '{name}', or wrong arguments")),
    }
}

fn info(arena: &Arena<Db>) -> String {
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
