// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes to the key-value server and keeps a log of what was sent and what
//! was acknowledged; later compares the server's content with the log.
//!
//! A line of the log is `s KEY NUMBER` before a write is sent, and `a KEY
//! NUMBER` when it was acknowledged.  Numbers of a key grow.  A value names
//! key and number under a checksum, so that no other bytes pass for one.

#![allow(missing_docs, missing_debug_implementations)] // a program

#[macro_use]
#[path = "common/say.rs"]
mod say;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// Keys of one client.
const KEYS: u64 = 40;
/// Commands sent at once, at most.
const PIPELINE: u64 = 8;

/// A server may take this long to start.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write until the server goes away, or the time is over.
    ///
    /// Exit status: 0, or 1 if nothing was acknowledged.
    Run {
        /// host:port of the server.
        #[arg(long)]
        server: String,
        /// File to append the log to; standard output unless told.
        #[arg(long)]
        log: Option<PathBuf>,
        /// Names the keys of this client.
        #[arg(long, default_value = "c")]
        name: String,
        /// Numbers begin after this one; after those of the log unless told.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seconds to write.
        #[arg(long, default_value_t = 3600.0)]
        seconds: f64,
    },
    /// Compare the server's content with logs.
    ///
    /// Exit status: 0 if every acknowledged write is there, and nothing which
    /// was not sent; 1 otherwise.
    Check {
        /// host:port of the server.
        #[arg(long)]
        server: String,
        /// The log; repeatable.
        #[arg(long, required = true)]
        log: Vec<PathBuf>,
        /// The end of the log may be missing: later writes may be there.
        #[arg(long)]
        partial: bool,
        /// Keys NAME:… of other clients, which are not compared; repeatable.
        #[arg(long, value_name = "NAME")]
        strangers: Vec<String>,
        /// Acknowledged writes there must be, at least.
        #[arg(long, default_value_t = 1)]
        least: u64,
    },
}

/// A connection to the server.
pub struct Client {
    out: TcpStream,
    from: BufReader<TcpStream>,
}

/// A reply, without its errors told apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Good(Option<Vec<u8>>),
    Error(String),
    List(Vec<Reply>),
}

