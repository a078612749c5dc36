// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plan, collection and report, around a guest whose answers are known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hvckpt_bench::experiment::Experiment;
use serde_json::{Value, json};

fn script(name: &str, arguments: &[&str]) -> std::process::Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lib/bench");
    Command::new("python3")
        .arg(path.join(name))
        .args(arguments)
        .output()
        .expect("python3 is installed")
}

/// A run's directory, which goes when the test ends.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

impl Work {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hvckpt-bench-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("plans")).unwrap();
        fs::create_dir_all(path.join("results")).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join("results").join(name)).unwrap()
    }
}

/// Instructions of a transaction of the made-up guest.
fn cost(tracker: &str, ppt: f64, wpp: f64, pages: f64) -> f64 {
    match tracker {
        "pt" => 40_000.0 * ppt,
        "emul" => 10_000.0 * ppt * wpp,
        "ptxen" => 400.0 + 600.0 * ppt,
        "emulxen" => 400.0 + 500.0 * ppt * wpp,
        "scanxen" => 300.0 + 20.0 * ppt + 3.0 * pages,
        "autoxen" => 300.0 + 100.0 * ppt,
        "pagemap-scan" => 50_000.0 + 8_000.0 * ppt,
        other => panic!("{other}"),
    }
}

fn answer(line: &Value) -> Value {
    let number = |key: &str| line[key].as_f64().unwrap();
    let mut answer = line.clone();
    answer["status"] = json!("ok");
    let kind = line["kind"].as_str().unwrap();
    let tracker = line["tracker"].as_str().unwrap_or_default();
    match kind {
        "probe" if tracker == "uffd-wp" => {
            answer["status"] = json!("failed");
            answer["reason"] = json!("no userfaultfd, \"really\"");
        }
        "probe" => {}
        "gate" => answer["gate_ns"] = json!(166.5),
        "counts" => return Experiment::Counts { operations: 500 }.run(),
        "micro" if tracker != "uffd-wp" => {
            let cost = cost(tracker, number("ppt"), number("wpp"), number("pages"));
            answer["measured"] = json!(20);
            answer["median_ns"] = json!(cost);
            answer["write_ns"] = json!(cost * 0.75);
            answer["commit_ns"] = json!(cost * 0.25);
            answer["expected"] = json!(20.0 * number("ppt"));
            answer["missed"] = json!(0);
            answer["traps"] = json!({ "faults": 20.0 * number("ppt"), "crossings": null });
        }
        "workload" if tracker != "uffd-wp" => {
            let cost = match tracker {
                "none" => 200.0,
                _ => cost(tracker, 4.0, 5.0, 256.0),
            };
            answer["mean_ns"] = json!(cost);
            answer["measured"] = json!(48);
            answer["writes"] = json!(20);
            answer["pages"] = json!(4);
            answer["excess"] = json!(0);
            let words = tracker.starts_with("emul");
            answer["copy_ns"] = json!(if words { 100.0 } else { 2000.0 });
            answer["processed"] = json!(if words { 160 } else { 4 * 4096 });
            answer["expected"] = json!(400);
            answer["missed"] = json!(0);
            answer["damaged"] = json!(0);
        }
        "program" if tracker != "uffd-wp" => answer["median_ns"] = json!(10_000),
        _ => answer["status"] = json!("failed"),
    }
    answer
}

const TRACKERS: [&str; 8] = [
    "pt",
    "emul",
    "ptxen",
    "emulxen",
    "scanxen",
    "autoxen",
    "pagemap-scan",
    "uffd-wp",
];

/// Plans, and what the guest printed, less the last line of a step.
fn made_up(work: &Work, full: bool, cut: Option<&str>) {
    let plans = work.path("plans");
    let mut arguments = vec![plans.as_str()];
    arguments.extend(TRACKERS);
    if !full {
        arguments.push("--quick");
    }
    let made = script("plan.py", &arguments);
    assert!(made.status.success(), "{made:?}");
    fs::write(
        work.0.join("provenance"),
        "commit=abc\nmode=quick\nbase=Xen =1=\n",
    )
    .unwrap();
    for step in fs::read_to_string(work.0.join("plans/steps"))
        .unwrap()
        .lines()
    {
        let name = step.split_whitespace().nth(1).unwrap();
        let plan = fs::read_to_string(work.0.join(format!("plans/{name}.plan"))).unwrap();
        let mut out = String::new();
        for line in plan.lines() {
            Experiment::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            out += &format!("{}\n", answer(&serde_json::from_str(line).unwrap()));
        }
        if cut == Some(name) {
            out.truncate(out.len() - 20);
        }
        fs::write(work.0.join(format!("{name}.out")), out).unwrap();
    }
    // The fewer of two runs counts.
    for (variant, build) in [("unpatched", 1000), ("off", 1001), ("on", 1010)] {
        let dir = work.0.join(format!("tax-{variant}"));
        fs::create_dir_all(&dir).unwrap();
        for (run, all) in [("1", 400), ("2", 410)] {
            let mix = json!({"fork": 100, "exec": 100, "map": 100, "protect": 100, "mix": all});
            fs::write(dir.join(format!("mix-{run}.out")), format!("{mix}\n")).unwrap();
        }
        let build = json!({ "build": build });
        fs::write(dir.join("mix-build.out"), format!("{build}\n")).unwrap();
    }
}

