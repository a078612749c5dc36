// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thousand clients at once. Prints what they cost; whether they are served
//! decides, how fast does not.
//!
//! ```text
//! HVCKPT_LOAD_SECONDS=20 cargo test --release -p hvckpt-policy --test load -- --nocapture
//! ```

mod common;

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, build};
use common::wild::{Stream, connect, key_pair};
use common::{AMPLE, await_that};
use hvckpt_policy::admin::client::call;
use hvckpt_policy::admin::{AddedKey, Request as Admin};
use hvckpt_wire::token::{Answer, read_frame};
use hvckpt_wire::{Request, request_token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CLIENTS: usize = 1000;

/// Generous: a tenth of it is what they take.
const MEMORY_MAX_KIB: u64 = 256 << 10;

/// A number from /proc/PID/status.
fn status(daemon: &Daemon, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn answer(mut stream: Stream) -> Answer {
    stream.write_all(&Request::default().encode()).unwrap();
    Answer::decode(&read_frame(&mut stream).unwrap()).unwrap()
}

#[test]
fn a_thousand_connections() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["-DFAKE_ENDLESS"]);
    let options = "--max-connections 1000 --max-connections-per-peer 1000 --deadline 20m \
                   --key-rate 1000000 --key-burst 1000000";
    let daemon = Daemon::start_with(dir, &options.split(' ').collect::<Vec<_>>());
    let addr: SocketAddr = daemon.addr.parse().unwrap();
    let (seed, public) = key_pair();
    let _: AddedKey = call(
        &daemon.path("state"),
        &Admin::KeyAdd {
            name: "wild".to_owned(),
            public: public.to_string(),
            domain: "domu".to_owned(),
            sessions: 0,
            pages: 0,
            ranges: 0,
            modes: "all".to_owned(),
            expires_in: 0,
        },
    )
    .unwrap();
    let (idle_memory, idle_threads) = (status(&daemon, "VmRSS:"), status(&daemon, "Threads:"));

    // All of them authenticated, none with its request sent.
    let clients: Vec<Stream> = thread::scope(|scope| {
        let connecting: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..CLIENTS / 4)
                        .map(|_| connect(addr, public, seed, true))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        connecting
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(clients.iter().all(|c| !c.conn.is_handshaking()));
    let memory = status(&daemon, "VmRSS:");
    // Strangers beside them cost nobody his place.
    let strangers: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    let granted = clients
        .into_iter()
        .map(answer)
        .filter(|a| matches!(a, Answer::Grant(_)))
        .count();
    assert_eq!(granted, CLIENTS, "each is served");
    drop(strangers);
    await_that("threads end", || {
        status(&daemon, "Threads:") <= idle_threads
    });

    // And as fast as it goes, from connection to token.
    let seconds = std::env::var("HVCKPT_LOAD_SECONDS").map_or(1, |s| s.parse().unwrap());
    let key = daemon.key("k");
    let (start, served) = (Instant::now(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while start.elapsed() < Duration::from_secs(seconds) {
                    request_token(addr, &key, AMPLE).unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let rate = served.into_inner() as f64 / start.elapsed().as_secs_f64();
    let peak = status(&daemon, "VmHWM:");
    println!(
        "idle: {idle_memory} KiB; {CLIENTS} authenticated connections: {memory} KiB; \
         peak: {peak} KiB; 16 clients: {rate:.0} tokens/s"
    );
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
}
