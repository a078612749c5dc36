// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C API, documented in `include/hvckpt.h`.
//!
//! # Safety
//! Pointers come from C and are what the header asks for; no panic crosses
//! into C.

#![allow(unsafe_code)]

mod codes;
mod durable;
mod heap;
mod store;
mod types;

use core::cell::RefCell;
use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::Error;
use hvckpt_sys::abi::{CDA_TOKEN_BYTES, cda_counters};
use hvckpt_sys::explain;
use hvckpt_sys::gate;
use hvckpt_sys::memory::{LockPolicy, RawPages};
use hvckpt_track::Attach;
use hvckpt_track::DirtyPages;
use hvckpt_track::{CycleError, TrackerKind};
use hvckpt_track::{Region, RegionBuilder};
use types::{CCounters, CLimits, Dirty, Options};

/// `hvckpt_region`.
#[derive(Debug)]
pub struct CRegion {
    region: Region,
    /// Tracker number and explanation of each failed attempt.
    attempts: Vec<(c_int, CString)>,
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// A failure on its way to C.
struct Failure {
    code: c_int,
    text: String,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            code: codes::of(&error),
            text: explain(&error),
        }
    }
}

fn invalid(what: &str) -> Failure {
    Failure {
        code: codes::INVALID,
        text: format!("invalid argument: {what}"),
    }
}

fn c_string(text: String) -> CString {
    // A text with a zero byte inside ends there.
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text.as_bytes()[..end]).unwrap_or_default()
}

/// Runs the body of a function called from C.
fn guarded(body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(_) => Failure {
            code: codes::INTERNAL,
            text: "internal error of the library (a panic; its message is on stderr)".into(),
        },
    };
    // A thread which is ending has no place for the text any more.
    let _kept = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = c_string(failure.text);
        }
    });
    failure.code
}

/// # Safety
/// `region` is null or lives.
unsafe fn known<'a>(region: *const CRegion) -> Result<&'a CRegion, Failure> {
    // SAFETY: the caller vouches.
    unsafe { region.as_ref() }.ok_or_else(|| invalid("the region is NULL"))
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(Some)
        .map_err(|_| invalid(&format!("{what} is not UTF-8")))
}

/// # Safety
/// The pointers in `options` are what the header asks for.
unsafe fn attach(options: &Options) -> Result<Attach, Failure> {
    let mut attach = Attach::new();
    // SAFETY: the caller vouches for all of them.
    unsafe {
        if let Some(key) = text(options.key, "the key")? {
            attach = attach.key(key);
        }
        if let Some(policy) = text(options.policy, "the policy address")? {
            attach = attach.policy(policy);
        }
        if !options.token.is_null() {
            attach = attach.token(options.token.cast::<[u8; CDA_TOKEN_BYTES]>().read());
        }
    }
    if options.timeout_ms != 0 {
        attach = attach.timeout(Duration::from_millis(options.timeout_ms.into()));
    }
    Ok(attach)
}

fn lock_policy(options: &Options) -> Result<LockPolicy, Failure> {
    Ok(match options.lock {
        0 => LockPolicy::Required,
        1 => LockPolicy::IfAllowed,
        2 => LockPolicy::Never,
        _ => return Err(invalid("lock")),
    })
}

/// More than there are, each once.
const MOST_TRACKERS: usize = 64;

/// The trackers asked for; none: the default.
///
/// # Safety
/// The pointers in `options` are what the header asks for.
unsafe fn trackers(options: &Options) -> Result<Vec<TrackerKind>, Failure> {
    if options.tracker_count == 0 {
        return Ok(Vec::new());
    }
    if options.trackers.is_null() || options.tracker_count > MOST_TRACKERS {
        return Err(invalid("trackers: NULL, or tracker_count is too large"));
    }
    // SAFETY: the caller vouches.
    let numbers = unsafe { core::slice::from_raw_parts(options.trackers, options.tracker_count) };
    let kinds: Option<Vec<_>> = numbers
        .iter()
        .map(|&number| types::tracker(number))
        .collect();
    kinds.ok_or_else(|| invalid("unknown tracker number"))
}

