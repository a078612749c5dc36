// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tracked memory while the kernel, a debugger, the application itself or the
//! administrator do something to it or to the machine.
//!
//! Each scenario writes at random in transactions, keeps a model of what the
//! memory must hold, and compares all bytes and the list after each of them.
//! Prints one line of JSON.  Exit status: 0; 1 a byte or a page was wrong;
//! 2 not possible here; 77 nothing happened, so nothing was tested.

mod disturb;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hvckpt::{CycleError, LockPolicy, SessionError, TrackerKind};
use hvckpt_guest_tests::{Rng, spawn, wait};
use watch::Watch;

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Scenario {
    /// Until the file named by --stop exists; the rest is Dom0's.
    Steady,
    /// As steady, and the session ends meanwhile: the domain is saved and
    /// restored, or migrated.
    Ended,
    /// Memory compaction moves pages (root).
    Compact,
    /// KSM merges pages with those of another process (root).
    Ksm,
    /// Memory is short, and the area is swapped out (root, with swap).
    Swap,
    /// The application lets the kernel drop pages, and writes to some of them
    /// before it does.
    Free,
    /// The application takes write access to parts of its area away and gives it back.
    Mprotect,
    /// The application uses userfaultfd's write protection on its area.
    Uffd,
    /// A debugger steps through the transactions and pokes.
    Ptrace,
    /// Only read, write and exit are allowed to the process.
    Seccomp,
}

/// Tracked memory and what happens around it.
#[derive(Parser, Debug)]
struct Args {
    scenario: Scenario,
    /// Pages in the area.
    #[arg(long, default_value_t = 1024)]
    pages: usize,
    /// Transactions.
    #[arg(long, default_value_t = 100)]
    transactions: usize,
    /// Seconds after which it is enough, whatever the number of transactions.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// End when this file exists; FILE.ready is made when all is set up.
    #[arg(long)]
    stop: Option<PathBuf>,
    /// First number of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tracker.
    #[arg(long, default_value = "ptxen")]
    tracker: TrackerKind,
}

/// What a scenario reports.
#[derive(Debug, Default)]
struct Outcome {
    transactions: usize,
    changed: usize,
    reported: usize,
    /// How much of the scenario's own happened: pages moved, merged, dropped.
    happened: u64,
    /// The session's end, in words.
    ended: Option<String>,
}

fn fail(what: &str) -> ! {
    println!("FAIL {what}");
    std::process::exit(1);
}

impl Args {
    fn watch(&self, lock: LockPolicy) -> Watch {
        Watch::new(hvckpt_guest_tests::region(self.tracker, self.pages, lock))
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|file| file.exists())
    }

    fn ready(&self) {
        if let Some(file) = &self.stop {
            let ready = file.with_extension("ready");
            std::fs::write(ready, "").unwrap_or_else(|error| fail(&format!("ready: {error}")));
        }
    }
}

/// Transactions until they are all made, or time is up and `enough` says so.
fn transactions(
    args: &Args,
    watch: &mut Watch,
    mut enough: impl FnMut() -> bool,
    mut between: impl FnMut(&mut Watch, &mut Rng),
) -> Result<Outcome, CycleError> {
    let (start, mut rng, mut made) = (Instant::now(), Rng::new(args.seed), 0);
    let region = watch.region();
    let mut transaction = region.begin()?;
    args.ready();
    let limit = Duration::from_secs(args.seconds);
    while (made < args.transactions || !enough()) && start.elapsed() < limit {
        watch.write(&mut rng);
        between(watch, &mut rng);
        watch.judge(&transaction.commit_and_continue()?);
        made += 1;
    }
    watch.judge(&transaction.commit()?);
    Ok(Outcome {
        transactions: made,
        ..watch.outcome()
    })
}

/// Until Dom0 says so.
fn steady(args: &Args) -> Result<Outcome, CycleError> {
    let mut watch = args.watch(LockPolicy::IfAllowed);
    let mut outcome = transactions(args, &mut watch, || args.stopped(), |_, _| {})?;
    if !args.stopped() {
        fail("nobody said stop in time");
    }
    outcome.happened = 1;
    Ok(outcome)
}

