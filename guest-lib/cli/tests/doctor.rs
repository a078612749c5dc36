// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `hvckpt doctor` says is so.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::process::{Command, Output};

use common::trackers;
use hvckpt::TrackerKind;
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_hvckpt");
    Command::new(program).args(args).output().unwrap()
}

#[test]
fn doctor_tells_the_truth() {
    let works = trackers();
    let output = run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "pt works everywhere");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = report["trackers"].as_array().unwrap();
    assert_eq!(list.len(), TrackerKind::ALL.len());
    for entry in list {
        let kind: TrackerKind = entry["name"].as_str().unwrap().parse().unwrap();
        assert_eq!(entry["works"], works.contains(&kind), "{entry}");
        assert_eq!(entry["why_not"].is_null(), works.contains(&kind), "{entry}");
    }
    let text = run(&["doctor"]).stdout;
    assert!(
        String::from_utf8(text)
            .unwrap()
            .contains("pt            works")
    );
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
}
