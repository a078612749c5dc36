// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples, and the C API.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{build_libraries, compile, example, profile_dir, skipped, trackers};

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
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

/// As `| head` does it: no panic, no complaint, the status of SIGPIPE.
#[test]
fn examples_end_quietly_when_their_reader_goes_away() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(example("counter"))
        .arg("pt")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
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
