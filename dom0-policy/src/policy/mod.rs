// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decisions. One lock is held from looking a key up until the decision
//! is in the audit log, so that a revocation falls before or after a grant,
//! never inside; the network is never waited for under it.

mod expiry;
mod manage;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hvckpt_wire::frame::FrameError;
use hvckpt_wire::random;
use hvckpt_wire::token::Answer;
use hvckpt_wire::{Grant, PublicKey, Reason, Refusal, Request};

pub use manage::{Ended, Failure, KeySpec, ListedSession, RevokeOutcome};

use crate::audit::{AuditLog, Record};
use crate::hypervisor::{Domain, HvError, Hypervisor, Token};
use crate::keys::{Key, KeyId, KeyStore};
use crate::limits::{Bucket, Rate};
use crate::{lock, units};

/// What an administrator may choose when starting the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Life of an unused token, 1 ms to 1 h.
    pub token_lifetime: Duration,
    /// Requests with one key.
    pub key_rate: Rate,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(30),
            key_rate: Rate {
                per_second: 5.0,
                burst: 100,
            },
        }
    }
}

/// Lines which strangers, or keys over their rate, can cause in the audit
/// log: about 3 MB a day at most.
const NOISE: Rate = Rate {
    per_second: 0.1,
    burst: 20,
};

/// Everything that decides.
#[derive(Debug)]
pub struct Policy {
    inner: Mutex<Inner>,
    options: Options,
    /// Seconds since 1970; tests replace it.
    clock: fn() -> u64,
}

#[derive(Debug)]
struct Inner {
    keys: KeyStore,
    audit: AuditLog,
    hypervisor: Box<dyn Hypervisor>,
    rates: HashMap<KeyId, Bucket>,
    noise: Bucket,
    suppressed: u64,
    /// Keys of which it was said that the hypervisor could not be told.
    complained: HashSet<KeyId>,
}

/// A refusal in the making: reason, and words for the audit log and for the
/// client.
struct No {
    reason: Reason,
    detail: String,
    retry_after: Duration,
}

impl No {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry_after: Duration::ZERO,
        }
    }
}

impl From<HvError> for No {
    fn from(error: HvError) -> Self {
        let reason = match error {
            HvError::NoXen(_) | HvError::NoSupport | HvError::Unsupported => {
                Reason::NoHypervisorSupport
            }
            HvError::NoDomain => Reason::DomainNotRunning,
            HvError::Full => Reason::Quota,
            _ => Reason::HypervisorRefused,
        };
        Self::new(reason, error.to_string())
    }
}

impl Policy {
    /// Puts it together.
    #[must_use]
    pub fn new(
        keys: KeyStore,
        audit: AuditLog,
        hypervisor: Box<dyn Hypervisor>,
        options: Options,
    ) -> Self {
        let inner = Inner {
            keys,
            audit,
            hypervisor,
            rates: HashMap::new(),
            noise: Bucket::new(NOISE, Instant::now()),
            suppressed: 0,
            complained: HashSet::new(),
        };
        Self {
            inner: Mutex::new(inner),
            options,
            clock: units::now,
        }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> u64) -> Self {
        self.clock = clock;
        self
    }

    /// Decides on what a client that has proven `public` asks for. Whatever
    /// goes wrong becomes a refusal.
    #[must_use]
    pub fn decide(
        &self,
        public: PublicKey,
        request: Result<Request, FrameError>,
        peer: SocketAddr,
    ) -> Answer {
        let inner = &mut *lock(&self.inner);
        let Some(key) = inner.keys.by_public(public).cloned() else {
            let mut record = Record::new("token", "refused")
                .peer(peer)
                .reason("unknown-key");
            record.id = Some(public.to_string());
            inner.noise(record);
            return Answer::Refusal(Refusal::new(Reason::UnknownKey, ""));
        };
        let decision = self.decide_for(inner, &key, request, peer);
        match decision {
            Ok(grant) => Answer::Grant(grant),
            Err(no) => {
                let record = Record {
                    peer: Some(peer.to_string()),
                    ..about(&key)
                }
                .reason(no.reason.name())
                .detail(&no.detail);
                // What the holder of a key can cause at will is bounded, so
                // that it cannot push other lines out of the log.
                let at_will = [
                    Reason::RateLimited,
                    Reason::Revoked,
                    Reason::Expired,
                    Reason::Malformed,
                    Reason::ModeNotAllowed,
                ];
                if at_will.contains(&no.reason) {
                    inner.noise(record);
                } else {
                    // A refusal stands whether or not it could be recorded.
                    let _ = inner.audit.append(record);
                }
                let mut refusal = Refusal::new(no.reason, &no.detail);
                refusal.retry_after = no.retry_after;
                Answer::Refusal(refusal)
            }
        }
    }

