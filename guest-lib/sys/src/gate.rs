// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate into the hypervisor.
//!
//! What crosses it (the operations, [`crate::abi`]) is kept apart from how
//! (the [`Transport`]): `int 0x84` now, VMMCALL from user mode later, a
//! simulation for tests.

use core::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use super::probe;
pub use super::raw::int84;
use crate::abi;

/// A way to carry an operation to whoever tracks.
pub trait Transport: Send + Sync + Debug {
    /// Executes operation `op`; the result is ≥ 0 or −errno.
    ///
    /// # Safety
    /// The arguments must be what `op` asks for: pointers to structures which
    /// live during the call, and for `register` memory and a log which stay
    /// mapped until `unregister`.
    unsafe fn call(&self, op: u64, args: [u64; 5]) -> i64;

    /// Name for reports.
    fn name(&self) -> &'static str;
}

/// The gate of a PV guest.
#[derive(Debug, Clone, Copy)]
pub struct Int84;

impl Transport for Int84 {
    unsafe fn call(&self, op: u64, args: [u64; 5]) -> i64 {
        // SAFETY: forwarded to the caller.
        unsafe { int84(op, args) }
    }

    fn name(&self) -> &'static str {
        "int84"
    }
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// This machine is not a Xen guest.
    #[error(
        "no gate: this is not a Xen guest; use a tracker of the kernel, such as pagemap-scan or pt"
    )]
    NotXen,
    /// The guest type has no gate yet.
    #[error(
        "no gate: a {0} guest has none, only PV guests do; use a tracker of the kernel, such as pagemap-scan or pt"
    )]
    GuestType(String),
    /// A PV guest, but the hypervisor lacks the patch or runs with `cda=off`,
    /// or the domain was not admitted, which its first token does; a guest
    /// cannot tell these apart.
    #[error(
        "no gate: this Xen lacks the patch or was booted with cda=off, or this domain has had \
         no token yet (with a key, name it in HVCKPT_KEY and the policy daemon in HVCKPT_POLICY)"
    )]
    NoGate,
    /// The hypervisor speaks another version of the ABI.
    #[error(
        "the hypervisor speaks ABI version {found}, this library version {wanted}; update the older of them"
    )]
    AbiVersion {
        /// Version of the hypervisor.
        found: u64,
        /// Version of the library.
        wanted: u64,
    },
    /// The hypervisor cannot do what the tracker needs.
    #[error("this hypervisor does not offer {0}; update it, or use another tracker")]
    NoCapability(&'static str),
    /// The hypervisor refuses every operation here, with this errno: a 32-bit
    /// process, or a domain in log-dirty mode.
    #[error("the gate refuses this process: {} (a 32-bit process, or a domain being migrated)", std::io::Error::from_raw_os_error(i32::try_from(*.0).unwrap_or(0)))]
    Refused(i64),
    /// The probing child could not be started.
    #[error("cannot probe for the gate")]
    Probe(#[source] std::io::Error),
}

const UNKNOWN: u64 = 0;
const ABSENT: u64 = 1;
static PROBED: AtomicU64 = AtomicU64::new(UNKNOWN);

/// Asks whether there is a gate and returns what `CDA_OP_version` answers: the
/// version in bits 0–15 and `CDA_CAP_*` bits.  The answer is remembered, but for
/// [`GateError::NoGate`]: the domain may be admitted later.
///
/// Safe on every machine and in multi-threaded programs: the first call lets
/// a forked child try the instruction, see `probe`.
///
/// # Errors
/// Why there is no usable gate.
pub fn capabilities() -> Result<u64, GateError> {
    let mut answer = PROBED.load(Ordering::Acquire);
    if answer == UNKNOWN {
        answer = match probe::try_gate().map_err(GateError::Probe)? {
            None => match explain_absence() {
                GateError::NoGate => return Err(GateError::NoGate),
                _ => ABSENT,
            },
            Some(value) if value < 0 => return Err(GateError::Refused(-value)),
            // Bit 63 is the sign, bits 48-62 are not defined: free for us.
            Some(value) => value.cast_unsigned() | 1 << 62,
        };
        PROBED.store(answer, Ordering::Release);
    }
    if answer == ABSENT {
        return Err(explain_absence());
    }
    let answer = answer & !(1 << 62);
    let found = answer & 0xffff;
    if found != abi::CDA_ABI_VERSION {
        return Err(GateError::AbiVersion {
            found,
            wanted: abi::CDA_ABI_VERSION,
        });
    }
    Ok(answer)
}

fn explain_absence() -> GateError {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/hypervisor/{name}"));
    match (read("type"), read("guest_type")) {
        (Ok(kind), _) if kind.trim() != "xen" => GateError::NotXen,
        (Ok(_), Ok(guest)) if guest.trim() != "PV" => GateError::GuestType(guest.trim().to_owned()),
        (Ok(_), _) => GateError::NoGate,
        // Linux has this directory on every hypervisor it knows, if sysfs is
        // there at all.
        (Err(_), _) if std::path::Path::new("/sys/kernel").exists() => GateError::NotXen,
        (Err(_), _) => GateError::NoGate,
    }
}