#[test]
fn a_run_becomes_a_report() {
    let work = Work::new("report");
    made_up(&work, false, None);
    let (from, to) = (work.path(""), work.path("results"));
    let collected = script("collect.py", &[&from, &to]);
    assert!(collected.status.success(), "{collected:?}");
    let reported = script("report.py", &[&to]);
    assert!(reported.status.success(), "{reported:?}");
    let summary: BTreeMap<String, f64> = serde_json::from_str(&work.read("summary.json")).unwrap();
    let expected = [
        ("instr_gate", 166.5),
        ("instr_ptxen_fault", (400.0 + 600.0 * 256.0) * 0.75 / 256.0),
        ("instr_ptxen_reprotect", 150.0),
        ("ptxen_vs_pt_ppt1", 40.0),
        ("ptxen_vs_pt_ppt64", 2_560_000.0 / 38_800.0),
        ("ptxen_vs_pagemapscan_ppt1", 58.0),
        ("ptxen_vs_pagemapscan_ppt64", 562_000.0 / 38_800.0),
        ("autoxen_vs_pt_steady", 2_560_000.0 / 6_700.0),
        ("autoxen_traps_per_page_steady", 1.0),
        ("emulxen_vs_emul_per_write", 20.0),
        ("breakeven_wpp_user", 4.0),
        ("breakeven_wpp_xen", 1.2),
        ("commit_1page_instr_4mib", 250.0),
        ("commit_1page_instr_1gib", 250.0),
        ("workload_ptxen_speedup_mean_opt1", 160_000.0 / 2_800.0),
        ("workload_emulxen_speedup_mean_opt1", 200_000.0 / 10_400.0),
        ("processed_mb_mean_pt", 4.0 * 4096.0 * 1e4 / 1e6),
        ("processed_mb_mean_emulxen", 1.6),
        ("net_ptxen_speedup_mean_opt1", 162_000.0 / 4_800.0),
        ("net_emulxen_speedup_mean_opt1", 200_100.0 / 10_500.0),
        ("tax_mix_on", 1.0),
        ("tax_build_off", 1.001),
        ("tax_build_on", 1.01),
    ];
    for (key, value) in expected {
        let got = summary.get(key).copied().unwrap_or(f64::NAN);
        assert!(
            (got / value - 1.0).abs() < 0.0005,
            "{key}: {got}, not {value}"
        );
    }
    let report = work.read("REPORT.md");
    assert!(
        report.contains("20 PPT + 3.00 pages of the area + 300"),
        "{report}"
    );
    assert!(report.contains("no userfaultfd, \"really\""), "{report}");
    assert!(
        report.contains("| 400 | 400 (+0.00 %) | 400 (+0.00 %) |"),
        "{report}"
    );
    assert!(!report.contains("missing or wrong"), "{report}");
    assert!(work.read("micro.csv").starts_with("# commit=abc\n"));
    for figure in [
        "6", "7", "8a", "8b", "9a", "9b", "10", "11", "12", "13", "14", "15", "16", "17", "18",
    ] {
        let svg = work.read(&format!("figure-{figure}.svg"));
        assert!(
            svg.starts_with("<svg") && svg.ends_with("</svg>\n"),
            "{figure}"
        );
        assert!(!svg.contains("nan"), "{figure}");
    }
    // The report can be written anew, the same, from the tables.
    let again = script("report.py", &[&to]);
    assert!(again.status.success());
    assert_eq!(work.read("REPORT.md"), report);
    let same = script("compare.py", &[&to, &to]);
    assert!(same.status.success(), "{same:?}");
}

