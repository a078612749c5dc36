// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt-policy doctor`: what is there, what is missing, what to do.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use crate::admin::{self, Request, Status};
use crate::hypervisor::{HvError, Hypervisor as _, Xen};
use crate::keys::KeyStore;

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            found: found.into(),
            advice: None,
        }
    }
    fn bad(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self {
            name,
            ok: false,
            found: found.into(),
            advice: Some(advice),
        }
    }
}

/// Looks at everything; changes nothing.
#[must_use]
pub fn examine(state: &Path) -> Vec<Check> {
    let mut xen = Xen::default();
    let mut checks = vec![hypervisor(&mut xen), toolstack(&mut xen)];
    checks.extend(daemon(state));
    checks.extend(keys(state));
    checks
}

fn hypervisor(xen: &mut Xen) -> Check {
    const NAME: &str = "hypervisor";
    match xen.version() {
        Ok(version) => Check::good(
            NAME,
            format!("cda interface {}, trackers {}", version.abi, version.modes),
        ),
        Err(error @ HvError::NoXen(_)) => Check::bad(
            NAME,
            error.to_string(),
            "run this as root in Dom0 of Xen, with the package that has libxencall.so.1",
        ),
        Err(error @ HvError::NoSupport) => Check::bad(
            NAME,
            error.to_string(),
            "boot a hypervisor with the hvckpt patch and `cda=on` on its command line",
        ),
        Err(error @ HvError::OtherVersion(_)) => Check::bad(
            NAME,
            error.to_string(),
            "take hypervisor and daemon from the same release",
        ),
        Err(error) => Check::bad(NAME, error.to_string(), "run this as root in Dom0"),
    }
}

fn toolstack(xen: &mut Xen) -> Check {
    const NAME: &str = "xenstore";
    match xen.domains() {
        Ok(domains) => {
            let names: Vec<String> = domains
                .iter()
                .map(|d| format!("{} ({})", d.name.as_deref().unwrap_or("?"), d.domid))
                .collect();
            Check::good(
                NAME,
                format!("{} domains: {}", names.len(), names.join(", ")),
            )
        }
        Err(error) => Check::bad(NAME, error.to_string(), "start xenstored; run this as root"),
    }
}

fn daemon(state: &Path) -> Vec<Check> {
    const NAME: &str = "daemon";
    let status = match admin::client::call::<Status>(state, &Request::Status) {
        Ok(status) => status,
        Err(error) => {
            return vec![Check::bad(
                NAME,
                error.to_string(),
                "systemctl start hvckpt-policy",
            )];
        }
    };
    let found = format!("process {}, listening on {}", status.pid, status.listen);
    let sandbox = if status.confined {
        Check::good("sandbox", status.sandbox)
    } else {
        Check::bad(
            "sandbox",
            status.sandbox,
            "run Dom0 with a kernel that has landlock and seccomp (lsm=landlock,…), and the \
             daemon without --no-sandbox",
        )
    };
    vec![Check::good(NAME, found), address(&status.listen), sandbox]
}

/// Where guests look for the daemon.
fn address(listen: &str) -> Check {
    const NAME: &str = "address";
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Check::bad(
            NAME,
            format!("{listen} is for this machine only: no guest reaches it"),
            "name the Dom0 address which guests reach: HVCKPT_LISTEN=ADDR:PORT in \
             /etc/default/hvckpt-policy, or serve --listen ADDR:PORT; then start it anew",
        ),
        _ => Check::good(NAME, listen),
    }
}

fn keys(state: &Path) -> Option<Check> {
    const NAME: &str = "keys";
    if !state.exists() {
        return None;
    }
    Some(match KeyStore::open(state) {
        Ok(store) => {
            let live = store.all().iter().filter(|k| k.revoked.is_none()).count();
            Check::good(
                NAME,
                format!("{live} in use, {} revoked", store.all().len() - live),
            )
        }
        Err(error) => Check::bad(NAME, error, "restore the file from a backup"),
    })
}
