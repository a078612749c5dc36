// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program which commits is killed at random instants, 120 times;
//! what is found is compared with what it had acknowledged.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

mod store_common;
#[path = "../examples/store_counter.rs"]
mod store_counter;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hvckpt::TrackerKind;
use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{Store, StoreKey, StoreOptions, verify};
use store_common::Scratch;

const KILLS: u64 = 60;
const DIRECTORY: &str = "HVCKPT_TEST_VICTIM";

/// Does nothing unless the other test starts it as another process.
#[test]
fn victim() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        store_counter::run(Path::new(&directory), TrackerKind::Pt).unwrap();
    }
}

/// HVCKPT_KILLS makes it longer.
fn kills() -> u64 {
    std::env::var("HVCKPT_KILLS").map_or(KILLS, |text| text.parse().unwrap())
}

#[test]
fn killed_at_any_instant_it_keeps_what_it_acknowledged() {
    killed("kill", None);
}

#[test]
fn killed_at_any_instant_an_encrypted_store_keeps_what_it_acknowledged() {
    killed("kill-sealed", Some(&StoreKey::generate().unwrap()));
}

fn killed(name: &str, key: Option<&StoreKey>) {
    let scratch = Scratch::new(name);
    let (directory, file) = (scratch.path().join("store"), scratch.path().join("key"));
    if let Some(key) = key {
        key.save(&file).unwrap();
    }
    let mut model = vec![0_u64; store_counter::PAGES * 512];
    let mut now = 0;
    for kill in 0..kills() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .envs(key.map(|_| ("HVCKPT_STORE_KEY", &file)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        // The first comes behind other words.
        let number = |line: String| line.rsplit(' ').next().and_then(|word| word.parse().ok());
        let mut acknowledged = now;
        // Every fourth time wherever it is, perhaps still opening.
        if kill % 4 > 0 {
            acknowledged = lines.by_ref().filter_map(number).nth(1).unwrap();
        }
        std::thread::sleep(Duration::from_micros((kill * 7919) % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(number).max().unwrap_or(acknowledged);

        let mut options = StoreOptions::default();
        options.read_only = true;
        options.key = key.cloned();
        let store = match Store::open(&directory, options) {
            Ok(store) => store,
            // Killed before there was anything.
            Err(_) if now == 0 && acknowledged == 0 => continue,
            Err(error) => panic!("kill {kill}: {}", hvckpt::explain(&error)),
        };
        let view = store.view(None).unwrap();
        let Ok(area) = view.area("counter") else {
            continue;
        };
        let found = view.page(area, 0).unwrap().0[0];
        assert!(
            found >= acknowledged,
            "kill {kill}: {found}, but {acknowledged} was acknowledged"
        );
        for n in now + 1..=found {
            store_counter::words(n).for_each(|word| model[word] = n);
        }
        now = found;
        for page in 0..store_counter::PAGES {
            let words = view.page(area, page as u64).unwrap().0;
            assert!(
                words[..] == model[page * 512..][..512],
                "kill {kill}: page {page} of {found}"
            );
        }
    }
    assert!(now > kills(), "only {now} transactions");
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(&directory));
    let examined = verify(&backend, key, |_| {}).unwrap();
    assert!(examined.sound(), "{:?}", examined.problems);
}
