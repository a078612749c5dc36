// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C API: stores.

use core::ffi::{c_char, c_int, c_uint};
use core::ptr;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Failure, guarded, invalid, text};
use crate::metrics::Registry;
use crate::store::{Compression, Durability, Store, StoreError, StoreKey, StoreOptions};
use hvckpt_track::PAGE_SIZE;

/// `hvckpt_store`.
#[derive(Debug)]
pub struct CStore {
    pub(super) store: Arc<Store>,
}

/// `struct hvckpt_store_options`.
#[repr(C)]
#[derive(Debug)]
pub struct CStoreOptions {
    size: usize,
    key_file: *const c_char,
    key: *const u8,
    keep: usize,
    image_bytes: u64,
    queue_bytes: usize,
    compact_bytes: u64,
    at: u64,
    interval_us: c_uint,
    group_delay_us: c_uint,
    compression: c_int,
    level: c_int,
    no_auto_compact: c_int,
    no_create: c_int,
    read_only: c_int,
    accept_loss: c_int,
}

/// `struct hvckpt_recovery`.
#[repr(C)]
#[derive(Debug)]
pub struct CRecovery {
    version: u64,
    torn_bytes: u64,
    problems: usize,
    created: c_int,
}

/// # Safety
/// `store` is null or lives.
pub(super) unsafe fn known<'a>(store: *const CStore) -> Result<&'a Store, Failure> {
    // SAFETY: the caller vouches.
    let store = unsafe { store.as_ref() }.ok_or_else(|| invalid("the store is NULL"))?;
    Ok(&store.store)
}

pub(super) fn durability(number: c_int) -> Result<Durability, Failure> {
    Ok(match number {
        0 => Durability::Sync,
        1 => Durability::Group,
        2 => Durability::Async,
        3 => Durability::Memory,
        _ => return Err(invalid("unknown durability")),
    })
}

/// # Safety
/// The pointers in `from` are what the header asks for.
unsafe fn options(from: &CStoreOptions) -> Result<StoreOptions, Failure> {
    let mut options = StoreOptions::default();
    // SAFETY: the caller vouches.
    let key_file = unsafe { text(from.key_file, "the key file") }?;
    if let Some(path) = key_file {
        options.key = Some(StoreKey::load(path).map_err(StoreError::Key)?);
    } else if !from.key.is_null() {
        let mut secret = Zeroizing::new([0; 32]);
        // SAFETY: the caller vouches for 32 bytes.
        secret.copy_from_slice(unsafe { core::slice::from_raw_parts(from.key, 32) });
        options.key = Some(StoreKey::new(secret));
    }
    options.compression = match from.compression {
        0 => Compression::default(),
        1 => Compression::None,
        2 => Compression::Lz4,
        3 => Compression::Zstd(if from.level == 0 { 3 } else { from.level }),
        _ => return Err(invalid("unknown compression")),
    };
    let some = |value: u64, set: &mut u64| {
        if value != 0 {
            *set = value;
        }
    };
    some(from.image_bytes, &mut options.image_bytes);
    some(from.compact_bytes, &mut options.compact_bytes);
    if from.keep != 0 {
        options.keep = from.keep;
    }
    if from.queue_bytes != 0 {
        options.queue_bytes = from.queue_bytes;
    }
    if from.interval_us != 0 {
        options.interval = Duration::from_micros(from.interval_us.into());
    }
    if from.group_delay_us != 0 {
        options.group_delay = Duration::from_micros(from.group_delay_us.into());
    }
    options.at = (from.at != 0).then_some(from.at);
    options.auto_compact = from.no_auto_compact == 0;
    options.create = from.no_create == 0;
    options.read_only = from.read_only != 0;
    options.accept_loss = from.accept_loss != 0;
    Ok(options)
}

