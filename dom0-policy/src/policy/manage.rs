// SPDX-License-Identifier: MIT OR Apache-2.0
//! What administrators may do.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use hvckpt_wire::random;
use hvckpt_wire::{ModeSet, PublicKey};

use super::{Inner, Policy};
use crate::audit::Record;
use crate::hypervisor::{Counters, Domain, HvError, Limits, Session, Which};
use crate::keys::{DomainRef, Key, KeyId};
use crate::lock;

/// Why an administrator's wish was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The wish makes no sense: unknown key, name taken, ….
    #[error("{0}")]
    Invalid(String),
    /// State or audit log cannot be written.
    #[error("{0}")]
    Storage(String),
    /// The hypervisor, or the toolstack, refused.
    #[error("{0}")]
    Hypervisor(#[from] HvError),
}

/// A key to be added.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// Its name.
    pub name: String,
    /// Its public half.
    pub public: PublicKey,
    /// The domain it is for.
    pub domain: DomainRef,
    /// Live sessions at a time; 0: the domain's limit only.
    pub sessions: u32,
    /// Pages of 4 KiB per session; 0: the domain's default.
    pub pages: u64,
    /// Ranges per session; 0: the domain's default.
    pub ranges: u32,
    /// Trackers allowed.
    pub modes: ModeSet,
    /// Seconds it is good for; 0: for ever.
    pub expires_in: u64,
}

/// What a revocation did.
#[derive(Debug, Clone, Default)]
pub struct RevokeOutcome {
    /// Unused tokens dropped.
    pub tokens: u32,
    /// Sessions ended.
    pub sessions: u32,
    /// What did not work, in words. The key is revoked all the same.
    pub problems: Vec<String>,
}

/// What ending one session did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Sessions ended: 0 or 1.
    pub sessions: u32,
}

/// A session with the names that belong to it.
#[derive(Debug, Clone)]
pub struct ListedSession {
    /// The domain.
    pub domain: Domain,
    /// The key's number and name, if it is one of ours.
    pub key: Option<(KeyId, String)>,
    /// The session.
    pub session: Session,
}

impl Policy {
    /// Takes a key; `by` says for the audit log who asked. Also returns
    /// whether its domain is running now.
    ///
    /// # Errors
    /// See [`Failure`]; then there is no such key.
    pub fn add_key(&self, spec: KeySpec, by: &str) -> Result<(Key, bool), Failure> {
        let inner = &mut *lock(&self.inner);
        if spec.modes.is_empty() {
            return Err(Failure::Invalid(
                "a key needs at least one tracker".to_owned(),
            ));
        }
        let now = (self.clock)();
        let key = Key {
            id: inner.fresh_id()?,
            name: spec.name,
            public: spec.public,
            domain: spec.domain,
            sessions: spec.sessions,
            pages: spec.pages,
            ranges: spec.ranges,
            modes: spec.modes,
            created: now,
            expires: if spec.expires_in == 0 {
                0
            } else {
                now.saturating_add(spec.expires_in)
            },
            revoked: None,
            revocation_pending: false,
            domids: BTreeSet::new(),
        };
        inner.audit.check().map_err(storage)?;
        inner.keys.add(key.clone()).map_err(Failure::Invalid)?;
        let record = Record {
            peer: Some(by.to_owned()),
            ..about("key-add", &key)
        };
        if let Err(error) = inner.audit.append(record) {
            // An unrecorded key must not work.
            let _ = inner.keys.change(key.id, |k| k.revoked = Some(now));
            return Err(storage(error));
        }
        let running = inner.hypervisor.domains();
        let is_running = running.is_ok_and(|all| all.iter().any(|d| key.domain.matches(d)));
        Ok((key, is_running))
    }

