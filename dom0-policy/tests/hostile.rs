// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that do not behave.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::wild::{Stream, builder, connect, handshake, key_pair};
use common::{AMPLE, Rig, await_that, rig, rig_with};
use hvckpt_wire::listen::Limits;
use hvckpt_wire::token::{Answer, read_frame};
use hvckpt_wire::{Error, Key, Reason, Request, Secret, request_token};

/// Sends octets, then reads until the server closes.
fn send(rig: &Rig, octets: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(rig.addr).unwrap();
    tcp.set_read_timeout(Some(AMPLE)).unwrap();
    let _ = tcp.write_all(octets);
    let _ = tcp.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    answer
}

/// A proxy which keeps what the client says.
fn record(rig: &Rig, key: &Key) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (proxy, server) = (listener.local_addr().unwrap(), rig.addr);
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&said);
    let relay = thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut server = TcpStream::connect(server).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut part) {
                kept.lock().unwrap().extend_from_slice(&part[..n]);
                let _ = to.write_all(&part[..n]);
            }
            let _ = to.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Write);
        up.join().unwrap();
    });
    request_token(proxy, key, AMPLE).unwrap();
    relay.join().unwrap();
    let said = said.lock().unwrap();
    said.clone()
}

#[test]
fn a_recorded_conversation_is_worth_nothing() {
    let rig = rig();
    let key = rig.key("app");
    let said = record(&rig, &key);
    assert_eq!(rig.sim.state().tokens.len(), 1);
    for _ in 0..3 {
        send(&rig, &said);
    }
    rig.await_audit("connection refused handshake");
    assert_eq!(rig.sim.state().tokens.len(), 1);
    assert_eq!(
        rig.audit().iter().filter(|l| *l == "token granted").count(),
        1
    );
}

#[test]
fn a_conversation_cut_anywhere() {
    let rig = rig();
    let key = rig.key("app");
    let said = record(&rig, &key);
    for length in (0..said.len()).step_by(37) {
        send(&rig, &said[..length]);
    }
    await_that("all are gone", || rig.gate.count() == 0);
    assert_eq!(rig.sim.state().tokens.len(), 1);
    assert!(rig.ask(&key).is_ok());
}

#[test]
fn a_conversation_with_one_octet_changed() {
    let rig = rig();
    let key = rig.key("app");
    let mut said = record(&rig, &key);
    for at in (0..said.len()).step_by(53) {
        said[at] ^= 0x41;
        send(&rig, &said);
        said[at] ^= 0x41;
    }
    assert_eq!(rig.sim.state().tokens.len(), 1);
    assert!(rig.ask(&key).is_ok());
}

#[test]
fn garbage() {
    let rig = rig();
    let key = rig.key("app");
    send(&rig, b"GET / HTTP/1.1\r\n\r\n");
    send(&rig, &[0; 100_000]);
    send(&rig, &[0xff; 100_000]);
    // A handshake record of the greatest length, and a message which
    // announces 16 MiB.
    send(
        &rig,
        &[
            &[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..],
            &[0; 20_000],
        ]
        .concat(),
    );
    await_that("all are gone", || rig.gate.count() == 0);
    assert!(rig.ask(&key).is_ok());
}