#[test]
fn what_did_not_finish_is_named() {
    let work = Work::new("cut");
    made_up(&work, true, Some("emul-work"));
    let (from, to) = (work.path(""), work.path("results"));
    assert_eq!(script("collect.py", &[&from, &to]).status.code(), Some(1));
    assert_eq!(script("report.py", &[&to]).status.code(), Some(1));
    let report = work.read("REPORT.md");
    assert!(
        report.contains("emul-work: 40 of 41 experiments"),
        "{report}"
    );
}

#[test]
fn a_tax_beyond_what_is_promised_is_named() {
    let work = Work::new("tax");
    made_up(&work, false, None);
    let path = work.0.join("tax-off/mix-build.out");
    fs::write(path, "{\"build\":1006}\n").unwrap();
    let (from, to) = (work.path(""), work.path("results"));
    assert!(script("collect.py", &[&from, &to]).status.success());
    assert_eq!(script("report.py", &[&to]).status.code(), Some(1));
    let report = work.read("REPORT.md");
    assert!(
        report.contains("cda=off costs the build +0.60 %"),
        "{report}"
    );
    // A boot that printed nothing is a run that did not finish.
    fs::remove_file(work.0.join("tax-on/mix-2.out")).unwrap();
    fs::remove_file(work.0.join("tax-on/mix-1.out")).unwrap();
    assert_eq!(script("collect.py", &[&from, &to]).status.code(), Some(1));
    assert_eq!(script("report.py", &[&to]).status.code(), Some(1));
    assert!(work.read("REPORT.md").contains("tax: KeyError"));
}

#[test]
fn missed_pages_are_named() {
    let work = Work::new("missed");
    made_up(&work, false, None);
    let path = work.0.join("pt-micro.out");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = lines
        .iter_mut()
        .find(|line| line["kind"] == "micro")
        .unwrap();
    first["missed"] = json!(3);
    first["status"] = json!("wrong");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(path, text.join("\n")).unwrap();
    let (from, to) = (work.path(""), work.path("results"));
    assert!(script("collect.py", &[&from, &to]).status.success());
    assert_eq!(script("report.py", &[&to]).status.code(), Some(1));
    assert!(work.read("REPORT.md").contains("PT: 3 pages missed"));
    // Without a single tracker there is nothing to say.
    for name in ["micro", "workload", "program", "counts", "trackers", "tax"] {
        fs::remove_file(work.0.join(format!("results/{name}.csv"))).unwrap();
    }
    assert_eq!(script("report.py", &[&to]).status.code(), Some(1));
}

/// Changes a value in the line of a step which has all of these.
fn spoil(work: &Work, step: &str, line: &Value, key: &str, value: &str) {
    let path = work.0.join(format!("{step}.out"));
    let text = fs::read_to_string(&path).unwrap();
    let has = |found: &Value| {
        let wanted = line.as_object().unwrap();
        wanted.iter().all(|(key, value)| found[key] == *value)
    };
    let mut done = 0;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut found: Value = serde_json::from_str(line).unwrap();
            if !has(&found) {
                return line.to_owned();
            }
            done += 1;
            // Not every value there may be is JSON.
            found[key] = json!("HERE");
            found.to_string().replace("\"HERE\"", value)
        })
        .collect();
    assert_eq!(done, 1, "{step} {line}");
    fs::write(path, lines.join("\n")).unwrap();
}

