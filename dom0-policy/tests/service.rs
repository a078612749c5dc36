// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that behave, over TCP.

mod common;

use std::thread;

use common::wild::{self, key_pair};
use common::{AMPLE, await_that, rig, rig_with, start};
use hvckpt_wire::listen::Limits;
use hvckpt_wire::{
    Error, Key, ModeSet, Reason, Request, Secret, request_token, request_token_with,
};

fn reason(result: Result<hvckpt_wire::Grant, Error>) -> Reason {
    match result {
        Err(Error::Refused(refusal)) => refusal.reason,
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[test]
fn a_token_opens_one_session() {
    let rig = rig();
    let key = rig.key("app");
    let grant = rig.ask(&key).unwrap();
    assert_eq!((grant.tag, grant.domid), (key.id(), 3));
    assert!(rig.sim.attach(3, grant.token));
    assert!(!rig.sim.attach(3, grant.token));
    assert_eq!(rig.audit(), ["key-add done", "token granted"]);
}

#[test]
fn a_request_may_ask_for_less() {
    let rig = rig();
    let key = rig.key("app");
    let request = Request {
        modes: ModeSet::PTXEN,
        max_pages: 64,
        max_ranges: 1,
    };
    let grant = request_token_with(rig.addr, &key, &request, AMPLE).unwrap();
    assert_eq!((grant.max_pages, grant.max_ranges), (64, 1));
    assert_eq!(rig.sim.state().tokens[0].max_pages, 64);
}

#[test]
fn a_key_which_the_daemon_does_not_know() {
    let rig = rig();
    let key = Key::new("app", 1, rig.server(), Secret::generate().unwrap()).unwrap();
    assert_eq!(reason(rig.ask(&key)), Reason::UnknownKey);
    assert!(rig.sim.state().tokens.is_empty());
    assert_eq!(rig.audit(), ["token refused unknown-key"]);
}

#[test]
fn a_daemon_which_the_client_does_not_know() {
    let rig = rig();
    let other = Secret::generate().unwrap().public_key();
    let key = Key::new("app", 1, other, Secret::generate().unwrap()).unwrap();
    let result = rig.ask(&key);
    assert!(
        matches!(result, Err(Error::ServerNotAuthentic(_))),
        "{result:?}"
    );
    // By the client's alert, or by its closing, whichever is seen first.
    await_that("it is in the log", || {
        rig.audit()
            .iter()
            .any(|l| l.starts_with("connection refused"))
    });
    assert!(rig.sim.state().tokens.is_empty());
}

#[test]
fn revoked_and_expired() {
    let rig = rig();
    let key = rig.key("app");
    assert!(rig.ask(&key).is_ok());
    rig.policy.revoke_key("app", "test").unwrap();
    assert_eq!(reason(rig.ask(&key)), Reason::Revoked);
    assert!(
        rig.sim.state().tokens.is_empty(),
        "the unused token is gone"
    );

    let secret = Secret::generate().unwrap();
    let id = rig.add("short", secret.public_key(), 1);
    let key = Key::new("short", id, rig.server(), secret).unwrap();
    // Until the clock's next whole second or so it may still be good.
    await_that(
        "expiry",
        || matches!(rig.ask(&key), Err(Error::Refused(r)) if r.reason == Reason::Expired),
    );
}

#[test]
fn a_domain_that_is_not_running() {
    let rig = rig();
    let key = rig.key("app");
    rig.sim.state().domains.retain(|d| d.domid == 0);
    assert_eq!(reason(rig.ask(&key)), Reason::DomainNotRunning);
}

#[test]
fn a_hypervisor_without_the_patch() {
    let rig = rig();
    let key = rig.key("app");
    rig.sim.state().fails = Some(hvckpt_policy::hypervisor::HvError::NoSupport);
    assert_eq!(reason(rig.ask(&key)), Reason::NoHypervisorSupport);
    rig.sim.state().fails = None;
    assert!(rig.ask(&key).is_ok(), "the daemon went on");
}

#[test]
fn keys_numbers_and_identity_survive_a_restart() {
    let rig = rig();
    let (key, revoked) = (rig.key("app"), rig.key("old"));
    rig.policy.revoke_key("old", "test").unwrap();
    let first = rig.ask(&key).unwrap();
    let (dir, sim) = rig.stop();

    let rig = start(
        dir,
        sim,
        Limits {
            deadline: AMPLE,
            ..Limits::default()
        },
    );
    let second = rig.ask(&key).unwrap();
    assert_eq!(first.tag, second.tag);
    assert_eq!(reason(rig.ask(&revoked)), Reason::Revoked);
    let seqs: Vec<u64> = hvckpt_policy::audit::tail(rig.dir.path(), 100)
        .unwrap()
        .iter()
        .map(|l| l.record.as_ref().unwrap().seq)
        .collect();
    assert_eq!(seqs, (1..=6).collect::<Vec<u64>>());
}

#[test]
fn a_full_disk_stops_tokens_not_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let sim = hvckpt_policy::hypervisor::sim::Sim::with_domains(&[(3, "domu", "")]);
    let rig = start(
        dir,
        sim,
        Limits {
            deadline: AMPLE,
            ..Limits::default()
        },
    );
    let key = rig.key("app");
    let (dir, sim) = rig.stop();
    std::fs::remove_file(dir.path().join("audit.log")).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("audit.log")).unwrap();
    let rig = start(
        dir,
        sim,
        Limits {
            deadline: AMPLE,
            ..Limits::default()
        },
    );
    for _ in 0..3 {
        assert_eq!(reason(rig.ask(&key)), Reason::Unavailable);
    }
}

/// Those who have proven a known key are limited by it: one more replaces the
/// oldest with the same key.
#[test]
fn connections_are_limited() {
    let limits = Limits {
        connections: 2,
        per_peer: 8,
        deadline: AMPLE,
    };
    let rig = rig_with(limits);
    let (seed, public) = key_pair();
    rig.add("many", public, 0);
    let mut many: Vec<_> = (0..3)
        .map(|_| wild::connect(rig.addr, public, seed, true))
        .collect();
    rig.await_audit("connection refused connection-limit");
    await_that("two are left", || rig.gate.count() == 2);
    assert!(rig.ask(&rig.key("app")).is_ok(), "another key");
    for stream in &mut many {
        let _ = stream.sock.shutdown(std::net::Shutdown::Both);
    }
    await_that("all are gone", || rig.gate.count() == 0);
}

#[test]
fn many_at_once() {
    let rig = rig_with(Limits {
        connections: 32,
        per_peer: 32,
        deadline: AMPLE,
    });
    rig.sim.state().max_tokens = 100;
    let key = rig.key("app");
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (addr, key) = (rig.addr, key.clone());
            thread::spawn(move || request_token(addr, &key, AMPLE).unwrap().token)
        })
        .collect();
    let mut tokens: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 16);
    assert_eq!(rig.sim.state().tokens.len(), 16);
}

#[test]
fn a_panic_costs_one_connection() {
    let rig = rig();
    let key = rig.key("app");
    rig.sim.state().panics = true;
    let result = rig.ask(&key);
    assert!(matches!(result, Err(Error::Closed(_))), "{result:?}");
    rig.await_audit("connection refused internal-error");
    rig.sim.state().panics = false;
    await_that("its place is free", || rig.gate.count() == 0);
    assert!(rig.ask(&key).is_ok());
}