/// # Safety
/// The pointers in `options` are what the header asks for.
unsafe fn builder(options: &Options) -> Result<RegionBuilder, Failure> {
    let mut builder = hvckpt_track::register_cda()
        // SAFETY: the caller vouches.
        .attach(unsafe { attach(options) }?)
        .lock(lock_policy(options)?);
    if options.memory.is_null() {
        builder = builder.bytes(options.bytes);
    } else {
        // SAFETY: the caller vouches.
        builder =
            builder.adopt(unsafe { RawPages::from_raw(options.memory.cast(), options.bytes) });
    }
    if options.log_entries != 0 {
        builder = builder.log_entries(options.log_entries);
    }
    // SAFETY: the caller vouches.
    let kinds = unsafe { trackers(options) }?;
    if !kinds.is_empty() {
        builder = builder.trackers(kinds);
    }
    Ok(builder)
}

/// See `hvckpt.h`.
///
/// # Safety
/// `options` and what it points to are as the header says; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_register_cda(
    options: *const Options,
    out: *mut *mut CRegion,
) -> c_int {
    guarded(|| {
        if out.is_null() {
            return Err(invalid("out is NULL"));
        }
        // SAFETY: the caller vouches.
        let region = unsafe {
            out.write(ptr::null_mut());
            let options = options.as_ref().ok_or_else(|| invalid("options is NULL"))?;
            if options.size != size_of::<Options>() {
                return Err(invalid("options.size; use HVCKPT_OPTIONS_INIT"));
            }
            builder(options)?.register()?
        };
        let attempts = region
            .attempts()
            .iter()
            .map(|attempt| {
                (
                    types::tracker_number(attempt.kind),
                    c_string(explain(&attempt.error)),
                )
            })
            .collect();
        // SAFETY: checked above.
        unsafe { out.write(Box::into_raw(Box::new(CRegion { region, attempts }))) };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` comes from [`hvckpt_register_cda`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_unregister(region: *mut CRegion) -> c_int {
    guarded(|| {
        if !region.is_null() {
            // SAFETY: the caller vouches.
            drop(unsafe { Box::from_raw(region) });
        }
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_memory(region: *const CRegion) -> *mut c_void {
    // SAFETY: the caller vouches.
    unsafe { region.as_ref() }.map_or(ptr::null_mut(), |region| region.region.as_ptr().cast())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_pages(region: *const CRegion) -> usize {
    // SAFETY: the caller vouches.
    unsafe { region.as_ref() }.map_or(0, |region| region.region.pages())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_tracker(region: *const CRegion) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = unsafe { known(region) }?;
        Ok(types::tracker_number(region.region.tracker()))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_locked(region: *const CRegion) -> c_int {
    // SAFETY: the caller vouches.
    guarded(|| Ok(c_int::from(unsafe { known(region) }?.region.locked())))
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL; `tracker` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_attempt(
    region: *const CRegion,
    index: usize,
    tracker: *mut c_int,
) -> *const c_char {
    // SAFETY: the caller vouches.
    let attempt = unsafe { region.as_ref() }.and_then(|region| region.attempts.get(index));
    let Some((number, why)) = attempt else {
        return ptr::null();
    };
    if !tracker.is_null() {
        // SAFETY: the caller vouches.
        unsafe { tracker.write(*number) };
    }
    why.as_ptr()
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_begin(region: *mut CRegion) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        unsafe { known(region) }?.region.begin_cycle()?;
        Ok(0)
    })
}

/// Runs an operation which leaves a list.
///
/// # Safety
/// `region` lives, or is NULL; `out` is NULL or writable.
unsafe fn list(
    region: *const CRegion,
    out: *mut Dirty,
    operation: for<'r> fn(&'r Region) -> Result<DirtyPages<'r>, CycleError>,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = unsafe { known(region) }?;
        let dirty = operation(&region.region)?;
        if !out.is_null() {
            let pages = if dirty.lost() {
                ptr::null()
            } else {
                dirty.raw().as_ptr()
            };
            let list = Dirty {
                pages,
                count: dirty.len(),
                lost: c_int::from(dirty.lost()),
            };
            // SAFETY: the caller vouches.
            unsafe { out.write(list) };
        }
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL; `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_commit(region: *mut CRegion, out: *mut Dirty) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { list(region, out, Region::end_cycle) }
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL; `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_commit_and_continue(
    region: *mut CRegion,
    out: *mut Dirty,
) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { list(region, out, Region::commit_cycle) }
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL; `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_peek(region: *mut CRegion, out: *mut Dirty) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { list(region, out, Region::peek_cycle) }
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_end(region: *mut CRegion) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { list(region, ptr::null_mut(), Region::end_cycle) }
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_prepare_write(
    region: *mut CRegion,
    offset: usize,
    bytes: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = &unsafe { known(region) }?.region;
        let end = offset
            .checked_add(bytes)
            .filter(|&end| end <= region.bytes());
        region.prepare_write(offset..end.ok_or_else(|| invalid("outside of the region"))?);
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `region` lives, or is NULL; `out` is writable, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_get_counters(region: *const CRegion, out: *mut CCounters) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = unsafe { known(region) }?;
        // SAFETY: as above.
        let out = unsafe { out.as_mut() }.ok_or_else(|| invalid("out is NULL"))?;
        if out.size != size_of::<CCounters>() {
            return Err(invalid("out->size"));
        }
        let counters = region.region.counters();
        out.known = if counters.faults.is_some() {
            types::KNOWN_FAULTS
        } else {
            0
        } | if counters.hypervisor.is_some() {
            types::KNOWN_HYPERVISOR
        } else {
            0
        };
        out.reserved = 0;
        out.faults = counters.faults.unwrap_or(0);
        out.hypervisor = counters.hypervisor.unwrap_or(cda_counters::default());
        Ok(0)
    })
}

/// See `hvckpt.h`.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_tracker_name(tracker: c_int) -> *const c_char {
    types::tracker_name(tracker).map_or(ptr::null(), CStr::as_ptr)
}

