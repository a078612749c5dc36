// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the hypervisor can track pages, one by one and as sets.

use core::fmt;

use crate::gate::{CDA_CAP_AUTOXEN, CDA_CAP_EMULXEN, CDA_CAP_PTXEN, CDA_CAP_SCANXEN};

/// Mode of a range: protection by page-table entries.
pub const CDA_MODE_PTXEN: u32 = 1;
/// Mode of a range: stores are performed by the hypervisor and logged.
pub const CDA_MODE_EMULXEN: u32 = 2;
/// Mode of a range: dirty bits are cleared and scanned.
pub const CDA_MODE_SCANXEN: u32 = 3;
/// Mode of a range: hot pages scanned, cold pages protected.
pub const CDA_MODE_AUTOXEN: u32 = 4;

/// One way of tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Protection by page-table entries.
    PtXen,
    /// Stores are performed by the hypervisor and logged.
    EmulXen,
    /// Dirty bits are cleared and scanned.
    ScanXen,
    /// Hot pages scanned, cold pages protected.
    AutoXen,
}

impl Mode {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::PtXen, Self::EmulXen, Self::ScanXen, Self::AutoXen];

    /// Its number, as `cda_register::mode` has it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::PtXen => CDA_MODE_PTXEN,
            Self::EmulXen => CDA_MODE_EMULXEN,
            Self::ScanXen => CDA_MODE_SCANXEN,
            Self::AutoXen => CDA_MODE_AUTOXEN,
        }
    }

    /// The bit of `CDA_OP_version` which says that the hypervisor has it.
    #[must_use]
    pub const fn capability(self) -> u64 {
        match self {
            Self::PtXen => CDA_CAP_PTXEN,
            Self::EmulXen => CDA_CAP_EMULXEN,
            Self::ScanXen => CDA_CAP_SCANXEN,
            Self::AutoXen => CDA_CAP_AUTOXEN,
        }
    }

    /// Its name on command lines and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PtXen => "ptxen",
            Self::EmulXen => "emulxen",
            Self::ScanXen => "scanxen",
            Self::AutoXen => "autoxen",
        }
    }

    /// The set of this one.
    #[must_use]
    pub const fn set(self) -> ModeSet {
        ModeSet::from_bits_retain(1 << self.number())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

bitflags::bitflags! {
    /// Modes, bit `n` for the mode of number `n`: what `cda_ctl_token::modes`,
    /// the policy protocol and keys hold.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct ModeSet: u32 {
        /// [`Mode::PtXen`].
        const PTXEN = 1 << CDA_MODE_PTXEN;
        /// [`Mode::EmulXen`].
        const EMULXEN = 1 << CDA_MODE_EMULXEN;
        /// [`Mode::ScanXen`].
        const SCANXEN = 1 << CDA_MODE_SCANXEN;
        /// [`Mode::AutoXen`].
        const AUTOXEN = 1 << CDA_MODE_AUTOXEN;
    }
}

impl ModeSet {
    /// What the answer to `CDA_OP_version` or `CDA_CTL_version` offers; modes
    /// without a name here are left out.
    #[must_use]
    pub fn of_capabilities(word: u64) -> Self {
        let offered = Mode::ALL
            .into_iter()
            .filter(|mode| word & mode.capability() != 0);
        offered.map(Mode::set).collect()
    }

    /// Whether the mode is in it.
    #[must_use]
    pub const fn has(self, mode: Mode) -> bool {
        self.contains(mode.set())
    }

    /// Reads names separated by commas, or `all`; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::all());
        }
        text.split(',').try_fold(Self::empty(), |set, name| {
            let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name)?;
            Some(set | mode.set())
        })
    }
}

/// Names separated by commas, or `none`.
impl fmt::Display for ModeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Mode::ALL
            .into_iter()
            .filter(|mode| self.has(*mode))
            .map(Mode::name);
        f.write_str(names.next().unwrap_or("none"))?;
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}

impl fmt::Debug for ModeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModeSet({self})")
    }
}

/// Constants under the names they have in C.
pub const CONSTANTS: &[(&str, u64)] = &[
    ("CDA_MODE_PTXEN", CDA_MODE_PTXEN as u64),
    ("CDA_MODE_EMULXEN", CDA_MODE_EMULXEN as u64),
    ("CDA_MODE_SCANXEN", CDA_MODE_SCANXEN as u64),
    ("CDA_MODE_AUTOXEN", CDA_MODE_AUTOXEN as u64),
];
