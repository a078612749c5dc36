// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs: exactness of every tracker with every writer, the C API.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{build_libraries, compile, example, number, profile_dir, skipped, trackers};
use hvckpt::Coverage;
use serde_json::Value;

fn run(program: &Path, args: &[&str]) -> Output {
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
        let output = run(&example("insn"), &args);
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
    let exact = example("exact");
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
            let output = run(&exact, &base);
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
                    let output = run(&exact, &[&base[..], &["--prepare"]].concat());
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
                    let output = run(&exact, &[&base[..], &["--force"]].concat());
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
    let exact = example("exact");
    for kind in trackers() {
        let base = ["--tracker", kind.name(), "--threads", "4", "--pages", "300"];
        let runs: [&[&str]; 2] = [
            &["--transactions", "50"],
            &["--racing", "--transactions", "500"],
        ];
        for more in runs {
            let output = run(&exact, &[&base[..], more].concat());
            assert_eq!(output.status.code(), Some(0), "{kind}: {}", json(&output));
        }
    }
}

/// The check itself is checked: a page taken from each list is found missing.
#[test]
fn exact_can_fail() {
    for kind in trackers() {
        let output = run(&example("exact"), &["--tracker", kind.name(), "--sabotage"]);
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
            let output = run(&example("cost"), &[&base[..], more].concat());
            let result = json(&output);
            assert_eq!(output.status.code(), Some(0), "{kind}: {result}");
            assert!(result["ns"].as_u64() > Some(0), "{kind}: {result}");
            assert_eq!(result["listed"], 1600, "{kind}: {result}");
        }
    }
}

#[test]
fn counter_counts() {
    for kind in trackers() {
        let output = run(&example("counter"), &[kind.name()]);
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |page: usize| format!("{kind}: dirty pages [{page}]\n");
        assert_eq!(text, (0..4).map(line).collect::<String>());
    }
}

#[test]
fn the_c_api() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let include = format!("-I{}", root.join("include").display());
    let source = root.join("tests/c/api.c").display().to_string();
    let counter = root.join("examples/c/counter.c").display().to_string();
    let strict = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        &include,
    ];
    let libraries = profile_dir();
    build_libraries(&libraries);
    let search = format!("-L{}", libraries.display());
    let archive = libraries.join("libhvckpt.a").display().to_string();
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (how, link) in [
        ("shared", vec!["-lhvckpt"]),
        ("static", vec![&archive[..], "-lm"]),
    ] {
        for (name, source) in [("api", &source), ("counter", &counter)] {
            let program = temporary.join(format!("{name}-{how}"));
            let out = program.display().to_string();
            let args = [&strict[..], &["-o", &out, source, &search], &link].concat();
            let built = compile("cc", &args).expect("a C compiler (cc) is needed");
            assert!(
                built.status.success(),
                "{}",
                String::from_utf8_lossy(&built.stderr)
            );
            for kind in trackers() {
                let output = Command::new(&program)
                    .arg(kind.name())
                    .env("LD_LIBRARY_PATH", &libraries)
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success(),
                    "{name}, {how}, {kind}: {text}{errors}"
                );
                assert!(text.lines().count() >= 4, "{name}, {how}, {kind}: {text}");
            }
        }
    }
    let header = root.join("include/hvckpt.h").display().to_string();
    let cxx = [
        "-x",
        "c++",
        "-std=c++20",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        &header,
    ];
    match compile("c++", &cxx) {
        Some(built) => {
            assert!(
                built.status.success(),
                "{}",
                String::from_utf8_lossy(&built.stderr)
            );
        }
        None => skipped("the header in C++", "no c++ here"),
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
    for name in ["refusals", "fork_isolation", "remap"] {
        let output = run(&example(name), &[]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("no gate"), "{name}: {text}");
    }
}

/// As `| head` does it: no panic, no complaint, the status of SIGPIPE.
#[test]
fn examples_end_quietly_when_their_reader_goes_away() {
    let exact = ["--tracker", "pt", "--pages", "4", "--transactions", "1"];
    for (name, arguments) in [("counter", &["pt"][..]), ("exact", &exact)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(example(name))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        assert_eq!(output.status.code(), Some(141), "{name}");
    }
}

/// A program which fails says so in words, not as a structure.
#[test]
fn examples_fail_in_words() {
    if hvckpt::sys::gate::capabilities().is_ok() {
        return;
    }
    let output = run(&example("counter"), &["ptxen"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no gate: this is not a Xen guest"), "{text}");
    assert!(!text.contains('{'), "{text}");
}
