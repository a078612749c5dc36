// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people are told: every message names the cause and the next step.

#[path = "../../tests/store_common/mod.rs"]
mod store_common;

use std::io;
use std::process::{Command, Stdio};

use hvckpt::arena::{Arena, ArenaRoot, UpdateError};
use hvckpt::backup::{Replication, add_key};
use hvckpt::store::{Durability, Durable, Page, PageWrite, Store, StoreOptions};
use hvckpt::{Attach, TrackerKind, explain};
use store_common::{Scratch, builder};

const HVCKPT: &str = env!("CARGO_BIN_EXE_hvckpt");

/// The message has all of these, and none of those.
#[track_caller]
fn says(message: &str, all: &[&str], none: &[&str]) {
    for part in all {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    for part in none {
        assert!(!message.contains(part), "{part:?} is in: {message}");
    }
}

fn no_gate() -> bool {
    hvckpt::sys::gate::capabilities().is_err()
}

fn store(path: &std::path::Path) -> Store {
    let store = Store::open(path, StoreOptions::default()).unwrap();
    let area = store.area("main", 0x10_0000, 4).unwrap();
    let write = PageWrite::new(area, 0, &Page([7; 512]));
    store.commit(&[write], Durability::Sync).unwrap();
    store
}

#[test]
fn who_chose_no_tracker_is_told_so() {
    if !no_gate() {
        return;
    }
    let error = hvckpt::register_cda().pages(1).register().unwrap_err();
    let next = [
        "no tracker was chosen",
        "ptxen",
        "no gate: ",
        "hvckpt doctor",
    ];
    says(&explain(&error), &next, &[]);
    let scratch = Scratch::new("messages-unchosen");
    let durable = Durable::builder("app").pages(1).open(scratch.path());
    says(&explain(&durable.unwrap_err()), &next, &[]);
    // Of several each has its own reason.
    let trackers = [TrackerKind::AutoXen, TrackerKind::PtXen];
    let list = hvckpt::register_cda().pages(1).trackers(trackers);
    let text = explain(&list.register().unwrap_err());
    says(
        &text,
        &["autoxen: no gate: ", "; ptxen: no gate: "],
        &["default"],
    );
    // And who chose is not told that he did not.
    let one = hvckpt::register_cda().pages(1).tracker(TrackerKind::PtXen);
    let text = explain(&one.register().unwrap_err());
    says(
        &text,
        &["the tracker ptxen does not work here: no gate"],
        &["chosen"],
    );
}

/// Runs a program that may not lock memory.
fn unlocked(program: &str, arguments: &[&str]) -> String {
    let limited = "ulimit -l 0; [ \"$(id -u)\" != 0 ] || set -- setpriv --bounding-set -ipc_lock \"$@\"; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited, "sh", program])
        .args(arguments)
        .env_remove("HVCKPT_KEY")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn without_xen_nobody_is_sent_to_the_limit_of_locked_memory() {
    if !no_gate() {
        return;
    }
    let text = unlocked(HVCKPT, &["doctor"]);
    says(&text, &["at most 0 bytes"], &["RLIMIT_MEMLOCK"]);
    let itself = std::env::current_exe().unwrap().display().to_string();
    let child = [
        "--exact",
        "child_registers_with_xen",
        "--ignored",
        "--nocapture",
    ];
    let text = unlocked(&itself, &child);
    says(&text, &["1 passed"], &["RLIMIT_MEMLOCK"]);
}

#[test]
#[ignore = "run by another test, under a limit"]
fn child_registers_with_xen() {
    for kind in [TrackerKind::PtXen, TrackerKind::AutoXen] {
        let refused = hvckpt::register_cda().pages(4).tracker(kind).register();
        eprintln!("{}", explain(&refused.unwrap_err()));
    }
    // Where it is the limit, it is named, with what can be done.
    let refused = hvckpt::register_cda().pages(4).tracker(TrackerKind::Pt);
    let text = explain(&refused.register().unwrap_err());
    says(
        &text,
        &["RLIMIT_MEMLOCK is 0", "ulimit -l", "IfAllowed"],
        &[],
    );
}

#[test]
fn a_store_in_use_names_path_and_process() {
    let scratch = Scratch::new("messages-locked");
    let path = scratch.path().display().to_string();
    let _held = store(scratch.path());
    let output = Command::new(HVCKPT).args(["compact", &path]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let process = format!("process {}", std::process::id());
    says(&text, &[&path, &process, "read"], &[]);
    let again = Store::open(scratch.path(), StoreOptions::default());
    says(&explain(&again.unwrap_err()), &[&path, "this process"], &[]);
}

struct One;
struct Two(#[allow(dead_code)] u64);
// SAFETY: it holds nothing.
unsafe impl ArenaRoot for One {
    const TAG: u64 = 1;
}
// SAFETY: a number.
unsafe impl ArenaRoot for Two {
    const TAG: u64 = 2;
}

#[test]
fn arenas_explain_in_sentences() {
    let scratch = Scratch::new("messages-arena");
    let region = || builder("a", TrackerKind::Pt).pages(4).open(scratch.path());
    let arena = Arena::open(region().unwrap(), |_| One).unwrap();
    let refused = arena.update(Durability::Sync, |_| Err::<(), _>("the account is empty"));
    says(
        &explain(&refused.unwrap_err()),
        &["given up", "the account is empty"],
        &[],
    );
    let broken = arena.update(Durability::Sync, |_| Err::<(), _>(io::Error::other("why")));
    assert!(matches!(broken, Err(UpdateError::Refused(_))));
    drop(arena);
    let other = Arena::open(region().unwrap(), |_| Two(0)).unwrap_err();
    let sentence = [
        "made for another type",
        "tag 1 of 0 bytes, aligned to 1",
        "tag 2 of 8 bytes, aligned to 8",
        "program which made it",
    ];
    says(&explain(&other), &sentence, &["0x", "shape"]);
}

#[test]
fn emul_is_refused_for_durable_regions_with_a_way_out() {
    let scratch = Scratch::new("messages-emul");
    let region = builder("a", TrackerKind::Emul)
        .pages(1)
        .open(scratch.path());
    let text = explain(&region.unwrap_err());
    says(&text, &["durable region", "another tracker"], &[]);
}

#[test]
fn a_key_is_named_once() {
    let scratch = Scratch::new("messages-key");
    let path = scratch.path().join("app.key");
    let name = path.display().to_string();
    let ask = || {
        let attach = Attach::new().key(&path).policy("127.0.0.1:1");
        explain(&attach.request_token().unwrap_err())
    };
    let absent = ask();
    assert_eq!(absent.matches(&name).count(), 1, "{absent}");
    says(&absent, &["cannot read the key file", "No such file"], &[]);
    std::fs::write(&path, "nonsense").unwrap();
    says(&ask(), &["mode 0644", &format!("chmod 600 {name}")], &[]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    let nonsense = ask();
    assert_eq!(nonsense.matches(&name).count(), 1, "{nonsense}");
    says(&nonsense, &["hvckpt-policy key add"], &[]);
}

#[test]
fn a_dead_backup_is_called_a_backup() {
    let scratch = Scratch::new("messages-backup");
    let server = scratch.path().join("server");
    std::fs::create_dir(&server).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&server, mode).unwrap();
    let key = add_key(&server, "app").unwrap();
    // Nobody listens there once this is closed.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut replication = Replication::new(&*address, key);
    replication.timeout = std::time::Duration::from_secs(2);
    let mut options = StoreOptions::default();
    options.replication = Some(replication.into());
    let primary = Store::open(scratch.path().join("store"), options).unwrap();
    let error = primary
        .area("main", 0x10_0000, 4)
        .and_then(|area| {
            let write = PageWrite::new(area, 0, &Page([7; 512]));
            primary.commit(&[write], Durability::Sync)
        })
        .unwrap_err();
    let said = explain(&error);
    says(&said, &["the backup at ", &address], &["policy"]);
    let trouble = primary.replica().unwrap().trouble.unwrap();
    says(
        &trouble,
        &["cannot reach the backup", &address],
        &["policy"],
    );
}

/// Standard output whose reader is gone.
fn nobody_reads() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let scratch = Scratch::new("messages-pipe");
    let path = scratch.path().join("store").display().to_string();
    let server = scratch.path().join("server").display().to_string();
    drop(store(scratch.path().join("store").as_ref()));
    let key = scratch.path().join("key").display().to_string();
    let out = scratch.path().join("out").display().to_string();
    std::fs::create_dir(&server).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&server, mode).unwrap();
    for arguments in [
        &["inspect", &path][..],
        &["inspect", &path, "--json"],
        &["verify", &path],
        &["compact", &path],
        &["restore", &path, "--output", &out],
        &["keygen", &key],
        &["backup", "status", "--dir", &server],
        &["backup", "key", "list", "--dir", &server],
        &["doctor"],
        &["doctor", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let mut command = Command::new(HVCKPT);
        let output = command.args(arguments).stdout(nobody_reads()).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text, "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
    // Nor does it change what is found, or panic, if nobody hears complaints.
    let status = Command::new(HVCKPT)
        .args(["verify", "/nothing/there"])
        .stderr(nobody_reads())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

/// What a command prints, and its exit status.
fn printed(arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(HVCKPT)
        .args(arguments)
        .env("HVCKPT_KEY", "")
        .env_remove("HVCKPT_POLICY")
        .output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.code())
}

#[test]
fn help_says_which_commands_make_a_directory() {
    let scratch = Scratch::new("messages-help");
    let out = scratch.path().join("out").display().to_string();
    let made = "made if it is missing";
    for command in [
        &["key", "list"][..],
        &["key", "remove", "n"],
        &["key", "add", "n", "--out", &out],
        &["status"],
        &["promote", "n"],
    ] {
        let dir = scratch.path().join(command.join("-").replace('/', "-"));
        let name = dir.display().to_string();
        let whole = [&["backup"], command, &["--dir", &name]].concat();
        printed(&whole);
        let (help, _) = printed(&[&whole[..], &["--help"]].concat());
        assert_eq!(help.contains(made), dir.exists(), "{command:?}: {help}");
    }
    says(&printed(&["backup", "serve", "--help"]).0, &[made], &[]);
}

#[test]
fn a_wrong_directory_is_told_with_a_way_out() {
    let scratch = Scratch::new("messages-directory");
    let (made, absent) = (scratch.path().join("store"), scratch.path().join("absent"));
    drop(store(&made));
    let (made, absent) = (made.to_str().unwrap(), absent.to_str().unwrap());
    for (arguments, said) in [
        (&["copy", made, made][..], "name a new directory"),
        (
            &["backup", "status", "--dir", absent],
            "there is no backup in",
        ),
        (
            &["backup", "promote", "a", "--dir", absent],
            "there is no backup in",
        ),
    ] {
        let output = Command::new(HVCKPT).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        says(
            &String::from_utf8_lossy(&output.stderr),
            &[said],
            &["os error"],
        );
    }
}

#[test]
fn a_variable_that_is_empty_is_not_set() {
    let (text, _) = printed(&["doctor"]);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name));
    assert_eq!(line("HVCKPT_KEY"), Some("HVCKPT_KEY    not set"));
    assert_eq!(line("HVCKPT_POLICY"), Some("HVCKPT_POLICY not set"));
}

/// Commands show these; their users know no Rust.
#[test]
fn errors_of_stores_and_backups_name_no_option_of_the_library() {
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = ["store/src", "src/backup", "cli/src"]
        .map(|name| library.join(name))
        .to_vec();
    let (mut read, mut texts) = (0, 0);
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|it| it.unwrap().path()),
            );
            continue;
        }
        read += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("#[error(") {
            let end = text[at..].find(")]").unwrap_or(0);
            texts += 1;
            // Of the string alone: behind it there are expressions.
            let said = &text[at..at + end];
            let said = &said[..said.rfind('"').unwrap_or(0)];
            assert!(!said.contains("::"), "{}: {said}", path.display());
        }
    }
    assert!(read > 30 && texts > 40, "{read} files, {texts} texts");
}

