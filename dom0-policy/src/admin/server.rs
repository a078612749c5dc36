// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's end of the local socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hvckpt_wire::listen::{self, Door, Limits, Pass, Stop, Visit};
use hvckpt_wire::{ModeSet, PublicKey};
use serde_json::{Value, json};

use super::{
    AddedKey, CountersInfo, EndedSession, KeyInfo, LimitChanges, LimitsInfo, REQUEST_MAX, Reply,
    Request, RevokedKey, SessionInfo, Status,
};
use crate::hypervisor::{self, Domain};
use crate::keys::{DomainRef, Key};
use crate::policy::{Failure, KeySpec, ListedSession, Policy};
use crate::sandbox::Confinement;
use crate::units;

/// For a whole read or write. Administrators are trusted, their programs may
/// hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at a time. One that hangs makes room for one that asks.
pub const LIMITS: Limits = Limits {
    connections: 16,
    per_peer: 16,
    deadline: PATIENCE,
};

/// What is shared by all connections.
#[derive(Debug)]
pub struct Admin {
    /// Decides.
    pub policy: Arc<Policy>,
    /// The daemon's public key.
    pub server: PublicKey,
    /// Where it listens, for display.
    pub listen: String,
    /// What holds the daemon, for display.
    pub confinement: Confinement,
}

/// Opens the socket. The state directory's lock must be held: a socket which
/// is there already is then a dead one.
///
/// # Errors
/// From the file system.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The daemon's umask keeps others out from the first moment on.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until told to stop.
pub fn serve(listener: &UnixListener, admin: &Arc<Admin>, door: &Door, stop: &Stop) {
    listen::serve(
        listener,
        door,
        stop,
        |visit| {
            let admin = Arc::clone(admin);
            let spawned = thread::Builder::new()
                .name("admin".to_owned())
                .spawn(move || {
                    let Visit { stream, pass, .. } = visit;
                    let outcome = catch_unwind(AssertUnwindSafe(|| answer(&stream, &pass, &admin)));
                    if let Ok(Err(error)) = outcome {
                        crate::log(format_args!("local socket: {error}"));
                    }
                });
            if let Err(error) = spawned {
                crate::log(format_args!("cannot start a thread: {error}"));
            }
        },
        |_, _| {},
        |error| crate::log(format_args!("cannot accept on the local socket: {error}")),
    );
}

