// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control hypercall, one method per command.

use std::time::Duration;

use crate::Error;
use crate::abi::{
    self, CDA_ABI_VERSION, CDA_SESSION_ENDED, ModeSet, Plain, cda_counters, cda_ctl_counters,
    cda_ctl_limits, cda_ctl_list, cda_ctl_revoke, cda_ctl_session, cda_ctl_token, size_field,
};
use crate::call::{Buffer, XenCall};

/// Name under which the dynamic linker finds libxencall.
const LIBRARY: &str = "libxencall.so.1";

/// What the hypervisor says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Version of the interface.
    pub abi: u16,
    /// Trackers it has.
    pub modes: ModeSet,
}

/// A token to be registered.
#[derive(Clone, Copy)]
pub struct Token {
    /// The domain it is for.
    pub domid: u32,
    /// The secret.
    pub token: [u8; abi::CDA_TOKEN_BYTES],
    /// The key's tag, not 0.
    pub tag: u64,
    /// 1 ms to 1 h; cut to that.
    pub lifetime: Duration,
    /// Pages of 4 KiB per session; 0: the domain's default.
    pub max_pages: u64,
    /// Ranges per session; 0: the domain's default.
    pub max_ranges: u32,
    /// Live sessions with this tag; 0: the domain's limit only.
    pub max_sessions: u32,
    /// What its session may track with; empty: everything.
    pub modes: ModeSet,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Token {{ domid: {}, tag: {:016x}, .. }}",
            self.domid, self.tag
        )
    }
}

/// What a revocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revoked {
    /// Unused tokens dropped.
    pub tokens: u32,
    /// Sessions ended.
    pub sessions: u32,
}

/// One session of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub id: u64,
    /// The key's tag.
    pub tag: u64,
    /// Pages registered.
    pub pages: u64,
    /// Ranges registered.
    pub ranges: u32,
    /// Since it was attached.
    pub age: Duration,
    /// Revoked, but the process has not noticed yet.
    pub ended: bool,
    /// What happened in it.
    pub counters: cda_counters,
}

/// An open way to the control hypercall. One thread at a time.
#[derive(Debug)]
pub struct Control {
    call: XenCall,
}