    /// All keys, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        lock(&self.inner).keys.all().to_vec()
    }

    /// Revokes a key: no token from now on, unused tokens dropped, live
    /// sessions ended. Nothing that fails on the way stops the rest. May be
    /// repeated.
    ///
    /// # Errors
    /// [`Failure::Invalid`] when there is no such key.
    pub fn revoke_key(&self, which: &str, by: &str) -> Result<(Key, RevokeOutcome), Failure> {
        let inner = &mut *lock(&self.inner);
        let key = inner
            .keys
            .find(which)
            .ok_or_else(|| unknown_key(which))?
            .clone();
        let now = (self.clock)();
        let mut out = RevokeOutcome::default();

        let saved = inner.keys.change(key.id, |k| {
            k.revoked.get_or_insert(now);
            k.revocation_pending = true;
        });
        if let Err(error) = saved {
            out.problems.push(format!(
                "cannot write the key file: {error}; the revocation holds until the daemon \
                 restarts: make room and revoke again"
            ));
        }
        inner.tell_hypervisor(&key, &mut out);

        let decision = if out.problems.is_empty() {
            "done"
        } else {
            "failed"
        };
        let mut detail = format!("{} tokens, {} sessions", out.tokens, out.sessions);
        for problem in &out.problems {
            detail = format!("{detail}; {problem}");
        }
        let record = Record {
            peer: Some(by.to_owned()),
            decision: decision.to_owned(),
            ..about("key-revoke", &key)
        };
        if let Err(error) = inner.audit.append(record.detail(&detail)) {
            out.problems
                .push(format!("cannot write the audit log: {error}"));
        }
        let key = inner.keys.by_id(key.id).cloned().unwrap_or(key);
        Ok((key, out))
    }

    /// Ends one session.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn end_session(
        &self,
        domain: &str,
        session: NonZeroU64,
        by: &str,
    ) -> Result<Ended, Failure> {
        let inner = &mut *lock(&self.inner);
        let domain = inner.running(domain)?;
        let ended = inner
            .hypervisor
            .revoke(domain.domid, Which::Session(session));
        let mut record = Record::new("session-end", if ended.is_ok() { "done" } else { "failed" });
        record.peer = Some(by.to_owned());
        record.domain = domain.name;
        record.domid = Some(domain.domid);
        let written = inner
            .audit
            .append(record.detail(&format!("session {session}")));
        let ended = Ended {
            sessions: ended?.sessions,
        };
        written.map_err(storage)?;
        Ok(ended)
    }

    /// The sessions of one domain, or of every domain which a key was used
    /// in.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn sessions(&self, domain: Option<&str>) -> Result<Vec<ListedSession>, Failure> {
        let inner = &mut *lock(&self.inner);
        let domains = match domain {
            Some(text) => vec![inner.running(text)?],
            None => {
                // Asking Xen about a domain costs memory there; domains which
                // never got a token have no sessions.
                let used: BTreeSet<u32> = inner
                    .keys
                    .all()
                    .iter()
                    .flat_map(|k| k.domids.iter().copied())
                    .collect();
                let mut all = inner.hypervisor.domains()?;
                all.retain(|d| used.contains(&d.domid));
                all
            }
        };
        let mut listed = Vec::new();
        for domain in domains {
            let sessions = match inner.hypervisor.sessions(domain.domid) {
                Err(HvError::NoDomain) => continue,
                other => other?,
            };
            for session in sessions {
                let id = NonZeroU64::new(session.tag).map(KeyId);
                let key = id.and_then(|id| Some((id, inner.keys.by_id(id)?.name.clone())));
                listed.push(ListedSession {
                    domain: domain.clone(),
                    key,
                    session,
                });
            }
        }
        Ok(listed)
    }

    /// Limits and use of a domain.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn limits(&self, domain: &str) -> Result<(Domain, Limits), Failure> {
        let inner = &mut *lock(&self.inner);
        let domain = inner.running(domain)?;
        let limits = inner.hypervisor.limits(domain.domid)?;
        Ok((domain, limits))
    }

    /// Changes limits of a domain: `change` gets those which hold now.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn change_limits(
        &self,
        domain: &str,
        change: impl FnOnce(&mut Limits),
        by: &str,
    ) -> Result<(Domain, Limits), Failure> {
        let inner = &mut *lock(&self.inner);
        let domain = inner.running(domain)?;
        inner.audit.check().map_err(storage)?;
        let mut limits = inner.hypervisor.limits(domain.domid)?;
        change(&mut limits);
        let result = inner.hypervisor.set_limits(domain.domid, &limits);
        let mut record = Record::new("limits-set", if result.is_ok() { "done" } else { "failed" });
        record.peer = Some(by.to_owned());
        record.domain.clone_from(&domain.name);
        record.domid = Some(domain.domid);
        let detail = format!(
            "sessions {}, pages {}, ranges {}, tokens {}, flags {:#x}",
            limits.max_sessions,
            limits.max_pages,
            limits.max_ranges,
            limits.max_tokens,
            limits.flags
        );
        let written = inner.audit.append(record.detail(&detail));
        let limits = result?;
        written.map_err(storage)?;
        Ok((domain, limits))
    }

    /// Event counts of a domain.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn counters(&self, domain: &str) -> Result<(Domain, Counters), Failure> {
        let inner = &mut *lock(&self.inner);
        let domain = inner.running(domain)?;
        let counters = inner.hypervisor.counters(domain.domid)?;
        Ok((domain, counters))
    }
}