    fn decide_for(
        &self,
        inner: &mut Inner,
        key: &Key,
        request: Result<Request, FrameError>,
        peer: SocketAddr,
    ) -> Result<Grant, No> {
        inner.check_rate(key.id, self.options.key_rate)?;
        let request = request.map_err(|e| No::new(Reason::Malformed, e.to_string()))?;
        if key.revoked.is_some() {
            return Err(No::new(Reason::Revoked, ""));
        }
        let now = (self.clock)();
        if key.expired(now) {
            let when = units::rfc3339(key.expires);
            return Err(No::new(Reason::Expired, format!("since {when}")));
        }
        let version = inner.hypervisor.version()?;
        let modes = key.modes & version.modes;
        if !modes.contains(request.modes) || modes.is_empty() {
            let detail = format!("this key has {modes} here");
            return Err(No::new(Reason::ModeNotAllowed, detail));
        }
        inner.audit.check().map_err(|_| unavailable("audit log"))?;
        let domid = inner.resolve(key)?;
        inner.check_sessions(key, domid)?;

        // Xen counts a token's life by a clock which nobody sets. It ends with
        // the key's at the latest.
        let lifetime = match key.expires {
            0 => self.options.token_lifetime,
            end => self
                .options
                .token_lifetime
                .min(Duration::from_secs(end - now)),
        };
        let mut grant = Grant::new([0; 16], lifetime, domid, key.id.0.get());
        random(&mut grant.token).map_err(|_| unavailable("random numbers"))?;
        grant.max_pages = stricter(key.pages, request.max_pages);
        grant.max_ranges = stricter(key.ranges, request.max_ranges);
        grant.max_sessions = key.sessions;
        grant.modes = modes;
        grant.expires = key.expires;

        inner.remember_domid(key, domid)?;
        inner.hypervisor.add_token(&Token {
            domid,
            token: grant.token,
            tag: grant.tag,
            lifetime: grant.lifetime,
            max_pages: grant.max_pages,
            max_ranges: grant.max_ranges,
            max_sessions: grant.max_sessions,
            modes,
        })?;
        // From here on the token exists but nobody knows it; it is told only
        // once the decision is on disk, and else expires unused.
        let record = Record {
            decision: "granted".to_owned(),
            domid: Some(domid),
            peer: Some(peer.to_string()),
            ..about(key)
        };
        inner
            .audit
            .append(record)
            .map_err(|_| unavailable("audit log"))?;
        Ok(grant)
    }

    /// Records that a connection came to nothing before a key was proven.
    pub fn note_connection(&self, peer: SocketAddr, reason: &str, detail: &str) {
        let record = Record::new("connection", "refused")
            .peer(peer)
            .reason(reason)
            .detail(detail);
        lock(&self.inner).noise(record);
    }

    /// Whether there is such a key, and it was not revoked.
    #[must_use]
    pub fn knows(&self, public: PublicKey) -> bool {
        let inner = lock(&self.inner);
        let key = inner.keys.by_public(public);
        key.is_some_and(|key| key.revoked.is_none())
    }

    /// Records an event of the daemon itself.
    ///
    /// # Errors
    /// When the audit log cannot be written.
    pub fn note(&self, record: Record) -> std::io::Result<()> {
        lock(&self.inner).audit.append(record)
    }
}

impl Inner {
    fn check_rate(&mut self, id: KeyId, rate: Rate) -> Result<(), No> {
        let now = Instant::now();
        let bucket = self
            .rates
            .entry(id)
            .or_insert_with(|| Bucket::new(rate, now));
        bucket.take(now).map_err(|retry_after| No {
            retry_after,
            ..No::new(Reason::RateLimited, "")
        })
    }

    /// The one running domain which the key is for.
    fn resolve(&mut self, key: &Key) -> Result<u32, No> {
        let domains = self.hypervisor.domains()?;
        let found: Vec<&Domain> = domains.iter().filter(|d| key.domain.matches(d)).collect();
        match found[..] {
            [only] => Ok(only.domid),
            [] => Err(No::new(Reason::DomainNotRunning, key.domain.to_string())),
            _ => Err(No::new(Reason::DomainAmbiguous, key.domain.to_string())),
        }
    }

    /// Says no early, with the right reason, when Xen would at attach.
    fn check_sessions(&mut self, key: &Key, domid: u32) -> Result<(), No> {
        if key.sessions == 0 {
            return Ok(());
        }
        let sessions = self.hypervisor.sessions(domid)?;
        let live = sessions
            .iter()
            .filter(|s| s.tag == key.id.0.get() && !s.ended)
            .count();
        if u32::try_from(live).is_ok_and(|n| n < key.sessions) {
            return Ok(());
        }
        Err(No::new(
            Reason::Quota,
            format!("{live} sessions with this key are live"),
        ))
    }

    /// Keeps the list of places where a revocation has to reach, on disk
    /// before the first token goes there.
    fn remember_domid(&mut self, key: &Key, domid: u32) -> Result<(), No> {
        if key.domids.contains(&domid) {
            return Ok(());
        }
        // Domains which are gone took their sessions with them.
        let running = self.hypervisor.domains()?;
        self.keys
            .change(key.id, |k| {
                k.domids
                    .retain(|old| running.iter().any(|d| d.domid == *old));
                k.domids.insert(domid);
            })
            .map_err(|_| unavailable("key file"))
    }

    /// Writes a line that anybody can cause, unless there were too many.
    fn noise(&mut self, record: Record) {
        if self.noise.take(Instant::now()).is_err() {
            self.suppressed += 1;
            return;
        }
        let suppressed = (self.suppressed > 0).then_some(self.suppressed);
        if self
            .audit
            .append(Record {
                suppressed,
                ..record
            })
            .is_ok()
        {
            self.suppressed = 0;
        }
    }
}

fn about(key: &Key) -> Record {
    Record {
        key: Some(key.name.clone()),
        id: Some(key.id.to_string()),
        domain: Some(key.domain.to_string()),
        ..Record::new("token", "refused")
    }
}

fn unavailable(what: &str) -> No {
    No::new(
        Reason::Unavailable,
        format!("{what} cannot be written or read"),
    )
}

/// The smaller of two limits, 0 meaning none.
fn stricter<T: Ord + Default + Copy>(a: T, b: T) -> T {
    let none = T::default();
    match (a == none, b == none) {
        (true, _) => b,
        (_, true) => a,
        _ => a.min(b),
    }
}
