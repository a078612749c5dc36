// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified programs through the command: checkpoint, kill, restart.

mod files;
mod kept;
mod sockets;
mod world;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use world::{World, runs, tree, until};

#[test]
fn threads_go_on_as_an_ordinary_user_without_new_privileges() {
    let mut world = World::new();
    world.ordinary = true;
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    let (status, out) = world.lives(&[&verify, "64", &stop]);
    assert_eq!((status, out.lines().last()), (Some(42), Some("end")));
    assert!(!out.contains("BAD"));
}

#[test]
fn threads_go_on_with_new_ids() {
    let mut world = World::new();
    (world.ordinary, world.new_ids) = (true, true);
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    let (status, out) = world.lives(&[&verify, "4", &stop]);
    assert_eq!((status, out.lines().last()), (Some(42), Some("end")));
    assert!(!out.contains("BAD"));
}

const PYTHON: &str = r#"
import os, select, sys, threading, time
lock, count = threading.RLock(), [0]
own = os.getpid()
r, w = os.pipe()
os.write(w, b"kept in the pipe")
poll = select.epoll(); poll.register(r, select.EPOLLIN)
def work():
    while not os.path.exists(sys.argv[1]):
        with lock: count[0] += 1
        time.sleep(0.005)
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
log, n = open(sys.argv[2], "a"), 0
while not os.path.exists(sys.argv[1]):
    n += 1
    print(n, file=log, flush=True)
    print(n, flush=True)
    time.sleep(0.005)
[t.join() for t in threads]
assert poll.poll(0) == [(r, select.EPOLLIN)] and os.read(r, 99) == b"kept in the pipe"
assert own == os.getpid() and count[0] > 0
print("end", n, flush=True)
sys.exit(7)
"#;

#[test]
fn python_goes_on_and_its_files_are_cut_back() {
    let world = World::new();
    let (stop, log) = (world.text("stop"), world.text("log"));
    let (status, out) = world.lives(&["python3", "-c", PYTHON, &stop, &log]);
    assert_eq!(status, Some(7), "{out}");
    let written = fs::read_to_string(world.path("log")).unwrap();
    let numbers: Vec<usize> = written.lines().map(|l| l.parse().unwrap()).collect();
    assert!(
        numbers.iter().copied().eq(1..=numbers.len()),
        "a line twice or missing"
    );
    assert_eq!(
        out.lines().last(),
        Some(format!("end {}", numbers.len()).as_str())
    );
}

#[test]
fn bash_goes_on() {
    let world = World::new();
    let script = r#"i=0; until [ -e "$0" ]; do ((++i % 1000)) || echo $i; done; echo end; exit 5"#;
    let stop = world.text("stop");
    let (status, out) = world.lives(&["bash", "-c", script, &stop]);
    assert_eq!((status, out.lines().last()), (Some(5), Some("end")));
}

#[test]
fn a_kill_at_any_instant_leaves_a_whole_version() {
    let world = World::new();
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    let mut child = world.start(&[&verify, "8", &stop]);
    world.progress(&mut child);
    assert!(world.checkpoint(&[]).status.success());
    for n in 0..12 {
        let mut asked = world.command(&["checkpoint", "--store", "store"]);
        let mut asked = asked
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(n * 7));
        world.kill(&mut child);
        asked.wait().unwrap();
        let whole = world.command(&["verify", "store"]).output().unwrap();
        assert!(
            whole.status.success(),
            "{}",
            String::from_utf8_lossy(&whole.stderr)
        );
        child = world.restart();
        world.progress(&mut child);
    }
    let (status, out) = world.end(child);
    assert_eq!(status, Some(42), "{out}");
}

#[test]
fn a_flipped_octet_is_damage() {
    let world = World::new();
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    world.left(&[&verify, "4", &stop]);
    let before = fs::read(world.path("out")).unwrap();
    let path = world.path("store/000001.hvproc");
    let mut octets = fs::read(&path).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    fs::write(&path, octets).unwrap();
    assert_eq!(world.restart().wait().unwrap().code(), Some(3));
    assert_eq!(fs::read(world.path("out")).unwrap(), before);
}

#[test]
fn signals_and_status_are_the_programs() {
    let world = World::new();
    let script =
        r#"trap 'echo got; exit 4' TERM; echo a; echo b; echo c; echo d; while :; do :; done"#;
    let mut child = world.start(&["bash", "-c", script]);
    world.prints(4);
    // SAFETY: touches no memory.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let mut child = world.start(&["bash", "-c", "kill -USR1 $$"]);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
    for (program, status) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let mut command = world.command(&["run", "--store", "store", "--", program]);
        let out = command.output().unwrap();
        let why = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{why}");
        assert!(why.contains(program), "{why}");
    }
}

#[test]
fn what_was_detached_is_asked_by_name_and_leaves_nothing() {
    let world = World::new();
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    world.left(&[&verify, "1", &stop]);
    let before = world.lines();
    let mut front = world.spawn(world.restarting(&["--detach", "--name", "far"]));
    assert_eq!(front.wait().unwrap().code(), Some(0));
    world.prints(before + 4);
    let taken = world.command(&["checkpoint", "far"]).output().unwrap();
    let why = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(taken.status.success(), "{why}");
    assert_eq!(world.sessions().len(), 1);
    fs::write(world.path("stop"), "").unwrap();
    until("no socket and no information", || world.places() == 0);
    assert!(
        fs::read_to_string(world.path("out"))
            .unwrap()
            .ends_with("end\n")
    );
}

#[test]
fn a_test_that_fails_leaves_no_program() {
    let mut world = World::new();
    world.new_ids = true;
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    world.left(&[&verify, "1", &stop]);
    let before = world.lines();
    let child = world.restart();
    world.prints(before + 4);
    // Without a namespace nothing but the test ends it with its front.
    let all = tree(i32::try_from(child.id()).unwrap());
    assert!(all.len() >= 3, "front, supervisor, program: {all:?}");
    drop(child);
    until("all ended", || !all.iter().any(|pid| runs(*pid)));
}
