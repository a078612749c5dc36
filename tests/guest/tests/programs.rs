// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of the programs, what needs no guest: exactness of every tracker with every
//! writer, instructions under `emul`, and what they refuse.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use hvckpt::{Coverage, LockPolicy, TrackerKind};
use serde_json::Value;

const EXACT: &str = env!("CARGO_BIN_EXE_exact");
const COST: &str = env!("CARGO_BIN_EXE_cost");
const INSN: &str = env!("CARGO_BIN_EXE_insn");

/// Past the harness, so that it is seen.
fn skipped(what: &str, why: &str) {
    let line = format!("\nSKIPPED {what}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Those which work here; `pt` and `sim` do everywhere.
fn trackers() -> Vec<TrackerKind> {
    let works = |kind: &TrackerKind| {
        let builder = hvckpt::register_cda().pages(1).tracker(*kind);
        match builder.lock(LockPolicy::IfAllowed).register() {
            Ok(_) => true,
            Err(error) => {
                let everywhere = matches!(kind, TrackerKind::Pt | TrackerKind::Sim);
                assert!(!everywhere, "{}", hvckpt::explain(&error));
                skipped(&format!("programs with {kind}"), &hvckpt::explain(&error));
                false
            }
        }
    };
    TrackerKind::ALL.into_iter().filter(works).collect()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Random storing instructions, compared with native execution; each process
/// with fewer than `emul` has room for.
#[test]
fn emul_does_what_the_processor_does() {
    const EACH: usize = 500;
    let cases = number("HVCKPT_INSN_CASES", 3000);
    let seed = number("HVCKPT_INSN_SEED", 1);
    for round in 0..cases.div_ceil(EACH) {
        let seed = (seed + round).to_string();
        let args = ["--tracker", "emul", "--cases", "500", "--seed", &seed];
        let output = run(INSN, &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        let result = json(&output);
        let count = |name: &str| usize::try_from(result[name].as_u64().unwrap()).unwrap();
        assert_eq!(count("cases"), EACH, "{result}");
        assert!(count("kinds") > 150, "{result}");
        assert!(count("performed") > EACH / 2, "{result}");
        assert!(count("stored") > EACH / 2, "{result}");
    }
}

#[test]
fn exact_with_every_writer() {
    for kind in trackers() {
        for writer in ["mem", "read", "recv", "readv", "vm_writev", "ptrace"] {
            let base = [
                "--tracker",
                kind.name(),
                "--writer",
                writer,
                "--transactions",
                "15",
            ];
            let limits = kind.limits();
            let coverage = match writer {
                "mem" => Coverage::Reported,
                "ptrace" => limits.forced_writes,
                _ => limits.kernel_writes,
            };
            let output = run(EXACT, &base);
            let result = json(&output);
            let code = output.status.code();
            match coverage {
                Coverage::Reported => {
                    assert_eq!(code, Some(0), "{kind} {writer}: {result}");
                    assert!(
                        result["changed"].as_u64() > Some(100),
                        "{kind} {writer}: {result}"
                    );
                    assert_eq!(result["refused"], 0, "{kind} {writer}: {result}");
                }
                Coverage::Refused => {
                    assert_eq!(code, Some(0), "{kind} {writer}: {result}");
                    assert_eq!(result["changed"], 0, "{kind} {writer}: {result}");
                    assert!(
                        result["refused"].as_u64() > Some(100),
                        "{kind} {writer}: {result}"
                    );
                    let output = run(EXACT, &[&base[..], &["--prepare"]].concat());
                    let result = json(&output);
                    assert_eq!(output.status.code(), Some(0), "{kind} {writer}: {result}");
                    assert_eq!(result["refused"], 0, "{kind} {writer}: {result}");
                    assert!(
                        result["changed"].as_u64() > Some(100),
                        "{kind} {writer}: {result}"
                    );
                }
                Coverage::Missed => {
                    assert_eq!(code, Some(77), "{kind} {writer}: {result}");
                    // The limit is real; were it not, the table would be wrong.
                    let output = run(EXACT, &[&base[..], &["--force"]].concat());
                    let result = json(&output);
                    assert_eq!(output.status.code(), Some(1), "{kind} {writer}: {result}");
                    assert!(
                        result["missed"].as_u64() > Some(0),
                        "{kind} {writer}: {result}"
                    );
                }
            }
        }
    }
}

#[test]
fn exact_with_threads() {
    for kind in trackers() {
        let base = ["--tracker", kind.name(), "--threads", "4", "--pages", "300"];
        let runs: [&[&str]; 2] = [
            &["--transactions", "50"],
            &["--racing", "--transactions", "500"],
        ];
        for more in runs {
            let output = run(EXACT, &[&base[..], more].concat());
            assert_eq!(output.status.code(), Some(0), "{kind}: {}", json(&output));
        }
    }
}

/// The check itself is checked: a page taken from each list is found missing.
#[test]
fn exact_can_fail() {
    for kind in trackers() {
        let output = run(EXACT, &["--tracker", kind.name(), "--sabotage"]);
        let result = json(&output);
        assert_eq!(output.status.code(), Some(1), "{kind}: {result}");
        assert_eq!(result["missed"], 100, "{kind}: {result}");
    }
}

#[test]
fn cost_measures() {
    for kind in trackers() {
        for more in [
            &["--pairs"][..],
            &["--pattern", "spread"],
            &["--pattern", "rotate"],
        ] {
            let base = ["--tracker", kind.name(), "--pages", "256", "--dirty", "16"];
            let output = run(COST, &[&base[..], more].concat());
            let result = json(&output);
            assert_eq!(output.status.code(), Some(0), "{kind}: {result}");
            assert!(result["ns"].as_u64() > Some(0), "{kind}: {result}");
            assert_eq!(result["listed"], 1600, "{kind}: {result}");
        }
    }
}

/// Programs for patched guests say so elsewhere, and do nothing.
#[test]
fn guest_programs_refuse_other_machines() {
    if hvckpt::sys::gate::capabilities().is_ok() {
        skipped(
            "guest_programs_refuse_other_machines",
            "this is a patched guest",
        );
        return;
    }
    for (name, program) in [
        ("refusals", env!("CARGO_BIN_EXE_refusals")),
        ("fork_isolation", env!("CARGO_BIN_EXE_fork_isolation")),
        ("remap", env!("CARGO_BIN_EXE_remap")),
    ] {
        let output = run(program, &[]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("no gate"), "{name}: {text}");
    }
}

/// As `| head` does it: no panic, no complaint, the end by SIGPIPE.
#[test]
fn exact_ends_quietly_when_its_reader_goes_away() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(EXACT)
        .args(["--tracker", "pt", "--pages", "4", "--transactions", "1"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.signal(), Some(13), "{}", output.status);
}

/// On this machine too; the emulated one is what it is for.
#[test]
fn vectors_are_kept() {
    let output = run(env!("CARGO_BIN_EXE_vectors"), &["--seconds", "1"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("SSE: "), "{said}");
}
