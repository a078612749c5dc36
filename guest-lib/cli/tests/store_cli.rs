// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands for stores: what they print, and how they exit.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use hvckpt::store::{Durability, Page, PageWrite, Store, StoreKey, StoreOptions};
use serde_json::Value;
use store_common::Scratch;

fn hvckpt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn build(path: &Path) -> Vec<u64> {
    let store = Store::open(path, StoreOptions::default()).unwrap();
    let area = store.area("main", 0x10_0000, 5).unwrap();
    let commit = |n: u64| {
        let page = Page([n; 512]);
        let write = PageWrite::new(area, n % 5, &page);
        store.commit(&[write], Durability::Sync).unwrap()
    };
    (1..=9).map(commit).collect()
}

#[test]
fn a_store_is_shown_checked_restored_and_compacted() {
    let scratch = Scratch::new("cli");
    let (store, file) = (scratch.path().join("store"), scratch.path().join("out"));
    let versions = build(&store);
    let (store, file) = (store.to_str().unwrap(), file.to_str().unwrap());
    let newest = *versions.last().unwrap();

    let shown = hvckpt(&["inspect", store, "--json"]);
    assert_eq!(shown.status.code(), Some(0));
    let shown = json(&shown);
    assert_eq!(shown["versions"].as_array().unwrap().len(), 10);
    assert_eq!(
        (&shown["areas"][0]["name"], &shown["sound"]),
        (&"main".into(), &true.into())
    );
    let text = hvckpt(&["inspect", store]);
    assert!(String::from_utf8(text.stdout).unwrap().contains("HOT PAGE"));

    let restored = hvckpt(&[
        "restore",
        store,
        "--output",
        file,
        "--version",
        "6",
        "--json",
    ]);
    assert_eq!(json(&restored)["version"], 6);
    let bytes = fs::read(file).unwrap();
    let words: Vec<u8> = bytes.chunks(4096).map(|page| page[0]).collect();
    // The area itself was the first version.
    assert_eq!((words, bytes.len()), (vec![5, 1, 2, 3, 4], 5 * 4096));

    let compacted = json(&hvckpt(&["compact", store, "--keep", "3", "--json"]));
    assert_eq!(compacted["versions"], 3);
    let gone = hvckpt(&["restore", store, "--output", file, "--version", "6"]);
    assert_eq!(gone.status.code(), Some(2));
    let back = hvckpt(&[
        "restore",
        store,
        "--in-place",
        "--version",
        &(newest - 1).to_string(),
    ]);
    assert_eq!(back.status.code(), Some(0), "{back:?}");
    let verified = json(&hvckpt(&["verify", store, "--json"]));
    assert_eq!(
        (&verified["sound"], &verified["acknowledged"]),
        (&true.into(), &(newest + 1).into())
    );
}

#[test]
fn what_is_no_file_is_not_replaced_by_one() {
    let scratch = Scratch::new("cli-output");
    let at = |name: &str| scratch.path().join(name);
    build(&at("store"));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/null", at("device")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("file"), "old").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    let restore = |name: &str| {
        let (store, file) = (at("store"), at(name));
        let (store, file) = (store.to_str().unwrap(), file.to_str().unwrap());
        hvckpt(&["restore", store, "--output", file])
    };
    for name in ["pipe", "device", "directory"] {
        let kind = || fs::symlink_metadata(at(name)).unwrap().file_type();
        let before = kind();
        let refused = restore(name);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("is no file"), "{said}");
        assert_eq!(kind(), before, "{name}");
    }
    let done = restore("link");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(at("file")).unwrap().len(), 5 * 4096);
}

#[test]
fn damage_and_absence_have_their_exit_status() {
    let scratch = Scratch::new("cli-damage");
    build(scratch.path());
    let path = scratch.path().to_str().unwrap();
    assert_eq!(hvckpt(&["verify", path]).status.code(), Some(0));
    let image = scratch.path().join("image-000002.hvck");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&image, bytes).unwrap();
    let verified = hvckpt(&["verify", path]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    assert!(
        String::from_utf8(verified.stdout)
            .unwrap()
            .contains("image-000002.hvck")
    );
    let absent = scratch.path().join("nothing");
    assert_eq!(
        hvckpt(&["verify", absent.to_str().unwrap()]).status.code(),
        Some(2)
    );
    assert_eq!(
        hvckpt(&["compact", absent.to_str().unwrap()]).status.code(),
        Some(2)
    );
}

#[test]
fn keys_are_made_needed_and_named() {
    let scratch = Scratch::new("cli-key");
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (store, key, other) = (path("store"), path("key"), path("other"));
    let made = hvckpt(&["keygen", &key]);
    assert_eq!(made.status.code(), Some(0));
    let id = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert_eq!(
        hvckpt(&["keygen", &key]).status.code(),
        Some(2),
        "it exists"
    );
    hvckpt(&["keygen", &other]);
    let mut options = StoreOptions::default();
    options.key = Some(StoreKey::load(&key).unwrap());
    let page = Page([3; 512]);
    let open = Store::open(&store, options).unwrap();
    let area = open.area("main", 0x10_0000, 2).unwrap();
    let write = PageWrite::new(area, 1, &page);
    open.commit(&[write], Durability::Sync).unwrap();
    drop(open);
    let shown = json(&hvckpt(&["inspect", &store, "--key", &key, "--json"]));
    assert_eq!(shown["images"][0]["key"], *id);
    for (arguments, what) in [
        (vec!["verify", &store], "no key was given"),
        (vec!["verify", &store, "--key", &other], &id[..]),
        (vec!["verify", &store, "--key", "/nothing"], "cannot read"),
    ] {
        let refused = hvckpt(&arguments);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(text.contains(what), "{text}");
    }
    let compacted = Command::new(env!("CARGO_BIN_EXE_hvckpt"))
        .args(["compact", &store])
        .env("HVCKPT_STORE_KEY", &key)
        .output()
        .unwrap();
    assert_eq!(compacted.status.code(), Some(0), "{compacted:?}");
    let file = path("out");
    let restored = hvckpt(&["restore", &store, "--key", &key, "--output", &file]);
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert_eq!(fs::read(file).unwrap()[4096], 3);
}
