// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fork child must never see what its parent writes later, nor the parent
//! what the child writes; nor a third process whose page the kernel shares
//! (KSM).  With the area kept out of forks, and, the interesting case, not;
//! with KSM merging pages meanwhile, and with a thread that does not wait for
//! the fork, if asked to.
//!
//! One line per check; exit status 1 if one failed, 2 without a gate.

mod within;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hvckpt::abi::{self, cda_register};

use hvckpt_guest_tests::{Area, Checks, PAGE, Rng, Session, in_child, spawn, wait};

const WORDS: usize = PAGE / 8;
/// What children write; parents never do.
const MARK: u64 = 0xc41d_c41d_c41d_c41d;

/// Room for the looks of a child, which should not allocate: it is a copy of
/// one thread of several.
type Looks = [Vec<u64>; 3];

/// Looks at the memory some time apart, then writes of its own.
fn child(area: &Area, pause: Duration, looks: &mut Looks) -> i32 {
    let look = |into: &mut Vec<u64>| {
        for (page, value) in into.iter_mut().enumerate() {
            *value = area.word(page * WORDS + 1).load(Ordering::SeqCst);
        }
    };
    let [first, second, third] = looks;
    look(first);
    thread::sleep(pause);
    look(second);
    for page in 0..area.pages() {
        area.word(page * WORDS + 2).store(MARK, Ordering::SeqCst);
    }
    thread::sleep(pause / 4);
    look(third);
    i32::from(first != second) + 2 * i32::from(second != third)
}

/// What happened in one series of forks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Series {
    leaks: usize,
    died: usize,
    marks: usize,
}

