// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two processes and one store: whoever is told that a commit is durable finds
//! it there, whatever happens to the lock.

mod store_common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{Durability, Page, PageWrite, Store, StoreError, StoreOptions, verify};
use store_common::Scratch;

const CHILD: &str = "HVCKPT_TEST_LOCK_CHILD";

fn open(path: &Path) -> Result<Store, StoreError> {
    let mut options = StoreOptions::default();
    // Each commit begins an image, or nearly.
    options.image_bytes = 1;
    options.keep = 100;
    Store::open(path, options)
}

fn commit(store: &Store, n: u64) -> Result<u64, StoreError> {
    let area = store.area("main", 0x10_0000, 4)?;
    let page = Page([n; 512]);
    store.commit(&[PageWrite::new(area, n % 4, &page)], Durability::Sync)
}

/// The other process: opens a store, and commits a number for each line.
#[test]
fn the_other_process() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut out = std::io::stderr();
    let store = match open(Path::new(&path)) {
        Ok(store) => store,
        Err(error) => {
            writeln!(out, "answer {error}").unwrap();
            return;
        }
    };
    writeln!(out, "answer open").unwrap();
    for line in std::io::stdin().lines() {
        let n = line.unwrap().parse().unwrap();
        match commit(&store, n) {
            Ok(_) => writeln!(out, "answer ok").unwrap(),
            Err(error) => writeln!(out, "answer {}", hvckpt::explain(&error)).unwrap(),
        }
    }
}

struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStderr>,
    _quiet: Option<ChildStdout>,
}

impl Other {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(CHILD, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        let _quiet = child.stdout.take();
        let mut other = Self {
            child,
            input,
            output,
            _quiet,
        };
        assert_eq!(other.answer(), "open");
        other
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(answer) = line.trim_end().strip_prefix("answer ") {
                return answer.to_owned();
            }
        }
    }

    fn commit(&mut self, n: u64) -> String {
        writeln!(self.input, "{n}").unwrap();
        self.answer()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Everything in a store was told to somebody, and the other way round.
fn all_there(path: &Path, told: &[u64]) {
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(path));
    let examined = verify(&backend, None, |_| {}).unwrap();
    assert!(examined.sound(), "{:?}", examined.problems);
    let mut options = StoreOptions::default();
    options.read_only = true;
    let store = Store::open(path, options).unwrap();
    let mut expected = [0; 4];
    for n in told {
        expected[usize::try_from(n % 4).unwrap()] = *n;
    }
    let view = store.view(None).unwrap();
    let found: Vec<u64> = (0..4)
        .map(|page| view.page(0, page).unwrap().0[0])
        .collect();
    assert_eq!(found, expected);
}

/// The file of locks goes, or another one comes: the other writer stays out,
/// and the first goes on.
#[test]
fn who_removes_the_lock_does_not_get_in() {
    for replace in [false, true] {
        let scratch = Scratch::new(&format!("lock-removed-{replace}"));
        let mut told = Vec::new();
        let mut first = Other::start(scratch.path());
        for n in 1..=5 {
            assert_eq!(first.commit(n), "ok");
            told.push(n);
        }
        fs::remove_file(scratch.path().join("lock")).unwrap();
        if replace {
            fs::write(scratch.path().join("lock"), b"").unwrap();
        }
        assert!(matches!(
            open(scratch.path()),
            Err(StoreError::Locked { .. })
        ));
        for n in 6..=8 {
            assert_eq!(first.commit(n), "ok");
            told.push(n);
            assert!(matches!(
                open(scratch.path()),
                Err(StoreError::Locked { .. })
            ));
        }
        first.kill();
        let second = open(scratch.path()).unwrap();
        commit(&second, 9).unwrap();
        told.push(9);
        drop(second);
        all_there(scratch.path(), &told);
    }
}

/// Both files go by which writers know each other.
#[test]
fn who_lost_the_lock_acknowledges_nothing_more() {
    for wait in [false, true] {
        let scratch = Scratch::new(&format!("lock-lost-{wait}"));
        let mut told = Vec::new();
        let mut first = Other::start(scratch.path());
        for n in 1..=5 {
            assert_eq!(first.commit(n), "ok");
            told.push(n);
        }
        for name in ["lock", "acknowledged"] {
            fs::remove_file(scratch.path().join(name)).unwrap();
        }
        let second = open(scratch.path()).unwrap();
        if !wait {
            commit(&second, 6).unwrap();
            told.push(6);
        }
        let refused = first.commit(7);
        assert!(refused.contains("the lock of"), "{refused}");
        assert_ne!(first.commit(8), "ok", "for ever");
        for n in 9..=12 {
            commit(&second, n).unwrap();
            told.push(n);
            assert_ne!(first.commit(n + 100), "ok");
        }
        drop(second);
        all_there(scratch.path(), &told);
        first.kill();
        all_there(scratch.path(), &told);
    }
}

/// The directory is moved, and perhaps made again.
#[test]
fn who_lost_the_directory_acknowledges_nothing_more() {
    for again in [false, true] {
        let scratch = Scratch::new(&format!("lock-moved-{again}"));
        let (path, moved) = (scratch.path().join("store"), scratch.path().join("moved"));
        let mut first = Other::start(&path);
        for n in 1..=5 {
            assert_eq!(first.commit(n), "ok");
        }
        fs::rename(&path, &moved).unwrap();
        if again {
            let second = open(&path).unwrap();
            commit(&second, 6).unwrap();
        }
        assert_ne!(first.commit(7), "ok");
        assert_ne!(first.commit(8), "ok");
        first.kill();
        all_there(&moved, &[1, 2, 3, 4, 5]);
        if again {
            all_there(&path, &[6]);
        }
    }
}
