// SPDX-License-Identifier: MIT OR Apache-2.0
//! Experiments with trackers that work everywhere.

use hvckpt_bench::experiment::Experiment;
use serde_json::{Value, json};

fn run(line: &Value) -> Value {
    Experiment::parse(&line.to_string()).unwrap().run()
}

/// The simulated tracker compares memory: what it lists is exact.
#[test]
fn transactions_of_the_microbenchmark_dirty_what_they_should() {
    for pattern in ["spread", "contiguous", "rotate"] {
        let line = run(
            &json!({ "kind": "micro", "tracker": "sim", "pages": 33, "ppt": 4,
            "wpp": 3, "pattern": pattern, "transactions": 30, "warmup": 2 }),
        );
        assert_eq!(line["status"], "ok", "{line}");
        assert_eq!(line["measured"], 30);
        assert_eq!(line["expected"], 120);
        assert_eq!(line["excess"], 0);
    }
}

#[test]
fn workloads_compare_lists_and_memory() {
    for (structure, op) in [
        ("aa", "delete"),
        ("hashquad", "insert"),
        ("queue", "insert"),
    ] {
        for opt in [1, 5] {
            let line = run(
                &json!({ "kind": "workload", "tracker": "pt", "structure": structure,
                "op": op, "opt": opt, "operations": 600, "windows": 3, "length": 10,
                "warmup": 4, "repeats": 2 }),
            );
            assert_eq!(line["status"], "ok", "{line}");
            assert_eq!(line["measured"], 30);
            assert_eq!(line["excess"], 0, "{line}");
            assert!(line["expected"].as_u64() > Some(30));
        }
    }
}

/// Figures 15 and 16: whole pages, or where each store went and its value.
#[test]
fn what_is_processed_follows_from_what_was_written() {
    for (structure, op) in [("splay", "delete"), ("heap", "insert"), ("list", "delete")] {
        for tracker in ["pt", "emul"] {
            let line = run(
                &json!({ "kind": "workload", "tracker": tracker, "structure": structure,
                "op": op, "opt": 1, "operations": 400, "windows": 2, "length": 20,
                "warmup": 3, "repeats": 2 }),
            );
            assert_eq!(line["status"], "ok", "{line}");
            let number = |key: &str| line[key].as_f64().unwrap();
            let want = match tracker {
                "pt" => number("pages") * 4096.0,
                _ => number("writes") * 8.0,
            };
            assert!((number("processed") - want).abs() < 1e-6, "{line}");
        }
    }
}

#[test]
fn all_operations_can_be_timed_and_none_tracked() {
    let line = run(
        &json!({ "kind": "workload", "tracker": "none", "structure": "rb",
        "op": "insert", "opt": 5, "operations": 1000, "windows": 1, "length": 0, "repeats": 1 }),
    );
    assert_eq!(line["status"], "ok", "{line}");
    assert_eq!(line["measured"], 200);
    assert_eq!(line["damaged"], 0);
}

#[test]
fn the_program_keeps_its_values() {
    let line = run(
        &json!({ "kind": "program", "tracker": "pt", "pages": 256, "keys": 300,
        "operations": 2, "transactions": 40 }),
    );
    assert_eq!(line["status"], "ok", "{line}");
    assert_eq!(line["damaged"], 0);
}

#[test]
fn what_cannot_run_says_why() {
    let unknown = run(&json!({ "kind": "probe", "tracker": "nosuch" }));
    assert_eq!(unknown["status"], "failed");
    assert!(unknown["reason"].as_str().unwrap().contains("nosuch"));
    let micro = json!({ "kind": "micro", "tracker": "sim", "pages": 4, "ppt": 5, "wpp": 1,
        "transactions": 1 });
    assert_eq!(run(&micro)["status"], "failed");
    let full = json!({ "kind": "program", "tracker": "pt", "pages": 8, "keys": 3000,
        "operations": 1, "transactions": 1 });
    let full = run(&full);
    assert_eq!(full["status"], "failed", "{full}");
    assert!(Experiment::parse("{\"kind\":\"nosuch\"}").is_err());
    assert!(Experiment::parse("{").is_err());
}
