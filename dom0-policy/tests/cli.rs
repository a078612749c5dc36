// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary itself, over stand-ins for libxencall and libxenstore
//! (`xen-sys/tests/fake.c`) which the dynamic linker finds first.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use common::AMPLE;
use common::daemon::{Daemon, build, command};
use hvckpt_wire::{Error, Key, ModeSet, Reason, request_token};
use serde_json::Value;

fn reason(result: Result<hvckpt_wire::Grant, Error>) -> Reason {
    match result {
        Err(Error::Refused(refusal)) => refusal.reason,
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[test]
fn from_key_to_revocation() {
    let daemon = Daemon::start();
    let said = daemon.ok("key add --domain domu --pages 500 --expires 30d --out guest.key guest");
    assert!(said.contains("guest.key"), "{said}");
    let file = daemon.path("guest.key");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let key = Key::load(&file).unwrap();

    let grant = request_token(&daemon.addr, &key, AMPLE).unwrap();
    assert_eq!(
        (grant.domid, grant.max_pages, grant.modes),
        (3, 500, ModeSet::PTXEN | ModeSet::AUTOXEN)
    );

    let keys = daemon.json("key list --json");
    assert_eq!(keys[0]["name"], "guest");
    assert_eq!(keys[0]["status"], "active");
    assert_eq!(keys[0]["id"], format!("{:016x}", key.id()));
    let sessions = daemon.json("sessions --json");
    assert_eq!(sessions.as_array().unwrap().len(), 100);
    assert_eq!(sessions[99]["key"], "guest");
    assert_eq!(sessions[99]["counters"]["cycles"], 100);
    assert!(daemon.ok("sessions --domain domu").contains("guest"));
    assert!(daemon.ok("counters --domain 3").contains("cycles"));
    assert!(daemon.ok("end 5 --domain domu").contains("ended"));

    let limits = daemon.json("limits set --domain domu --tokens 1 --forward true --json");
    assert_eq!(
        (&limits["max_tokens"], &limits["forward"]),
        (&1.into(), &true.into())
    );
    assert_eq!(
        daemon.json("limits get --domain domu --json")["max_pages"],
        1000
    );
    assert_eq!(
        reason(request_token(&daemon.addr, &key, AMPLE)),
        Reason::Quota
    );

    let said = daemon.ok("key revoke guest");
    assert!(
        said.contains("1 unused tokens dropped, 100 sessions ended"),
        "{said}"
    );
    assert_eq!(
        reason(request_token(&daemon.addr, &key, AMPLE)),
        Reason::Revoked
    );

    let audit = daemon.ok("audit -n 100 --json");
    let events: Vec<Value> = audit
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let events: Vec<String> = events
        .iter()
        .map(|r| {
            format!(
                "{} {}",
                r["event"].as_str().unwrap(),
                r["decision"].as_str().unwrap()
            )
        })
        .collect();
    let expected = "start done,key-add done,token granted,session-end done,limits-set done,\
                    token refused,key-revoke done,token refused";
    assert_eq!(events.join(","), expected);
    assert!(daemon.ok("audit -n 1").contains("reason=revoked"));
}

#[test]
fn state_survives_a_restart() {
    let daemon = Daemon::start();
    daemon.ok("key add --domain domu --out k k");
    let key = Key::load(daemon.path("k")).unwrap();
    let dir = daemon.stop();
    assert!(!dir.path().join("state/control.sock").exists());
    let daemon = Daemon::start_in(dir);
    assert!(request_token(&daemon.addr, &key, AMPLE).is_ok());
    for entry in fs::read_dir(daemon.path("state")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{entry:?}");
    }
    assert_eq!(
        daemon
            .ok("audit -n 100")
            .lines()
            .filter(|l| l.contains(" start "))
            .count(),
        2
    );
}

#[test]
fn it_has_no_privileges_left() {
    let daemon = Daemon::start();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    // Every thread, not the first alone.
    for task in fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        assert!(status.contains("Seccomp_filters:\t3\n"), "{status}");
    }
}

#[test]
fn a_hypervisor_without_the_patch() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["-DFAKE_ENOSYS"]);
    let daemon = Daemon::start_in(dir);
    daemon.ok("key add --domain domu --out k k");
    let key = Key::load(daemon.path("k")).unwrap();
    for _ in 0..2 {
        assert_eq!(
            reason(request_token(&daemon.addr, &key, AMPLE)),
            Reason::NoHypervisorSupport
        );
    }
    let doctor = daemon.run("doctor");
    assert_eq!(doctor.status.code(), Some(1));
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        said.contains("FAIL hypervisor") && said.contains("cda=on"),
        "{said}"
    );
    assert!(said.contains("ok   daemon"), "{said}");
    // Revoking needs no hypervisor that could have sessions.
    daemon.ok("key revoke k");
}

