// SPDX-License-Identifier: MIT OR Apache-2.0
//! A primary reaches its backup, whatever a crowd at its own address does.

#![allow(clippy::field_reassign_with_default)] // options are non-exhaustive

mod backup_common;
mod store_common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backup_common::{Primary, check, key, options, replication, until, vault};
use hvckpt::backup::{Key, Require, Server, ServerOptions, status};
use hvckpt::store::Durability;
use hvckpt_proto::{Channel, Secret};
use store_common::Scratch;

const CROWD: usize = 64;
const ALPN: &[u8] = b"hvckpt-backup/1";
const AMPLE: Duration = Duration::from_secs(60);

/// What the members of a crowd do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Silent,
    Dripping,
    /// The first half of a handshake.
    Half,
    /// All of it, with a key which the backup does not know.
    Stranger,
}

/// What a client says first.
fn hello(key: &Key) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, key) = (listener.local_addr().unwrap(), key.clone());
    let client = std::thread::spawn(move || Channel::connect(address, &key, ALPN, AMPLE));
    let mut tcp = listener.accept().unwrap().0;
    let mut octets = vec![0; 5];
    tcp.read_exact(&mut octets).unwrap();
    let length = u16::from_be_bytes([octets[3], octets[4]]);
    octets.resize(5 + usize::from(length), 0);
    tcp.read_exact(&mut octets[5..]).unwrap();
    drop(tcp);
    assert!(client.join().unwrap().is_err());
    octets
}

struct Crowd {
    backup: SocketAddr,
    manner: Manner,
    hello: Vec<u8>,
    /// Of the backup, with a secret that it does not know.
    stranger: Key,
    stop: AtomicBool,
}

impl Crowd {
    fn member(&self) -> io::Result<TcpStream> {
        if self.manner == Manner::Stranger {
            let channel = Channel::connect(self.backup, &self.stranger, ALPN, AMPLE);
            let tcp = channel.map_err(io::Error::other)?.handle()?;
            tcp.set_nonblocking(true)?;
            return Ok(tcp);
        }
        let mut tcp = TcpStream::connect(self.backup)?;
        match self.manner {
            Manner::Dripping => tcp.write_all(&self.hello[..1])?,
            Manner::Half => tcp.write_all(&self.hello)?,
            _ => {}
        }
        tcp.set_nonblocking(true)?;
        Ok(tcp)
    }

    /// Keeps `count` connections open, anew at once whenever one is closed.
    fn run(&self, count: usize) {
        let mut members: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            for one in &mut members {
                let alive = one.as_mut().is_some_and(|tcp| {
                    if self.manner == Manner::Dripping {
                        let _full = tcp.write(&self.hello[1 + round % 100..][..1]);
                    }
                    match tcp.read(&mut [0; 4096]) {
                        Ok(got) => got > 0,
                        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                    }
                });
                if !alive {
                    *one = self.member().ok();
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Threads are counted: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn beside(manner: Manner) {
    let _alone = alone();
    let scratch = Scratch::new(&format!("backup-crowd-{manner:?}"));
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = backup_common::server(&there, "127.0.0.1:0");
    let crowd = Crowd {
        backup: backup.address(),
        manner,
        hello: hello(&key),
        stranger: Key::new("x", 9, key.server(), Secret::generate().unwrap()).unwrap(),
        stop: AtomicBool::new(false),
    };
    let before = threads();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| crowd.run(CROWD / 4));
        }
        let work = || {
            for n in 1..=5 {
                let replication = replication(backup.address(), &key, Require::Both);
                let mut primary = Primary::open(&here, options(Some(replication)))?;
                assert_eq!(primary.commit(Durability::Sync)?, n);
                // Places: 64 of primaries and 32 more, as many on their way out.
                assert!(threads() < before + 64 + 2 * 32 + 16, "bounded");
            }
            Ok::<(), hvckpt::store::StoreError>(())
        };
        let worked = work();
        crowd.stop.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|error| panic!("{manner:?}: {}", hvckpt::explain(&error)));
    });
    assert_eq!(check(&vault(&there, "one")), 5);
}

#[test]
fn primary_gets_in_beside_silent_ones() {
    beside(Manner::Silent);
}

#[test]
fn primary_gets_in_beside_dripping_ones() {
    beside(Manner::Dripping);
}

#[test]
fn primary_gets_in_beside_half_handshakes() {
    beside(Manner::Half);
}

#[test]
fn primary_gets_in_beside_strangers() {
    beside(Manner::Stranger);
}

/// A connection which is there stays, though all of the backup's places for
/// others are wanted.
#[test]
fn a_crowd_does_not_put_a_primary_out() {
    let _alone = alone();
    let scratch = Scratch::new("backup-crowd-stays");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let mut few = ServerOptions::new(&there, "127.0.0.1:0");
    few.connections = 1;
    few.log = Arc::new(|line| println!("backup: {line}"));
    let backup = Server::start(few).unwrap();
    let replication = replication(backup.address(), &key, Require::Both);
    let mut primary = Primary::open(&here, options(Some(replication))).unwrap();
    primary.commit(Durability::Sync).unwrap();
    let hello = hello(&key);
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let mut tcp = TcpStream::connect(backup.address()).unwrap();
            let _gone = tcp.write_all(&hello);
            tcp
        })
        .collect();
    for _ in 0..20 {
        primary.commit(Durability::Sync).unwrap();
    }
    assert_eq!(primary.store.replica().unwrap().connections, 1);
    drop(crowd);
}

/// Questions are answered beside programs which connect and say nothing.
#[test]
fn silent_administrators_keep_nobody_out() {
    let _alone = alone();
    let scratch = Scratch::new("backup-crowd-control");
    let there = scratch.path().join("there");
    let _key = key(&there, "one");
    let backup = backup_common::server(&there, "127.0.0.1:0");
    let socket = there.join("control.sock");
    let silent: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    until("an answer", || status(&there, None).is_ok());
    drop(silent);
    drop(backup);
}

/// What is said of a backup that is not there names no other server.
#[test]
fn an_absent_backup_is_called_a_backup() {
    let _alone = alone();
    let scratch = Scratch::new("backup-crowd-names");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut replication = replication(address, &key, Require::Both);
    replication.timeout = Duration::from_secs(1);
    let mut primary = Primary::open(&here, options(Some(replication))).unwrap();
    let error = primary.commit(Durability::Sync).unwrap_err();
    let mut said = hvckpt::explain(&error);
    until("a reason", || {
        said += &primary.store.replica().unwrap().trouble.unwrap_or_default();
        said.contains(&format!("cannot reach the backup at {address}"))
    });
    assert!(!said.contains("policy daemon"), "{said}");
}