#[test]
fn a_result_which_cannot_be_printed_is_a_failure() {
    let scratch = Scratch::new("messages-full");
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    drop(store(scratch.path().join("store").as_path()));
    add_key(&scratch.path().join("backup"), "app").unwrap();
    let (store, dir) = (at("store"), at("backup"));
    let commands: &[&[&str]] = &[
        &["--help"],
        &["--version"],
        &["copy", "--help"],
        &["doctor"],
        &["doctor", "--json"],
        &["verify", &store],
        &["inspect", &store],
        &["restore", &store, "--output", &at("out")],
        &["restore", &store, "--in-place", "--version", "1"],
        &["compact", &store],
        &["copy", &store, &at("copy")],
        &["keygen", &at("key")],
        &["backup", "--help"],
        &[
            "backup",
            "key",
            "add",
            "--dir",
            &dir,
            "--out",
            &at("k"),
            "x",
        ],
        &["backup", "key", "list", "--dir", &dir],
        &["backup", "key", "remove", "--dir", &dir, "x"],
        &["backup", "status", "--dir", &dir],
    ];
    for command in commands {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let run = |out: Stdio| {
            let ran = Command::new(HVCKPT).args(*command).stdout(out).output();
            let ran = ran.unwrap();
            (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
        };
        let (code, said) = run(full.into());
        assert_eq!(code, Some(2), "{command:?}: {said}");
        says(&said, &["cannot print"], &[]);
    }
    // Who has read enough is no failure.
    for command in [&["verify", &store][..], &["--help"]] {
        let (gone, out) = io::pipe().unwrap();
        drop(gone);
        let ran = Command::new(HVCKPT)
            .args(command)
            .stdout(out)
            .output()
            .unwrap();
        assert_eq!((ran.status.code(), &ran.stderr[..]), (Some(0), &b""[..]));
    }
}

#[test]
fn the_file_with_the_last_number_is_named() {
    let scratch = Scratch::new("messages-last");
    let path = scratch.path().join("store");
    drop(store(&path));
    std::fs::write(path.join("image-ffffff.hvck"), "left by somebody").unwrap();
    let open = || Store::open(&path, StoreOptions::default()).unwrap();
    let write = |store: &Store| {
        let page = Page([8; 512]);
        store.commit(&[PageWrite::new(0, 1, &page)], Durability::Sync)
    };
    let error = write(&open()).unwrap_err();
    let next = ["image-ffffff.hvck", "hvckpt verify", "move it away"];
    says(&explain(&error), &next, &[]);
    let verified = Command::new(HVCKPT).arg("verify").arg(&path).output();
    let said = String::from_utf8(verified.unwrap().stdout).unwrap();
    says(
        &said,
        &["image-ffffff.hvck", "not the header of an image"],
        &[],
    );
    std::fs::rename(path.join("image-ffffff.hvck"), scratch.path().join("away")).unwrap();
    write(&open()).unwrap();
}
