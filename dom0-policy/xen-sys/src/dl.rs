// SPDX-License-Identifier: MIT OR Apache-2.0
//! Libraries loaded at run time. They stay loaded: nothing here ever unloads
//! one, so function pointers taken from them stay valid.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;

use crate::Error;

pub(crate) struct Library {
    name: String,
    handle: NonNull<c_void>,
}

impl Library {
    /// Loads `name`, a file name to be searched for or a path.
    pub(crate) fn open(name: &str) -> Result<Self, Error> {
        let fail = |detail| Error::Library {
            library: name.to_owned(),
            detail,
        };
        let path = CString::new(name).map_err(|e| fail(e.to_string()))?;
        // SAFETY: `path` is a C string. Loading runs the library's
        // constructors, which is what the caller asked for.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Self {
                name: name.to_owned(),
                handle,
            }),
            None => Err(fail(last_error())),
        }
    }

    /// A function, as a pointer of type `F`.
    ///
    /// # Safety
    /// `F` must be the type of a pointer to the function of that name.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, Error> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle comes from dlopen and was never closed; `name`
        // is a C string.
        let address = unsafe { libc::dlsym(self.handle.as_ptr(), name.as_ptr()) };
        if address.is_null() {
            let detail = format!("it has no {}", name.to_string_lossy());
            return Err(Error::Library {
                library: self.name.clone(),
                detail,
            });
        }
        // SAFETY: not null, of the same size, and of type F says the caller.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
}

fn last_error() -> String {
    // SAFETY: dlerror returns null or a C string which stays valid until the
    // next dl* call of this thread.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "unknown error".to_owned();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
