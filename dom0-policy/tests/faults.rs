// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary when what it depends on fails: xenstored, the disk, its
//! descriptors, itself.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::daemon::{Daemon, build, command};
use common::{AMPLE, await_that};
use hvckpt_wire::{Error, Reason, request_token};
use serde_json::Value;

fn refused(result: Result<hvckpt_wire::Grant, Error>) -> Option<Reason> {
    match result {
        Err(Error::Refused(refusal)) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn xenstored_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let socket = dir.path().join("xenstored");
    let mut serve = command(dir.path());
    serve
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("FAKE_XENSTORED", &socket);
    let daemon = Daemon::spawn(dir, serve);
    let key = daemon.key("k");
    let tokens = Cell::new(0);
    let ask = || {
        let answer = request_token(&daemon.addr, &key, AMPLE);
        tokens.set(tokens.get() + u32::from(answer.is_ok()));
        answer
    };
    assert_eq!(refused(ask()), Some(Reason::NoHypervisorSupport), "not up");
    for _ in 0..2 {
        // The daemon is in its sandbox and finds it all the same.
        let xenstored = UnixListener::bind(&socket).unwrap();
        assert!(ask().is_ok(), "up");
        drop(xenstored);
        // A child which another test is just starting may have it for a moment.
        await_that("down", || {
            refused(ask()) == Some(Reason::NoHypervisorSupport)
        });
        fs::remove_file(&socket).unwrap();
        assert_eq!(refused(ask()), Some(Reason::NoHypervisorSupport), "gone");
    }
    // A revocation reaches where tokens went, and says what it could not ask.
    let revoke = daemon.run("key revoke k");
    assert_eq!(revoke.status.code(), Some(1));
    let said = String::from_utf8_lossy(&revoke.stderr).into_owned();
    assert!(said.contains("cannot list domains"), "{said}");
    let said = String::from_utf8_lossy(&revoke.stdout).into_owned();
    let dropped = format!("{} unused tokens dropped", tokens.get());
    assert!(said.contains(&dropped), "{said}");
}

/// A file system of its own, away again at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size},mode=0700"))
            .arg("none")
            .arg(at)
            .output()
            .is_ok_and(|out| out.status.success());
        done.then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let state = dir.path().join("state");
    let Some(_tmpfs) = Tmpfs::mount(&state, "256k") else {
        eprintln!("not tried: only root can mount a small file system");
        return;
    };
    let daemon = Daemon::start_in(dir);
    let key = daemon.key("k");
    let ask = || request_token(&daemon.addr, &key, AMPLE);
    assert!(ask().is_ok());

    let ballast = state.join("ballast");
    let fill = Command::new("dd")
        .args(["if=/dev/zero", "bs=1k"])
        .arg(format!("of={}", ballast.display()))
        .output()
        .unwrap();
    assert!(!fill.status.success(), "until it is full");
    // The page that the log ends in may have room for a few lines more.
    await_that("no token", || refused(ask()) == Some(Reason::Unavailable));
    let before = fs::read(state.join("audit.log")).unwrap();
    assert_eq!(refused(ask()), Some(Reason::Unavailable));
    assert_eq!(
        daemon.run("key add --domain domu --out l l").status.code(),
        Some(1)
    );
    assert_eq!(
        fs::read(state.join("audit.log")).unwrap(),
        before,
        "no line is left half-written"
    );
    // Revocation works, and says what will not last.
    let revoke = daemon.run("key revoke k");
    assert_eq!(revoke.status.code(), Some(1));
    let said = String::from_utf8_lossy(&revoke.stderr).into_owned();
    assert!(said.contains("until the daemon restarts"), "{said}");
    assert_eq!(refused(ask()), Some(Reason::Revoked));

    fs::remove_file(&ballast).unwrap();
    daemon.ok("key revoke k");
    let key = daemon.key("m");
    assert!(
        request_token(&daemon.addr, &key, AMPLE).is_ok(),
        "room again"
    );
    let audit = daemon.ok("audit -n 1000 --json");
    let events: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seqs: Vec<u64> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
    assert!(events.iter().any(|e| e["event"] == "audit-resumed"));
}

#[test]
fn killed_in_the_middle() {
    let mut dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["-DFAKE_ENDLESS"]);
    let mut key = None;
    for round in 0..5 {
        let mut daemon =
            Daemon::start_with(dir, &["--key-rate", "1000000", "--key-burst", "1000000"]);
        let key = key.get_or_insert_with(|| daemon.key("k")).clone();
        let addr = daemon.addr.clone();
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let (addr, key) = (addr.clone(), key.clone());
                thread::spawn(move || while request_token(&addr, &key, AMPLE).is_ok() {})
            })
            .collect();
        let lines = |dir: &Path| fs::read(dir.join("state/audit.log")).map_or(0, |l| l.len());
        let at = lines(daemon.dir.path());
        await_that("some requests", || lines(daemon.dir.path()) > at + 2000);
        // Also while it saves keys.
        let added = command(daemon.dir.path())
            .args(["key", "add", "--domain", "domu", "--out"])
            .args([&format!("r{round}"), &format!("r{round}")])
            .spawn();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        added.unwrap().wait().unwrap();
        for thread in busy {
            thread.join().unwrap();
        }
        dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().unwrap());
    }
    // Everything is as it was told: the key is good, no line is lost or twice.
    let daemon = Daemon::start_in(dir);
    assert!(request_token(&daemon.addr, &key.unwrap(), AMPLE).is_ok());
    let audit = fs::read_to_string(daemon.path("state/audit.log")).unwrap();
    let seqs: Vec<u64> = audit
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| line["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1));
    let names: BTreeSet<String> = daemon
        .json("key list --json")
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["name"].as_str().unwrap().to_owned())
        .collect();
    for round in 0..5 {
        let name = format!("r{round}");
        // The client removes the file of a key which was not confirmed.
        assert!(
            !daemon.path(&name).exists() || names.contains(&name),
            "{name}"
        );
    }
}

#[test]
fn no_descriptors_left() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let mut serve = Command::new("sh");
    serve
        .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_hvckpt-policy"))
        .args(["serve", "--listen", "127.0.0.1:0", "--deadline", "60s"])
        .args(["--max-connections-per-peer", "64", "--state"])
        .arg(dir.path().join("state"))
        .env("LD_LIBRARY_PATH", dir.path());
    let daemon = Daemon::spawn(dir, serve);
    let key = daemon.key("k");
    let idle: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(&daemon.addr).unwrap())
        .collect();
    let open = || {
        fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
            .unwrap()
            .count()
    };
    await_that("all are used", || open() >= 40);
    // It lives; with the others gone it serves.
    drop(idle);
    await_that("they are free again", || open() < 30);
    assert!(request_token(&daemon.addr, &key, Duration::from_secs(30)).is_ok());
    daemon.ok("key list");
}
