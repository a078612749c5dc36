// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results that come with the source are whole, and are what the scripts
//! make of the tables beside them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What others rely on.
const KEYS: [&str; 20] = [
    "instr_gate",
    "instr_ptxen_fault",
    "instr_ptxen_reprotect",
    "ptxen_vs_pt_ppt1",
    "ptxen_vs_pt_ppt64",
    "ptxen_vs_pagemapscan_ppt1",
    "ptxen_vs_pagemapscan_ppt64",
    "autoxen_vs_pt_steady",
    "autoxen_traps_per_page_steady",
    "emulxen_vs_emul_per_write",
    "breakeven_wpp_user",
    "breakeven_wpp_xen",
    "commit_1page_instr_4mib",
    "commit_1page_instr_1gib",
    "workload_ptxen_speedup_mean_opt1",
    "workload_emulxen_speedup_mean_opt1",
    "tax_mix_off",
    "tax_mix_on",
    "tax_build_off",
    "tax_build_on",
];
const TABLES: [&str; 6] = ["micro", "workload", "program", "counts", "trackers", "tax"];
const FIGURES: [&str; 11] = [
    "6", "7", "8a", "8b", "9a", "9b", "10", "11", "12", "13", "14",
];

fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

fn read(name: &str) -> String {
    let path = results().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_figure_of_the_summary_is_there() {
    let summary: BTreeMap<String, f64> = serde_json::from_str(&read("summary.json")).unwrap();
    for key in KEYS {
        let value = summary.get(key).unwrap_or_else(|| panic!("no {key}"));
        // A tracker may do without traps.
        assert!(
            value.is_finite() && (*value > 0.0 || key == "autoxen_traps_per_page_steady"),
            "{key}: {value}"
        );
    }
}

#[test]
fn tables_are_whole_and_say_where_they_come_from() {
    for name in TABLES {
        let text = read(&format!("{name}.csv"));
        let (head, rows): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("# "));
        for key in ["commit", "transactions", "base"] {
            let start = format!("# {key}=");
            let value = head.iter().find_map(|line| line.strip_prefix(&start));
            assert!(
                value.is_some_and(|value| !value.is_empty()),
                "{name}: {key}"
            );
        }
        assert!(
            !head.iter().any(|line| line.contains("-dirty")),
            "{name}: of a tree that was not committed"
        );
        assert!(rows.len() > 1, "{name}: no rows");
        if name != "trackers" {
            let columns = rows[0].split(',').count();
            for row in &rows {
                // Reasons may have commas, in quotes.
                let quoted = row.contains('"');
                assert!(quoted || row.split(',').count() == columns, "{name}: {row}");
            }
        }
    }
}

#[test]
fn the_report_is_whole() {
    let report = read("REPORT.md");
    for absent in [
        "missing or wrong",
        "Not measured in this run",
        "not explained",
    ] {
        assert!(!report.contains(absent), "{absent}");
    }
    for figure in FIGURES {
        let name = format!("figure-{figure}.svg");
        assert!(report.contains(&format!("]({name})")), "{name}");
        let svg = read(&name);
        assert!(
            svg.starts_with("<svg") && svg.ends_with("</svg>\n"),
            "{name}"
        );
    }
}

/// Nobody edited by hand, and nobody changed a script and forgot the results
/// (`scripts/bench --report bench/results`).
#[test]
fn report_and_figures_are_those_of_the_tables() {
    let copy = std::env::temp_dir().join(format!("hvckpt-bench-results-{}", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    for name in TABLES {
        let name = format!("{name}.csv");
        fs::copy(results().join(&name), copy.join(&name)).unwrap();
    }
    let made = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lib/bench/report.py"))
        .arg(&copy)
        .output()
        .expect("python3 is installed");
    let mut differ = Vec::new();
    let names = FIGURES.map(|figure| format!("figure-{figure}.svg"));
    for name in ["REPORT.md", "summary.json"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
    {
        if fs::read_to_string(copy.join(name)).unwrap_or_default() != read(name) {
            differ.push(name);
        }
    }
    fs::remove_dir_all(&copy).unwrap();
    assert!(made.status.success(), "{made:?}");
    assert!(differ.is_empty(), "{differ:?}");
}