/// Forks while threads write, and while cycles run if `cycling`.
fn series(s: &Session, area: &Area, range: i64, forks: usize, cycling: bool) -> Series {
    let stop = AtomicBool::new(false);
    let clock = AtomicU64::new(1);
    let started = AtomicUsize::new(0);
    let mut found = Series::default();
    let mut looks: Looks = [(); 3].map(|()| vec![0; area.pages()]);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (stop, clock, started) = (&stop, &clock, &started);
            scope.spawn(move || {
                started.fetch_add(1, Ordering::SeqCst);
                let mut rng = Rng::new(seed + 1);
                while !stop.load(Ordering::Relaxed) {
                    let value = clock.fetch_add(1, Ordering::Relaxed);
                    let page = rng.below(area.pages());
                    area.word(page * WORDS + 1).store(value, Ordering::SeqCst);
                    // All alike again, which KSM looks for.
                    if page % 4 == 3 {
                        area.word(page * WORDS + 1).store(0, Ordering::SeqCst);
                    }
                }
            });
        }
        if cycling {
            let (stop, started) = (&stop, &started);
            scope.spawn(move || {
                started.fetch_add(1, Ordering::SeqCst);
                while !stop.load(Ordering::Relaxed) {
                    let result = s.commit(range);
                    assert!(
                        result >= 0 || result == hvckpt_guest_tests::no(libc::EAGAIN),
                        "commit: {result}"
                    );
                }
            });
        }
        while started.load(Ordering::SeqCst) < 2 + usize::from(cycling) {
            thread::yield_now();
        }
        for number in 0..forks {
            let pause = Duration::from_micros(500 * (1 + (number % 5) as u64));
            match in_child(|| child(area, pause, &mut looks)) {
                0 => {}
                status @ 1..=3 => found.leaks += usize::from(status != 0),
                _ => found.died += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    found.marks = (0..area.pages())
        .filter(|p| area.word(p * WORDS + 2).load(Ordering::SeqCst) == MARK)
        .count();
    found
}

/// Lists stay complete across forks.
fn complete(c: &mut Checks, s: &Session, area: &Area, log: &Area, range: i64) {
    let mut missed = Vec::new();
    for round in 0..50_u64 {
        assert_eq!(s.begin(range), 0);
        let mut rng = Rng::new(round + 77);
        let mut written: Vec<u64> = Vec::new();
        let mut write = |count: usize| {
            for _ in 0..count {
                let page = rng.below(area.pages());
                area.word(page * WORDS + 3).fetch_add(1, Ordering::SeqCst);
                written.push(page as u64);
            }
        };
        write(10);
        let pid = spawn(|| {
            for page in 0..area.pages() {
                area.word(page * WORDS + 2).store(MARK, Ordering::SeqCst);
            }
            0
        });
        write(10);
        if round % 2 == 0 {
            wait(pid);
        }
        write(10);
        let result = s.end(range);
        if round % 2 != 0 {
            wait(pid);
        }
        let listed = log.listed();
        let lost = result.cast_unsigned() & hvckpt::abi::CDA_RESULT_LOST != 0;
        missed.extend(
            written
                .into_iter()
                .filter(|page| !lost && !listed.contains(page)),
        );
    }
    c.equal("lists are complete across forks", missed, vec![]);
}

/// Modes of a range, and which part of the forks each gets.  (Scanxen is for
/// areas which are kept out of forks.)
const MODES: [(&str, u32, usize); 3] = [
    ("PTxen", abi::CDA_MODE_PTXEN, 1),
    ("Autoxen", abi::CDA_MODE_AUTOXEN, 4),
    ("Emulxen", abi::CDA_MODE_EMULXEN, 4),
];

/// `merging`: with KSM, and how long it may take until it has merged pages.
fn forks(
    c: &mut Checks,
    s: &Session,
    forks: usize,
    merging: Option<Duration>,
    mode: (&str, u32, usize),
) {
    let (mode_name, mode, part) = mode;
    let forks = forks.div_ceil(part);
    // Few pages, so that a fork is cheap and they are written again and again.
    let area = Area::across_chunks(64);
    if merging.is_some() {
        area.advise(libc::MADV_NOHUGEPAGE);
        c.check("MADV_MERGEABLE", area.advise(libc::MADV_MERGEABLE), || {
            "refused".into()
        });
    }
    let log = area.private_log();
    let range = s.register(&cda_register {
        mode,
        ..area.registration(&log)
    });
    c.check(&format!("{mode_name}: register"), range >= 0, || {
        format!("{range}")
    });
    let before = s.query().counters;

    c.check("MADV_DONTFORK", area.advise(libc::MADV_DONTFORK), || {
        "refused".into()
    });
    let status = in_child(|| {
        // SAFETY: asks only whether something is mapped.
        let mapped = unsafe {
            let mut present = vec![0_u8; area.pages()];
            libc::mincore(
                area.start as *mut libc::c_void,
                area.bytes,
                present.as_mut_ptr(),
            ) == 0
        };
        i32::from(mapped)
    });
    c.equal("kept out of forks: not mapped in the child", status, 0);

    c.check("MADV_DOFORK", area.advise(libc::MADV_DOFORK), || {
        "refused".into()
    });
    assert_eq!(s.begin(range), 0);
    let copied = Ksm::copied();
    let first = Instant::now();
    loop {
        for (name, cycling) in [
            ("threads write, one cycle open", false),
            ("threads write, commits loop", true),
        ] {
            let start = Instant::now();
            let found = series(s, &area, range, forks, cycling);
            println!("{forks} forks in {} s", start.elapsed().as_secs());
            c.equal(&format!("{mode_name}: {name}"), found, Series::default());
        }
        let Some(patience) = merging else { break };
        // A few forks may be over before the kernel gets to it.
        let done = Ksm::copied() > copied;
        if done || first.elapsed() > patience {
            c.check("merged pages were written to", done, || "none".into());
            break;
        }
    }
    let counted = s.query().counters;
    c.check(
        "Xen noticed the forks",
        counted.forks > before.forks,
        || format!("{counted:?}"),
    );
    let fixed = |of: &abi::cda_counters| of.faults_fixed + of.emulated;
    c.check(
        "Xen granted writes, or performed them",
        fixed(&counted) > fixed(&before),
        || format!("{counted:?}"),
    );
    assert!(s.end(range) >= 0);
    // Of Emulxen it has stores, not pages.
    if mode != abi::CDA_MODE_EMULXEN {
        complete(c, s, &area, &log, range);
    }
    let spawned = std::process::Command::new("/proc/self/exe")
        .arg("--nothing")
        .status();
    c.check("posix_spawn", spawned.is_ok_and(|s| s.success()), || {
        "failed".into()
    });
    assert_eq!(s.unregister(range), 0);
    area.unmap();
    log.unmap();
}

/// Settings of KSM, put back on drop.
struct Ksm(Vec<(&'static str, String)>);

impl Ksm {
    fn path(name: &str) -> String {
        format!("/sys/kernel/mm/ksm/{name}")
    }

    fn on() -> std::io::Result<Self> {
        let mut kept = Vec::new();
        for (name, value) in [
            ("sleep_millisecs", "10"),
            ("pages_to_scan", "1000"),
            ("run", "1"),
        ] {
            kept.push((name, fs::read_to_string(Self::path(name))?));
            fs::write(Self::path(name), value)?;
        }
        Ok(Self(kept))
    }

    /// As fast as the kernel can.
    fn hurry() {
        for (name, value) in [("sleep_millisecs", "0"), ("pages_to_scan", "5000")] {
            // Slower is only slower.
            let _lost = fs::write(Self::path(name), value);
        }
    }

    /// Merged pages which were written to, by anybody, since boot.
    fn copied() -> u64 {
        let all = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        all.lines()
            .find_map(|line| line.strip_prefix("cow_ksm ")?.parse().ok())
            .unwrap_or(0)
    }

    fn number(name: &str) -> u64 {
        fs::read_to_string(Self::path(name))
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in self.0.iter().rev() {
            // Nothing can be done about it here.
            let _lost = fs::write(Self::path(name), value);
        }
    }
}

const KSM_PAGES: usize = 64;

/// Fills a page with what is the same in both processes, and only there.
fn secret(page: usize, round: u64) -> u64 {
    0x5ec2_e700_0000_0000 | (round << 16) | page as u64
}

fn fill(area: &Area, round: u64) {
    for page in 0..KSM_PAGES {
        for word in 0..WORDS {
            area.word(page * WORDS + word)
                .store(secret(page, round), Ordering::SeqCst);
        }
    }
}

fn intact(area: &Area, round: u64) -> bool {
    (0..KSM_PAGES * WORDS)
        .all(|word| area.word(word).load(Ordering::SeqCst) == secret(word / WORDS, round))
}

/// The attack: child pages which the kernel merges with a victim's.
fn ksm(c: &mut Checks, s: &Session, patience: Duration) {
    Ksm::hurry();
    let mut merged_rounds = 0;
    for round in 1..=6_u64 {
        let area = Area::map(0, KSM_PAGES * PAGE, 0, -1);
        area.advise(libc::MADV_NOHUGEPAGE);
        fill(&area, round);
        let log = area.private_log();
        let range = s.register(&area.registration(&log));
        assert!(range >= 0 && s.begin(range) == 0, "range {range}");
        // The pages get their authority, and writes with it, before the fork.
        fill(&area, round);
        assert!(s.commit(range) >= 0);
        let flag = Area::map(0, PAGE, libc::MAP_SHARED, -1);
        let before = Ksm::number("pages_sharing") + Ksm::number("pages_shared");
        let watch = |area: &Area| {
            area.advise(libc::MADV_MERGEABLE);
            while flag.get(0) == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            // After the parent has written.
            i32::from(!intact(area, round))
        };
        let attacker = spawn(|| watch(&area));
        let victim = spawn(|| {
            let own = Area::map(0, KSM_PAGES * PAGE, 0, -1);
            fill(&own, round);
            watch(&own)
        });
        if round % 3 == 0 {
            area.advise(libc::MADV_MERGEABLE);
        }
        let start = Instant::now();
        let mut merged = false;
        while start.elapsed() < patience && !merged {
            thread::sleep(Duration::from_millis(20));
            if round % 2 == 0 {
                assert!(s.commit(range) >= 0);
            }
            let now = Ksm::number("pages_sharing") + Ksm::number("pages_shared");
            merged = now >= before + KSM_PAGES as u64;
        }
        merged_rounds += u32::from(merged);
        for page in 0..KSM_PAGES {
            for word in 0..WORDS {
                area.word(page * WORDS + word).store(!0, Ordering::SeqCst);
            }
        }
        let listed = s.end(range);
        flag.set(0, 1);
        let name = |who: &str| {
            format!(
                "KSM round {round}{}: {who}",
                if merged { "" } else { " (not merged)" }
            )
        };
        c.equal(&name("child intact"), wait(attacker), 0);
        c.equal(&name("victim intact"), wait(victim), 0);
        c.equal(&name("parent's list"), listed, KSM_PAGES as i64);
        assert_eq!(s.unregister(range), 0);
        area.unmap();
        log.unmap();
        flag.unmap();
    }
    // Otherwise nothing is proven.
    c.check("KSM: pages were merged", merged_rounds > 0, || {
        "never".into()
    });
}

/// Checks what a fork child, its parent and a third process see.
#[derive(Parser, Debug)]
struct Args {
    /// Forks in each series.
    #[arg(long, default_value_t = 100)]
    forks: usize,
    /// With KSM at work, and the attack through it; needs root.
    #[arg(long)]
    ksm: bool,
    /// Only this: what one thread can do within a fork; needs root and two
    /// processors.
    #[arg(long)]
    within: bool,
    /// How long the kernel may take to merge pages, in seconds per round.
    #[arg(long, default_value_t = 20)]
    patience: u64,
    /// Do nothing (what a spawned program does).
    #[arg(long, hide = true)]
    nothing: bool,
}

fn main() {
    let args = Args::parse();
    if args.nothing {
        return;
    }
    hvckpt_guest_tests::need_gate();
    let mut c = Checks::default();
    let patience = Duration::from_secs(args.patience);
    let settings = args.ksm.then(|| {
        Ksm::on().unwrap_or_else(|error| {
            eprintln!("KSM cannot be switched on: {error} (root?)");
            std::process::exit(1);
        })
    });
    let session = Session::attach();
    for mode in MODES {
        if args.within {
            within::within(&mut c, &session, args.forks, mode);
        } else {
            let merging = args.ksm.then_some(patience * 6);
            forks(&mut c, &session, args.forks, merging, mode);
        }
    }
    if args.ksm {
        ksm(&mut c, &session, patience);
    } else if !args.within {
        c.skip("KSM", "not asked for (--ksm, as root)");
    }
    assert_eq!(session.detach(), 0);
    drop(settings);
    c.finish();
}