/// A report looks at itself: cells which cannot be, and rows unlike their like.
#[test]
fn what_is_not_plausible_is_named() {
    let work_of = |structure: &str| json!({ "structure": structure, "op": "insert", "opt": 1 });
    let micro = |ppt: u32, wpp: u32| {
        json!({ "kind": "micro", "ppt": ppt, "wpp": wpp, "pages": 1024,
            "pattern": "spread", "warmup": 5 })
    };
    let five = json!({ "kind": "program", "operations": 5 });
    // Step, line, key, value, and what the report says.  The first is a buffer
    // that was cold.
    let cases = [
        (
            "pt-work",
            work_of("aa"),
            "copy_ns",
            "7520",
            "PT, aa insert OPT 1, copy: 7,520, where its like take 2,000",
        ),
        (
            "emulxen-work",
            work_of("aa"),
            "copy_ns",
            "NaN",
            "workload.csv, emulxen aa insert 1",
        ),
        (
            "ptxen-work",
            work_of("rb"),
            "mean_ns",
            "9000",
            "PTxen, rb insert OPT 1, transaction",
        ),
        (
            "ptxen-work",
            work_of("avl"),
            "mean_ns",
            "900",
            "PTxen, avl insert OPT 1, transaction",
        ),
        (
            "ptxen-work",
            work_of("dsl"),
            "mean_ns",
            "-3",
            "mean_ns is -3",
        ),
        (
            "none",
            work_of("bin"),
            "mean_ns",
            "Infinity",
            "workload.csv, none bin insert 1",
        ),
        (
            "pt-work",
            work_of("heap"),
            "pages",
            "5",
            "20.00 writes and 5.00 pages, not",
        ),
        ("emul-work", work_of("list"), "writes", "21", "21.00 writes"),
        (
            "pt-work",
            work_of("queue"),
            "processed",
            "99",
            "99 bytes of 4.00 pages",
        ),
        (
            "pt-micro",
            micro(8, 4),
            "median_ns",
            "90000",
            "PT, WPP 4, PPT 8: 90,000, less than",
        ),
        (
            "pt-micro",
            micro(4, 16),
            "median_ns",
            "90000",
            "PT, PPT 4, WPP 16: 90,000, less than 160,000",
        ),
        (
            "pt-micro",
            micro(4, 12),
            "commit_ns",
            "-45464",
            "commit_ns is -45464",
        ),
        (
            "pt-micro",
            micro(4, 10),
            "expected",
            "79",
            "79 pages in 20 transactions",
        ),
        (
            "pt-program",
            five,
            "median_ns",
            "9000",
            "PT, program, values set 5: 9,000, less than 10,000 at 1",
        ),
    ];
    let work = Work::new("strange");
    made_up(&work, false, None);
    for (step, line, key, value, _) in &cases {
        spoil(&work, step, line, key, value);
    }
    let (from, to) = (work.path(""), work.path("results"));
    assert!(script("collect.py", &[&from, &to]).status.success());
    let reported = script("report.py", &[&to]);
    assert_eq!(reported.status.code(), Some(1), "{reported:?}");
    let report = work.read("REPORT.md");
    for (_, _, _, _, says) in &cases {
        assert!(report.contains(says), "no {says:?} in {report}");
    }
}

#[test]
fn differences_beneath_the_noise_are_shown_as_such() {
    let work = Work::new("noise");
    made_up(&work, false, None);
    // A page more seems to cost 40 less than nothing, of 10,250.
    for (ppt, commit) in [(0, "10000"), (1, "9960")] {
        let line = json!({ "kind": "micro", "ppt": ppt, "wpp": 1, "pages": 1024,
            "pattern": "spread", "warmup": 5, "transactions": 60 });
        spoil(&work, "scanxen-micro", &line, "commit_ns", commit);
        spoil(&work, "scanxen-micro", &line, "write_ns", "0");
        spoil(&work, "scanxen-micro", &line, "median_ns", commit);
    }
    let (from, to) = (work.path(""), work.path("results"));
    assert!(script("collect.py", &[&from, &to]).status.success());
    script("report.py", &[&to]);
    let report = work.read("REPORT.md");
    assert!(
        report.contains("| Scanxen | 10,000 | < 1 | < 50 |"),
        "{report}"
    );
    let text = report.split("## Figures").next().unwrap();
    let negative = text
        .lines()
        .filter(|line| line.starts_with('|') && line.contains("| -") && !line.contains("|-"));
    assert_eq!(negative.collect::<Vec<_>>(), Vec::<&str>::new());
    // And one says how many transactions that were.
    assert!(
        report.contains("- transactions: 20 of each point"),
        "{report}"
    );
}

/// The library's names, those of the figures, and those which scripts/bench
/// takes; the simulation measures nothing.
#[test]
fn every_tracker_can_be_asked_for_and_drawn() {
    let wanted = script("plan.py", &["--help"]);
    let plan = String::from_utf8(wanted.stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bench = fs::read_to_string(root.join("scripts/bench")).unwrap();
    let all = bench.lines().find_map(|line| line.strip_prefix("all='"));
    let mut all: Vec<_> = all.unwrap().trim_end_matches('\'').split(' ').collect();
    let mut known: Vec<_> = hvckpt::TrackerKind::ALL
        .iter()
        .map(|kind| kind.name())
        .filter(|name| *name != "sim")
        .collect();
    for name in &known {
        assert!(plan.contains(name), "{name}: {plan}");
    }
    all.sort_unstable();
    known.sort_unstable();
    assert_eq!(all, known);
}
