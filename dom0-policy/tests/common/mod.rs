// SPDX-License-Identifier: MIT OR Apache-2.0
//! A daemon without its process: real sockets, keys, files and decisions,
//! over the simulated hypervisor.
#![allow(dead_code)] // every test file uses its part

pub mod daemon;
pub mod wild;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hvckpt_policy::audit::{AuditLog, tail};
use hvckpt_policy::daemon::server_key;
use hvckpt_policy::hypervisor::sim::Sim;
use hvckpt_policy::keys::{DomainRef, KeyStore};
use hvckpt_policy::policy::{KeySpec, Options, Policy};
use hvckpt_policy::server::serve;
use hvckpt_wire::Acceptor;
use hvckpt_wire::listen::{Door, Limits, Stopper, stopper};
use hvckpt_wire::{Error, Grant, Key, ModeSet, PublicKey, Secret, request_token};
use tempfile::TempDir;

/// Long enough never to be the reason for a result.
pub const AMPLE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub dir: TempDir,
    pub sim: Sim,
    pub policy: Arc<Policy>,
    pub addr: SocketAddr,
    pub gate: Door,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

pub fn rig() -> Rig {
    rig_with(Limits {
        deadline: AMPLE,
        ..Limits::default()
    })
}

pub fn rig_with(limits: Limits) -> Rig {
    let sim = Sim::with_domains(&[(0, "Domain-0", ""), (3, "domu", "")]);
    start(tempfile::tempdir().unwrap(), sim, limits)
}

pub fn start(dir: TempDir, sim: Sim, limits: Limits) -> Rig {
    let path = dir.path();
    let keys = KeyStore::open(path).unwrap();
    let audit = AuditLog::open(path, 1 << 20, 2).unwrap();
    let policy = Policy::new(keys, audit, Box::new(sim.clone()), Options::default());
    let policy = Arc::new(policy);
    let acceptor = Acceptor::new(&server_key(path).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let gate = Door::new(limits).unwrap();
    let (stopper, stop) = stopper().unwrap();
    let (in_thread, counted) = (Arc::clone(&policy), gate.clone());
    let thread = thread::spawn(move || {
        serve(&listener, &acceptor, &in_thread, &counted, &stop);
    });
    Rig {
        dir,
        sim,
        policy,
        addr,
        gate,
        stopper,
        thread: Some(thread),
    }
}

impl Rig {
    /// Provisions a key for `domu`, as `key add` does.
    pub fn key(&self, name: &str) -> Key {
        let secret = Secret::generate().unwrap();
        let id = self.add(name, secret.public_key(), 0);
        Key::new(name, id, self.server(), secret).unwrap()
    }

    pub fn add(&self, name: &str, public: PublicKey, expires_in: u64) -> u64 {
        let spec = KeySpec {
            name: name.to_owned(),
            public,
            domain: DomainRef::parse("domu").unwrap(),
            sessions: 0,
            pages: 0,
            ranges: 0,
            modes: ModeSet::all(),
            expires_in,
        };
        self.policy.add_key(spec, "test").unwrap().0.id.0.get()
    }

    pub fn server(&self) -> PublicKey {
        server_key(self.dir.path()).unwrap().public_key()
    }

    pub fn ask(&self, key: &Key) -> Result<Grant, Error> {
        request_token(self.addr, key, AMPLE)
    }

    /// Audit lines as `event decision reason`.
    pub fn audit(&self) -> Vec<String> {
        audit(self.dir.path())
    }

    /// Waits for an audit line; what it records happens in another thread.
    pub fn await_audit(&self, line: &str) {
        await_that(
            &format!("audit line `{line}` in {:?}", self.audit()),
            || self.audit().iter().any(|l| l == line),
        );
    }

    /// Stops the server and returns what is left on disk.
    pub fn stop(mut self) -> (TempDir, Sim) {
        self.end();
        let empty = tempfile::tempdir().unwrap();
        (std::mem::replace(&mut self.dir, empty), self.sim.clone())
    }

    fn end(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn audit(dir: &Path) -> Vec<String> {
    let lines = tail(dir, 10_000).unwrap();
    let records = lines.into_iter().filter_map(|l| l.record);
    records
        .map(|r| {
            format!(
                "{} {} {}",
                r.event,
                r.decision,
                r.reason.unwrap_or_default()
            )
        })
        .map(|s| s.trim_end().to_owned())
        .collect()
}

pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + AMPLE;
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
