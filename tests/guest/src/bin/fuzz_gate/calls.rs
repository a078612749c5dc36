// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random calls.

use std::arch::x86_64::_rdtsc;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use hvckpt::abi::{self, cda_query, cda_register};

use super::arena::Arena;
use super::{OPS, Totals};
use hvckpt_guest_tests::{Rng, attach_struct, may_store, op};

/// Every errno that docs/abi.md names.
const DOCUMENTED: [i64; 15] = [1, 2, 9, 11, 12, 13, 14, 16, 17, 22, 28, 38, 61, 95, 128];

/// Time stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: every 64-bit processor has it; Linux does not forbid it.
    unsafe { _rdtsc() }
}

/// A thread that calls.
pub struct Caller<'a> {
    arena: &'a Arena,
    /// Where attach writes it: used as soon as it is there.
    cookie: &'a AtomicU64,
    totals: &'static Totals,
    rng: Rng,
}

/// The bytes of a plain structure.
fn bytes<T: Copy>(of: &T) -> &[u8] {
    // SAFETY: the ABI's structures have no padding.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(of).cast(), size_of::<T>()) }
}

impl<'a> Caller<'a> {
    pub fn new(
        arena: &'a Arena,
        cookie: &'a AtomicU64,
        totals: &'static Totals,
        seed: u64,
    ) -> Self {
        Self {
            arena,
            cookie,
            totals,
            rng: Rng::new(seed),
        }
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    /// A number near an edge, or any.
    fn odd(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.below(8) as u64,
            1 => 1 << self.rng.below(64),
            2 => (1_u64 << self.rng.below(64)).wrapping_sub(1),
            _ => self.rng.draw(),
        }
    }

    fn range(&mut self) -> u64 {
        match self.rng.below(8) {
            0 | 1 => abi::CDA_ALL_RANGES,
            2 if self.one_in(4) => self.odd(),
            2 => self.rng.below(6) as u64,
            // One of those that were given out last.
            _ => {
                let given = self.arena.ranges.load(Ordering::Relaxed);
                given.saturating_sub(1 + self.rng.below(5) as u64)
            }
        }
    }

    fn registration(&mut self) -> u64 {
        let (start, most) = self.arena.data(&mut self.rng);
        let usual = if self.one_in(8) { most } else { 64 };
        let pages = 1 + self.rng.below(most.min(usual));
        let mut register = cda_register {
            size: abi::size_field::<cda_register>(),
            mode: abi::CDA_MODE_PTXEN,
            start,
            pages: pages as u64,
            log: self.arena.log(&mut self.rng),
            log_bytes: 64 + 8 * self.rng.below(2 * pages) as u64,
            ..cda_register::default()
        };
        if self.one_in(2) {
            // Modes that this hypervisor may or may not have.
            register.mode = self.rng.below(6) as u32;
        }
        if self.one_in(6) {
            let odd = self.odd();
            match self.rng.below(7) {
                0 => register.size = odd as u32,
                1 => register.flags = odd,
                2 => register.start = odd,
                3 => register.pages = odd,
                4 => register.log = self.arena.pointer(&mut self.rng),
                5 => register.log_bytes = odd,
                _ => register.reserved[1] = odd,
            }
        }
        let at = self.arena.pointer(&mut self.rng);
        self.arena.fill(at, bytes(&register));
        at
    }

    /// One call, and a store now and then.
    pub fn step(&mut self) {
        if self.one_in(2) {
            let at = self.arena.data(&mut self.rng).0;
            may_store(at as usize + self.rng.below(4096), self.rng.draw() as u8);
        }
        let number = match self.rng.below(100) {
            0..15 => abi::CDA_OP_BEGIN,
            15..30 => abi::CDA_OP_END,
            30..45 => abi::CDA_OP_COMMIT,
            45..57 => abi::CDA_OP_PEEK,
            57..73 => abi::CDA_OP_REGISTER,
            73..85 => abi::CDA_OP_UNREGISTER,
            85..90 => abi::CDA_OP_QUERY,
            90..93 => abi::CDA_OP_VERSION,
            93..96 => abi::CDA_OP_ATTACH,
            96 => self.odd(),
            _ => self.rng.below(16) as u64,
        };
        let second = match number {
            abi::CDA_OP_REGISTER => self.registration(),
            abi::CDA_OP_UNREGISTER | abi::CDA_OP_BEGIN..=abi::CDA_OP_PEEK => self.range(),
            abi::CDA_OP_QUERY => {
                let query = cda_query {
                    size: abi::size_field::<cda_query>(),
                    ..cda_query::default()
                };
                let at = self.arena.pointer(&mut self.rng);
                self.arena.fill(at, bytes(&query));
                at
            }
            _ => 0,
        };
        let mut args = [self.cookie.load(Ordering::Relaxed), second, 0, 0, 0];
        match number {
            abi::CDA_OP_VERSION => args[0] = 0,
            abi::CDA_OP_ATTACH => {
                let token = self.rng.draw().to_le_bytes();
                args[0] = self.arena.pointer(&mut self.rng);
                let attach = attach_struct([token, token].concat().try_into().expect("16 bytes"));
                self.arena.fill(args[0], bytes(&attach));
            }
            // Seldom: it ends the session for the rest of the round.
            abi::CDA_OP_DETACH if !self.one_in(200) => args[1] = 1,
            _ => {}
        }
        if self.one_in(12) {
            // One register that is wrong; r8 may look like somebody's ticket.
            args[self.rng.below(5)] = self.odd();
        }
        self.call(number, args);
    }

    fn call(&self, number: u64, args: [u64; 5]) {
        let before = cycles();
        let answer = op(number, args);
        let took = cycles().saturating_sub(before);
        let slot = (number as usize).min(OPS - 1);
        self.totals.calls.fetch_add(1, Ordering::Relaxed);
        self.totals
            .longest
            .fetch_max(took << 8 | slot as u64, Ordering::Relaxed);
        if number == abi::CDA_OP_REGISTER && answer >= 0 {
            self.arena
                .ranges
                .fetch_max(answer.cast_unsigned() + 1, Ordering::Relaxed);
        }
        if answer >= 0 {
            self.totals.good[slot].fetch_add(1, Ordering::Relaxed);
            if slot == OPS - 1 {
                self.totals
                    .broke(&format!("operation {number:#x} succeeded"));
            }
        } else if DOCUMENTED.contains(&-answer) {
            self.totals.errors[-answer as usize].fetch_add(1, Ordering::Relaxed);
        } else {
            self.totals.broke(&format!(
                "operation {number:#x} {args:x?} answered {answer}"
            ));
        }
    }
}
