// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hypervisor in memory, **for tests only**: nothing in the binary can
//! select it. It keeps tokens, sessions and limits as Xen would; time does
//! not pass in it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{
    Counters, Domain, HvError, Hypervisor, Limits, ModeSet, Revoked, Session, Token, Version, Which,
};
use crate::lock;

/// Cloning gives another handle on the same hypervisor, for the test to look
/// inside.
#[derive(Debug, Clone, Default)]
pub struct Sim(Arc<Mutex<State>>);

/// What is inside.
#[derive(Debug)]
pub struct State {
    /// Running domains.
    pub domains: Vec<Domain>,
    /// Unused tokens.
    pub tokens: Vec<Token>,
    /// Sessions, with the domain of each.
    pub sessions: Vec<(u32, Session)>,
    /// Tokens which each domain may have outstanding.
    pub max_tokens: u32,
    /// Trackers it has.
    pub modes: ModeSet,
    /// What every call returns from now on.
    pub fails: Option<HvError>,
    /// The next token makes it panic, as a defect of ours would.
    pub panics: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            tokens: Vec::new(),
            sessions: Vec::new(),
            max_tokens: 16,
            modes: ModeSet::PTXEN,
            fails: None,
            panics: false,
        }
    }
}

impl Sim {
    /// With these running domains.
    #[must_use]
    pub fn with_domains(domains: &[(u32, &str, &str)]) -> Self {
        let sim = Self::default();
        sim.state().domains = domains
            .iter()
            .map(|&(domid, name, uuid)| Domain {
                domid,
                name: Some(name.to_owned()),
                uuid: Some(uuid.to_owned()),
            })
            .collect();
        sim
    }

    /// Looks inside.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// What a process of domain `domid` does with a token. True if a session
    /// came of it.
    #[must_use]
    pub fn attach(&self, domid: u32, token: [u8; 16]) -> bool {
        let mut state = self.state();
        let found = state
            .tokens
            .iter()
            .position(|t| t.domid == domid && t.token == token);
        let Some(index) = found else { return false };
        let token = state.tokens.remove(index);
        let id = 1 + state.sessions.len() as u64;
        let session = Session {
            id,
            tag: token.tag,
            pages: 0,
            ranges: 0,
            age: Duration::ZERO,
            ended: false,
            counters: Counters::default(),
        };
        state.sessions.push((domid, session));
        true
    }

    fn enter(&self, domid: Option<u32>) -> Result<MutexGuard<'_, State>, HvError> {
        let state = self.state();
        if let Some(error) = &state.fails {
            return Err(error.clone());
        }
        match domid {
            Some(domid) if !state.domains.iter().any(|d| d.domid == domid) => {
                Err(HvError::NoDomain)
            }
            _ => Ok(state),
        }
    }
}

impl Hypervisor for Sim {
    fn version(&mut self) -> Result<Version, HvError> {
        self.enter(None).map(|s| Version {
            abi: 1,
            modes: s.modes,
        })
    }

    fn domains(&mut self) -> Result<Vec<Domain>, HvError> {
        // xenstore works without the patch.
        Ok(self.state().domains.clone())
    }

    fn add_token(&mut self, token: &Token) -> Result<(), HvError> {
        let mut state = self.enter(Some(token.domid))?;
        assert!(!state.panics, "as the test asked");
        let outstanding = state
            .tokens
            .iter()
            .filter(|t| t.domid == token.domid)
            .count();
        if u32::try_from(outstanding).is_ok_and(|n| n >= state.max_tokens) {
            return Err(HvError::Full);
        }
        state.tokens.push(*token);
        Ok(())
    }

    fn revoke(&mut self, domid: u32, which: Which) -> Result<Revoked, HvError> {
        let mut state = self.enter(Some(domid))?;
        let mut out = Revoked::default();
        if let Which::Tag(tag) = which {
            state.tokens.retain(|t| {
                let hit = t.domid == domid && t.tag == tag.get();
                out.tokens += u32::from(hit);
                !hit
            });
        }
        for (_, session) in state
            .sessions
            .iter_mut()
            .filter(|(d, s)| *d == domid && !s.ended)
        {
            let hit = match which {
                Which::Tag(tag) => session.tag == tag.get(),
                Which::Session(id) => session.id == id.get(),
            };
            session.ended |= hit;
            out.sessions += u32::from(hit);
        }
        Ok(out)
    }

    fn sessions(&mut self, domid: u32) -> Result<Vec<Session>, HvError> {
        let state = self.enter(Some(domid))?;
        Ok(state
            .sessions
            .iter()
            .filter(|(d, _)| *d == domid)
            .map(|(_, s)| *s)
            .collect())
    }

    fn limits(&mut self, domid: u32) -> Result<Limits, HvError> {
        let state = self.enter(Some(domid))?;
        Ok(Limits {
            domid,
            max_tokens: state.max_tokens,
            ..Limits::default()
        })
    }

    fn set_limits(&mut self, domid: u32, limits: &Limits) -> Result<Limits, HvError> {
        self.enter(Some(domid))?.max_tokens = limits.max_tokens;
        Ok(*limits)
    }

    fn counters(&mut self, domid: u32) -> Result<Counters, HvError> {
        self.enter(Some(domid)).map(|_| Counters::default())
    }
}
