// SPDX-License-Identifier: MIT OR Apache-2.0
//! Getting a session: key, policy daemon, token, attach.
//!
//! A process has one session with the hypervisor, shared by all its regions
//! and ended with the last of them.

#[cfg_attr(not(feature = "policy"), path = "attach/none.rs")]
mod daemon;

use core::ops::Deref;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::tracker::SimGate;
use hvckpt_sys::abi::{self, Mode};
use hvckpt_sys::fork;
use hvckpt_sys::gate::{self, GateError, Int84, Transport};
use hvckpt_sys::session::{OpError, Session, SessionError};
use hvckpt_sys::signal;

/// Environment variable which names the key file.
pub const ENV_KEY: &str = "HVCKPT_KEY";
/// Environment variable with the policy daemon's `host:port`.
pub const ENV_POLICY: &str = "HVCKPT_POLICY";

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the right to a session comes from.
#[derive(Clone)]
pub struct Attach {
    key: Option<PathBuf>,
    policy: Option<String>,
    timeout: Duration,
    token: Option<[u8; abi::CDA_TOKEN_BYTES]>,
}

impl Default for Attach {
    fn default() -> Self {
        Self {
            key: None,
            policy: None,
            timeout: TIMEOUT,
            token: None,
        }
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the token.
        f.debug_struct("Attach")
            .field("key", &self.key)
            .field("policy", &self.policy)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Attach {
    /// Key file and policy daemon from the environment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Key file, instead of [`ENV_KEY`].
    #[must_use]
    pub fn key(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = Some(path.into());
        self
    }

    /// Policy daemon as `host:port`, instead of [`ENV_POLICY`].
    #[must_use]
    pub fn policy(mut self, address: impl Into<String>) -> Self {
        self.policy = Some(address.into());
        self
    }

    /// How long to wait for the daemon; ten seconds unless told.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A token obtained elsewhere; neither key nor daemon are asked.  Tokens
    /// work once.
    #[must_use]
    pub fn token(mut self, token: [u8; abi::CDA_TOKEN_BYTES]) -> Self {
        self.token = Some(token);
        self
    }

    fn key_path(&self) -> Result<PathBuf, AttachError> {
        self.key
            .clone()
            .or_else(|| {
                std::env::var_os(ENV_KEY)
                    .filter(|v| !v.is_empty())
                    .map(PathBuf::from)
            })
            .ok_or(AttachError::NoKey)
    }

    fn address(&self) -> Result<String, AttachError> {
        self.policy
            .clone()
            .or_else(|| std::env::var(ENV_POLICY).ok().filter(|v| !v.is_empty()))
            .ok_or(AttachError::NoPolicy)
    }

    /// What the gate answers to `CDA_OP_version`.  A domain has none before its
    /// first token, which is asked for if need be, and not used.
    ///
    /// # Errors
    /// There is no gate, or the daemon gives no token.
    pub fn gate(&self) -> Result<u64, AttachError> {
        self.find_gate().map(|(offered, _)| offered)
    }

    fn find_gate(&self) -> Result<(u64, Option<[u8; abi::CDA_TOKEN_BYTES]>), AttachError> {
        match gate::capabilities() {
            Err(GateError::NoGate) => {
                let token = self.request_token().map_err(no_gate_or)?;
                Ok((gate::capabilities()?, Some(token)))
            }
            offered => Ok((offered?, None)),
        }
    }

    /// Whether a session for this mode may be had: what can be told without
    /// a token.
    pub(crate) fn offers(&self, mode: Mode) -> Result<(), AttachError> {
        let offered = match gate::capabilities() {
            // The domain's first token may open it.
            Err(GateError::NoGate) if self.token.is_some() => return Ok(()),
            Err(GateError::NoGate) => {
                self.key_path().and(self.address()).map_err(no_gate_or)?;
                return Ok(());
            }
            offered => offered?,
        };
        if offered & mode.capability() == 0 {
            return Err(GateError::NoCapability(mode.name()).into());
        }
        Ok(())
    }

    /// Asks the daemon for a one-time token.
    ///
    /// # Errors
    /// Everything up to [`AttachError::Refused`].
    pub fn request_token(&self) -> Result<[u8; abi::CDA_TOKEN_BYTES], AttachError> {
        if let Some(token) = self.token {
            return Ok(token);
        }
        daemon::request(self.key_path()?, self.address()?, self.timeout)
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no gate into the hypervisor.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// No key file was named.
    #[error(
        "no key: set HVCKPT_KEY to the key file, or name it; the administrator of Dom0 makes one"
    )]
    NoKey,
    /// No policy daemon was named.
    #[error("no policy daemon: set HVCKPT_POLICY to its host:port, or name it")]
    NoPolicy,
    /// The key file cannot be read.
    #[error("cannot read the key file {path}")]
    KeyUnreadable {
        /// The key file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner can use the key.
    #[error("the key file {path} has mode {mode:04o}, so others can use the key: chmod 600 {path}")]
    KeyOpen {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is there, but its content is wrong.
    #[cfg(feature = "policy")]
    #[error("{path} holds no key of a policy daemon (made by hvckpt-policy key add)")]
    KeyInvalid {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: hvckpt_wire::KeyError,
    },
    /// The policy daemon cannot be reached, or does not answer in time.
    #[cfg(feature = "policy")]
    #[error("cannot reach the policy daemon at {address}")]
    Unreachable {
        /// The daemon's address.
        address: String,
        /// What failed.
        #[source]
        source: hvckpt_wire::Error,
    },
    /// Who answered is not the daemon the key belongs to.
    #[cfg(feature = "policy")]
    #[error(
        "the server at {address} is not the policy daemon this key belongs to; check the address, or get a new key file if the daemon's key was changed on purpose"
    )]
    NotAuthentic {
        /// The server's address.
        address: String,
        /// What failed.
        #[source]
        source: hvckpt_wire::Error,
    },
    /// The daemon answered, but not in a way this library understands.
    #[cfg(feature = "policy")]
    #[error(
        "the server at {address} does not answer like a policy daemon of this version; check the address and both versions"
    )]
    Protocol {
        /// The daemon's address.
        address: String,
        /// What failed.
        #[source]
        source: hvckpt_wire::Error,
    },
    /// The program has no way to the daemon: feature `policy`.
    #[error(
        "this program was built without the way to the policy daemon; build hvckpt-track with the feature policy, or bring a token (Attach::token)"
    )]
    NoTransport,
    /// The daemon refuses the key.
    #[error("the policy daemon refuses the key: {}; ask its administrator", refusal(.reason, .text))]
    Refused {
        /// The reason's name.
        reason: &'static str,
        /// The daemon's explanation; may be empty.
        text: String,
        /// When to ask again; zero: no use, or unknown.
        retry_after: Duration,
    },
    /// The hypervisor refuses the token: unknown, used, expired, or issued
    /// for another domain.  A key belongs to one domain.
    #[error(
        "the hypervisor refuses the token: it was used, has expired, or is for another domain; a key works in its own domain only"
    )]
    TokenRefused,
    /// The key or the domain has as many sessions as it may.
    #[error("no more sessions allowed: {0}; end one, or ask the administrator for a larger limit")]
    Quota(String),
    /// Other code in this process (another copy of this library?) has a
    /// session, and a process has one only.
    #[error(
        "this process has a session which is not this library's; use one copy of the library in a process"
    )]
    ForeignSession,
    /// The session refuses.
    #[error(transparent)]
    Session(SessionError),
    /// The system refused something else.
    #[error("cannot set up a session")]
    Os(#[source] std::io::Error),
}

