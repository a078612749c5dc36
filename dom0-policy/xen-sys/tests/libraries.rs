// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wrappers against a shared library with the interface of libxencall
//! and libxenstore (`fake.c`), loaded as the real ones are.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use xen_sys::abi::ModeSet;
use xen_sys::{Control, Domain, Error, Revoked, Token, Version, Which, domains_from};

/// Builds the library; every test has its own, hence its own state.
fn fake(options: &[&str]) -> (TempDir, String) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let library: PathBuf = dir.path().join("libfake.so");
    let built = Command::new("cc")
        .args([
            "-shared", "-fPIC", "-Wall", "-Werror", "-include", "stdint.h", "-include",
        ])
        .arg(here.join("../../xen-patch/include/public/cda.h"))
        .args(options)
        .arg("-o")
        .arg(&library)
        .arg(here.join("tests/fake.c"))
        .output()
        .expect("the test needs a C compiler named cc");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    (dir, library.to_str().unwrap().to_owned())
}

fn token(domid: u32) -> Token {
    Token {
        domid,
        token: [7; 16],
        tag: 42,
        lifetime: Duration::from_secs(30),
        max_pages: 0,
        max_ranges: 0,
        max_sessions: 0,
        modes: ModeSet::PTXEN | ModeSet::AUTOXEN,
    }
}

fn tag(tag: u64) -> Which {
    Which::Tag(NonZeroU64::new(tag).unwrap())
}

#[test]
fn every_command() {
    let (_dir, library) = fake(&[]);
    let mut control = Control::open_library(&library).unwrap();
    assert_eq!(
        control.version().unwrap(),
        Version {
            abi: 1,
            modes: ModeSet::PTXEN | ModeSet::AUTOXEN
        }
    );
    control.add_token(&token(3)).unwrap();

    // More sessions than the first buffer holds.
    let sessions = control.sessions(3).unwrap();
    assert_eq!(sessions.len(), 100);
    assert!(sessions[0].ended && !sessions[1].ended);
    assert_eq!((sessions[99].id, sessions[99].tag), (100, 42));
    assert_eq!(sessions[99].age, Duration::from_millis(1500));
    assert_eq!(sessions[99].counters.cycles, 100);
    assert_eq!(control.counters(3).unwrap().cycles, 12);

    let mut limits = control.limits(3).unwrap();
    assert_eq!((limits.max_pages, limits.used_tokens), (1000, 1));
    limits.max_tokens = 1;
    assert_eq!(control.set_limits(3, &limits).unwrap().max_tokens, 1);
    let full = control.add_token(&token(3)).unwrap_err();
    assert_eq!(full.hypercall_errno(), Some(libc::ENOSPC));

    let one = Which::Session(NonZeroU64::new(5).unwrap());
    assert_eq!(
        control.revoke(3, one).unwrap(),
        Revoked {
            tokens: 0,
            sessions: 1
        }
    );
    assert_eq!(
        control.revoke(3, tag(42)).unwrap(),
        Revoked {
            tokens: 1,
            sessions: 100
        }
    );
    assert_eq!(control.revoke(3, tag(41)).unwrap(), Revoked::default());
}

#[test]
fn errors_keep_their_errno() {
    let (_dir, library) = fake(&[]);
    let mut control = Control::open_library(&library).unwrap();
    let gone = control.add_token(&token(4)).unwrap_err();
    assert_eq!(gone.hypercall_errno(), Some(libc::ESRCH));
    let other = control.add_token(&token(9)).unwrap_err();
    assert_eq!(other.hypercall_errno(), Some(libc::EOPNOTSUPP));
    assert!(
        other.to_string().starts_with("CDA_CTL_add_token: "),
        "{other}"
    );
}

#[test]
fn hypervisor_without_the_patch() {
    let (_dir, library) = fake(&["-DFAKE_ENOSYS"]);
    let mut control = Control::open_library(&library).unwrap();
    assert_eq!(
        control.version().unwrap_err().hypercall_errno(),
        Some(libc::ENOSYS)
    );
}

#[test]
fn domains_by_name_and_uuid() {
    let (_dir, library) = fake(&[]);
    let domain = |domid, name: &str, uuid: Option<&str>| Domain {
        domid,
        name: Some(name.to_owned()),
        uuid: uuid.map(str::to_owned),
    };
    let expected = [
        domain(0, "Domain-0", None),
        domain(3, "domu", Some("0f0e0d0c-0b0a-0908-0706-050403020100")),
        domain(9, "hvm", None),
    ];
    assert_eq!(domains_from(&library).unwrap(), expected);
}

#[test]
fn missing_library_or_function() {
    let missing = Control::open_library("libthereisnone.so.1").unwrap_err();
    assert!(matches!(missing, Error::Library { .. }), "{missing}");
    // A library that exists and is another one.
    let other = domains_from("libm.so.6").unwrap_err();
    assert!(other.to_string().contains("xs_open"), "{other}");
}
