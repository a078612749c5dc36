// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vector registers keep what a thread put there, whoever else uses the
//! processor: threads compute the same again and again in registers alone, with
//! SSE and, where the processor says that it has them, with SHA instructions.
//! A hypervisor which gives these registers to the next virtual CPU only when it
//! uses them relies on a processor which reports the first use.
//!
//! Exit status: 0; 1 something was computed wrongly; 2 usage.

use core::arch::asm;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hvckpt_guest_tests::{Rng, some};

/// Computes in vector registers and compares.
#[derive(Parser, Debug)]
struct Args {
    /// Threads.
    #[arg(long, default_value = "2", value_parser = some)]
    threads: usize,
    /// How long, with each kind of instructions.
    #[arg(long, default_value = "3", value_parser = some)]
    seconds: usize,
    /// What the numbers begin with; who runs at the same time has another.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Three registers of 128 bits.
type Registers = [u64; 6];

type Compute = fn(&mut Registers);

/// How often the instructions of one run are repeated.
const REPEAT: u64 = 500;

fn sse(values: &mut Registers) {
    // SAFETY: reads and writes the 48 bytes of `values`.
    unsafe {
        asm!(
            "movdqu {x}, [{v}]", "movdqu {y}, [{v} + 16]", "movdqu {z}, [{v} + 32]",
            "2:", "paddd {x}, {y}", "pxor {y}, {x}", "psubd {z}, {x}", "paddd {y}, {z}",
            "dec {n}", "jnz 2b",
            "movdqu [{v}], {x}", "movdqu [{v} + 16], {y}", "movdqu [{v} + 32], {z}",
            v = in(reg) values, n = inout(reg) REPEAT => _,
            x = out(xmm_reg) _, y = out(xmm_reg) _, z = out(xmm_reg) _,
        );
    }
}

/// The processor must have SHA instructions.
fn sha(values: &mut Registers) {
    // SAFETY: reads and writes the 48 bytes of `values`; the caller has looked.
    unsafe {
        asm!(
            "movdqu {x}, [{v}]", "movdqu {y}, [{v} + 16]", "movdqu xmm0, [{v} + 32]",
            "2:", "sha256rnds2 {x}, {y}", "sha256rnds2 {y}, {x}",
            "sha256msg1 xmm0, {x}", "sha256msg2 xmm0, {y}",
            "dec {n}", "jnz 2b",
            "movdqu [{v}], {x}", "movdqu [{v} + 16], {y}", "movdqu [{v} + 32], xmm0",
            v = in(reg) values, n = inout(reg) REPEAT => _,
            x = out(xmm_reg) _, y = out(xmm_reg) _, out("xmm0") _,
        );
    }
}

/// Runs, and how many of them had another result than the first.
fn repeat(compute: Compute, seed: u64, time: Duration) -> (u64, u64) {
    let mut rng = Rng::new(seed);
    let begin: Registers = core::array::from_fn(|_| rng.draw());
    let once = || {
        let mut values = begin;
        compute(&mut values);
        values
    };
    let (first, end) = (once(), Instant::now() + time);
    let (mut runs, mut wrong) = (0, 0);
    while Instant::now() < end {
        runs += 1;
        wrong += u64::from(once() != first);
    }
    (runs, wrong)
}

fn main() {
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds as u64);
    let mut kinds: Vec<(&str, Compute)> = vec![("SSE", sse)];
    if std::is_x86_feature_detected!("sha") {
        kinds.push(("SHA", sha));
    }
    let mut all_right = true;
    for (name, compute) in kinds {
        let threads: Vec<_> = (0..args.threads as u64)
            .map(|n| thread::spawn(move || repeat(compute, args.seed * 1_000 + n, time)))
            .collect();
        for thread in threads {
            let (runs, wrong) = thread.join().expect("a thread which computes");
            println!("{name}: {runs} runs, {wrong} wrong");
            all_right &= wrong == 0;
        }
    }
    std::process::exit(i32::from(!all_right));
}
