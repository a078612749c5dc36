// SPDX-License-Identifier: MIT OR Apache-2.0
//! `libxenstore`: which domains run, under which names. Opened for every
//! listing: no connection to lose when xenstore restarts.

use std::ffi::{CString, c_uint};
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::Error;
use crate::bindings::xenstore;
use crate::dl;

/// Name under which the dynamic linker finds libxenstore.
const LIBRARY: &str = "libxenstore.so.4";

/// A running domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its number; never used again while it runs.
    pub domid: u32,
    /// Its name, if the toolstack gave one.
    pub name: Option<String>,
    /// Its UUID in the usual form, lower case, if it has one.
    pub uuid: Option<String>,
}

/// All running domains, by `/local/domain` of xenstore. The names there are
/// written by the toolstack; guests cannot change them.
///
/// # Errors
/// [`Error::Library`], [`Error::Open`], [`Error::Store`].
pub fn domains() -> Result<Vec<Domain>, Error> {
    domains_from(LIBRARY)
}

/// As [`domains`] with another library of that interface.
///
/// # Errors
/// As [`domains`].
pub fn domains_from(library: &str) -> Result<Vec<Domain>, Error> {
    let store = Store::open(library)?;
    let mut found = Vec::new();
    for id in store.directory("/local/domain")? {
        let Ok(domid) = id.parse() else { continue };
        // A domain may go away between two reads: then it has neither.
        let name = store.read(&format!("/local/domain/{id}/name"))?;
        let vm = store.read(&format!("/local/domain/{id}/vm"))?;
        let uuid = vm.and_then(|path| Some(path.strip_prefix("/vm/")?.to_ascii_lowercase()));
        found.push(Domain { domid, name, uuid });
    }
    Ok(found)
}

struct Store {
    library: ManuallyDrop<xenstore::Store>,
    handle: NonNull<xenstore::xs_handle>,
}

impl Store {
    fn open(library: &str) -> Result<Self, Error> {
        // SAFETY: bindings of xenstore.h, whose interface is stable within soname 4.
        let library = unsafe { dl::load(library, xenstore::Store::from_library) }?;
        // SAFETY: takes no pointers.
        let handle = unsafe { library.xs_open(0) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::Open {
            what: "xenstore",
            source: io::Error::last_os_error(),
        })?;
        Ok(Self { library, handle })
    }

    /// Names of the children of `path`.
    fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        let c_path = c_path(path)?;
        let mut count: c_uint = 0;
        // SAFETY: the handle is open, 0 is "no transaction", `c_path` a C
        // string, `count` writable.
        let list = unsafe {
            self.library
                .xs_directory(self.handle.as_ptr(), 0, c_path.as_ptr(), &raw mut count)
        };
        let Some(list) = NonNull::new(list) else {
            return Err(failed(path));
        };
        let count = usize::try_from(count).unwrap_or(0);
        let names = (0..count)
            .map(|i| {
                // SAFETY: the library returned `count` pointers to C strings,
                // all in the one block which is freed below.
                let name = unsafe { std::ffi::CStr::from_ptr(list.add(i).read()) };
                name.to_string_lossy().into_owned()
            })
            .collect();
        // SAFETY: the block comes from the library's malloc and nothing
        // refers to it any more.
        unsafe { libc::free(list.as_ptr().cast()) };
        Ok(names)
    }

    /// The value at `path`; `None` if there is none, or not as text.
    fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let c_path = c_path(path)?;
        let mut length: c_uint = 0;
        // SAFETY: as in `directory`.
        let value = unsafe {
            self.library
                .xs_read(self.handle.as_ptr(), 0, c_path.as_ptr(), &raw mut length)
        };
        let Some(value) = NonNull::new(value) else {
            let error = failed(path);
            return match &error {
                Error::Store { source, .. } if source.raw_os_error() == Some(libc::ENOENT) => {
                    Ok(None)
                }
                _ => Err(error),
            };
        };
        let length = usize::try_from(length).unwrap_or(0);
        // SAFETY: the library returned `length` octets in a block from its
        // malloc, which is copied before it is freed.
        let bytes = unsafe {
            let bytes = std::slice::from_raw_parts(value.as_ptr().cast::<u8>(), length).to_vec();
            libc::free(value.as_ptr());
            bytes
        };
        Ok(String::from_utf8(bytes).ok())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used after this.
        unsafe { self.library.xs_close(self.handle.as_ptr()) }
    }
}

fn c_path(path: &str) -> Result<CString, Error> {
    CString::new(path).map_err(|e| Error::Store {
        path: path.to_owned(),
        source: io::Error::other(e),
    })
}

fn failed(path: &str) -> Error {
    Error::Store {
        path: path.to_owned(),
        source: io::Error::last_os_error(),
    }
}
