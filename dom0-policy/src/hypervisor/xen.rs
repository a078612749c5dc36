// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real one.

use rustix::io::Errno;
use xen_sys::Control;

use super::{
    Counters, Domain, HvError, Hypervisor, Limits, Revoked, Session, Token, Version, Which,
};

/// Xen through libxencall and libxenstore. Opened when first needed and
/// tried again after a failure, so that a daemon which starts before the
/// toolstack, or on a machine without Xen, keeps running and says why not.
#[derive(Debug, Default)]
pub struct Xen {
    control: Option<Control>,
}

impl Xen {
    fn with<T>(
        &mut self,
        call: impl FnOnce(&mut Control) -> Result<T, xen_sys::Error>,
    ) -> Result<T, HvError> {
        let control = match &mut self.control {
            Some(control) => control,
            none => none.insert(Control::open()?),
        };
        Ok(call(control)?)
    }
}

impl From<xen_sys::Error> for HvError {
    fn from(error: xen_sys::Error) -> Self {
        use xen_sys::Error;
        match &error {
            Error::Library { .. } | Error::Open { .. } => Self::NoXen(error.to_string()),
            Error::AbiVersion(_) => Self::OtherVersion(error.to_string()),
            _ => match error.hypercall_errno().map(Errno::from_raw_os_error) {
                Some(Errno::NOSYS) => Self::NoSupport,
                Some(Errno::PERM | Errno::ACCESS) => Self::Denied,
                Some(Errno::SRCH) => Self::NoDomain,
                Some(Errno::OPNOTSUPP) => Self::Unsupported,
                Some(Errno::NOSPC) => Self::Full,
                Some(Errno::INVAL) => Self::Invalid,
                _ => Self::Other(error.to_string()),
            },
        }
    }
}

impl Hypervisor for Xen {
    fn version(&mut self) -> Result<Version, HvError> {
        self.with(Control::version)
    }

    fn domains(&mut self) -> Result<Vec<Domain>, HvError> {
        Ok(xen_sys::domains()?)
    }

    fn add_token(&mut self, token: &Token) -> Result<(), HvError> {
        self.with(|c| c.add_token(token))
    }

    fn revoke(&mut self, domid: u32, which: Which) -> Result<Revoked, HvError> {
        self.with(|c| c.revoke(domid, which))
    }

    fn sessions(&mut self, domid: u32) -> Result<Vec<Session>, HvError> {
        self.with(|c| c.sessions(domid))
    }

    fn limits(&mut self, domid: u32) -> Result<Limits, HvError> {
        self.with(|c| c.limits(domid))
    }

    fn set_limits(&mut self, domid: u32, limits: &Limits) -> Result<Limits, HvError> {
        self.with(|c| c.set_limits(domid, limits))
    }

    fn counters(&mut self, domid: u32) -> Result<Counters, HvError> {
        self.with(|c| c.counters(domid))
    }
}
