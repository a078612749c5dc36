// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key-value server and its backup as processes: killed at random instants
//! under load, recovered or taken over; what is there is compared with the
//! client's own log of acknowledged writes.
//!
//! `HVCKPT_KILLS` sets the number of rounds (24 unless told).

#[path = "../../examples/kv/main.rs"]
mod kv;
#[path = "../../examples/kv_load.rs"]
mod kv_load;
#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use kv_load::{Client, Reply};
use store_common::Scratch;

const ARGUMENTS: &str = "HVCKPT_TEST_KV";
/// Exit status of a server whose time is over.
const FENCED: i32 = 3;

/// Does nothing unless another test starts it as a process.
#[test]
fn victim() {
    if let Ok(arguments) = std::env::var(ARGUMENTS) {
        let words = std::iter::once("kv").chain(arguments.split('\n'));
        kv::serve(&kv::Args::parse_from(words)).unwrap();
    }
}

fn rounds() -> u64 {
    std::env::var("HVCKPT_KILLS").map_or(24, |text| text.parse().unwrap())
}

/// A process which says where it listens.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(mut command: Command, says: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once(says)?.1.trim().to_owned()))
            .expect("it starts");
        // It must not block on what nobody reads.
        std::thread::spawn(move || lines.count());
        Self { child, address }
    }

    fn server(directory: &Path, backup: Option<(&str, &Path)>, listen: &str) -> Self {
        let mut words = vec![
            format!("--dir={}", directory.display()),
            format!("--listen={listen}"),
            "--pages=256".to_owned(),
            "--timeout=5".to_owned(),
        ];
        if let Some((address, key)) = backup {
            words.push(format!("--backup={address}"));
            words.push(format!("--key={}", key.display()));
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env(ARGUMENTS, words.join("\n"));
        Self::start(command, "ready on ")
    }

    fn backup(directory: &Path, listen: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hvckpt"));
        command.args(["backup", "serve", "--listen", listen, "--dir"]);
        command.arg(directory);
        Self::start(command, "listening on ")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn hvckpt(arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(arguments)
        .arg("--dir")
        .arg(directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Clients with a log each.
struct Load {
    logs: Vec<PathBuf>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    fn new(scratch: &Path) -> Self {
        let log = |n: u32| {
            let path = scratch.join(format!("log-{n}"));
            std::fs::write(&path, "").unwrap();
            path
        };
        Self {
            logs: (0..3).map(log).collect(),
            threads: Vec::new(),
        }
    }

    fn logs(&self) -> Vec<&Path> {
        self.logs.iter().map(PathBuf::as_path).collect()
    }

    /// Starts, and waits until some writes were acknowledged; every fourth
    /// round does not wait.
    fn start_in(&mut self, round: u64, server: &str) {
        let size = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
        let before: Vec<u64> = self.logs.iter().map(size).collect();
        self.start(server);
        let acknowledged = |(path, &from): (&PathBuf, &u64)| {
            let mut text = Vec::new();
            let mut log = File::open(path).unwrap();
            log.seek(SeekFrom::Start(from)).unwrap();
            log.read_to_end(&mut text).unwrap();
            text.windows(3).filter(|part| part == b"\na ").count()
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while round % 4 < 3
            && self
                .logs
                .iter()
                .zip(&before)
                .map(acknowledged)
                .sum::<usize>()
                < 8
        {
            assert!(Instant::now() < deadline, "nothing is acknowledged");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn start(&mut self, server: &str) {
        for (n, path) in self.logs.iter().enumerate() {
            let (path, server) = (path.clone(), server.to_owned());
            self.threads.push(std::thread::spawn(move || {
                let from = kv_load::last(&path).unwrap();
                let mut log = OpenOptions::new().append(true).open(&path).unwrap();
                let times = (Duration::from_secs(1), Duration::from_secs(3600));
                // Killed before it was connected is as good.
                kv_load::run(&server, &mut log, &format!("c{n}"), from, times).unwrap_or(0)
            }));
        }
    }

    /// How many writes were acknowledged.
    fn stop(&mut self) -> u64 {
        self.threads
            .drain(..)
            .map(|thread| thread.join().unwrap())
            .sum()
    }

    /// Compares; what is there counts as acknowledged from now on.
    fn check(&self, server: &str) {
        let mut log = OpenOptions::new().append(true).open(&self.logs[0]).unwrap();
        let compared = kv_load::check(server, &self.logs(), (false, &[]), Some(&mut log));
        compared.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Some time, always the same for a round.
fn moment(round: u64) -> Duration {
    Duration::from_millis(20 + round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 180)
}

#[test]
fn killed_under_load_it_keeps_what_it_acknowledged() {
    let scratch = Scratch::new("kv-kill");
    let directory = scratch.path().join("store");
    let mut load = Load::new(scratch.path());
    let mut sum = 0;
    for round in 0..rounds() {
        let mut server = Process::server(&directory, None, "127.0.0.1:0");
        load.check(&server.address);
        load.start_in(round, &server.address);
        std::thread::sleep(moment(round));
        server.kill();
        sum += load.stop();
    }
    let server = Process::server(&directory, None, "127.0.0.1:0");
    load.check(&server.address);
    assert!(sum > rounds(), "only {sum} writes");
}

#[test]
fn taken_over_under_load_the_backup_has_what_was_acknowledged() {
    let scratch = Scratch::new("kv-failover");
    let mut load = Load::new(scratch.path());
    let mut directory = scratch.path().join("first");
    let mut sum = 0;
    let mut address = String::new();
    for round in 0..rounds().div_ceil(3) {
        let there = scratch.path().join(format!("backup-{round}"));
        let key = scratch.path().join(format!("key-{round}"));
        hvckpt(
            &["backup", "key", "add", "kv", "--out", key.to_str().unwrap()],
            &there,
        );
        // It will want its port again: nobody else listens on this address.
        let mine = std::process::id().to_le_bytes();
        let listen = format!("127.77.{}.{}:0", mine[1], mine[0].clamp(1, 254));
        let mut backup = Process::backup(&there, &listen);
        let replica = Some((&*backup.address, &*key));
        let mut server = Process::server(&directory, replica, "127.0.0.1:0");
        address.clone_from(&server.address);
        load.start_in(round, &address);
        std::thread::sleep(moment(round));
        if round % 2 == 1 {
            // The backup is killed too, and comes back.
            let listen = backup.address.clone();
            backup.kill();
            std::thread::sleep(moment(round + 7) / 4);
            backup = Process::backup(&there, &listen);
            std::thread::sleep(moment(round + 3) * 3);
        }
        server.kill();
        sum += load.stop();

        let said = hvckpt(&["backup", "promote", "kv", "--json"], &there);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let heir = PathBuf::from(said["path"].as_str().unwrap());
        let next = Process::server(&heir, None, "127.0.0.1:0");
        load.check(&next.address);
        drop(next);

        // The old one comes back, and is not acknowledged any more.
        let mut stale = Process::server(&directory, Some((&backup.address, &key)), "127.0.0.1:0");
        let mut client = Client::connect(&stale.address, Duration::from_secs(60)).unwrap();
        // The first answers may be that it waited in vain.
        let status = loop {
            match client.ask(&["SET", "c0:0", "stale"]) {
                Ok(Reply::Error(_)) => {}
                Err(_) => break stale.child.wait().unwrap(),
                other => panic!("a stale primary acknowledged: {other:?}"),
            }
        };
        // Its test harness says 101 when serving fails at the start.
        assert!(matches!(status.code(), Some(FENCED | 101)), "{status}");
        directory = heir;
    }
    assert!(sum > rounds(), "only {sum} writes");
}
