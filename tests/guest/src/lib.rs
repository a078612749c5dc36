// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the test programs share: the raw ABI, memory to misuse, numbers, checks.
//! Each program is a file or folder of `src/bin`; steps of the emulated machine
//! (`tests/steps`) run them by name.
#![allow(missing_docs)] // helpers of these programs, and nobody's interface

mod raw;

pub use raw::*;

use hvckpt::{LockPolicy, Region, TrackerKind};

/// A small generator of repeatable numbers (xorshift64*).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() >> 11) as usize % end
    }
}

/// For programs whose reader may go away (`| head`): they end of SIGPIPE then,
/// instead of panicking. First in `main`.
pub fn end_with_the_reader() {
    // SAFETY: no handler is replaced but Rust's own setting.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// A number of things of which there must be some, for an option.
pub fn some(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=1_000_000_000).contains(number))
        .ok_or_else(|| "expected 1 to 1000000000".to_owned())
}

/// The same where there may be none.
pub fn any(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { some(text) }
}

/// A region, or an explanation on standard error and exit status 2.
pub fn region(tracker: TrackerKind, pages: usize, lock: LockPolicy) -> Region {
    hvckpt::register_cda()
        .pages(pages)
        .tracker(tracker)
        .lock(lock)
        .register()
        .unwrap_or_else(|error| {
            eprintln!("{}", hvckpt::explain(&error));
            std::process::exit(2);
        })
}

/// Checks, one line each.
#[derive(Debug, Default)]
pub struct Checks {
    failed: usize,
    skipped: usize,
    passed: usize,
}

impl Checks {
    /// `why` is asked only if the check failed.
    pub fn check(&mut self, name: &str, good: bool, why: impl FnOnce() -> String) -> bool {
        if good {
            self.passed += 1;
            println!("ok {name}");
        } else {
            self.failed += 1;
            println!("FAIL {name}: {}", why());
        }
        good
    }

    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, got: T, want: T) -> bool {
        let good = got == want;
        self.check(name, good, || format!("got {got:?}, want {want:?}"))
    }

    /// Loud: a check which cannot be made here.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("SKIP {name}: {why}");
    }

    pub fn finish(self) -> ! {
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        std::process::exit(i32::from(self.failed != 0));
    }
}
