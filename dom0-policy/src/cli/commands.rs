// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doing what was typed.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use hvckpt_wire::listen::Limits;
use hvckpt_wire::{Key, PublicKey, Secret};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cli, Command, KeyAdd, KeyCommand, LimitsCommand, Serve, show};
use crate::admin::client::{CallError, call};
use crate::admin::{
    AddedKey, CountersInfo, EndedSession, KeyInfo, LimitChanges, LimitsInfo, Request, RevokedKey,
    SessionInfo,
};
use crate::keys::KeyId;
use crate::limits::Rate;
use crate::policy::Options;
use crate::{audit, daemon, doctor, log};

/// Why a command failed.
enum Failed {
    /// Exit code 3.
    NotRunning(CallError),
    /// Exit code 1, with a sentence.
    Sentence(String),
    /// Exit code 1; all was said already.
    Silently,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotRunning(_) => Self::NotRunning(error),
            other => Self::Sentence(other.to_string()),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has read enough.
            io::ErrorKind::BrokenPipe => Self::Silently,
            _ => Self::Sentence(error.to_string()),
        }
    }
}

/// Does what the command line says.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let state = &cli.state;
    let done = match cli.command {
        Command::Serve(options) => {
            return match daemon::run(&config(state, &options)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(sentence) => {
                    log(format_args!("{sentence}"));
                    ExitCode::FAILURE
                }
            };
        }
        Command::Key(KeyCommand::Add(options)) => key_add(state, &options),
        Command::Key(KeyCommand::List { json }) => {
            print(state, &Request::KeyList, json, |keys: &Vec<KeyInfo>| {
                show::keys(keys)
            })
        }
        Command::Key(KeyCommand::Revoke { key }) => key_revoke(state, key),
        Command::Sessions { domain, json } => print(
            state,
            &Request::Sessions { domain },
            json,
            |all: &Vec<SessionInfo>| show::sessions(all),
        ),
        Command::End { session, domain } => end(state, domain, session),
        Command::Limits(LimitsCommand::Get { domain, json }) => {
            print(state, &Request::LimitsGet { domain }, json, show::limits)
        }
        Command::Limits(LimitsCommand::Set(set)) => {
            let changes = LimitChanges {
                sessions: set.sessions,
                pages: set.pages,
                ranges: set.ranges,
                tokens: set.tokens,
                forward: set.forward,
            };
            let request = Request::LimitsSet {
                domain: set.domain,
                changes,
            };
            print(state, &request, set.json, |l: &LimitsInfo| show::limits(l))
        }
        Command::Counters { domain, json } => print(
            state,
            &Request::Counters { domain },
            json,
            |c: &CountersInfo| show::counters(&c.counters),
        ),
        Command::Audit {
            lines,
            follow,
            json,
        } => show_audit(state, lines, follow, json),
        Command::Doctor { json } => examine(state, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Silently) => ExitCode::FAILURE,
        Err(Failed::Sentence(sentence)) => {
            log(format_args!("{sentence}"));
            ExitCode::FAILURE
        }
        Err(Failed::NotRunning(error)) => {
            log(format_args!("{error}"));
            ExitCode::from(3)
        }
    }
}

fn config(state: &Path, options: &Serve) -> daemon::Config {
    daemon::Config {
        listen: options.listen,
        state: state.to_owned(),
        policy: Options {
            token_lifetime: options.token_lifetime,
            key_rate: Rate {
                per_second: options.key_rate,
                burst: options.key_burst,
            },
        },
        limits: Limits {
            connections: options.max_connections,
            per_peer: options.max_connections_per_peer,
            deadline: options.deadline,
        },
        audit_bytes: options.audit_max_bytes,
        audit_keep: options.audit_keep,
        sandbox: !options.no_sandbox,
    }
}

/// One request, its answer printed.
fn print<T: DeserializeOwned + Serialize>(
    state: &Path,
    request: &Request,
    json: bool,
    human: impl FnOnce(&T) -> String,
) -> Result<(), Failed> {
    let answer: T = call(state, request)?;
    output(&if json {
        to_json(&answer)?
    } else {
        human(&answer)
    })
}

fn to_json(value: &impl Serialize) -> Result<String, Failed> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