fn refusal(reason: &str, text: &str) -> String {
    if text.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason} ({text})")
    }
}

fn attach_error(error: OpError) -> AttachError {
    match error {
        OpError::Errno(libc::EACCES) => AttachError::TokenRefused,
        OpError::Errno(libc::EEXIST) => AttachError::ForeignSession,
        OpError::Errno(libc::ENOSPC | libc::ENOMEM) => {
            AttachError::Quota("the hypervisor's limits for this domain are reached".into())
        }
        other => AttachError::Session(other.session()),
    }
}

static SESSION: Mutex<Weak<Session>> = Mutex::new(Weak::new());

/// A share in a session.  The last one ends the session under the lock, so
/// that nobody attaches anew while the hypervisor still has the old one.
#[derive(Debug)]
pub(crate) struct SessionRef(Option<Arc<Session>>);

impl Deref for SessionRef {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl Drop for SessionRef {
    fn drop(&mut self) {
        // In a fork child the lock may be held by a thread which is not here.
        let _attaching =
            (!fork::is_child()).then(|| SESSION.lock().unwrap_or_else(PoisonError::into_inner));
        self.0 = None;
    }
}

/// The session of this process, opened if there is none, for this
/// mode of tracking.
pub(crate) fn current(attach: &Attach, mode: Mode) -> Result<SessionRef, AttachError> {
    // Before the lock, which another thread may have held when it forked.
    if fork::is_child() {
        return Err(AttachError::Session(SessionError::ForkChild));
    }
    fork::arm().map_err(AttachError::Os)?;
    let (offered, token) = attach.find_gate()?;
    if offered & mode.capability() == 0 {
        return Err(GateError::NoCapability(mode.name()).into());
    }
    let mut current = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = current.upgrade() {
        return Ok(SessionRef(Some(session)));
    }
    let token = token.map_or_else(|| attach.request_token(), Ok)?;
    // Should the domain be restored elsewhere, the gate may be gone.
    signal::catch_lost_gate().map_err(AttachError::Os)?;
    let session = Arc::new(Session::attach(Arc::new(Int84), token).map_err(attach_error)?);
    *current = Arc::downgrade(&session);
    Ok(SessionRef(Some(session)))
}

/// Who was not told where to ask for a token is told that there is no gate.
fn no_gate_or(error: AttachError) -> AttachError {
    match error {
        AttachError::NoKey | AttachError::NoPolicy => GateError::NoGate.into(),
        error => error,
    }
}

/// A session instead of `old`: the one which another region opened since, or,
/// if the hypervisor says that `old` has ended, a new one.
pub(crate) fn renewed(
    attach: &Attach,
    mode: Mode,
    old: &SessionRef,
    ended: bool,
) -> Result<SessionRef, AttachError> {
    {
        let mut current = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |session: &Arc<Session>| core::ptr::eq(&raw const **session, &raw const **old);
        if current.upgrade().is_none_or(|session| same(&session)) {
            if !ended {
                return Err(AttachError::ForeignSession);
            }
            *current = Weak::new();
        }
    }
    self::current(attach, mode)
}

/// A session of its own with a simulated hypervisor.
pub(crate) fn simulated(gate: SimGate) -> Result<SessionRef, AttachError> {
    fork::arm().map_err(AttachError::Os)?;
    let transport: Arc<dyn Transport> = Arc::new(gate);
    let session = Session::attach(transport, [1; abi::CDA_TOKEN_BYTES]).map_err(attach_error)?;
    Ok(SessionRef(Some(Arc::new(session))))
}
