// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's cage: landlock leaves it its state directory and the Xen
//! devices, seccomp the system calls it makes.
//!
//! To be entered by the only thread there is, with `no_new_privs` set, after
//! everything that needs more is open: sockets are bound, libraries loaded.
//! A kernel which lacks a part is no reason not to serve; [`Confinement`]
//! says what holds, for the log and for `doctor`.

mod calls;

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// Landlock's rules as of Linux 6.12, as far as the running kernel has them.
const RULES: ABI = ABI::V6;

/// How libxencall and libxenstore reach the hypervisor and xenstored. Those
/// there are at start; they may be opened later (a device that was busy).
const DEVICES: [&str; 5] = [
    "/dev/xen/privcmd",
    "/dev/xen/hypercall",
    "/dev/xen/xenbus",
    "/proc/xen/privcmd",
    "/proc/xen/xenbus",
];

/// How much of one layer the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layer {
    /// All that was asked for.
    Full,
    /// What this kernel knows of it.
    Partial,
    /// Nothing: the kernel lacks it, or has it switched off.
    Missing,
    /// Nothing: `--no-sandbox`.
    Off,
}

/// What holds the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// Files, TCP, signals.
    pub landlock: Layer,
    /// System calls.
    pub seccomp: Layer,
}

impl Confinement {
    /// Of a process which was not to be confined.
    pub const OFF: Self = Self {
        landlock: Layer::Off,
        seccomp: Layer::Off,
    };

    /// Whether both layers hold, as far as a kernel of this age can.
    #[must_use]
    pub fn holds(&self) -> bool {
        let holds = |layer| matches!(layer, Layer::Full | Layer::Partial);
        holds(self.landlock) && holds(self.seccomp)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "in full",
            Self::Partial => "in part (older kernel)",
            Self::Missing => "MISSING in this kernel",
            Self::Off => "OFF (--no-sandbox)",
        })
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "landlock {}, seccomp {}", self.landlock, self.seccomp)
    }
}

/// Confines this thread, and those it will start, to `state` and the calls of
/// the daemon. There is no way out.
///
/// # Errors
/// A sentence: a layer which the kernel has could not be put up.
pub fn confine(state: &Path) -> Result<Confinement, String> {
    // In this order: the filter does not let landlock's calls through.
    Ok(Confinement {
        landlock: restrict_files(state).map_err(|e| format!("cannot set landlock rules: {e}"))?,
        seccomp: calls::restrict()?,
    })
}

/// Landlock alone: files below `state` and the Xen devices, no other; no TCP
/// connection or listening socket that is not there already; no signals to,
/// and no abstract sockets of, other processes.
///
/// # Errors
/// When the kernel has landlock but does not take the rules.
pub fn restrict_files(state: &Path) -> Result<Layer, RulesetError> {
    let files = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let devices: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules([state], files))?
        .add_rules(path_beneath_rules(DEVICES, devices))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Layer::Full,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { .. }) => Layer::Partial,
        _ => Layer::Missing,
    })
}
