// SPDX-License-Identifier: MIT OR Apache-2.0
//! Knowing a fork child, whoever forked and however.
//!
//! A page with `MADV_WIPEONFORK` holds a one; a child of `fork`, `_Fork` or a
//! bare `clone` reads zero there.  No `atfork` handler, no `getpid` per call.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::PAGE_SIZE;

static SENTINEL: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the sentinel up.  Idempotent.
///
/// # Errors
/// There is no page to be had for it.
pub fn arm() -> io::Result<()> {
    if !SENTINEL.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: a fresh anonymous mapping, no address is forced.
    let page = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: our own page.
    let advised = unsafe { libc::madvise(page, PAGE_SIZE, libc::MADV_WIPEONFORK) };
    if advised != 0 {
        let error = io::Error::last_os_error();
        // SAFETY: our own page, not published.
        unsafe { libc::munmap(page, PAGE_SIZE) };
        return Err(error);
    }
    let cell: *mut AtomicU64 = page.cast();
    // SAFETY: the page is mapped, writable, aligned and zero.
    unsafe { (*cell).store(1, Ordering::Release) };
    if SENTINEL
        .compare_exchange(
            core::ptr::null_mut(),
            cell,
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_err()
    {
        // SAFETY: another thread was first, this page was never published.
        unsafe { libc::munmap(page, PAGE_SIZE) };
    }
    Ok(())
}

/// True in a child forked after [`arm`].  async-signal-safe.
#[inline]
#[must_use]
pub fn is_child() -> bool {
    let cell = SENTINEL.load(Ordering::Acquire);
    // SAFETY: once published the page is never unmapped.
    !cell.is_null() && unsafe { (*cell).load(Ordering::Relaxed) } == 0
}
