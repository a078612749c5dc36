// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: what may be typed. [`run`] does it.

mod commands;
mod show;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hvckpt_wire::{ModeSet, valid_name};

use crate::keys::DomainRef;
use crate::{audit, units};

pub use commands::run;

/// Decides which guest applications may checkpoint through the hypervisor.
///
/// Run it as root in Dom0. `serve` is the daemon; the other commands manage
/// it through a local socket in the state directory. `audit` and `doctor` work
/// without it, too.
#[derive(Debug, Parser)]
#[command(name = "hvckpt-policy", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// State directory: keys, audit log, local socket
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/hvckpt"
    )]
    pub state: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 the daemon is not running.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    #[command(after_help = "\
Examples:
  hvckpt-policy serve --listen 10.84.0.1:4884
  hvckpt-policy serve --listen [fd84::1]:4884 --state /srv/hvckpt --token-lifetime 10s

Stops on SIGTERM or SIGINT. Also runs where the hypervisor cannot issue tokens,
and then refuses them with the reason; `hvckpt-policy doctor` shows what is missing.")]
    Serve(Serve),
    /// Add, list and revoke keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// List the sessions of guests, with counters
    #[command(after_help = "\
Examples:
  hvckpt-policy sessions
  hvckpt-policy sessions --domain web1 --json")]
    Sessions {
        /// Only of this domain (name, UUID or number)
        #[arg(long, value_name = "DOMAIN")]
        domain: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End one session at once
    #[command(after_help = "\
Example:
  hvckpt-policy end 17 --domain web1

The application's next operation fails: \"the administrator ended the session or
revoked the key\". Its key stays good: it may attach again. Use `key revoke` to keep it out.")]
    End {
        /// Number of the session, from `sessions`
        session: NonZeroU64,
        /// Its domain (name, UUID or number)
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
    },
    /// Show or change what a domain may use
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Show event counts of a domain since it was created, ended sessions included
    #[command(after_help = "\
Example:
  hvckpt-policy counters --domain web1")]
    Counters {
        /// The domain (name, UUID or number)
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the audit log
    #[command(after_help = "\
Examples:
  hvckpt-policy audit -n 50
  hvckpt-policy audit --json --follow

Reads the files in the state directory; works without the daemon, too.")]
    Audit {
        /// Lines from the end
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        lines: usize,
        /// Go on with lines as they are written
        #[arg(long)]
        follow: bool,
        /// Print the lines as they are in the file, but no torn ones
        #[arg(long)]
        json: bool,
    },
    /// Check hypervisor, toolstack, daemon, its address and sandbox, and keys
    #[command(after_help = "\
Example:
  hvckpt-policy doctor --json

Exits with 0 if all of it is as it should be, else with 1: also where tokens can be
issued, but no guest reaches the daemon, or nothing confines it. Changes nothing.")]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Life of a token that is not used (1s to 1h)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = token_lifetime)]
    pub token_lifetime: Duration,
    /// Connections at a time that have proven a known key; there are 32 places
    /// more for others
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count)]
    pub max_connections: usize,
    /// Connections at a time from one address (IPv6: one /64) that have proven
    /// no known key; further ones take turns with them
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub max_connections_per_peer: usize,
    /// Time for a whole connection, handshake included
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub deadline: Duration,
    /// Requests per second with one key
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = rate)]
    pub key_rate: f64,
    /// Requests at once with one key, after a pause
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub key_burst: u32,
    /// Octets in an audit file before the next is begun
    #[arg(long, value_name = "N", default_value_t = audit::DEFAULT_BYTES,
        value_parser = clap::value_parser!(u64).range(4096..))]
    pub audit_max_bytes: u64,
    /// Old audit files kept
    #[arg(long, value_name = "N", default_value_t = audit::DEFAULT_KEEP,
        value_parser = clap::value_parser!(u32).range(..=1000))]
    pub audit_keep: u32,
    /// Do not confine the process with landlock and seccomp: for debuggers only
    #[arg(long)]
    pub no_sandbox: bool,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key for applications of one domain
    #[command(after_help = "\
Examples:
  hvckpt-policy key add --domain web1 --out web1.key web1
  hvckpt-policy key add --domain 0f0e0d0c-0b0a-0908-0706-050403020100 \\
      --sessions 4 --pages 262144 --expires 30d db

The file holds the private key, which the daemon never sees: copy it into the
domain, mode 0600, and delete it here. A domain's UUID is safer than its name,
which another domain may bear one day.")]
    Add(KeyAdd),
    /// List keys
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key at once and end its sessions
    #[command(after_help = "\