fn output(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Makes the private key here, so that it is never anywhere else, and has the
/// daemon take the public one.
fn key_add(state: &Path, options: &KeyAdd) -> Result<(), Failed> {
    let out = match &options.out {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{}.key", options.name)),
    };
    let shown = out.display();
    let cannot = |e: io::Error| Failed::Sentence(format!("cannot write {shown}: {e}"));
    // Reserves the name before the daemon takes the key: no key without file.
    hvckpt_files::create(&out, b"").map_err(cannot)?;
    let given_up = |failed: Failed| {
        let _ = fs::remove_file(&out);
        failed
    };
    let secret = Secret::generate().map_err(|e| given_up(e.into()))?;
    let request = Request::KeyAdd {
        name: options.name.clone(),
        public: secret.public_key().to_string(),
        domain: options.domain.clone(),
        sessions: options.sessions,
        pages: options.pages,
        ranges: options.ranges,
        modes: options.modes.clone(),
        expires_in: options.expires.map_or(0, |time| time.as_secs()),
    };
    let added: AddedKey = call(state, &request).map_err(|e| given_up(e.into()))?;
    let key = KeyId::parse(&added.id)
        .zip(PublicKey::parse(&added.server))
        .and_then(|(id, server)| Key::new(&options.name, id.0.get(), server, secret));
    let written = match key {
        Some(key) => hvckpt_files::replace(&out, key.to_text().as_bytes()).map_err(cannot),
        None => Err(Failed::Sentence(
            "the daemon's answer is not understood".to_owned(),
        )),
    };
    if let Err(failed) = written {
        // Nobody has the private key: the public one is of no use.
        let _ = call::<RevokedKey>(state, &Request::KeyRevoke { key: added.id });
        return Err(given_up(failed));
    }
    if !added.domain_running {
        log(format_args!(
            "note: no domain {} is running now",
            options.domain
        ));
    }
    if options.json {
        let file = out.display().to_string();
        return output(&to_json(&serde_json::json!({
            "id": added.id, "name": options.name, "domain": options.domain, "file": file,
        }))?);
    }
    output(&format!(
        "key {} ({}) for domain {} is in {shown}\n",
        options.name, added.id, options.domain
    ))
}

fn key_revoke(state: &Path, key: String) -> Result<(), Failed> {
    let revoked: RevokedKey = call(state, &Request::KeyRevoke { key })?;
    output(&format!(
        "key {} ({}) is revoked: {} unused tokens dropped, {} sessions ended\n",
        revoked.name, revoked.id, revoked.tokens, revoked.sessions
    ))?;
    if revoked.problems.is_empty() {
        return Ok(());
    }
    for problem in revoked.problems {
        log(format_args!("{problem}"));
    }
    Err(Failed::Silently)
}

fn end(state: &Path, domain: String, session: std::num::NonZeroU64) -> Result<(), Failed> {
    let ended: EndedSession = call(state, &Request::End { domain, session })?;
    if ended.sessions == 0 {
        return Err(Failed::Sentence(format!(
            "there is no live session {session}"
        )));
    }
    output(&format!("session {session} is ended\n"))
}

fn show_audit(state: &Path, count: usize, follow: bool, json: bool) -> Result<(), Failed> {
    fs::metadata(state)
        .map_err(|e| Failed::Sentence(format!("cannot read {}: {e}", state.display())))?;
    let form = |line: &audit::Line| match json {
        // Torn lines would break a reader of JSON.
        true if line.record.is_none() => String::new(),
        true => format!("{}\n", line.text),
        false => show::audit(line),
    };
    let mut following = if follow {
        Some(audit::Follow::start(state)?)
    } else {
        None
    };
    let seq = |line: &audit::Line| line.record.as_ref().map(|r| r.seq);
    let lines = audit::tail(state, count)?;
    // Written between the two readings: shown already.
    let shown = lines.iter().filter_map(seq).max();
    output(&lines.iter().map(form).collect::<String>())?;
    while let Some(follow) = &mut following {
        let mut lines = follow.next_lines()?;
        lines.retain(|line| seq(line).is_none() || seq(line) > shown);
        let text: String = lines.iter().map(form).collect();
        output(&text)?;
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn examine(state: &Path, json: bool) -> Result<(), Failed> {
    let checks = doctor::examine(state);
    output(&if json {
        to_json(&checks)?
    } else {
        show::checks(&checks)
    })?;
    if checks.iter().all(|c| c.ok) {
        Ok(())
    } else {
        Err(Failed::Silently)
    }
}
