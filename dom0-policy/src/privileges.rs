// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gives up what the daemon does not need once its descriptors are open. It
//! stays user 0, which the hypercall device, xenstore and its own files ask
//! for, but without capabilities, and can never get any again.
//!
//! To be called while there is one thread: capabilities belong to threads.
//! [`crate::sandbox`] comes next.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Highest capability number which a kernel may know.
const CAPABILITIES: u64 = 64;

/// Drops capabilities (bounding set included), forbids gaining any, and
/// forbids core dumps and debuggers, which would show keys.
///
/// # Errors
/// What could not be dropped, in words.
pub fn drop_all() -> Result<(), String> {
    let step = |what: &'static str, result: rustix::io::Result<()>| {
        result.map_err(|e| format!("cannot {what}: {e}"))
    };
    step("forbid new privileges", set_no_new_privs(true))?;
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // Not known to this kernel, or not in the set: nothing to drop.
        if !capability_is_in_bounding_set(capability).unwrap_or(false) {
            continue;
        }
        let dropped = remove_capability_from_bounding_set(capability);
        // Without CAP_SETPCAP the bounding set stays, and matters no longer:
        // new privileges are forbidden.
        if dropped == Err(rustix::io::Errno::PERM) {
            break;
        }
        step("drop a capability from the bounding set", dropped)?;
    }
    // Kernels before 4.3 have no ambient set.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    step("drop capabilities", set_capabilities(None, sets))?;
    step(
        "forbid debuggers",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )?;
    let core = Rlimit {
        current: Some(0),
        maximum: getrlimit(Resource::Core).maximum,
    };
    step("forbid core dumps", setrlimit(Resource::Core, core))
}

/// Whether this thread has no capability left.
#[must_use]
pub fn dropped() -> bool {
    capabilities(None).is_ok_and(|sets| sets.permitted.is_empty() && sets.effective.is_empty())
}