/// The session ends under an open transaction: a typed error, sound data, and
/// a new session on request.
fn ended(args: &Args) -> Result<Outcome, CycleError> {
    let mut watch = args.watch(LockPolicy::IfAllowed);
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let mut said = Vec::new();
    loop {
        let error = match transactions(args, &mut watch, || false, |_, _| {}) {
            Err(error) => error,
            Ok(_) => fail("the session did not end in time"),
        };
        watch.forget_list();
        let text = hvckpt::explain(&error);
        if said.last() != Some(&text) {
            said.push(text);
        }
        match error {
            CycleError::Session(SessionError::NotAttached) => break,
            // Being migrated: wait for the end of it.
            CycleError::Session(SessionError::Unsupported) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => fail(&format!("the wrong error: {}", hvckpt::explain(&other))),
        }
        if Instant::now() > deadline {
            fail("the domain stays in log-dirty mode");
        }
    }
    watch.compare();
    let before = watch.outcome();
    drop(watch);
    // The process lives on and asks for a new session, once there is a network.
    let region = loop {
        match hvckpt::register_cda()
            .pages(args.pages)
            .tracker(args.tracker)
            .lock(LockPolicy::IfAllowed)
            .register()
        {
            Ok(region) => break region,
            Err(error) if Instant::now() > deadline => {
                fail(&format!("no new session: {}", hvckpt::explain(&error)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let mut watch = Watch::new(region);
    let again = Args {
        seconds: 60,
        stop: None,
        scenario: args.scenario,
        ..*args
    };
    let outcome = transactions(&again, &mut watch, || true, |_, _| {})?;
    Ok(Outcome {
        happened: outcome.transactions as u64,
        ended: Some(said.join("; ")),
        ..before
    })
}

/// Run in a child that gets SIGALRM if it hangs; its exit status is ours.
fn confined(args: &Args) -> Result<Outcome, CycleError> {
    let mut watch = args.watch(LockPolicy::IfAllowed);
    disturb::seccomp_strict();
    // From here on a system call but read, write and exit is SIGKILL.
    let mut rng = Rng::new(args.seed);
    let region = watch.region();
    let mut transaction = region.begin()?;
    for _ in 0..args.transactions {
        watch.write(&mut rng);
        watch.judge(&transaction.commit_and_continue()?);
    }
    let missing = watch.outcome().changed == 0;
    disturb::exit_thread(i32::from(missing));
}

fn run(args: &Args) -> Result<Outcome, CycleError> {
    match args.scenario {
        Scenario::Steady => steady(args),
        Scenario::Ended => ended(args),
        Scenario::Compact => {
            let compaction = disturb::Compaction::start();
            let mut watch = args.watch(LockPolicy::Never);
            let mut outcome =
                transactions(args, &mut watch, || compaction.moved() > 500, |_, _| {})?;
            outcome.happened = compaction.moved();
            Ok(outcome)
        }
        Scenario::Ksm => {
            let ksm = disturb::Ksm::start(args.pages);
            let mut watch = args.watch(LockPolicy::IfAllowed);
            ksm.offer(watch.region());
            let mut most = 0;
            let outcome = transactions(
                args,
                &mut watch,
                || {
                    most = most.max(ksm.merged());
                    most > 200
                },
                |watch, rng| watch.make_alike(rng),
            );
            ksm.stop();
            let mut outcome = outcome?;
            outcome.happened = most;
            Ok(outcome)
        }
        Scenario::Swap => {
            let before = disturb::vmstat("pswpout");
            let mut watch = args.watch(LockPolicy::Never);
            let hog = disturb::Hog::start();
            let out = || disturb::vmstat("pswpout") - before;
            let outcome = transactions(
                args,
                &mut watch,
                || out() > 2 * args.pages as u64,
                |_, _| {},
            );
            hog.stop();
            let mut outcome = outcome?;
            outcome.happened = out();
            Ok(outcome)
        }
        Scenario::Free => {
            // Locked memory cannot be dropped.
            let mut watch = args.watch(LockPolicy::Never);
            let mut gone = 0;
            let mut outcome = transactions(
                args,
                &mut watch,
                || true,
                |watch, rng| gone += disturb::drop_some(watch, rng),
            )?;
            outcome.happened = gone;
            Ok(outcome)
        }
        Scenario::Mprotect => {
            hvckpt_guest_tests::catch_faults();
            let mut watch = args.watch(LockPolicy::IfAllowed);
            let mut refused = 0;
            let mut outcome = transactions(
                args,
                &mut watch,
                || true,
                |watch, rng| {
                    refused += disturb::protect_some(watch, rng);
                },
            )?;
            outcome.happened = refused;
            Ok(outcome)
        }
        Scenario::Uffd => {
            let mut watch = args.watch(LockPolicy::IfAllowed);
            let uffd = disturb::Uffd::start(watch.region());
            let mut outcome = transactions(
                args,
                &mut watch,
                || true,
                |watch, rng| {
                    uffd.protect_some(watch.region(), rng);
                },
            )?;
            outcome.happened = uffd.resolved();
            Ok(outcome)
        }
        Scenario::Ptrace => {
            let quiet = Args {
                stop: None,
                ..*args
            };
            let child = spawn(|| {
                disturb::ask_for_debugger();
                let mut watch = quiet.watch(LockPolicy::IfAllowed);
                // A stop before each commit, from which the debugger steps on.
                let made = transactions(&quiet, &mut watch, || true, |_, _| disturb::stop_myself());
                i32::from(!made.is_ok_and(|outcome| outcome.changed > 0))
            });
            let (gates, status) = disturb::step_through(child);
            if status != 0 {
                fail(&format!("the traced process ended with {status}"));
            }
            Ok(Outcome {
                happened: gates,
                ..Outcome::default()
            })
        }
        Scenario::Seccomp => {
            let child = spawn(|| match confined(args) {
                Err(error) => {
                    eprintln!("{}", hvckpt::explain(&error));
                    1
                }
                Ok(_) => 0,
            });
            match wait(child) {
                0 => Ok(Outcome {
                    happened: 1,
                    ..Outcome::default()
                }),
                status => fail(&format!("the confined process ended with {status}")),
            }
        }
    }
}

fn main() {
    let args = Args::parse();
    let outcome = run(&args).unwrap_or_else(|error| fail(&hvckpt::explain(&error)));
    let line = serde_json::json!({
        "program": "life", "scenario": format!("{:?}", args.scenario),
        "pages": args.pages, "transactions": outcome.transactions,
        "changed": outcome.changed, "reported": outcome.reported,
        "happened": outcome.happened, "ended": outcome.ended,
    });
    println!("{line}");
    if outcome.happened == 0 {
        println!("nothing happened: this tested nothing");
        std::process::exit(77);
    }
}