Example:
  hvckpt-policy key revoke web1

No token is issued from then on, unused ones are dropped and live sessions ended
in the hypervisor. May be repeated if something failed.")]
    Revoke {
        /// Name of the key, or its ID from `key list`
        #[arg(value_name = "NAME|ID")]
        key: String,
    },
}

/// Options of `key add`.
#[derive(Debug, Args)]
pub struct KeyAdd {
    /// Name of the key: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first
    #[arg(value_parser = key_name)]
    pub name: String,
    /// The domain it is for, by name or UUID; it need not run yet
    #[arg(long, value_name = "NAME|UUID", value_parser = domain)]
    pub domain: String,
    /// Where to write the key file [default: NAME.key]; never overwrites
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Live sessions at a time (0: the domain's limit only)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sessions: u32,
    /// Pages of 4 KiB per session (0: the domain's limit only)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub pages: u64,
    /// Ranges per session (0: the domain's limit only)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ranges: u32,
    /// Trackers its sessions may use, as ptxen,autoxen; the hypervisor enforces
    /// it
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = modes)]
    pub modes: String,
    /// Time after which it gets no more tokens and its sessions end, as 30d
    /// [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub expires: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Show limits and use
    Get {
        /// The domain (name, UUID or number)
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change limits; those not named stay
    #[command(after_help = "\
Example:
  hvckpt-policy limits set --domain web1 --sessions 8 --pages 1048576

Limits hold until the domain ends; a domain that starts anew has the
hypervisor's defaults.")]
    Set(LimitsSet),
}

/// Options of `limits set`.
#[derive(Debug, Args)]
pub struct LimitsSet {
    /// The domain (name, UUID or number)
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// Sessions of the domain
    #[arg(long, value_name = "N")]
    pub sessions: Option<u32>,
    /// Pages of 4 KiB, all sessions together
    #[arg(long, value_name = "N")]
    pub pages: Option<u64>,
    /// Ranges per session, 500 at most
    #[arg(long, value_name = "N")]
    pub ranges: Option<u32>,
    /// Tokens issued and not yet used, 64 at most
    #[arg(long, value_name = "N")]
    pub tokens: Option<u32>,
    /// Whether page faults are always left to the guest kernel
    #[arg(long, value_name = "BOOL")]
    pub forward: Option<bool>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn token_lifetime(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
        .ok()
        .filter(|time| time.as_secs() <= 3600)
        .ok_or_else(|| "expected 1s to 1h".to_owned())
}

fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=100_000).contains(n))
        .ok_or_else(|| "expected 1 to 100000".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|n| (0.001..=1e6).contains(n))
        .ok_or_else(|| "expected 0.001 to 1000000".to_owned())
}

fn key_name(text: &str) -> Result<String, String> {
    if valid_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first".to_owned())
    }
}

fn domain(text: &str) -> Result<String, String> {
    DomainRef::parse(text).map(|_| text.to_owned())
}

fn modes(text: &str) -> Result<String, String> {
    ModeSet::parse(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| "expected all, or some of ptxen,emulxen,scanxen,autoxen".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn state_may_stand_anywhere() {
        let args = "hvckpt-policy key add --state /s --domain domu --out /tmp/guest.key guest";
        let cli = Cli::try_parse_from(args.split(' ')).unwrap();
        assert_eq!(cli.state, PathBuf::from("/s"));
        let Command::Key(KeyCommand::Add(add)) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!((&add.name[..], &add.domain[..]), ("guest", "domu"));
    }

    #[test]
    fn wrong_values_are_refused() {
        for args in [
            "hvckpt-policy key add --domain domu ../x",
            "hvckpt-policy key add --domain domu --modes ptxen,x k",
            "hvckpt-policy key add --domain domu --expires soon k",
            "hvckpt-policy serve --listen here",
            "hvckpt-policy serve --listen 127.0.0.1:0 --token-lifetime 2h",
            "hvckpt-policy serve --listen 127.0.0.1:0 --key-burst 0",
            "hvckpt-policy serve --listen 127.0.0.1:0 --audit-max-bytes 1",
            "hvckpt-policy serve --listen 127.0.0.1:0 --audit-keep 4294967295",
            "hvckpt-policy end 0 --domain domu",
        ] {
            assert!(Cli::try_parse_from(args.split(' ')).is_err(), "{args}");
        }
    }
}
