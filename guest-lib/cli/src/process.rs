// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands for whole programs: run, checkpoint, restart, ps.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use hvckpt_restart::image::{self, CONTENTS, Image, PAGE};
use hvckpt_restart::session::{self, Files, Options};
use hvckpt_restart::{Error, client};
use serde_json::json;

use super::{complain, print};

#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum FilesMode {
    /// Cut off what was appended since, and keep it beside the image.
    Rewind,
    /// Leave files as they are.
    Keep,
    /// Refuse if a file is longer than it was.
    Check,
}

/// Exit status: the program's (`run`, `restart`), else 0; 1 refused and nothing
/// changed, 2 usage, 3 image damaged, 126 or 127 the program does not start.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a program, unchanged, so that it can be checkpointed.
    Run {
        /// Write a version every so many seconds.
        #[arg(short = 't', value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        period: Option<u64>,
        /// Directory of the versions.
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
        /// Name for `checkpoint` and `ps`.
        #[arg(long)]
        name: Option<String>,
        /// Keep the newest N versions; 0 keeps all.
        #[arg(long, value_name = "N", default_value_t = 2)]
        keep: usize,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, value_name = "PROG ARG")]
        command: Vec<OsString>,
    },
    /// Write a version of a running program; returns when it is durable.
    Checkpoint {
        /// A name, or the pid of the program or of its `hvckpt run`.
        #[arg(value_name = "NAME|PID", required_unless_present = "store")]
        of: Option<String>,
        /// The program whose versions go here.
        #[arg(long, value_name = "DIR", conflicts_with = "of")]
        store: Option<String>,
        /// End the program once the version is durable.
        #[arg(long)]
        kill: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Go on with a program from its newest version, or the one named.
    Restart {
        /// Directory of the versions, and perhaps which.
        #[arg(value_name = "DIR[@VERSION]")]
        of: String,
        /// Return as soon as the program runs.
        #[arg(long)]
        detach: bool,
        /// Read all pages before the program goes on; so it is today in any case.
        #[arg(long)]
        eager: bool,
        /// Let the system choose pid and thread ids.
        #[arg(long)]
        new_ids: bool,
        /// What to do with files that were open for writing.
        #[arg(long, value_enum, default_value_t = FilesMode::Rewind)]
        files: FilesMode,
        /// Write a version every so many seconds.
        #[arg(short = 't', value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        period: Option<u64>,
        /// Name for `checkpoint` and `ps`.
        #[arg(long)]
        name: Option<String>,
        /// Keep the newest N versions; 0 keeps all.
        #[arg(long, value_name = "N", default_value_t = 2)]
        keep: usize,
    },
    /// List what runs below `hvckpt run` and `hvckpt restart`.
    Ps {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Run {
            period,
            store,
            name,
            keep,
            command,
        } => {
            let period = period.map(Duration::from_secs);
            session::run(
                &command,
                &Options {
                    period,
                    store,
                    name,
                    keep,
                },
            )
        }
        Command::Checkpoint {
            of,
            store,
            kill,
            json,
        } => checkpoint(&of.or(store).unwrap_or_default(), kill, json),
        Command::Restart {
            of,
            detach,
            eager: _,
            new_ids,
            files,
            period,
            name,
            keep,
        } => {
            let files = match files {
                FilesMode::Rewind => Files::Rewind,
                FilesMode::Keep => Files::Keep,
                FilesMode::Check => Files::Check,
            };
            let options = Options {
                period: period.map(Duration::from_secs),
                store: None,
                name,
                keep,
            };
            session::restart(&of, &options, new_ids, files, detach)
        }
        Command::Ps { json } => ps(json),
    };
    status(done)
}

fn status(done: Result<u8, Error>) -> ExitCode {
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.status())
        }
    }
}

fn say(text: &str) -> Result<u8, Error> {
    print(text)
        .map(|()| 0)
        .map_err(|e| Error::Io("cannot print".into(), e))
}

fn checkpoint(of: &str, kill: bool, json: bool) -> Result<u8, Error> {
    let taken = client::checkpoint(of, kill)?;
    if json {
        say(&serde_json::to_string(&taken).unwrap_or_default())
    } else {
        say(&format!(
            "version {}: {} pages, {} bytes, frozen for {} us",
            taken.version, taken.pages, taken.bytes, taken.frozen_us
        ))
    }
}

fn ps(json: bool) -> Result<u8, Error> {
    let sessions = client::sessions()?;
    if json {
        return say(&serde_json::to_string(&sessions).unwrap_or_default());
    }
    let mut lines = vec![format!(
        "{:<24} {:>8}  {:<16} STORE",
        "NAME", "PID", "PROGRAM"
    )];
    for one in &sessions {
        lines.push(format!(
            "{:<24} {:>8}  {:<16} {}",
            one.name,
            one.front,
            one.program,
            one.store.display()
        ));
    }
    say(&lines.join("\n"))
}

/// Whether `of` is a directory of process images, or names one.
pub fn holds(of: &Path) -> bool {
    of.to_str().is_some_and(|name| image::find(name).is_ok())
}

/// `inspect` and `verify` of a process image, its pages included.
pub fn show(of: &Path, json: bool) -> ExitCode {
    let looked = || {
        let image = Image::open(&image::find(&of.to_string_lossy())?)?;
        image.verify()?;
        say(&inspect(&image, json))
    };
    status(looked())
}

/// `inspect` of a running program: what a version could not keep. `None`: there
/// is no such program.
pub fn look(of: &str, json: bool) -> Option<ExitCode> {
    let found = match client::look(of) {
        Ok(None) => return None,
        Ok(Some(found)) => found,
        Err(error) => return Some(status(Err(error))),
    };
    let text = if json {
        json!({ "of": of, "objections": found }).to_string()
    } else if found.is_empty() {
        format!("{of}: a checkpoint would keep all of it")
    } else {
        let mut lines = vec![format!("{of}: a checkpoint would be refused:")];
        lines.extend(found.iter().map(|why| format!("  {why}")));
        lines.join("\n")
    };
    Some(status(say(&text).map(|_| u8::from(!found.is_empty()))))
}

fn inspect(image: &Image, json: bool) -> String {
    let process = &image.process;
    let pages: u64 = image.runs.iter().map(|r| u64::from(r.pages)).sum();
    if json {
        return format!("{:#}", json!({ "pages": pages, "process": process }));
    }
    let memory: u64 = image
        .runs
        .iter()
        .filter(|r| r.address < CONTENTS)
        .map(|r| u64::from(r.pages))
        .sum();
    let mut lines = vec![
        format!("program     {}", process.layout.exe.display()),
        format!("directory   {}", process.cwd.display()),
        format!("pid         {}", process.pid),
        format!(
            "memory      {} octets in {} mappings",
            memory * PAGE,
            process.areas.len()
        ),
        format!("threads     {}", process.threads.len()),
    ];
    for thread in &process.threads {
        lines.push(format!(
            "  {:<8} {}",
            thread.tid,
            String::from_utf8_lossy(&thread.name.0)
        ));
    }
    lines.push(format!("descriptors {}", process.descriptors.len()));
    for one in &process.descriptors {
        lines.push(format!("  {:<8} {:?}", one.fd, one.kind));
    }
    lines.join("\n")
}
