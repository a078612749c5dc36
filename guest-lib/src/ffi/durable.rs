// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C API: durable regions.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use super::store::{CStore, durability};
use super::types::{self, Options};
use super::{Failure, attach, guarded, invalid, lock_policy, text, trackers};
use crate::arena::RawArena;
use crate::store::Durable;

/// `hvckpt_durable`.
#[derive(Debug)]
pub struct CDurable {
    // Before the region, in which it is.
    pub(super) arena: Option<RawArena>,
    pub(super) durable: Durable,
}

/// # Safety
/// `durable` is null or lives.
pub(super) unsafe fn known<'a>(durable: *const CDurable) -> Result<&'a CDurable, Failure> {
    // SAFETY: the caller vouches.
    unsafe { durable.as_ref() }.ok_or_else(|| invalid("the durable region is NULL"))
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives; `name` is a C string; `options` and what it points to are as
/// the header says; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_open(
    store: *mut CStore,
    name: *const c_char,
    options: *const Options,
    out: *mut *mut CDurable,
) -> c_int {
    guarded(|| {
        if out.is_null() {
            return Err(invalid("out is NULL"));
        }
        // SAFETY: the caller vouches.
        let (store, builder) = unsafe {
            out.write(ptr::null_mut());
            let store = store.as_ref().ok_or_else(|| invalid("the store is NULL"))?;
            let name = text(name, "the name")?.ok_or_else(|| invalid("name is NULL"))?;
            let options = options.as_ref().ok_or_else(|| invalid("options is NULL"))?;
            if options.size != size_of::<Options>() {
                return Err(invalid("options.size; use HVCKPT_OPTIONS_INIT"));
            }
            if options.log_entries != 0 {
                return Err(invalid("log_entries is for hvckpt_register_cda"));
            }
            let mut builder = Durable::builder(name)
                .attach(attach(options)?)
                .lock(lock_policy(options)?);
            let kinds = trackers(options)?;
            if !kinds.is_empty() {
                builder = builder.trackers(kinds);
            }
            if options.bytes != 0 {
                builder = builder.pages(options.bytes.div_ceil(crate::PAGE_SIZE));
            }
            if !options.memory.is_null() {
                builder = builder.address(options.memory as usize);
            }
            (store, builder)
        };
        let durable = builder.open_in(&store.store)?;
        let durable = CDurable {
            arena: None,
            durable,
        };
        // SAFETY: checked above.
        unsafe { out.write(Box::into_raw(Box::new(durable))) };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` comes from [`hvckpt_durable_open`] and is not used again, or is
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_close(durable: *mut CDurable) -> c_int {
    guarded(|| {
        if !durable.is_null() {
            // SAFETY: the caller vouches.
            drop(unsafe { Box::from_raw(durable) });
        }
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_memory(durable: *const CDurable) -> *mut c_void {
    // SAFETY: the caller vouches.
    unsafe { durable.as_ref() }.map_or(ptr::null_mut(), |region| region.durable.as_ptr().cast())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_pages(durable: *const CDurable) -> usize {
    // SAFETY: the caller vouches.
    unsafe { durable.as_ref() }.map_or(0, |region| region.durable.region().pages())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_tracker(durable: *const CDurable) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let kind = unsafe { known(durable) }?.durable.region().tracker();
        Ok(types::tracker_number(kind))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_version(durable: *const CDurable) -> u64 {
    // SAFETY: the caller vouches.
    unsafe { durable.as_ref() }.map_or(0, |region| region.durable.version())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_begin(durable: *mut CDurable) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let transaction = unsafe { known(durable) }?.durable.begin()?;
        // Until commit or abort.
        core::mem::forget(transaction);
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL; `version` is writable, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_commit(
    durable: *mut CDurable,
    level: c_int,
    version: *mut u64,
) -> c_int {
    guarded(|| {
        let level = durability(level)?;
        // SAFETY: the caller vouches.
        let number = unsafe { known(durable) }?.durable.opened()?.commit(level)?;
        if !version.is_null() {
            // SAFETY: as above.
            unsafe { version.write(number) };
        }
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_abort(durable: *mut CDurable) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        unsafe { known(durable) }?.durable.opened()?.abort();
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_durable_prepare_write(
    durable: *mut CDurable,
    offset: usize,
    bytes: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = unsafe { known(durable) }?.durable.region();
        let end = offset
            .checked_add(bytes)
            .filter(|&end| end <= region.bytes());
        region.prepare_write(offset..end.ok_or_else(|| invalid("outside of the region"))?);
        Ok(0)
    })
}
