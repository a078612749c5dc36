// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a list of experiments and prints one line of JSON for each.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use hvckpt_bench::experiment::Experiment;

/// Runs the experiments of a plan, in order, and prints one line of JSON for
/// each: its parameters and what came of it.  Times are CLOCK_MONOTONIC's,
/// which counts instructions if the machine is emulated that way.
///
/// A plan has one JSON object a line, for example
/// {"kind":"micro","tracker":"pt","pages":1024,"ppt":4,"wpp":2,"transactions":100}.
/// Exit status 0 if every line could be run, whatever came of it; 2 if the
/// plan makes no sense.
#[derive(Parser, Debug)]
struct Args {
    /// The plan; standard input if none is given.
    plan: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hvckpt-bench-guest: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let mut text = String::new();
    match &args.plan {
        Some(path) => {
            text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        }
        None => {
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| format!("cannot read the plan: {error}"))?;
        }
    }
    let lines = text.lines().enumerate();
    let plan = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            Experiment::parse(line).map_err(|error| format!("line {}: {error}", number + 1))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let name = args.plan.as_deref().and_then(Path::file_stem);
    let name = name.unwrap_or_default().display();
    let mut out = std::io::stdout().lock();
    let mut absent: Option<(String, String)> = None;
    for (number, experiment) in plan.iter().enumerate() {
        let result = match &absent {
            Some((tracker, why)) if experiment.tracker() == Some(tracker.as_str()) => {
                experiment.refuse(why)
            }
            _ => experiment.run(),
        };
        if let (Experiment::Probe { tracker }, Some(why)) = (experiment, result.get("reason")) {
            absent = Some((tracker.clone(), why.as_str().unwrap_or_default().to_owned()));
        }
        writeln!(out, "{result}").map_err(|error| format!("cannot write: {error}"))?;
        // One at a time: what was measured is kept if the next one crashes.
        out.flush()
            .map_err(|error| format!("cannot write: {error}"))?;
        let done = number + 1;
        if done % 10 == 0 || done == plan.len() {
            eprintln!("{name}: {done} of {}", plan.len());
        }
    }
    Ok(())
}