/// See `hvckpt.h`.
///
/// # Safety
/// `name` is a C string, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_tracker_by_name(name: *const c_char) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let name = unsafe { text(name, "the name") }?.ok_or_else(|| invalid("name is NULL"))?;
        let kind = name.parse().map_err(|error| invalid(&explain(&error)));
        kind.map(types::tracker_number)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `out` is writable, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_get_limits(tracker: c_int, out: *mut CLimits) -> c_int {
    guarded(|| {
        let kind = types::tracker(tracker).ok_or_else(|| invalid("unknown tracker number"))?;
        // SAFETY: the caller vouches.
        let out = unsafe { out.as_mut() }.ok_or_else(|| invalid("out is NULL"))?;
        let limits = kind.limits();
        *out = CLimits {
            kernel_writes: types::coverage(limits.kernel_writes),
            remote_writes: types::coverage(limits.remote_writes),
            forced_writes: types::coverage(limits.forced_writes),
            mapped_anew: types::coverage(limits.mapped_anew),
            forced_into_readonly: types::coverage(limits.forced_into_readonly),
            pinned_before: types::coverage(limits.pinned_before),
            other_mappings: types::coverage(limits.other_mappings),
        };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `out` is writable, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_gate(out: *mut u64) -> c_int {
    guarded(|| {
        let answer = gate::capabilities().map_err(|error| Failure {
            code: codes::gate(&error),
            text: explain(&error),
        })?;
        if !out.is_null() {
            // SAFETY: the caller vouches.
            unsafe { out.write(answer) };
        }
        Ok(0)
    })
}

/// See `hvckpt.h`.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_strerror(code: c_int) -> *const c_char {
    codes::text(code).as_ptr()
}

/// See `hvckpt.h`.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_last_error() -> *const c_char {
    let pointer = |last: &RefCell<CString>| last.try_borrow().ok().map(|text| text.as_ptr());
    LAST.try_with(pointer)
        .ok()
        .flatten()
        .unwrap_or(c"".as_ptr())
}

/// See `hvckpt.h`.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_version() -> c_uint {
    let part = |text: &str| text.parse::<c_uint>().unwrap_or(0);
    (part(env!("CARGO_PKG_VERSION_MAJOR")) << 16)
        | (part(env!("CARGO_PKG_VERSION_MINOR")) << 8)
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}
