// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt backup`: serve, keys, status, promote.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hvckpt::backup::{
    BackupError, DEFAULT_PORT, Server, ServerOptions, Status, add_key, keys, promote, remove_key,
    status,
};
use hvckpt::explain;
use hvckpt::store::{StoreKey, StoreKeyError};
use serde_json::{Value, json};

/// It could not be done.
const FAILED: u8 = 2;

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Receive the versions of primaries and keep them, until it is killed.
    ///
    /// Each primary needs a key (hvckpt backup key add) and gets a directory of
    /// its own. Nothing is lost if this is killed at any moment: primaries
    /// connect again and go on where they were. Events go to standard error.
    Serve(Serve),
    /// Keys of primaries.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show what is kept of each primary.
    Status(Common),
    /// Make the backup's state of a primary the one that counts.
    ///
    /// From then on the primary is refused, whether it is still connected or
    /// comes back later, and its commits fail: they are not acknowledged any
    /// more. Only a primary which need not wait for its backup (require disk,
    /// degrade) and cannot reach it goes on alone until it can. The store can be
    /// opened at once by a new instance of the program. It works while the
    /// backup serves and while it does not. Doing it again changes nothing; after
    /// --to there is nothing left here to promote.
    Promote(Promote),
}

#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Make a key for a primary, and write the file which it needs.
    ///
    /// The file holds a secret: bring it to the primary unseen, mode 0600. For
    /// a name which is known the old key ends; a connection which was made with
    /// it stays until it closes.
    Add {
        #[command(flatten)]
        dir: NewDir,
        /// Name of the primary: letters, digits, '.', '_' and '-'.
        name: String,
        /// The file to write; it must not exist.
        #[arg(long)]
        out: PathBuf,
    },
    /// List primaries and their public keys.
    List(List),
    /// Take a key back: its primary is cut off within seconds. What is kept of
    /// it stays.
    Remove {
        #[command(flatten)]
        dir: Dir,
        /// Name of the primary.
        name: String,
    },
}

#[derive(Args, Debug)]
pub struct Dir {
    /// Directory of the backup.
    #[arg(long)]
    dir: PathBuf,
}

