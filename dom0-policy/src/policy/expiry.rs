// SPDX-License-Identifier: MIT OR Apache-2.0
//! What time brings about, without anybody asking.

use std::time::Duration;

use super::manage::{RevokeOutcome, about};
use super::{Inner, Policy};
use crate::audit::Record;
use crate::keys::Key;
use crate::lock;

/// Longest time between two looks at the clock, which may have been set, and
/// at what the hypervisor could not be told before.
const PERIOD: Duration = Duration::from_secs(10);

impl Policy {
    /// Ends the sessions of keys which have expired, and finishes revocations
    /// which the hypervisor could not be told of before. To be called at start
    /// and again after the time returned, or earlier.
    ///
    /// Expiry is a matter of the wall clock: a clock set back gives an expired
    /// key its life back, though not its sessions.
    #[must_use]
    pub fn tick(&self) -> Duration {
        let inner = &mut *lock(&self.inner);
        let now = (self.clock)();
        let keys = inner.keys.all();
        let unfinished: Vec<Key> = keys
            .iter()
            .filter(|k| k.revocation_pending)
            .cloned()
            .collect();
        let over: Vec<Key> = keys
            .iter()
            // Where no token went there is no session.
            .filter(|k| k.revoked.is_none() && k.expired(now) && !k.domids.is_empty())
            .cloned()
            .collect();
        for key in unfinished {
            inner.finish_revocation(&key);
        }
        for key in over {
            inner.end_expired(&key);
        }
        let next = inner
            .keys
            .all()
            .iter()
            .filter(|k| k.revoked.is_none() && k.expires > now)
            .map(|k| Duration::from_secs(k.expires - now))
            .min();
        next.map_or(PERIOD, |next| next.min(PERIOD))
    }
}

impl Inner {
    fn finish_revocation(&mut self, key: &Key) {
        let mut out = RevokeOutcome::default();
        self.tell_hypervisor(key, &mut out);
        if out.problems.is_empty() {
            self.complained.remove(&key.id);
            crate::log(format_args!("the revocation of key {} is done", key.name));
        } else if self.complained.insert(key.id) {
            for problem in out.problems {
                crate::log(format_args!("revoking key {}: {problem}", key.name));
            }
        }
    }

    fn end_expired(&mut self, key: &Key) {
        let mut out = RevokeOutcome::default();
        self.end_in(key, &key.domids, &mut out);
        let counts = format!("{} tokens, {} sessions", out.tokens, out.sessions);
        let record = about("key-expire", key);
        if out.problems.is_empty() {
            self.complained.remove(&key.id);
            // Not on disk: done once more after a restart, which does no harm.
            let _ = self.keys.change(key.id, |k| k.domids.clear());
            let _ = self.audit.append(record.detail(&counts));
        } else if self.complained.insert(key.id) {
            // It is tried again; said once.
            let detail = format!("{counts}; {}", out.problems.join("; "));
            crate::log(format_args!(
                "key {} has expired: {}",
                key.name,
                out.problems.join("; ")
            ));
            let failed = Record {
                decision: "failed".to_owned(),
                ..record
            };
            let _ = self.audit.append(failed.detail(&detail));
        }
    }
}
