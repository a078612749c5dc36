// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process which races attach with its own cookie: a second thread uses the
//! cookie as soon as it can read it, while the answer's structure lies across a
//! border to a page that cannot be written.
//!
//! Takes its tokens from `tokens` in Dom0 (see `tests/dom0/attach-race.sh`).
//! Prints one line of JSON; exit status 1 if a rule was broken, 2 without a gate.

#![allow(clippy::cast_possible_truncation)] // small numbers

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hvckpt::abi;
use hvckpt_guest_tests::{Area, PAGE, attach_struct, need_gate, no, op1, op2};

/// Races attach with the cookie that it tells.
#[derive(Parser, Debug)]
struct Args {
    /// How many times to attach.
    #[arg(long, default_value_t = 500)]
    attaches: u64,
}

/// Second half of each token; the first is its number, from one.
const MARK: u64 = 0x6874_6977_6563_6172;
const COOKIE: usize = 24;

/// What the page behind the border is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behind {
    Readable,
    Writable,
    /// Writable, until the other thread takes that away: at any time.
    Changing,
}

/// Bytes of the structure before the border.
const LAYOUTS: [(usize, Behind); 8] = [
    // The cookie's last byte is the page's.
    (32, Behind::Readable),
    (40, Behind::Readable),
    (33, Behind::Readable),
    // Half of the cookie; nothing of it.
    (28, Behind::Readable),
    (24, Behind::Readable),
    (32, Behind::Changing),
    // It all works.
    (64, Behind::Readable),
    (32, Behind::Writable),
];

fn layout(n: u64) -> (usize, Behind) {
    LAYOUTS[n as usize % LAYOUTS.len()]
}

/// What both threads know of the round that runs.
#[derive(Debug, Default)]
struct Round {
    started: AtomicU64,
    returned: AtomicU64,
    finished: AtomicU64,
    at: AtomicU64,
    seen: AtomicU64,
    answer: AtomicI64,
    detached: AtomicBool,
    early: AtomicU64,
}

fn pin(cpu: usize) {
    // SAFETY: a set of processors on the stack; where there is one only, the
    // kernel refuses, and nothing changes.
    unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

fn cookie_at(at: u64) -> u64 {
    let mut bytes = [0; 8];
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: the structure of this round, which is mapped readable up to
        // the cookie's end in every layout.
        *byte = unsafe { ptr::read_volatile((at as usize + COOKIE + i) as *const u8) };
    }
    u64::from_le_bytes(bytes)
}

/// As [`cookie_at`] for a thread which wants to be fast.
fn glance(at: u64) -> bool {
    // SAFETY: as above.
    unsafe { ptr::read_volatile((at as usize + COOKIE) as *const u8) != 0 || cookie_at(at) != 0 }
}

fn eager(round: &Round, rounds: u64, pages: &Area, area: &Area, log: &Area) {
    pin(1);
    for n in 1..=rounds {
        while round.started.load(Ordering::Acquire) != n {
            core::hint::spin_loop();
        }
        let at = round.at.load(Ordering::Relaxed);
        if layout(n).1 == Behind::Changing {
            for _ in 0..n % 512 {
                core::hint::spin_loop();
            }
            pages.part(1, 1).protect(libc::PROT_READ);
        }
        let back = || round.returned.load(Ordering::Acquire) == n;
        while !glance(at) && !back() {
            core::hint::spin_loop();
        }
        let cookie = cookie_at(at);
        let (mut answer, mut detached) = (no(libc::ENOENT), false);
        if cookie != 0 {
            let kind = n / LAYOUTS.len() as u64 % 4;
            answer = match kind {
                1 => {
                    let register = area.registration(log);
                    let id = op2(
                        abi::CDA_OP_REGISTER,
                        cookie,
                        ptr::from_ref(&register) as u64,
                    );
                    if id >= 0 {
                        op2(abi::CDA_OP_BEGIN, cookie, id.cast_unsigned());
                        area.set(n as usize % area.pages() * PAGE, 1);
                    }
                    id
                }
                2 => op2(abi::CDA_OP_PEEK, cookie, abi::CDA_ALL_RANGES),
                _ => op2(abi::CDA_OP_DETACH, cookie, 0),
            };
            detached = answer == 0 && matches!(kind, 0 | 3);
            if !back() {
                round.early.fetch_add(1, Ordering::Relaxed);
            }
        }
        round.seen.store(cookie, Ordering::Relaxed);
        round.answer.store(answer, Ordering::Relaxed);
        round.detached.store(detached, Ordering::Relaxed);
        round.finished.store(n, Ordering::Release);
    }
}

