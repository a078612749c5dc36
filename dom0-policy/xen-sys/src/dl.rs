// SPDX-License-Identifier: MIT OR Apache-2.0
//! Libraries loaded at run time.

use std::mem::ManuallyDrop;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::Error;

/// Loads `name`, a file name to be searched for or a path, and takes the
/// functions of the bindings `T` from it. It stays loaded: threads of its own
/// and what it registered for the end of the program stay valid.
///
/// # Safety
/// `bind` must be the `from_library` of bindings of this library.
pub(crate) unsafe fn load<T>(
    name: &str,
    bind: unsafe fn(Library) -> Result<T, libloading::Error>,
) -> Result<ManuallyDrop<T>, Error> {
    // SAFETY: loading runs the library's constructors, which is what the
    // caller asked for; its functions have the types of the bindings, says he.
    let bound = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL).and_then(|it| bind(it)) };
    bound
        .map(ManuallyDrop::new)
        .map_err(|error| Error::Library {
            library: name.to_owned(),
            detail: error.to_string(),
        })
}
