// SPDX-License-Identifier: MIT OR Apache-2.0
//! `libxencall`: a handle on the hypercall driver, and memory in which
//! arguments may be passed.

use std::ffi::c_uint;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::Error;
use crate::abi::Plain;
use crate::bindings::xencall;
use crate::dl;

/// An open handle; closed when dropped. Not to be used across `fork`.
pub(crate) struct XenCall {
    library: ManuallyDrop<xencall::Calls>,
    handle: NonNull<xencall::xencall_handle>,
}

// SAFETY: the library ties handles to no thread (it even locks internally
// unless told otherwise); only sharing is left to the caller.
unsafe impl Send for XenCall {}

impl fmt::Debug for XenCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XenCall(..)")
    }
}

impl XenCall {
    pub(crate) fn open(library: &str) -> Result<Self, Error> {
        // SAFETY: bindings of xencall.h, whose interface is stable within soname 1.
        let library = unsafe { dl::load(library, xencall::Calls::from_library) }?;
        // SAFETY: a null logger is allowed and means standard error.
        let handle = unsafe { library.xencall_open(std::ptr::null_mut(), 0) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::Open {
            what: "the hypercall device",
            source: io::Error::last_os_error(),
        })?;
        Ok(Self { library, handle })
    }

    /// Zeroed memory for `count` values which the hypervisor can reach.
    pub(crate) fn buffer<T: Plain>(&self, count: usize) -> Result<Buffer<'_, T>, Error> {
        let count = count.max(1);
        let bytes = count
            .checked_mul(size_of::<T>())
            .ok_or_else(|| Error::Buffer(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the handle is open.
        let start = unsafe {
            self.library
                .xencall_alloc_buffer(self.handle.as_ptr(), bytes)
        };
        let start = NonNull::new(start.cast::<T>())
            .ok_or_else(|| Error::Buffer(io::Error::last_os_error()))?;
        // The library hands out whole pages; rely on what is checked only.
        assert!(start.is_aligned(), "hypercall buffer not aligned");
        // SAFETY: `bytes` octets from `start` are ours and writable.
        unsafe { start.write_bytes(0, count) };
        Ok(Buffer {
            call: self,
            start,
            count,
        })
    }

    /// Hypercall `op` with two plain arguments. Not negative, or an errno.
    ///
    /// # Safety
    /// The hypercall must touch no memory of this process but buffers of
    /// this handle that are alive and large enough.
    pub(crate) unsafe fn call2(
        &self,
        command: &'static str,
        op: u64,
        a: u64,
        b: u64,
    ) -> Result<u32, Error> {
        let op = c_uint::try_from(op).expect("hypercall numbers are small");
        // SAFETY: the handle is open; the rest is the caller's promise.
        let result = unsafe { self.library.xencall2(self.handle.as_ptr(), op, a, b) };
        u32::try_from(result).map_err(|_| Error::Call {
            command,
            source: io::Error::last_os_error(),
        })
    }
}

impl Drop for XenCall {
    fn drop(&mut self) {
        // SAFETY: the handle is open and buffers, which borrow it, are gone.
        // There is nothing to be done about an error.
        let _ = unsafe { self.library.xencall_close(self.handle.as_ptr()) };
    }
}

/// Memory for hypercall arguments; wiped and given back when dropped, since
/// it may have held a token and the library keeps a cache.
pub(crate) struct Buffer<'a, T: Plain> {
    call: &'a XenCall,
    start: NonNull<T>,
    count: usize,
}

impl<T: Plain> Buffer<'_, T> {
    /// What a hypercall takes as its argument.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, index: usize) -> T {
        assert!(index < self.count);
        // SAFETY: inside the buffer, aligned, initialised (zeroed at first),
        // and every bit pattern is a value of a Plain type.
        unsafe { self.start.add(index).read() }
    }

    pub(crate) fn set(&mut self, index: usize, value: T) {
        assert!(index < self.count);
        // SAFETY: inside the buffer and aligned; the buffer is ours alone.
        unsafe { self.start.add(index).write(value) }
    }
}

impl<T: Plain> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the memory is ours until the call to free, which is opaque
        // to the compiler, so that the wiping is not optimised away.
        unsafe {
            self.start.write_bytes(0, self.count);
            let free = self.call.library.xencall_free_buffer;
            free(self.call.handle.as_ptr(), self.start.as_ptr().cast());
        }
    }
}