/// One attach, and what must be so afterwards.
fn attach(round: &Round, n: u64, pages: &Area) -> Result<(), String> {
    let (before, behind) = layout(n);
    let at = (pages.start + PAGE - before) as u64;
    let second = pages.part(1, 1);
    let put = || {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&n.to_le_bytes());
        token[8..].copy_from_slice(&MARK.to_le_bytes());
        second.protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: both pages are mapped and writable; the other thread only
        // reads there, and not while a round is prepared.
        unsafe { ptr::write_unaligned(at as *mut abi::cda_attach, attach_struct(token)) };
    };
    put();
    if behind == Behind::Readable {
        second.protect(libc::PROT_READ);
    }
    round.at.store(at, Ordering::Relaxed);
    round.started.store(n, Ordering::Release);
    let start = Instant::now();
    // Until Dom0 has added the token.
    let answer = loop {
        let answer = op1(abi::CDA_OP_ATTACH, at);
        if answer != no(libc::EACCES) || start.elapsed() > Duration::from_secs(60) {
            break answer;
        }
        std::thread::yield_now();
    };
    round.returned.store(n, Ordering::Release);
    while round.finished.load(Ordering::Acquire) != n {
        core::hint::spin_loop();
    }
    let (seen, used) = (
        round.seen.load(Ordering::Relaxed),
        round.answer.load(Ordering::Relaxed),
    );
    let may_work = before == 64 || behind != Behind::Readable;
    let may_fail = before != 64 && behind != Behind::Writable;
    let expected = if answer == 0 {
        may_work
    } else {
        answer == no(libc::EFAULT) && may_fail
    };
    if !expected {
        return Err(format!("answered {answer}"));
    }
    if answer == 0 {
        let cookie = cookie_at(at);
        let detached = op2(abi::CDA_OP_DETACH, cookie, 0);
        let ended = round.detached.load(Ordering::Relaxed);
        if cookie == 0 || detached != if ended { no(libc::ENOENT) } else { 0 } {
            return Err(format!("cookie {cookie:#x}: detach answered {detached}"));
        }
    } else if seen != 0 || used >= 0 {
        return Err(format!(
            "failed, and told the cookie {seen:#x}, with which an operation answered {used}"
        ));
    }
    let left = op2(abi::CDA_OP_QUERY, seen, at);
    if behind == Behind::Changing {
        // Or was the token not read at all?
        put();
        if op1(abi::CDA_OP_ATTACH, at) == 0 {
            op2(abi::CDA_OP_DETACH, cookie_at(at), 0);
        }
    }
    if left != no(libc::ENOENT) {
        return Err(format!("a session is left: query answered {left}"));
    }
    Ok(())
}

fn main() {
    let args = Args::parse();
    need_gate();
    let (area, pages) = (Area::new(64 * PAGE), Area::new(2 * PAGE));
    let log = area.log();
    let round = Round::default();
    let mut broken = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| eager(&round, args.attaches, &pages, &area, &log));
        pin(0);
        for n in 1..=args.attaches {
            if let Err(what) = attach(&round, n, &pages) {
                broken += 1;
                eprintln!("FAIL attach {n}: {what}");
                if broken >= 10 {
                    // The other thread still waits.
                    std::process::exit(1);
                }
            }
        }
    });
    println!(
        "{{\"program\":\"attach_race\",\"attaches\":{},\"early\":{},\"broken\":{broken},\"ok\":{}}}",
        args.attaches,
        round.early.load(Ordering::Relaxed),
        broken == 0
    );
    std::process::exit(i32::from(broken != 0));
}