/// Of the commands which make it.
#[derive(Args, Debug)]
pub struct NewDir {
    /// Directory of the backup, mode 0700; made if it is missing.
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct StoreKeyFile {
    /// File with the key of encrypted stores, from hvckpt keygen.
    #[arg(long)]
    store_key: Option<PathBuf>,
}

impl StoreKeyFile {
    fn load(&self) -> Result<Option<StoreKey>, Failure> {
        let key = self.store_key.as_ref().map(StoreKey::load);
        Ok(key.transpose()?)
    }
}

#[derive(Args, Debug)]
pub struct Common {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    store: StoreKeyFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    dir: Dir,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct Serve {
    #[command(flatten)]
    dir: NewDir,
    #[command(flatten)]
    store: StoreKeyFile,
    /// Address and port to listen on.
    #[arg(long, default_value_t = format!("0.0.0.0:{DEFAULT_PORT}"))]
    listen: String,
    /// Versions of each primary which are kept at least.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Primaries connected at once; there are 32 places more for connections
    /// which have not proven a known key yet.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Connections at once from one address (IPv6: one /64) which have proven no
    /// known key; further ones take turns with them.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_peer: u32,
    /// Seconds after which a silent connection is closed.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout: u64,
}

#[derive(Args, Debug)]
pub struct Promote {
    #[command(flatten)]
    common: Common,
    /// Name of the primary.
    name: String,
    /// Move the store there, on the same file system; the backup is then free
    /// for the next primary with this key. Without it the store stays where it
    /// is.
    #[arg(long)]
    to: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    StoreKey(#[from] StoreKeyError),
    #[error("cannot write {0}")]
    Output(PathBuf, #[source] io::Error),
    #[error("cannot print")]
    Print(#[source] io::Error),
}

pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Serve(serve) => served(&serve),
        Command::Key(KeyCommand::Add { dir, name, out }) => added(&dir.dir, &name, &out),
        Command::Key(KeyCommand::List(common)) => listed(&common),
        Command::Key(KeyCommand::Remove { dir, name }) => removed(&dir.dir, &name),
        Command::Status(common) => shown(&common),
        Command::Promote(promote) => promoted(&promote),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::complain(&explain(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    crate::print(text).map_err(Failure::Print)
}

fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

fn served(serve: &Serve) -> Result<(), Failure> {
    let mut options = ServerOptions::new(absolute(&serve.dir.dir), &serve.listen);
    options.store.keep = serve.keep as usize;
    options.store.key = serve.store.load()?;
    options.connections = serve.max_connections as usize;
    options.per_address = serve.max_connections_per_peer as usize;
    options.idle = Duration::from_secs(serve.idle_timeout);
    options.log = Arc::new(|line| {
        // A closed terminal does not end the backup.
        let _unheard = writeln!(io::stderr(), "hvckpt backup: {line}");
    });
    let server = Server::start(options)?;
    print(&format!("listening on {}", server.address()))?;
    server.wait();
    Ok(())
}

fn added(dir: &Path, name: &str, out: &Path) -> Result<(), Failure> {
    let output = |error| Failure::Output(out.to_owned(), error);
    // First, so that no key is replaced for nothing.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(output)?;
    let added = add_key(dir, name).map_err(Failure::from).and_then(|key| {
        file.write_all(key.to_text().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(output)
    });
    added.inspect_err(|_| {
        // The error at hand says more.
        let _left = std::fs::remove_file(out);
    })?;
    print(&format!("the key of {name} is in {}", out.display()))
}

fn removed(dir: &Path, name: &str) -> Result<(), Failure> {
    remove_key(dir, name)?;
    print(&format!("the key of {name} is taken back"))
}

fn listed(common: &List) -> Result<(), Failure> {
    let keys = keys(&common.dir.dir)?;
    if common.json {
        let list: Vec<Value> = keys
            .iter()
            .map(|(name, key)| json!({"name": name, "public": key.to_string()}))
            .collect();
        return print(&format!("{:#}", Value::Array(list)));
    }
    let lines: Vec<String> = keys
        .iter()
        .map(|(name, key)| format!("{name:<24} {key}"))
        .collect();
    print(&lines.join("\n"))
}

fn as_json(status: &Status) -> Value {
    let contact = status
        .contact
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    json!({
        "name": status.name,
        "epoch": status.epoch,
        "promoted": status.promoted,
        "version": status.version,
        "connected": status.connected,
        "peer": status.peer.map(|peer| peer.to_string()),
        "primary_version": status.primary_version,
        "contact": contact.map(|since| since.as_secs()),
        "path": status.path.display().to_string(),
    })
}

fn shown(common: &Common) -> Result<(), Failure> {
    let all = status(&absolute(&common.dir.dir), common.store.load()?.as_ref())?;
    if common.json {
        return print(&format!(
            "{:#}",
            Value::Array(all.iter().map(as_json).collect())
        ));
    }
    let mut lines = vec![format!(
        "{:<24} {:>5} {:<10} {:>12} {:>12} {:<22} {}",
        "PRIMARY", "EPOCH", "STATE", "VERSION", "PRIMARY HAS", "PEER", "STORE"
    )];
    for status in &all {
        let state = match (status.promoted, status.connected, status.version) {
            (true, ..) => "promoted",
            (_, true, _) => "connected",
            (_, _, None) => "empty",
            _ => "waiting",
        };
        lines.push(format!(
            "{:<24} {:>5} {state:<10} {:>12} {:>12} {:<22} {}",
            status.name,
            status.epoch,
            status
                .version
                .map_or("-".to_owned(), |version| version.to_string()),
            match status.primary_version {
                0 => "-".to_owned(),
                version => version.to_string(),
            },
            status.peer.map_or("-".to_owned(), |peer| peer.to_string()),
            status.path.display()
        ));
    }
    print(&lines.join("\n"))
}

fn promoted(command: &Promote) -> Result<(), Failure> {
    let dir = absolute(&command.common.dir.dir);
    let key = command.common.store.load()?;
    let done = promote(&dir, &command.name, command.to.as_deref(), key.as_ref())?;
    if command.common.json {
        return print(&format!(
            "{:#}",
            json!({
                "name": done.name,
                "epoch": done.epoch,
                "version": done.version,
                "path": done.path.display().to_string(),
            })
        ));
    }
    print(&format!(
        "{}: epoch {} has begun with version {}; open {}",
        done.name,
        done.epoch,
        done.version,
        done.path.display()
    ))
}