#[test]
fn an_address_that_no_guest_reaches_is_said() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &[]);
        let mut serve = command(dir.path());
        serve.args(["serve", "--listen", listen]);
        let daemon = Daemon::spawn(dir, serve);
        let doctor = daemon.run("doctor");
        assert_eq!(doctor.status.code(), Some(1));
        let said = String::from_utf8(doctor.stdout).unwrap();
        let right = said.contains("FAIL address") && said.contains("HVCKPT_LISTEN");
        assert!(right, "{said}");
    }
}

#[test]
fn doctor_is_content() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let mut serve = command(dir.path());
    serve.args(["serve", "--listen", "0.0.0.0:0"]);
    let daemon = Daemon::spawn(dir, serve);
    let checks = daemon.json("doctor --json");
    assert!(
        checks.as_array().unwrap().iter().all(|c| c["ok"] == true),
        "{checks}"
    );
}

#[test]
fn a_missing_sandbox_is_not_hidden() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let daemon = Daemon::start_with(dir, &["--no-sandbox"]);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    assert!(status.contains("Seccomp_filters:\t0\n"), "{status}");
    let doctor = daemon.run("doctor");
    assert_eq!(doctor.status.code(), Some(1));
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("FAIL sandbox: landlock OFF"), "{said}");
}

#[test]
fn a_machine_without_xen() {
    // No stand-ins: whatever this machine has, it has no hypercall device.
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_in(dir);
    let said = String::from_utf8(daemon.run("doctor").stdout).unwrap();
    assert!(said.contains("FAIL hypervisor: no Xen here"), "{said}");
    let add = daemon.run("key add --domain domu --out k k");
    assert!(add.status.success(), "{add:?}");
    assert!(String::from_utf8_lossy(&add.stderr).contains("no domain domu is running"));
    let key = Key::load(daemon.path("k")).unwrap();
    let refused = reason(request_token(&daemon.addr, &key, AMPLE));
    assert_eq!(refused, Reason::NoHypervisorSupport);
}

#[test]
fn what_does_not_work_is_said() {
    let daemon = Daemon::start();
    daemon.ok("key add --domain domu --out k k");
    let refused = |args: &str, words: &str| {
        let out = daemon.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{args}: {said}");
        assert!(said.contains(words), "{args}: {said}");
    };
    refused(
        "key add --domain domu --out k j",
        "cannot write k: File exists",
    );
    refused(
        "key add --domain domu --out l k",
        "there is a key named k already",
    );
    assert!(!daemon.path("l").exists(), "no file without a key");
    refused("key add --domain domu --out no/l l", "cannot write no/l");
    refused("key revoke nobody", "no key is called nobody");
    refused("sessions --domain none", "no running domain is called none");
    refused("end 200 --domain domu", "no live session 200");
    refused("limits set --domain domu --tokens 65", "does not accept");
    refused("sessions --domain hvm", "not a 64-bit PV guest");
    assert_eq!(daemon.json("key list --json").as_array().unwrap().len(), 1);

    // A second daemon with the same state.
    let second = daemon.run("serve --listen 127.0.0.1:0");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another daemon is running"));
}

#[test]
fn without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    for args in ["key list", "sessions", "key add --domain domu --out k k"] {
        let out = command(dir.path()).args(args.split(' ')).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{args}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("is not running"));
    }
    assert!(!dir.path().join("k").exists());
    assert!(!dir.path().join("state").exists(), "asking creates nothing");
    let usage = command(dir.path()).arg("key").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn help_is_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let commands = [
        "",
        "serve",
        "key",
        "key add",
        "key list",
        "key revoke",
        "sessions",
        "end",
        "limits",
        "limits get",
        "limits set",
        "counters",
        "audit",
        "doctor",
    ];
    for args in commands {
        let args = args.split_whitespace().chain(["--help"]);
        let out = command(dir.path()).args(args).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("Usage:"));
    }
}

