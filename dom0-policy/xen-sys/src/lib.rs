// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thin layer between the policy daemon and Xen's stable user-space
//! libraries. `libxencall` and `libxenstore` are loaded at run time, so that
//! the workspace builds, and its tests run, on machines without Xen. Their
//! functions are those of the headers: `bindings` is generated.
//!
//! * [`Control`] issues the control hypercall of `cda.h` (number 55).
//! * [`domains`] lists the running domains with name and UUID.
//!
//! This is the only crate of the daemon which contains `unsafe`. The
//! definitions in [`abi`] are those of the crate `hvckpt-abi`.

pub mod abi;
mod bindings;
mod call;
mod control;
mod dl;
mod store;

pub use control::{Control, Revoked, Session, Token, Version, Which};
pub use store::{Domain, domains, domains_from};

use std::io;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A Xen library is not installed, or is not the one expected.
    #[error("cannot use {library}: {detail}")]
    Library {
        /// Its file name.
        library: String,
        /// What the dynamic linker said.
        detail: String,
    },
    /// The hypercall device or xenstore cannot be opened: not a privileged
    /// domain, not root, or the toolstack is not up.
    #[error("cannot open {what}: {source}")]
    Open {
        /// Device or service.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No memory which the hypervisor can read.
    #[error("no hypercall buffer: {0}")]
    Buffer(#[source] io::Error),
    /// The hypervisor answered with an error.
    #[error("{command}: {source}")]
    Call {
        /// Name of the command.
        command: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// xenstore could not be read.
    #[error("cannot read {path} from xenstore: {source}")]
    Store {
        /// The path.
        path: String,
        /// What the library said.
        #[source]
        source: io::Error,
    },
    /// The hypervisor has another version of the interface.
    #[error("hypervisor speaks version {0} of the cda interface, this program speaks 1")]
    AbiVersion(u16),
}

impl Error {
    /// The errno of a hypercall which failed, if that is what happened.
    #[must_use]
    pub fn hypercall_errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