impl Client {
    /// Connects, and waits until the server answers, for as long as told.
    pub fn connect(server: &str, patience: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            let tried = Self::try_connect(server);
            match tried {
                Err(error) if Instant::now() < deadline => {
                    if !told {
                        let seconds = patience.as_secs_f64();
                        complain!("kv_load: waiting {seconds} s at most for {server}: {error}");
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    fn try_connect(server: &str) -> Result<Self, Failure> {
        let out = TcpStream::connect(server)?;
        out.set_nodelay(true)?;
        out.set_read_timeout(Some(Duration::from_secs(30)))?;
        let from = BufReader::new(out.try_clone()?);
        let mut client = Self { out, from };
        client.send(&[&["PING"]])?;
        client.reply()?;
        Ok(client)
    }

    pub fn send(&mut self, commands: &[&[&str]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(format!("*{}\r\n", command.len()).bytes());
            for word in *command {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        self.out.write_all(&bytes)
    }

    pub fn reply(&mut self) -> Result<Reply, Failure> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err("the server went away".into());
        };
        let rest = line.get(1..).unwrap_or_default();
        Ok(match line.as_bytes().first() {
            Some(b'+' | b':') => Reply::Good(Some(rest.into())),
            Some(b'-') => Reply::Error(rest.to_owned()),
            Some(b'$') if rest == "-1" => Reply::Good(None),
            Some(b'$') => {
                let mut bulk = vec![0; rest.parse::<usize>()? + 2];
                self.from.read_exact(&mut bulk)?;
                bulk.truncate(bulk.len() - 2);
                Reply::Good(Some(bulk))
            }
            Some(b'*') => {
                let count: usize = rest.parse()?;
                let list: Result<Vec<_>, _> = (0..count).map(|_| self.reply()).collect();
                Reply::List(list?)
            }
            _ => return Err("not a reply".into()),
        })
    }

    pub fn ask(&mut self, command: &[&str]) -> Result<Reply, Failure> {
        self.send(&[command])?;
        self.reply()
    }
}

fn value(key: &str, number: u64) -> String {
    let text = format!("{key}={number}");
    format!("{text}.{:08x}", crc32c::crc32c(text.as_bytes()))
}

/// The keys which a command sets; now and then it is two, together.
fn keys_of(name: &str, number: u64) -> Vec<String> {
    let key = |k: u64| format!("{name}:{}", (number * 7 + k) % KEYS);
    let count = if number.is_multiple_of(5) { 2 } else { 1 };
    (0..count).map(key).collect()
}

/// Writes until the server goes away or the time is over; how many writes were
/// acknowledged.  Numbers begin after `from`; the server is waited for as long
/// as there is patience.
pub fn run(
    server: &str,
    log: &mut dyn Write,
    name: &str,
    from: u64,
    (patience, time): (Duration, Duration),
) -> Result<u64, Failure> {
    let deadline = Instant::now() + time;
    let mut client = Client::connect(server, patience)?;
    let mut number = from;
    let mut acknowledged = 0;
    while Instant::now() < deadline {
        let mut batch = Vec::new();
        for _ in 0..=number % PIPELINE {
            number += 1;
            batch.push((number, keys_of(name, number)));
        }
        let mut lines = String::new();
        let mut commands: Vec<Vec<String>> = Vec::new();
        for (number, keys) in &batch {
            let mut command = vec![if keys.len() > 1 { "MSET" } else { "SET" }.to_owned()];
            for key in keys {
                lines += &format!("s {key} {number}\n");
                command.extend([key.clone(), value(key, *number)]);
            }
            commands.push(command);
        }
        log.write_all(lines.as_bytes())?;
        log.flush()?;
        let words: Vec<Vec<&str>> = commands
            .iter()
            .map(|command| command.iter().map(String::as_str).collect())
            .collect();
        let slices: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
        if client.send(&slices).is_err() {
            break;
        }
        let mut lines = String::new();
        let mut gone = false;
        for (number, keys) in &batch {
            match client.reply() {
                Ok(Reply::Good(_)) => {
                    acknowledged += 1;
                    for key in keys {
                        lines += &format!("a {key} {number}\n");
                    }
                }
                // Nobody knows; the log says that it was sent.
                Ok(_) => {}
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        log.write_all(lines.as_bytes())?;
        log.flush()?;
        if gone {
            break;
        }
    }
    Ok(acknowledged)
}

/// What a log says of a key.
#[derive(Debug, Default)]
struct Known {
    acknowledged: u64,
    sent: BTreeSet<u64>,
}

fn read_logs(paths: &[&Path]) -> Result<BTreeMap<String, Known>, Failure> {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for path in paths {
        let text = std::fs::read(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for line in String::from_utf8_lossy(&text).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // The last line may be torn, and consoles add lines.
            let (&[kind @ ("s" | "a"), key, number], true) = (&words[..], line.len() < 200) else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            let known = known.entry(key.to_owned()).or_default();
            if kind == "s" {
                known.sent.insert(number);
            } else {
                known.acknowledged = known.acknowledged.max(number);
            }
        }
    }
    Ok(known)
}

/// The greatest number in a log.
pub fn last(path: &Path) -> Result<u64, Failure> {
    let known = read_logs(&[path])?;
    let sent = known.values().filter_map(|known| known.sent.last());
    Ok(sent.max().copied().unwrap_or(0))
}

/// Compares; how many acknowledged writes are behind what was compared.  What
/// was found counts as acknowledged from now on, if there is a log for that.
pub fn check(
    server: &str,
    logs: &[&Path],
    (partial, strangers): (bool, &[String]),
    mut found_log: Option<&mut dyn Write>,
) -> Result<u64, Failure> {
    let known = read_logs(logs)?;
    let mut client = Client::connect(server, PATIENCE)?;
    let Reply::List(keys) = client.ask(&["KEYS", "*"])? else {
        return Err("no list of keys".into());
    };
    for key in &keys {
        let Reply::Good(Some(key)) = key else {
            return Err("not a key".into());
        };
        let key = String::from_utf8_lossy(key);
        let name = key.split(':').next().unwrap_or_default();
        if strangers.iter().any(|stranger| stranger == name) {
            continue;
        }
        if !known.contains_key(&*key) && !partial {
            return Err(format!("key {key} was never sent").into());
        }
    }
    let mut sum = 0;
    let mut there: BTreeMap<&str, u64> = BTreeMap::new();
    for (key, known) in &known {
        let (least, sent) = (known.acknowledged, &known.sent);
        sum += sent.range(..=least).count() as u64;
        let Reply::Good(found) = client.ask(&["GET", key])? else {
            return Err(format!("key {key}: no answer").into());
        };
        let Some(found) = found else {
            if least > 0 {
                return Err(
                    format!("key {key}: {least} was acknowledged, nothing is there").into(),
                );
            }
            continue;
        };
        let text = String::from_utf8_lossy(&found);
        let number = text
            .strip_prefix(&format!("{key}="))
            .and_then(|rest| rest.split('.').next()?.parse::<u64>().ok())
            .filter(|&number| value(key, number) == text)
            .ok_or_else(|| format!("key {key}: {text:?} was never sent"))?;
        if number < least {
            return Err(format!("key {key}: {least} was acknowledged, {number} is there").into());
        }
        if !sent.contains(&number) && !partial {
            return Err(format!("key {key}: {number} was never sent").into());
        }
        there.insert(key, number);
        if let Some(log) = &mut found_log {
            writeln!(log, "a {key} {number}")?;
        }
    }
    for (key, number) in &there {
        let name = key.split(':').next().unwrap_or_default();
        for other in keys_of(name, *number) {
            if there.get(&*other).is_none_or(|found| found < number) {
                return Err(
                    format!("{key} has {number}, {other} was set with it and has not").into(),
                );
            }
        }
    }
    Ok(sum)
}

fn act(command: &Command) -> Result<bool, Failure> {
    match command {
        Command::Run {
            server,
            log,
            name,
            from,
            seconds,
        } => {
            let (mut file, mut out);
            let from = match log {
                Some(path) if path.exists() => last(path)?,
                _ => 0,
            }
            .max(*from);
            let log: &mut dyn Write = match log {
                Some(path) => {
                    file = OpenOptions::new().append(true).create(true).open(path)?;
                    &mut file
                }
                None => {
                    out = io::stdout().lock();
                    &mut out
                }
            };
            let time = Duration::try_from_secs_f64(*seconds)
                .map_err(|error| format!("--seconds {seconds}: {error}"))?;
            let acknowledged = run(server, log, name, from, (PATIENCE, time))?;
            complain!("kv_load: {acknowledged} writes were acknowledged");
            Ok(acknowledged > 0)
        }
        Command::Check {
            server,
            log,
            partial,
            strangers,
            least,
        } => {
            let logs: Vec<&Path> = log.iter().map(PathBuf::as_path).collect();
            let sum = check(server, &logs, (*partial, strangers), None)?;
            let others = if strangers.is_empty() {
                ""
            } else {
                " but others' keys"
            };
            say!("exact: {sum} acknowledged writes, all there; nothing else{others}");
            Ok(sum >= *least)
        }
    }
}

#[allow(dead_code)] // a test has its own
fn main() -> std::process::ExitCode {
    match act(&Args::parse().command) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => {
            complain!("kv_load: too few writes were acknowledged");
            std::process::ExitCode::FAILURE
        }
        Err(error) => {
            complain!("kv_load: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