#[test]
fn the_deadline_is_for_the_whole_connection() {
    let limits = Limits {
        deadline: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = rig_with(limits);
    // One octet at a time, each well before any timeout per read, and enough
    // of them for as long as we wait.
    let mut tcp = TcpStream::connect(rig.addr).unwrap();
    let hello = [&[0x16u8, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let mut octets = hello.iter();
    await_that("the server hangs up", || {
        tcp.write_all(&[*octets.next().unwrap()]).is_err()
    });
    rig.await_audit("connection refused deadline");
    // And one that says nothing.
    let mut silent = TcpStream::connect(rig.addr).unwrap();
    silent.set_read_timeout(Some(AMPLE)).unwrap();
    assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
    await_that("both are gone", || rig.gate.count() == 0);
}

#[test]
fn frames_of_every_wrong_kind() {
    let rig = rig();
    let good = Request::default().encode();
    let with = |at: usize, octets: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + octets.len()].copy_from_slice(octets);
        frame
    };
    let oversized = [&4089u32.to_le_bytes()[..], &good[4..8], &[0; 4089]].concat();
    let cases = [
        oversized,
        with(0, &u32::MAX.to_le_bytes()),
        with(0, &23u32.to_le_bytes()),
        with(4, &[9]),
        with(6, &[2]),
        with(8, &[1]),
        with(28, &[1]),
    ];
    for (number, octets) in cases.iter().enumerate() {
        let mut stream = authenticated(&rig, &format!("k{number}"), true);
        stream.write_all(octets).unwrap();
        let answer = Answer::decode(&read_frame(&mut stream).unwrap()).unwrap();
        let Answer::Refusal(refusal) = answer else {
            panic!("case {number}: granted")
        };
        assert_eq!(refusal.reason, Reason::Malformed, "case {number}");
    }
    assert!(rig.sim.state().tokens.is_empty());
    assert_eq!(
        rig.audit()
            .iter()
            .filter(|l| l.ends_with("malformed"))
            .count(),
        cases.len()
    );
}

#[test]
fn a_frame_that_never_ends() {
    let rig = rig();
    let mut stream = authenticated(&rig, "k", true);
    stream
        .write_all(&Request::default().encode()[..20])
        .unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let _ = stream.sock.shutdown(Shutdown::Write);
    assert!(read_frame(&mut stream).is_err());
    rig.await_audit("connection refused connection-lost");
    assert!(rig.sim.state().tokens.is_empty());
}

#[test]
fn another_application_protocol() {
    let rig = rig();
    let mut stream = authenticated(&rig, "k", false);
    let _ = stream.write_all(&Request::default().encode());
    assert!(read_frame(&mut stream).is_err());
    rig.await_audit("connection refused handshake");
    assert!(rig.sim.state().tokens.is_empty());
}

#[test]
fn anothers_public_key_without_its_secret() {
    let rig = rig();
    let victim = rig.key("victim");
    let mut stream = connect(rig.addr, victim.public_key(), [7; 32], true);
    let _ = stream.write_all(&Request::default().encode());
    assert!(read_frame(&mut stream).is_err());
    rig.await_audit("connection refused handshake");
    assert!(rig.sim.state().tokens.is_empty());
    // The victim is none the worse.
    assert!(rig.ask(&victim).is_ok());
}

#[test]
fn a_client_that_floods_after_its_answer() {
    let rig = rig();
    let mut stream = authenticated(&rig, "k", true);
    stream.write_all(&Request::default().encode()).unwrap();
    assert!(matches!(
        Answer::decode(&read_frame(&mut stream).unwrap()),
        Ok(Answer::Grant(_))
    ));
    // The server reads a little more and then hangs up.
    await_that("the server hangs up", || {
        stream.sock.write_all(&[0; 8192]).is_err()
    });
    await_that("it is gone", || rig.gate.count() == 0);
}

#[test]
fn no_client_key_at_all() {
    let rig = rig();
    let config = builder().with_no_client_auth();
    let mut stream = handshake(rig.addr, config, true);
    let _ = stream.write_all(&Request::default().encode());
    assert!(read_frame(&mut stream).is_err());
    rig.await_audit("connection refused handshake");
    let key = Key::new("x", 1, rig.server(), Secret::generate().unwrap()).unwrap();
    assert!(
        matches!(rig.ask(&key), Err(Error::Refused(_))),
        "still there"
    );
}

/// A connection with a key of our own, known to the daemon as `name`.
fn authenticated(rig: &Rig, name: &str, alpn: bool) -> Stream {
    let (seed, public) = key_pair();
    rig.add(name, public, 0);
    connect(rig.addr, public, seed, alpn)
}