impl Control {
    /// Opens the hypercall device through the installed libxencall. Does not
    /// tell whether the hypervisor knows the hypercall: see
    /// [`version`](Self::version).
    ///
    /// # Errors
    /// [`Error::Library`] and [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        Self::open_library(LIBRARY)
    }

    /// As [`open`](Self::open) with another library of that interface.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_library(library: &str) -> Result<Self, Error> {
        Ok(Self {
            call: XenCall::open(library)?,
        })
    }

    /// What the hypervisor offers.
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOSYS` without the patch or with `cda=off`, `EPERM`
    /// outside the privileged domain. [`Error::AbiVersion`].
    pub fn version(&mut self) -> Result<Version, Error> {
        // SAFETY: this command touches no memory.
        let word = unsafe {
            self.call.call2(
                "CDA_CTL_version",
                abi::HYPERVISOR_CDA_OP,
                abi::CDA_CTL_VERSION,
                0,
            )
        }?;
        let [low, high, ..] = word.to_le_bytes();
        let version = u16::from_le_bytes([low, high]);
        if u64::from(version) != CDA_ABI_VERSION {
            return Err(Error::AbiVersion(version));
        }
        Ok(Version {
            abi: version,
            modes: ModeSet::of_capabilities(word.into()),
        })
    }

    /// Registers a token.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain, `ENOSPC` too many tokens
    /// outstanding, `EOPNOTSUPP` not a 64-bit PV guest, `ENOMEM`.
    pub fn add_token(&mut self, token: &Token) -> Result<(), Error> {
        let millis = token.lifetime.as_millis().clamp(1, 3_600_000);
        let argument = cda_ctl_token {
            size: size_field::<cda_ctl_token>(),
            domid: token.domid,
            token: token.token,
            tag: token.tag,
            lifetime_ms: u32::try_from(millis).expect("clamped"),
            max_ranges: token.max_ranges,
            max_pages: token.max_pages,
            max_sessions: token.max_sessions,
            modes: token.modes.bits(),
        };
        self.control("CDA_CTL_add_token", abi::CDA_CTL_ADD_TOKEN, argument)
            .map(drop)
    }

    /// Ends a session, or drops all tokens and ends all sessions of a tag.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain.
    pub fn revoke(&mut self, domid: u32, which: Which) -> Result<Revoked, Error> {
        let (tag, session) = match which {
            Which::Tag(tag) => (tag.get(), 0),
            Which::Session(session) => (0, session.get()),
        };
        let argument = cda_ctl_revoke {
            size: size_field::<cda_ctl_revoke>(),
            domid,
            tag,
            session,
            tokens: 0,
            sessions: 0,
        };
        let out = self.control("CDA_CTL_revoke", abi::CDA_CTL_REVOKE, argument)?;
        Ok(Revoked {
            tokens: out.tokens,
            sessions: out.sessions,
        })
    }

    /// Limits and use of a domain.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain.
    pub fn limits(&mut self, domid: u32) -> Result<cda_ctl_limits, Error> {
        let argument = cda_ctl_limits {
            size: size_field::<cda_ctl_limits>(),
            domid,
            ..Default::default()
        };
        self.control("CDA_CTL_get_limits", abi::CDA_CTL_GET_LIMITS, argument)
    }

    /// Sets the limits of a domain (`size`, `domid` and the OUT fields of
    /// `limits` are ignored) and returns what then holds.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain, `EINVAL` over what the
    /// hypervisor can do.
    pub fn set_limits(
        &mut self,
        domid: u32,
        limits: &cda_ctl_limits,
    ) -> Result<cda_ctl_limits, Error> {
        let argument = cda_ctl_limits {
            size: size_field::<cda_ctl_limits>(),
            domid,
            used_pages: 0,
            used_sessions: 0,
            used_tokens: 0,
            ..*limits
        };
        self.control("CDA_CTL_set_limits", abi::CDA_CTL_SET_LIMITS, argument)
    }

    /// Event counts of a domain since it was created.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain.
    pub fn counters(&mut self, domid: u32) -> Result<cda_counters, Error> {
        let argument = cda_ctl_counters {
            size: size_field::<cda_ctl_counters>(),
            domid,
            ..Default::default()
        };
        Ok(self
            .control("CDA_CTL_counters", abi::CDA_CTL_COUNTERS, argument)?
            .counters)
    }

    /// The sessions of a domain.
    ///
    /// # Errors
    /// [`Error::Call`]: `ESRCH` no such domain. [`Error::Buffer`].
    pub fn sessions(&mut self, domid: u32) -> Result<Vec<Session>, Error> {
        let mut capacity = 64;
        loop {
            let entries: Buffer<'_, cda_ctl_session> = self.call.buffer(capacity)?;
            let argument = cda_ctl_list {
                size: size_field::<cda_ctl_list>(),
                domid,
                buffer: entries.address(),
                capacity: u32::try_from(entries.count()).unwrap_or(u32::MAX),
                ..Default::default()
            };
            // `entries` outlives the call and holds `capacity` entries.
            let out = self.control("CDA_CTL_list", abi::CDA_CTL_LIST, argument)?;
            let total = usize::try_from(out.total).unwrap_or(usize::MAX);
            // Sessions may come and go between two calls; a bounded number of
            // attempts, the last of which shows what fits.
            if total > capacity && capacity < SESSIONS_MAX {
                capacity = total.next_power_of_two().min(SESSIONS_MAX);
                continue;
            }
            let count = usize::try_from(out.count)
                .unwrap_or(usize::MAX)
                .min(entries.count());
            return Ok((0..count).map(|i| session(&entries.get(i))).collect());
        }
    }

    /// A command whose argument is one structure, which is read back.
    fn control<T: Plain>(&self, name: &'static str, command: u64, argument: T) -> Result<T, Error> {
        let mut buffer = self.call.buffer::<T>(1)?;
        buffer.set(0, argument);
        // SAFETY: the commands of cda.h read and write the structure of the
        // type that goes with them, which `buffer` holds, and, for
        // CDA_CTL_list, as many entries as its caller's buffer has.
        unsafe {
            self.call
                .call2(name, abi::HYPERVISOR_CDA_OP, command, buffer.address())?;
        }
        Ok(buffer.get(0))
    }
}

/// No domain has more; bounds what one call allocates.
const SESSIONS_MAX: usize = 1 << 14;

/// What to revoke. Never 0, which would mean everything to the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Tokens and sessions of a key.
    Tag(std::num::NonZeroU64),
    /// One session.
    Session(std::num::NonZeroU64),
}

fn session(entry: &cda_ctl_session) -> Session {
    Session {
        id: entry.session,
        tag: entry.tag,
        pages: entry.pages,
        ranges: entry.ranges,
        age: Duration::from_millis(entry.age_ms),
        ended: entry.flags & CDA_SESSION_ENDED != 0,
        counters: entry.counters,
    }
}
