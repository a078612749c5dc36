// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many clients that do not behave, at once.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{AMPLE, Rig, await_that, rig, rig_with};
use hvckpt_wire::listen::Limits;
use hvckpt_wire::{Error, Key, Reason, Secret};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

/// A connection from another address of this machine.
fn connect_from(last: u8, rig: &Rig) -> TcpStream {
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
    let tcp = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&tcp, &from).unwrap();
    connect(&tcp, &rig.addr).unwrap();
    let tcp = TcpStream::from(tcp);
    tcp.set_read_timeout(Some(AMPLE)).unwrap();
    tcp
}

fn stranger(rig: &Rig) -> Key {
    Key::new("x", 1, rig.server(), Secret::generate().unwrap()).unwrap()
}

/// Keys at a rate, none of them known, from 8 threads; the holder of a good
/// one is served all the while.
#[test]
fn wrong_keys_at_rate() {
    let rig = rig_with(Limits {
        connections: 64,
        per_peer: 64,
        deadline: AMPLE,
    });
    let good = rig.key("good");
    rig.sim.state().max_tokens = 1000;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let guessers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut tried = 0;
                    while !stop.load(Ordering::Relaxed) || tried < 20 {
                        let answer = rig.ask(&stranger(&rig));
                        let Err(Error::Refused(refusal)) = answer else {
                            panic!("{answer:?}")
                        };
                        assert_eq!(refusal.reason, Reason::UnknownKey);
                        tried += 1;
                    }
                    tried
                })
            })
            .collect();
        for _ in 0..20 {
            assert!(rig.ask(&good).is_ok());
        }
        stop.store(true, Ordering::Relaxed);
        let tried: u32 = guessers.into_iter().map(|g| g.join().unwrap()).sum();
        assert!(tried >= 160);
    });
    let audit = rig.audit();
    let count = |line: &str| audit.iter().filter(|l| *l == line).count();
    assert_eq!(count("token granted"), 20, "the flood pushed none out");
    assert!(count("token refused unknown-key") < 60, "it is bounded");
    assert_eq!(rig.sim.state().tokens.len(), 20);
}

/// A hundred connections which never say anything, or a little now and then.
fn slow_clients(rig: &Rig) -> Vec<TcpStream> {
    let mut slow: Vec<TcpStream> = (0..100).map(|n| connect_from(2 + n % 4, rig)).collect();
    for tcp in &mut slow {
        // The beginning of a handshake; those who are out already fail here.
        let _ = tcp.write_all(&[0x16, 3, 1, 2, 0, 1]);
    }
    slow
}

/// They hold the places of their address and no other's ...
#[test]
fn slow_clients_hold_their_own_places_only() {
    let rig = rig_with(Limits {
        connections: 64,
        per_peer: 8,
        deadline: 10 * AMPLE,
    });
    let key = rig.key("app");
    let slow = slow_clients(&rig);
    await_that("they are let in", || rig.gate.count() == 4 * 8);
    assert!(rig.ask(&key).is_ok(), "another address");
    await_that("they are there still", || rig.gate.count() == 4 * 8);
    drop(slow);
    await_that("all are gone", || rig.gate.count() == 0);
}

/// ... until the deadline.
#[test]
fn slow_clients_are_closed_at_the_deadline() {
    let rig = rig_with(Limits {
        connections: 64,
        per_peer: 8,
        deadline: Duration::from_secs(1),
    });
    for mut tcp in slow_clients(&rig) {
        // Closed by the server, one way or the other.
        assert!(matches!(tcp.read(&mut [0]), Ok(0) | Err(_)));
    }
    await_that("none is left", || rig.gate.count() == 0);
}

/// Clients which vanish at every stage: after the connection, in the middle
/// of the handshake, before the answer. A reset reaches the daemon like one
/// from a host that rebooted.
#[test]
fn resets_at_every_stage() {
    let rig = rig();
    let key = rig.key("app");
    let hello = [&[0x16u8, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 194]].concat();
    for length in (0..hello.len()).step_by(9) {
        let mut tcp = connect_from(3, &rig);
        let _ = tcp.write_all(&hello[..length]);
        sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).unwrap();
    }
    await_that("all are gone", || rig.gate.count() == 0);
    assert!(rig.ask(&key).is_ok());
}

/// Connections one after the other as fast as they can be made, more than
/// there are places: each is served or closed.
#[test]
fn a_flood_of_connections() {
    let rig = rig_with(Limits {
        connections: 16,
        per_peer: 16,
        deadline: Duration::from_secs(2),
    });
    let key = rig.key("app");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    // Dropped at once: half of a handshake at most.
                    drop(TcpStream::connect(rig.addr));
                }
            });
        }
    });
    // Some may still be waiting to be accepted.
    await_that("there is a place", || rig.ask(&key).is_ok());
    await_that("all are gone", || rig.gate.count() == 0);
    let lines = rig.audit().len();
    assert!(lines < 60, "{lines} lines");
}
