// SPDX-License-Identifier: MIT OR Apache-2.0
//! The administrator's way in: a local socket in the state directory, for
//! root only, with one JSON line each way per connection.

pub mod client;
pub mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request, in octets.
pub const REQUEST_MAX: u64 = 64 << 10;

/// Longest reply, in octets.
pub const REPLY_MAX: u64 = 64 << 20;

/// Where the socket is.
#[must_use]
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// What the command line asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Is anybody there? Answered with a [`Status`].
    Status,
    /// Take a key. Answered with an [`AddedKey`].
    KeyAdd {
        /// Its name.
        name: String,
        /// Its public half, `ed25519:…`.
        public: String,
        /// Name or UUID of its domain.
        domain: String,
        /// See [`crate::policy::KeySpec`].
        sessions: u32,
        /// See [`crate::policy::KeySpec`].
        pages: u64,
        /// See [`crate::policy::KeySpec`].
        ranges: u32,
        /// Names of trackers, or `all`.
        modes: String,
        /// Seconds; 0: for ever.
        expires_in: u64,
    },
    /// Answered with a list of [`KeyInfo`].
    KeyList,
    /// Answered with a [`RevokedKey`].
    KeyRevoke {
        /// Name or number.
        key: String,
    },
    /// Answered with a list of [`SessionInfo`].
    Sessions {
        /// Only of this domain.
        domain: Option<String>,
    },
    /// End a session. Answered with an [`EndedSession`].
    End {
        /// Its domain.
        domain: String,
        /// Its number.
        session: std::num::NonZeroU64,
    },
    /// Answered with a [`LimitsInfo`].
    LimitsGet {
        /// Which domain.
        domain: String,
    },
    /// Answered with a [`LimitsInfo`].
    LimitsSet {
        /// Which domain.
        domain: String,
        /// What to change.
        changes: LimitChanges,
    },
    /// Answered with a [`CountersInfo`].
    Counters {
        /// Which domain.
        domain: String,
    },
}

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Ok(Value),
    /// It is not, and why.
    Error(String),
}

/// The daemon's own state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Its public key.
    pub server: String,
    /// Where it listens.
    pub listen: String,
    /// Whether it is confined as far as its kernel can.
    pub confined: bool,
    /// By what, in words.
    pub sandbox: String,
    /// Keys that are not revoked.
    pub keys: usize,
}

/// A key that was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddedKey {
    /// Its number, 16 hexadecimal digits.
    pub id: String,
    /// The daemon's public key.
    pub server: String,
    /// Whether its domain runs now.
    pub domain_running: bool,
}

/// A key, for display.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its number, 16 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, `expired`, `revoked`, ….
    pub status: String,
    /// Name or UUID of its domain.
    pub domain: String,
    /// Its public half.
    pub public: String,
    /// 0: the domain's limit only.
    pub sessions: u32,
    /// 0: the domain's default.
    pub pages: u64,
    /// 0: the domain's default.
    pub ranges: u32,
    /// Names of trackers.
    pub modes: String,
    /// Time in UTC.
    pub created: String,
    /// Time in UTC; absent: never.
    pub expires: Option<String>,
    /// Time in UTC; absent: it is not.
    pub revoked: Option<String>,
}

/// A key that was revoked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevokedKey {
    /// Its number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Unused tokens dropped.
    pub tokens: u32,
    /// Sessions ended.
    pub sessions: u32,
    /// What did not work.
    pub problems: Vec<String>,
}

/// A session, for display.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The domain's number.
    pub domid: u32,
    /// Its name.
    pub domain: Option<String>,
    /// The session's number.
    pub session: u64,
    /// Name of its key, if that is one of ours.
    pub key: Option<String>,
    /// The key's number.
    pub tag: String,
    /// Since it was attached, in milliseconds.
    pub age_ms: u64,
    /// Pages of 4 KiB registered.
    pub pages: u64,
    /// Ranges registered.
    pub ranges: u32,
    /// Revoked; the process has not noticed yet.
    pub ended: bool,
    /// Event counts.
    pub counters: CounterValues,
}

/// Event counts, as in `cda.h`; none where an older daemon has no such counter.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the names are those of the header
pub struct CounterValues {
    pub crossings: Option<u64>,
    pub restarts: Option<u64>,
    pub faults_fixed: Option<u64>,
    pub faults_forwarded: Option<u64>,
    pub faults_spurious: Option<u64>,
    pub faults_xen: Option<u64>,
    pub guest_updates: Option<u64>,
    pub write_protected: Option<u64>,
    pub walks: Option<u64>,
    pub forks: Option<u64>,
    pub flushes: Option<u64>,
    pub cycles: Option<u64>,
    pub watched: Option<u64>,
    pub heated: Option<u64>,
    pub cooled: Option<u64>,
    pub emulated: Option<u64>,
    pub degraded: Option<u64>,
}

impl From<crate::hypervisor::Counters> for CounterValues {
    fn from(c: crate::hypervisor::Counters) -> Self {
        Self {
            crossings: Some(c.crossings),
            restarts: Some(c.restarts),
            faults_fixed: Some(c.faults_fixed),
            faults_forwarded: Some(c.faults_forwarded),
            faults_spurious: Some(c.faults_spurious),
            faults_xen: Some(c.faults_xen),
            guest_updates: Some(c.guest_updates),
            write_protected: Some(c.write_protected),
            walks: Some(c.walks),
            forks: Some(c.forks),
            flushes: Some(c.flushes),
            cycles: Some(c.cycles),
            watched: Some(c.watched),
            heated: Some(c.heated),
            cooled: Some(c.cooled),
            emulated: Some(c.emulated),
            degraded: Some(c.degraded),
        }
    }
}

/// Whether a session was ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct EndedSession {
    /// 0 or 1.
    pub sessions: u32,
}

/// Limits to be changed; absent ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitChanges {
    /// Sessions of the domain.
    pub sessions: Option<u32>,
    /// Pages of all its sessions together.
    pub pages: Option<u64>,
    /// Ranges per session.
    pub ranges: Option<u32>,
    /// Tokens outstanding.
    pub tokens: Option<u32>,
    /// Never grant in Xen: log and forward faults to the guest.
    pub forward: Option<bool>,
}

/// Limits and use of a domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitsInfo {
    /// The domain's number.
    pub domid: u32,
    /// Its name.
    pub domain: Option<String>,
    /// Sessions it may have.
    pub max_sessions: u32,
    /// Sessions it has.
    pub used_sessions: u32,
    /// Pages all its sessions together may track.
    pub max_pages: u64,
    /// Pages they track.
    pub used_pages: u64,
    /// Tokens that may be outstanding.
    pub max_tokens: u32,
    /// Tokens that are.
    pub used_tokens: u32,
    /// Ranges per session.
    pub max_ranges: u32,
    /// Faults are never granted in Xen.
    pub forward: bool,
}

/// Event counts of a domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CountersInfo {
    /// The domain's number.
    pub domid: u32,
    /// Its name.
    pub domain: Option<String>,
    /// Since the domain was created, ended sessions included.
    pub counters: CounterValues,
}
