// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C API: memory inside a durable region.

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};

use super::durable::{CDurable, known};
use super::{Failure, codes, guarded, invalid};
use crate::arena::RawArena;

fn failure(code: i32) -> Failure {
    Failure {
        code,
        text: codes::text(code).to_string_lossy().into_owned(),
    }
}

/// # Safety
/// `durable` is null or lives.
unsafe fn arena(durable: *const CDurable) -> Result<RawArena, Failure> {
    // SAFETY: the caller vouches.
    let known = unsafe { known(durable) }?;
    known.durable.owned()?;
    known.arena.ok_or_else(|| failure(codes::NO_ARENA))
}

/// Runs the body of a function which answers with an address.
fn address(body: impl FnOnce() -> Result<NonNull<u8>, Failure>) -> *mut c_void {
    let mut found = ptr::null_mut();
    guarded(|| {
        found = body()?.as_ptr();
        Ok(0)
    });
    found.cast()
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL, and no other thread uses it now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_arena_open(durable: *mut CDurable) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let region = unsafe { durable.as_mut() };
        let region = region.ok_or_else(|| invalid("the durable region is NULL"))?;
        let (arena, fresh) = RawArena::open(&region.durable)?;
        region.arena = Some(arena);
        Ok(c_int::from(fresh))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_malloc(durable: *mut CDurable, bytes: usize) -> *mut c_void {
    address(|| {
        // SAFETY: the caller vouches.
        let block = unsafe { arena(durable) }?.allocate(bytes);
        block.ok_or_else(|| failure(codes::NO_MEMORY))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_calloc(
    durable: *mut CDurable,
    count: usize,
    bytes: usize,
) -> *mut c_void {
    address(|| {
        // SAFETY: the caller vouches.
        let arena = unsafe { arena(durable) }?;
        let bytes = count.checked_mul(bytes);
        let block = bytes.and_then(|bytes| Some((arena.allocate(bytes)?, bytes)));
        let (block, bytes) = block.ok_or_else(|| failure(codes::NO_MEMORY))?;
        // SAFETY: a fresh block of this size.
        unsafe { block.write_bytes(0, bytes) };
        Ok(block)
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL; nobody uses the block meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_realloc(
    durable: *mut CDurable,
    block: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    address(|| {
        // SAFETY: the caller vouches.
        let arena = unsafe { arena(durable) }?;
        let block = match NonNull::new(block.cast()) {
            None => arena.allocate(bytes),
            Some(block) => arena
                .resize(block, bytes)
                .ok_or_else(|| invalid("not a block of this arena"))?,
        };
        block.ok_or_else(|| failure(codes::NO_MEMORY))
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL; nobody uses the block any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_free(durable: *mut CDurable, block: *mut c_void) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let arena = unsafe { arena(durable) }?;
        match NonNull::new(block.cast()) {
            Some(block) if !arena.free(block) => {
                Err(invalid("not a block of this arena, or given back already"))
            }
            _ => Ok(0),
        }
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_root(durable: *const CDurable) -> *mut c_void {
    // SAFETY: the caller vouches.
    let arena = unsafe { durable.as_ref() }.and_then(|region| region.arena);
    arena.map_or(ptr::null_mut(), |arena| arena.root().cast())
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_set_root(durable: *mut CDurable, block: *mut c_void) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches.
        let arena = unsafe { arena(durable) }?;
        if arena.set_root(NonNull::new(block.cast())) {
            Ok(0)
        } else {
            Err(invalid("not a block of this arena"))
        }
    })
}

/// See `hvckpt.h`.
///
/// # Safety
/// `durable` lives, or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_arena_used(durable: *const CDurable) -> u64 {
    // SAFETY: the caller vouches.
    let arena = unsafe { durable.as_ref() }.and_then(|region| region.arena);
    arena.map_or(0, |arena| arena.used())
}
