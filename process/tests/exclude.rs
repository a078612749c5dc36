// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is excluded stays, and which signal stops.

mod common;

use common::{PAGE, Pages, alone, apart, undone};
use hvckpt_process::{Error, agent, exclude, rollback};
use std::process::Command;

#[test]
fn excluded_pages_are_not_undone() {
    let _alone = alone();
    let area = Pages::new(8);
    area.fill(1);
    let (from, whole) = (area.page(2).at as usize, 3 * PAGE);
    // SAFETY: nothing relies on this memory.
    unsafe {
        exclude(from, whole).unwrap();
        for (from, length) in [
            (from + 1, PAGE),
            (from, 100),
            (from, 0),
            (from, usize::MAX - 4095),
        ] {
            assert_eq!(
                exclude(from, length),
                Err(Error::NotPages { address: from })
            );
        }
    }
    rollback::verify_every(1).unwrap();
    undone(|| {
        area.fill(2);
        area.page(3).protect(libc::PROT_READ);
        area.page(4).unmap();
    });
    rollback::verify_every(0).unwrap();
    for n in [0, 1, 5, 6, 7] {
        assert!(area.page(n).all(1), "{n}");
    }
    assert!(area.page(2).all(2) && area.page(3).all(2));
    // The protection and the mapping came back, with whatever is in a new one.
    area.page(3).fill(3);
    assert!(area.page(4).all(0));
    assert_eq!(rollback::counts().unwrap().wrong, 0);
}

#[test]
fn signal_of_the_environment() {
    apart("signal_of_the_environment", || {
        let usable = |value: &str| {
            let out = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "signal_is_used", "--nocapture", "--ignored"])
                .env("HVCKPT_SIGNAL", value)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{value}: {text}");
        };
        for value in [
            "50",
            "44",
            "63",
            "9",
            "0",
            "65",
            "-1",
            "x",
            "",
            "99999999999999",
        ] {
            usable(value);
        }
    });
}

#[test]
#[ignore = "run by signal_of_the_environment, with a value"]
fn signal_is_used() {
    let value = std::env::var("HVCKPT_SIGNAL").unwrap();
    let signal: Option<i32> = value.parse().ok().filter(|n| (34..=64).contains(n));
    let Some(signal) = signal else {
        assert_eq!(agent::init(0).err(), Some(Error::BadSignal), "{value}");
        return;
    };
    // The program has a handler of its own: named, and left alone.
    extern "C" fn own(_: i32) {}
    // SAFETY: the handler does nothing.
    unsafe {
        libc::signal(signal, own as *const () as usize);
        assert_eq!(agent::init(0).err(), Some(Error::SignalInUse { signal }));
        libc::signal(signal, libc::SIG_DFL);
    }
    agent::init(0).unwrap();
    // SAFETY: asks; zeroes are a `sigaction`.
    let handler = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now);
        now.sa_sigaction
    };
    assert_ne!(handler, libc::SIG_DFL);
    // Read once.
    // SAFETY: no other thread reads the environment.
    unsafe { std::env::set_var("HVCKPT_SIGNAL", "nonsense") };
    undone(|| ());
}
