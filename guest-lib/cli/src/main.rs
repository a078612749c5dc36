// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `hvckpt` command.

#![forbid(unsafe_code)]

mod backup;
mod process;
mod store;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hvckpt::doctor::{self, Report};
use serde_json::{Value, json};

/// Application checkpointing with critical data areas.
#[derive(Parser, Debug)]
#[command(name = "hvckpt", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Tell which trackers work here, and why the others do not.
    ///
    /// Each gets a small region and one real transaction. Exit status: 0 if
    /// one of those for real use works (the simulation does not count), else 1.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Store(store::Command),
    #[command(flatten)]
    Process(process::Command),
    /// Keep the state of programs on other machines, and hand it out.
    #[command(subcommand)]
    Backup(backup::Command),
}

fn as_json(report: &Report) -> Value {
    let trackers: Vec<Value> = report
        .trackers
        .iter()
        .map(|(kind, result)| {
            let limits = kind.limits();
            json!({
                "name": kind.name(),
                "works": result.is_ok(),
                "why_not": result.as_ref().err(),
                "kernel_writes": format!("{:?}", limits.kernel_writes).to_lowercase(),
                "remote_writes": format!("{:?}", limits.remote_writes).to_lowercase(),
                "forced_writes": format!("{:?}", limits.forced_writes).to_lowercase(),
                "mapped_anew": format!("{:?}", limits.mapped_anew).to_lowercase(),
                "forced_into_readonly":
                    format!("{:?}", limits.forced_into_readonly).to_lowercase(),
                "pinned_before": format!("{:?}", limits.pinned_before).to_lowercase(),
                "other_mappings": format!("{:?}", limits.other_mappings).to_lowercase(),
            })
        })
        .collect();
    json!({
        "kernel": report.kernel,
        "hypervisor": report.hypervisor,
        "gate": report.gate.as_ref().ok(),
        "no_gate": report.gate.as_ref().err(),
        "key": report.key,
        "policy": report.policy,
        "lock_limit": report.lock_limit,
        "trackers": trackers,
    })
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn as_text(report: &Report) -> String {
    let mut lines = vec![
        format!("kernel        {}", report.kernel),
        format!("hypervisor    {}", or(&report.hypervisor, "none seen")),
        match &report.gate {
            Ok(answer) => format!(
                "gate          ABI version {}, capabilities {:#x}",
                answer & 0xffff,
                answer >> 16
            ),
            Err(why) => format!("gate          {why}"),
        },
        format!(
            "HVCKPT_KEY    {}",
            report.key.as_deref().unwrap_or("not set")
        ),
        format!(
            "HVCKPT_POLICY {}",
            report.policy.as_deref().unwrap_or("not set")
        ),
        match report.lock_limit {
            Some(bytes) => format!("memory lock   at most {bytes} bytes"),
            None => "memory lock   unlimited".to_owned(),
        },
        String::new(),
    ];
    for (kind, result) in &report.trackers {
        lines.push(match result {
            Ok(()) => format!("{kind:<13} works"),
            Err(why) => format!("{kind:<13} no: {why}"),
        });
    }
    lines.join("\n")
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help is a result, too.
        Err(told) => {
            let printed = told.print().and_then(|()| io::stdout().flush());
            return match printed {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !told.use_stderr() => {
                    complain(&format!("cannot print: {error}"));
                    ExitCode::from(2)
                }
                _ => ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2)),
            };
        }
    };
    match args.command {
        Command::Store(command) => store::run(command),
        Command::Process(command) => process::run(command),
        Command::Backup(command) => backup::run(command),
        Command::Doctor { json } => {
            let report = doctor::examine();
            let text = if json {
                format!("{:#}", as_json(&report))
            } else {
                as_text(&report)
            };
            if let Err(error) = print(&text) {
                complain(&format!("cannot print: {error}"));
                return ExitCode::from(2);
            }
            let works = |(kind, result): &(hvckpt::TrackerKind, Result<(), String>)| {
                result.is_ok() && *kind != hvckpt::TrackerKind::Sim
            };
            if report.trackers.iter().any(works) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// A reader who has gone (`| head`) has what it wanted: no error.
fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Says what went wrong; that nobody hears it does not change the exit status.
fn complain(text: &str) {
    let _unheard = writeln!(io::stderr(), "hvckpt: {text}");
}
