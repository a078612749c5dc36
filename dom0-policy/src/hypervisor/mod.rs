// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypervisor as the daemon sees it: a trait, [`Xen`] behind it in
//! production, [`sim::Sim`] in tests.

pub mod sim;
mod xen;

use std::fmt::Debug;

pub use xen::Xen;
pub use xen_sys::abi::{ModeSet, cda_counters as Counters, cda_ctl_limits as Limits};
pub use xen_sys::{Domain, Revoked, Session, Token, Version, Which};

/// Why the hypervisor, or the toolstack, did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HvError {
    /// This machine does not run Xen, or its libraries are not installed.
    #[error("no Xen here: {0}")]
    NoXen(String),
    /// Xen without the patch, or booted without `cda=on`.
    #[error("hypervisor has no cda (not patched, or booted without cda=on)")]
    NoSupport,
    /// The interface is there in another version.
    #[error("{0}")]
    OtherVersion(String),
    /// This is not the privileged domain.
    #[error("hypervisor denies control: not the privileged domain")]
    Denied,
    /// The domain is not there (any more).
    #[error("no such domain")]
    NoDomain,
    /// The domain is not a 64-bit PV guest.
    #[error("the domain is not a 64-bit PV guest")]
    Unsupported,
    /// The domain has as many tokens or sessions as it may.
    #[error("the domain's quota is used up")]
    Full,
    /// A value is outside what the hypervisor can do.
    #[error("hypervisor does not accept these values")]
    Invalid,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What the daemon needs from below.
///
/// Domain numbers are those of running domains; every method may return
/// [`HvError::NoDomain`], since domains go away at any time.
pub trait Hypervisor: Send + Debug {
    /// What the hypervisor offers.
    ///
    /// # Errors
    /// [`HvError::NoXen`], [`HvError::NoSupport`], [`HvError::Denied`].
    fn version(&mut self) -> Result<Version, HvError>;

    /// All running domains.
    ///
    /// # Errors
    /// When xenstore cannot be read.
    fn domains(&mut self) -> Result<Vec<Domain>, HvError>;

    /// Registers a token.
    ///
    /// # Errors
    /// See [`HvError`].
    fn add_token(&mut self, token: &Token) -> Result<(), HvError>;

    /// Drops tokens and ends sessions.
    ///
    /// # Errors
    /// See [`HvError`].
    fn revoke(&mut self, domid: u32, which: Which) -> Result<Revoked, HvError>;

    /// The sessions of a domain.
    ///
    /// # Errors
    /// See [`HvError`].
    fn sessions(&mut self, domid: u32) -> Result<Vec<Session>, HvError>;

    /// Limits and use of a domain.
    ///
    /// # Errors
    /// See [`HvError`].
    fn limits(&mut self, domid: u32) -> Result<Limits, HvError>;

    /// Sets the limits of a domain; returns what then holds.
    ///
    /// # Errors
    /// See [`HvError`].
    fn set_limits(&mut self, domid: u32, limits: &Limits) -> Result<Limits, HvError>;

    /// Event counts of a domain since it was created.
    ///
    /// # Errors
    /// See [`HvError`].
    fn counters(&mut self, domid: u32) -> Result<Counters, HvError>;
}