/// See `hvckpt.h`.
///
/// # Safety
/// `directory` is a C string; `from` and what it points to are as the header
/// says, or NULL; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_open(
    directory: *const c_char,
    from: *const CStoreOptions,
    out: *mut *mut CStore,
) -> c_int {
    guarded(|| {
        if out.is_null() {
            return Err(invalid("out is NULL"));
        }
        if directory.is_null() {
            return Err(invalid("the directory is NULL"));
        }
        // SAFETY: the caller vouches.
        let (path, options) = unsafe {
            out.write(ptr::null_mut());
            let path = core::ffi::CStr::from_ptr(directory).to_bytes();
            let options = match from.as_ref() {
                None => StoreOptions::default(),
                Some(from) if from.size == size_of::<CStoreOptions>() => options(from)?,
                Some(_) => return Err(invalid("options.size; use HVCKPT_STORE_OPTIONS_INIT")),
            };
            (Path::new(OsStr::from_bytes(path)), options)
        };
        let store = Arc::new(Store::open(path, options)?);
        // SAFETY: checked above.
        unsafe { out.write(Box::into_raw(Box::new(CStore { store }))) };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` comes from [`hvckpt_store_open`] and is not used again, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_close(store: *mut CStore) -> c_int {
    guarded(|| {
        if store.is_null() {
            return Ok(0);
        }
        // SAFETY: the caller vouches.
        let store = unsafe { Box::from_raw(store) }.store;
        // Does nothing if it was opened for reading.
        store.flush()?;
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL; `out` is writable, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_recovery(store: *const CStore, out: *mut CRecovery) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let recovery = unsafe { known(store) }?.recovery();
        // SAFETY: as above.
        let out = unsafe { out.as_mut() }.ok_or_else(|| invalid("out is NULL"))?;
        *out = CRecovery {
            version: recovery.version,
            torn_bytes: recovery.torn_bytes,
            problems: recovery.problems.len(),
            created: c_int::from(recovery.created),
        };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_newest(store: *const CStore) -> u64 {
    // SAFETY: the caller vouches.
    unsafe { store.as_ref() }.map_or(0, |store| store.store.newest())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_durable(store: *const CStore) -> u64 {
    // SAFETY: the caller vouches.
    unsafe { store.as_ref() }.map_or(0, |store| store.store.durable())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_waiting(store: *const CStore) -> usize {
    // SAFETY: the caller vouches.
    unsafe { store.as_ref() }.map_or(0, |store| store.store.waiting())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_flush(store: *mut CStore) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        unsafe { known(store) }?.flush()?;
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_wait(store: *mut CStore, version: u64) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        unsafe { known(store) }?.wait(version)?;
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_compact(store: *mut CStore) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        unsafe { known(store) }?.compact(|_| {})?;
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL; `out` has room for `capacity` numbers, or is
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_versions(
    store: *const CStore,
    out: *mut u64,
    capacity: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let versions = unsafe { known(store) }?.versions();
        if !out.is_null() {
            // SAFETY: as above.
            let room = unsafe { core::slice::from_raw_parts_mut(out, capacity) };
            // The newest ones, if there are more.
            let skip = versions.len().saturating_sub(capacity);
            for (to, version) in room.iter_mut().zip(&versions[skip..]) {
                *to = version.number;
            }
        }
        Ok(c_int::try_from(versions.len()).unwrap_or(c_int::MAX))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL; `area` is a C string; `out` has room for a page.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_read(
    store: *const CStore,
    version: u64,
    area: *const c_char,
    page: u64,
    out: *mut u8,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let store = unsafe { known(store) }?;
        // SAFETY: as above.
        let area = unsafe { text(area, "the area") }?.ok_or_else(|| invalid("area is NULL"))?;
        let view = store.view((version != 0).then_some(version))?;
        let bytes = view.page(view.area(area)?, page)?.to_bytes();
        if out.is_null() {
            return Err(invalid("out is NULL"));
        }
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), out, PAGE_SIZE) };
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `path` is a C string, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_keygen(path: *const c_char) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let path = unsafe { text(path, "the path") }?.ok_or_else(|| invalid("path is NULL"))?;
        let key = StoreKey::generate().map_err(StoreError::Key)?;
        key.save(path).map_err(StoreError::Key)?;
        Ok(0)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `store` lives, or is NULL; `out` has room for `capacity` bytes, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_store_metrics(
    store: *const CStore,
    out: *mut c_char,
    capacity: usize,
) -> c_int {
    guarded(|| {
        let registry = Registry::new();
        // SAFETY: the caller vouches.
        registry.add("store", unsafe { known(store) }?.metrics());
        let text = registry.prometheus();
        if !out.is_null() && capacity > 0 {
            let bytes = text.len().min(capacity - 1);
            // SAFETY: as above; the text is that long at least.
            unsafe {
                ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), bytes);
                out.add(bytes).write(0);
            }
        }
        Ok(c_int::try_from(text.len()).unwrap_or(c_int::MAX))
    })
}