#[test]
fn examples_listen_where_guests_reach_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = command(dir.path()).args(["serve", "--help"]).output();
    let help = String::from_utf8(out.unwrap().stdout).unwrap();
    let words: Vec<&str> = help.split_whitespace().collect();
    let shown: Vec<SocketAddr> = words
        .windows(2)
        .filter(|pair| pair[0] == "--listen")
        .filter_map(|pair| pair[1].parse().ok())
        .collect();
    assert!(shown.len() > 1, "{help}");
    let reached = |address: &SocketAddr| !address.ip().is_loopback();
    assert!(shown.iter().all(reached), "{shown:?}");
}

#[test]
fn every_counter_of_the_hypervisor_is_shown() {
    let header = include_str!("../../xen-patch/include/public/cda.h");
    let (_, fields) = header.split_once("struct cda_counters {").unwrap();
    let (fields, _) = fields.split_once('}').unwrap();
    let names: Vec<&str> = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("uint64_t ")?.split(';').next())
        .filter(|name| *name != "reserved")
        .collect();
    assert!(names.len() > 16, "{names:?}");
    let daemon = Daemon::start();
    let counters = daemon.json("counters --domain domu --json");
    let text = daemon.ok("counters --domain domu");
    let shown: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(shown, names);
    for name in names {
        assert!(counters["counters"][name].is_u64(), "{name}: {counters}");
    }
}

#[test]
fn doctor_gives_the_advice_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let doctor = || {
        let out = command(dir.path()).arg("doctor").output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stdout).unwrap()
    };
    let said = doctor();
    assert!(said.contains("-> systemctl start"), "{said}");
    // Somebody answers, but not as this release does, or says no.
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let socket = UnixListener::bind(state.join("control.sock")).unwrap();
    let answers = ["nonsense", r#"{"error":"only root may manage keys"}"#];
    let served = std::thread::spawn(move || {
        for answer in answers {
            let (mut asked, _) = socket.accept().unwrap();
            let mut question = String::new();
            BufReader::new(&asked).read_line(&mut question).unwrap();
            writeln!(asked, "{answer}").unwrap();
        }
    });
    for advice in ["different releases", "-> run this as root"] {
        let said = doctor();
        let (_, daemon) = said.split_once("FAIL daemon").unwrap();
        assert!(daemon.contains(advice), "{said}");
        assert!(!daemon.contains("systemctl start"), "{said}");
    }
    served.join().unwrap();
}

#[test]
fn an_older_daemon_need_not_know_every_counter() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let socket = UnixListener::bind(state.join("control.sock")).unwrap();
    let served = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut asked, _) = socket.accept().unwrap();
            let mut question = String::new();
            BufReader::new(&asked).read_line(&mut question).unwrap();
            let answer = r#"{"ok":{"domid":3,"domain":"domu","counters":{"cycles":12}}}"#;
            writeln!(asked, "{answer}").unwrap();
        }
    });
    let said = |json: &[&str]| {
        let mut command = command(dir.path());
        let command = command.args(["counters", "--domain", "domu"]).args(json);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let (text, json) = (said(&[]), said(&["--json"]));
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("cycles").contains(" 12 "), "{text}");
    assert!(line("guest_updates").contains(" - "), "{text}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["counters"]["cycles"], 12);
    assert_eq!(json["counters"]["guest_updates"], Value::Null);
    served.join().unwrap();
}

#[test]
fn expired_keys_are_not_counted_as_good_ones() {
    let daemon = Daemon::start();
    daemon.key("good");
    daemon.key("bad");
    daemon.ok("key revoke bad");
    daemon.ok("key add --domain domu --expires 1s --out short short");
    let expired = || daemon.ok("key list").contains("expired");
    let tries = (0..600).take_while(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        !expired()
    });
    assert!(tries.count() < 600, "it does not expire");
    let said = String::from_utf8(daemon.run("doctor").stdout).unwrap();
    assert!(said.contains("1 active, 1 expired, 1 revoked"), "{said}");
}

#[test]
fn audit_can_be_followed() {
    let daemon = Daemon::start();
    let mut child = command(daemon.dir.path())
        .args(["audit", "-n", "1", "--json", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("\"start\""), "{line}");
    daemon.ok("key add --domain domu --out k k");
    line.clear();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("\"key-add\""), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
