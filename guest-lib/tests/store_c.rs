// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store's C API: every call, and a program which is killed and recovers.

mod common;
mod store_common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{build_libraries, compile, profile_dir};
use hvckpt::store::StoreKey;
use store_common::{Scratch, trackers};

const KILLS: u64 = 25;

/// Compiles a C program against the shared library.
fn build(source: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = profile_dir();
    build_libraries(&libraries);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let include = format!("-I{}", root.join("include").display());
    let search = format!("-L{}", libraries.display());
    let source = root.join(source).display().to_string();
    let out = program.display().to_string();
    let strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"];
    let rest = [&include[..], "-o", &out, &source, &search, "-lhvckpt"];
    let built = compile("cc", &[&strict[..], &rest].concat()).expect("a C compiler (cc) is needed");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{errors}");
    program
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", profile_dir());
    command
}

#[test]
fn every_call() {
    let program = build("tests/c/store.c", "store-c");
    for tracker in trackers() {
        let scratch = Scratch::new(&format!("c-{tracker}"));
        let output = command(&program)
            .arg(scratch.path())
            .arg(tracker.name())
            .output()
            .unwrap();
        assert!(output.status.success(), "{tracker}: {output:?}");
    }
}

#[test]
fn a_c_program_is_killed_and_recovers() {
    let program = build("examples/c/ledger.c", "ledger");
    let scratch = Scratch::new("c-ledger");
    let (store, key) = (scratch.path().join("store"), scratch.path().join("key"));
    StoreKey::generate().unwrap().save(&key).unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = command(&program)
            .args([&store, Path::new("pt"), &key])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let number = |line: String| {
            line.rsplit(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok())
        };
        let Some(recovered) = lines.next().and_then(number) else {
            panic!("kill {kill}: {:?}", child.wait_with_output().unwrap());
        };
        // One more may have been committed than was said.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&recovered),
            "kill {kill}: {recovered}, but {acknowledged} was acknowledged"
        );
        acknowledged = recovered;
        // Every fourth time wherever it is.
        if kill % 4 > 0 {
            acknowledged = lines.by_ref().filter_map(number).nth(1).unwrap();
        }
        std::thread::sleep(Duration::from_micros(kill * 7919 % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(number).last().unwrap_or(acknowledged);
    }
    assert!(acknowledged > KILLS, "only {acknowledged} entries");
}
