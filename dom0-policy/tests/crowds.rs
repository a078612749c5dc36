// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever holds a key is let in, whatever a crowd at his own address does.

mod common;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::wild::{self, key_pair};
use common::{AMPLE, Rig, rig_with};
use hvckpt_policy::admin::server::LIMITS;
use hvckpt_wire::listen::Limits;

const CROWD: usize = 64;
const REQUESTS: usize = 10;
/// A handshake may take longer than a turn on a busy machine; then it is
/// tried again, as the library does.
const ATTEMPTS: usize = 20;

/// What the members of a crowd do.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Silent,
    /// An octet of a handshake now and then.
    Dripping,
    /// The first half of a handshake.
    Half,
    /// All of it, with a key which nobody knows, and no request.
    Stranger,
}

fn member(rig: &Rig, manner: Manner, hello: &[u8]) -> io::Result<TcpStream> {
    let mut tcp = match manner {
        Manner::Stranger => wild::try_connect(rig.addr)?,
        _ => TcpStream::connect(rig.addr)?,
    };
    match manner {
        Manner::Silent | Manner::Stranger => {}
        Manner::Dripping => tcp.write_all(&hello[..1])?,
        Manner::Half => tcp.write_all(hello)?,
    }
    tcp.set_nonblocking(true)?;
    Ok(tcp)
}

/// Keeps `count` connections open, anew at once whenever one is closed.
fn crowd(rig: &Rig, manner: Manner, hello: &[u8], count: usize, stop: &AtomicBool) {
    let mut members: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for (at, one) in members.iter_mut().enumerate() {
            let alive = one.as_mut().is_some_and(|tcp| {
                if matches!(manner, Manner::Dripping) {
                    let _ = tcp.write(&hello[1 + at % 2..][..1]);
                }
                match tcp.read(&mut [0; 4096]) {
                    Ok(0) => false,
                    Ok(_) => true,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                }
            });
            if !alive {
                *one = member(rig, manner, hello).ok();
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn holder_gets_in_beside(manner: Manner) {
    let limits = Limits {
        deadline: AMPLE,
        ..Limits::default()
    };
    let rig = rig_with(limits);
    let key = rig.key("app");
    rig.sim.state().max_tokens = 1000;
    let hello = wild::hello();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| crowd(&rig, manner, &hello, CROWD / 4, &stop));
        }
        // Beyond what is free at first.
        common::await_that("the crowd is in", || {
            rig.gate.count() >= limits.per_peer.min(CROWD / 4)
        });
        let ask = || {
            (0..ATTEMPTS).any(|_| {
                assert!(rig.gate.count() <= limits.threads(), "bounded");
                rig.ask(&key).is_ok()
            })
        };
        let served = (0..REQUESTS).filter(|_| ask()).count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(served, REQUESTS, "{manner:?}");
    });
    common::await_that("all are gone", || rig.gate.count() == 0);
}

#[test]
fn beside_silent_ones() {
    holder_gets_in_beside(Manner::Silent);
}

#[test]
fn beside_dripping_ones() {
    holder_gets_in_beside(Manner::Dripping);
}

#[test]
fn beside_half_handshakes() {
    holder_gets_in_beside(Manner::Half);
}

#[test]
fn beside_strangers() {
    holder_gets_in_beside(Manner::Stranger);
}

/// Sessions with a key that is known: they keep their places, and another
/// key's holder gets one of those that are left.
#[test]
fn the_proven_stay_and_others_come() {
    let rig = rig_with(Limits {
        deadline: 10 * AMPLE,
        ..Limits::default()
    });
    let (seed, public) = key_pair();
    rig.add("patient", public, 0);
    let mut patient: Vec<_> = (0..40)
        .map(|_| wild::connect(rig.addr, public, seed, true))
        .collect();
    common::await_that("they are in", || rig.gate.count() == 40);
    let key = rig.key("app");
    let silent: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(rig.addr).unwrap())
        .collect();
    assert!((0..ATTEMPTS).any(|_| rig.ask(&key).is_ok()));
    drop(silent);
    for stream in &mut patient {
        stream.sock.set_nonblocking(true).unwrap();
        let here = stream.sock.read(&mut [0]);
        assert!(
            matches!(&here, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            "{here:?}"
        );
    }
}

/// The administrator's socket: programs which hang make room.
#[test]
fn hanging_administrators_make_room() {
    let daemon = common::daemon::Daemon::start();
    let socket = daemon.path("state").join("control.sock");
    let hanging: Vec<_> = (0..3 * LIMITS.threads())
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let start = Instant::now();
    daemon.ok("key list");
    assert!(start.elapsed() < AMPLE);
    drop(hanging);
}
