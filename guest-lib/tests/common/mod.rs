// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use hvckpt::{LockPolicy, Region, RegionBuilder, TrackerKind};

/// Says on the real standard error, past the harness, that something was not
/// tested.
pub fn skipped(what: &str, why: &str) {
    let line = format!("\nSKIPPED {what}: {why}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}

/// The description of a region for tests.
pub fn builder(kind: TrackerKind, pages: usize) -> RegionBuilder {
    hvckpt::register_cda()
        .pages(pages)
        .tracker(kind)
        .lock(LockPolicy::IfAllowed)
}

pub fn region(kind: TrackerKind, pages: usize) -> Region {
    builder(kind, pages)
        .register()
        .unwrap_or_else(|e| panic!("{}", hvckpt::explain(&e)))
}

/// A number from the environment.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

/// Whether a tracker has to work here: where it is known which do,
/// `HVCKPT_EXPECT_TRACKERS` names all of them, and none may be skipped.
fn expected(kind: TrackerKind) -> Option<bool> {
    let list = std::env::var("HVCKPT_EXPECT_TRACKERS").ok()?;
    let kinds: Vec<TrackerKind> = list
        .split_whitespace()
        .map(|name| name.parse().expect("HVCKPT_EXPECT_TRACKERS"))
        .collect();
    Some(kinds.contains(&kind))
}

/// In Xen's guests the kernel reports about every page by its soft-dirty bits:
/// complete, and not exact.  Tested there only if it is expected.
pub fn left_out(kind: TrackerKind) -> bool {
    kind == TrackerKind::SoftDirty && expected(kind) == Some(false)
}

/// The trackers which work here; the others are skipped loudly.  Those which
/// are expected must work and no others; without an expectation `pt` and `sim`
/// must, as they do everywhere.
pub fn trackers() -> Vec<TrackerKind> {
    let works = |kind: &TrackerKind| match builder(*kind, 1).register() {
        _ if left_out(*kind) => false,
        Ok(_) => {
            assert_ne!(expected(*kind), Some(false), "{kind} works here");
            true
        }
        Err(error) => {
            let everywhere = matches!(kind, TrackerKind::Pt | TrackerKind::Sim);
            assert!(
                !expected(*kind).unwrap_or(everywhere),
                "{}",
                hvckpt::explain(&error)
            );
            static TOLD: Mutex<Vec<TrackerKind>> = Mutex::new(Vec::new());
            let mut told = TOLD.lock().expect("no panic inside");
            if !told.contains(kind) {
                told.push(*kind);
                skipped(&format!("all tests of {kind}"), &hvckpt::explain(&error));
            }
            false
        }
    };
    TrackerKind::ALL.into_iter().filter(works).collect()
}

/// Where cargo puts things: `target/PROFILE`.
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("this test has a file");
    exe.ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/test")
        .to_owned()
}

/// An example program, which `cargo test` has built.
pub fn example(name: &str) -> PathBuf {
    let path = profile_dir().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built; run the whole `cargo test`",
        path.display()
    );
    path
}

/// A small generator of repeatable numbers (xorshift64*).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as usize % end
    }
}

/// Tells threads to stop, also when a check fails before they are joined.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn compile(compiler: &str, args: &[&str]) -> Option<Output> {
    Command::new(compiler).args(args).output().ok()
}

/// `cargo test` leaves out the libraries which C programs link with.
pub fn build_libraries(profile: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "hvckpt", "--lib"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.current_dir(root).status().expect("cargo runs");
    assert!(status.success(), "cargo build failed: {status}");
}
