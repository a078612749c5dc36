// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the daemon says no.

use std::fmt;
use std::time::Duration;

/// Longest text in a refusal, in octets.
pub const TEXT_MAX: usize = 256;

/// Why the daemon said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// 1: the request is not one of this protocol.
    Malformed,
    /// 2: the daemon does not know the key.
    UnknownKey,
    /// 3: the administrator revoked the key.
    Revoked,
    /// 4: the key is past its date.
    Expired,
    /// 5: the key's domain is not running.
    DomainNotRunning,
    /// 6: several running domains have the key's domain name.
    DomainAmbiguous,
    /// 7: the key or its domain has as many sessions or tokens as it may.
    Quota,
    /// 8: this hypervisor has no application checkpointing (no patch, or off).
    NoHypervisorSupport,
    /// 9: the hypervisor refused for another reason; the text says which.
    HypervisorRefused,
    /// 10: too many requests with this key; see [`Refusal::retry_after`].
    RateLimited,
    /// 11: a tracker asked for is not allowed or does not exist here.
    ModeNotAllowed,
    /// 12: the daemon cannot decide now (audit log or state not writable).
    Unavailable,
    /// Any other code, from a newer daemon.
    Other(u16),
}

impl Reason {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::UnknownKey => 2,
            Self::Revoked => 3,
            Self::Expired => 4,
            Self::DomainNotRunning => 5,
            Self::DomainAmbiguous => 6,
            Self::Quota => 7,
            Self::NoHypervisorSupport => 8,
            Self::HypervisorRefused => 9,
            Self::RateLimited => 10,
            Self::ModeNotAllowed => 11,
            Self::Unavailable => 12,
            Self::Other(code) => code,
        }
    }

    /// The reason for a code on the wire.
    #[must_use]
    pub fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Malformed,
            2 => Self::UnknownKey,
            3 => Self::Revoked,
            4 => Self::Expired,
            5 => Self::DomainNotRunning,
            6 => Self::DomainAmbiguous,
            7 => Self::Quota,
            8 => Self::NoHypervisorSupport,
            9 => Self::HypervisorRefused,
            10 => Self::RateLimited,
            11 => Self::ModeNotAllowed,
            12 => Self::Unavailable,
            other => Self::Other(other),
        }
    }

    /// A short fixed name, as in the audit log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::DomainNotRunning => "domain-not-running",
            Self::DomainAmbiguous => "domain-ambiguous",
            Self::Quota => "quota",
            Self::NoHypervisorSupport => "no-hypervisor-support",
            Self::HypervisorRefused => "hypervisor-refused",
            Self::RateLimited => "rate-limited",
            Self::ModeNotAllowed => "mode-not-allowed",
            Self::Unavailable => "unavailable",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed request",
            Self::UnknownKey => "unknown key",
            Self::Revoked => "key revoked",
            Self::Expired => "key expired",
            Self::DomainNotRunning => "the key's domain is not running",
            Self::DomainAmbiguous => "several domains have the key's domain name",
            Self::Quota => "quota used up",
            Self::NoHypervisorSupport => "hypervisor has no cda",
            Self::HypervisorRefused => "hypervisor refused",
            Self::RateLimited => "too many requests",
            Self::ModeNotAllowed => "tracker not allowed or not there",
            Self::Unavailable => "daemon cannot decide now",
            Self::Other(code) => return write!(f, "reason {code}"),
        })
    }
}

/// A typed no.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// How long to wait before asking again; zero: asking again is useless,
    /// or nobody knows.
    pub retry_after: Duration,
    /// More, for a human reader; may be empty. No control characters.
    pub text: String,
}

/// The text, or its beginning of at most so many octets.
#[must_use]
pub fn cut(text: &str, octets: usize) -> &str {
    let mut end = octets.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Refusal {
    /// A refusal; `text` is cut to [`TEXT_MAX`] octets.
    #[must_use]
    pub fn new(reason: Reason, text: &str) -> Self {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        text.truncate(cut(&text, TEXT_MAX).len());
        Self {
            reason,
            retry_after: Duration::ZERO,
            text,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}
