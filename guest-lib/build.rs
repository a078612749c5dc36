// SPDX-License-Identifier: MIT OR Apache-2.0
//! Link flags of the C library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The SIGSEGV handler must outlive a dlclose().
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