impl Inner {
    /// A number which no key has or had.
    fn fresh_id(&self) -> Result<KeyId, Failure> {
        loop {
            let mut bytes = [0; 8];
            random(&mut bytes).map_err(storage)?;
            let id = NonZeroU64::new(u64::from_le_bytes(bytes)).map(KeyId);
            if let Some(id) = id.filter(|id| self.keys.by_id(*id).is_none()) {
                return Ok(id);
            }
        }
    }

    /// Revokes the key's tag wherever it may live: where tokens were issued
    /// (the domain may have been renamed since) and where its domain runs.
    pub(super) fn tell_hypervisor(&mut self, key: &Key, out: &mut RevokeOutcome) {
        let mut domids = key.domids.clone();
        match self.hypervisor.domains() {
            Ok(running) => {
                domids.extend(
                    running
                        .iter()
                        .filter(|d| key.domain.matches(d))
                        .map(|d| d.domid),
                );
            }
            // Without tokens ever issued there is nothing to be found.
            Err(_) if domids.is_empty() => {}
            Err(error) => out.problems.push(format!("cannot list domains: {error}")),
        }
        self.end_in(key, &domids, out);
        let pending = !out.problems.is_empty();
        let saved = self.keys.change(key.id, |k| k.revocation_pending = pending);
        if let (Err(error), false) = (saved, pending) {
            out.problems
                .push(format!("cannot write the key file: {error}"));
        }
    }

    /// Drops the key's tokens and ends its sessions in these domains.
    pub(super) fn end_in(&mut self, key: &Key, domids: &BTreeSet<u32>, out: &mut RevokeOutcome) {
        for &domid in domids {
            match self.hypervisor.revoke(domid, Which::Tag(key.id.0)) {
                Ok(revoked) => {
                    out.tokens += revoked.tokens;
                    out.sessions += revoked.sessions;
                }
                // Gone, or never able to have sessions.
                Err(HvError::NoDomain | HvError::NoSupport | HvError::Unsupported) => {}
                Err(error) => out.problems.push(format!(
                    "domain {domid}: {error}; sessions there may go on: revoke again"
                )),
            }
        }
    }

    /// The one running domain meant by a name, a UUID or a number.
    fn running(&mut self, text: &str) -> Result<Domain, Failure> {
        let wanted = DomainRef::parse(text).map_err(Failure::Invalid)?;
        let domains = self.hypervisor.domains()?;
        let number = text.parse::<u32>().ok();
        let mut found: Vec<&Domain> = domains.iter().filter(|d| wanted.matches(d)).collect();
        if found.is_empty() {
            found = domains.iter().filter(|d| Some(d.domid) == number).collect();
        }
        match found[..] {
            [only] => Ok(only.clone()),
            [] => Err(Failure::Invalid(format!(
                "no running domain is called {text}"
            ))),
            _ => Err(Failure::Invalid(format!(
                "several running domains are called {text}: give the number"
            ))),
        }
    }
}

pub(super) fn about(event: &str, key: &Key) -> Record {
    Record {
        key: Some(key.name.clone()),
        id: Some(key.id.to_string()),
        domain: Some(key.domain.to_string()),
        ..Record::new(event, "done")
    }
}

fn unknown_key(which: &str) -> Failure {
    Failure::Invalid(format!("no key is called {which}"))
}

fn storage(error: std::io::Error) -> Failure {
    Failure::Storage(format!(
        "cannot write the audit log or the key file: {error}"
    ))
}