fn answer(stream: &UnixStream, pass: &Pass, admin: &Admin) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let uid = peer.uid.as_raw();
    // Root, or whoever runs the daemon.
    let reply = if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        Reply::Error("only root may manage keys".to_owned())
    } else {
        let by = format!("uid {uid} pid {}", peer.pid.as_raw_nonzero());
        let mut line = Vec::new();
        BufReader::new(stream)
            .take(REQUEST_MAX)
            .read_until(b'\n', &mut line)?;
        // Not to be closed in the middle of what was asked for.
        if !pass.prove(by.as_bytes()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match serde_json::from_slice(&line) {
            Ok(request) => match perform(request, admin, &by) {
                Ok(value) => Reply::Ok(value),
                Err(failure) => Reply::Error(failure.to_string()),
            },
            Err(error) => Reply::Error(format!("request not understood: {error}")),
        }
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    (&*stream).write_all(&line)
}

fn perform(request: Request, admin: &Admin, by: &str) -> Result<Value, Failure> {
    let policy = &admin.policy;
    let value = match request {
        Request::Status => json!(Status {
            pid: std::process::id(),
            server: admin.server.to_string(),
            listen: admin.listen.clone(),
            confined: admin.confinement.holds(),
            sandbox: admin.confinement.to_string(),
            keys: policy.keys().iter().filter(|k| k.revoked.is_none()).count(),
        }),
        Request::KeyAdd {
            name,
            public,
            domain,
            sessions,
            pages,
            ranges,
            modes,
            expires_in,
        } => {
            let invalid = |what: &str| Failure::Invalid(what.to_owned());
            let spec = KeySpec {
                name,
                public: PublicKey::parse(&public).ok_or(invalid("not a public key"))?,
                domain: DomainRef::parse(&domain).map_err(Failure::Invalid)?,
                sessions,
                pages,
                ranges,
                modes: ModeSet::parse(&modes).ok_or(invalid("unknown tracker"))?,
                expires_in,
            };
            let (key, domain_running) = policy.add_key(spec, by)?;
            let server = admin.server.to_string();
            json!(AddedKey {
                id: key.id.to_string(),
                server,
                domain_running
            })
        }
        Request::KeyList => {
            let now = units::now();
            json!(
                policy
                    .keys()
                    .iter()
                    .map(|k| key_info(k, now))
                    .collect::<Vec<_>>()
            )
        }
        Request::KeyRevoke { key } => {
            let (key, out) = policy.revoke_key(&key, by)?;
            json!(RevokedKey {
                id: key.id.to_string(),
                name: key.name,
                tokens: out.tokens,
                sessions: out.sessions,
                problems: out.problems,
            })
        }
        Request::Sessions { domain } => {
            let sessions = policy.sessions(domain.as_deref())?;
            json!(sessions.into_iter().map(session_info).collect::<Vec<_>>())
        }
        Request::End { domain, session } => {
            let ended = policy.end_session(&domain, session, by)?;
            json!(EndedSession {
                sessions: ended.sessions
            })
        }
        Request::LimitsGet { domain } => json!(limits_info(policy.limits(&domain)?)),
        Request::LimitsSet { domain, changes } => {
            json!(limits_info(policy.change_limits(
                &domain,
                |l| apply(changes, l),
                by
            )?))
        }
        Request::Counters { domain } => {
            let (domain, counters) = policy.counters(&domain)?;
            json!(CountersInfo {
                domid: domain.domid,
                domain: domain.name,
                counters: counters.into(),
            })
        }
    };
    Ok(value)
}

fn key_info(key: &Key, now: u64) -> KeyInfo {
    KeyInfo {
        id: key.id.to_string(),
        name: key.name.clone(),
        status: key.status(now).to_owned(),
        domain: key.domain.to_string(),
        public: key.public.to_string(),
        sessions: key.sessions,
        pages: key.pages,
        ranges: key.ranges,
        modes: key.modes.to_string(),
        created: units::rfc3339(key.created),
        expires: (key.expires != 0).then(|| units::rfc3339(key.expires)),
        revoked: key.revoked.map(units::rfc3339),
    }
}

fn session_info(listed: ListedSession) -> SessionInfo {
    let session = listed.session;
    SessionInfo {
        domid: listed.domain.domid,
        domain: listed.domain.name,
        session: session.id,
        key: listed.key.map(|(_, name)| name),
        tag: format!("{:016x}", session.tag),
        age_ms: u64::try_from(session.age.as_millis()).unwrap_or(u64::MAX),
        pages: session.pages,
        ranges: session.ranges,
        ended: session.ended,
        counters: session.counters.into(),
    }
}

fn limits_info((domain, limits): (Domain, hypervisor::Limits)) -> LimitsInfo {
    LimitsInfo {
        domid: domain.domid,
        domain: domain.name,
        max_sessions: limits.max_sessions,
        used_sessions: limits.used_sessions,
        max_pages: limits.max_pages,
        used_pages: limits.used_pages,
        max_tokens: limits.max_tokens,
        used_tokens: limits.used_tokens,
        max_ranges: limits.max_ranges,
        forward: limits.flags & xen_sys::abi::CDA_LIMIT_FORWARD != 0,
    }
}

fn apply(changes: LimitChanges, limits: &mut hypervisor::Limits) {
    limits.max_sessions = changes.sessions.unwrap_or(limits.max_sessions);
    limits.max_pages = changes.pages.unwrap_or(limits.max_pages);
    limits.max_ranges = changes.ranges.unwrap_or(limits.max_ranges);
    limits.max_tokens = changes.tokens.unwrap_or(limits.max_tokens);
    match changes.forward {
        Some(true) => limits.flags |= xen_sys::abi::CDA_LIMIT_FORWARD,
        Some(false) => limits.flags &= !xen_sys::abi::CDA_LIMIT_FORWARD,
        None => {}
    }
}
