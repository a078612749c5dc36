// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a program is kept, and what is refused by name.

use std::fs;

use hvckpt_restart::image;

use crate::world::{World, until};

#[test]
fn everything_that_is_kept_goes_on() {
    let world = World::new();
    world.build("kept.c");
    let (kept, stop) = (world.text("kept"), world.text("stop"));
    let (status, out) = world.lives(&[&kept, &stop]);
    let bad: Vec<&str> = out.lines().filter(|l| l.starts_with("BAD")).collect();
    assert_eq!((status, bad), (Some(43), Vec::new()));
    assert_eq!(out.lines().last(), Some("end"));
}

#[test]
fn versions_come_by_themselves_and_only_the_newest_stay() {
    let world = World::new();
    let (verify, stop) = (world.text("verify"), world.text("stop"));
    let mut command = world.command(&["run", "--store", "store", "-t", "1", "--keep", "3", "--"]);
    command.args([&verify, "1", &stop]);
    let mut child = world.spawn(command);
    world.progress(&mut child);
    let store = world.path("store");
    until("a version that nobody asked for", || {
        !image::versions(&store).is_empty()
    });
    for _ in 0..4 {
        world.taken(&[]);
        assert!(image::versions(&store).len() <= 3);
    }
    let there = image::versions(&store);
    assert_eq!(there.len(), 3);
    assert_eq!(there[2] - there[0], 2, "not the newest: {there:?}");
    // Not asked to end: a version could come when it knows of that.
    world.kill(&mut child);
    let mut child = world.spawn(world.restarting(&["-t", "1", "--keep", "1"]));
    let newest = *image::versions(&store).last().unwrap();
    until(
        "a version after a restart, alone",
        || matches!(image::versions(&store)[..], [one] if one > newest),
    );
    world.progress(&mut child);
    assert_eq!(world.end(child).0, Some(42));
}

/// A program that does `what`, prints lines until its argument is there, and
/// ends with 3.
fn program(what: &str) -> String {
    format!(
        r#"
import ctypes, mmap, os, socket, struct, subprocess, sys, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.shmat.restype = ctypes.c_void_p
{what}
while not os.path.exists(sys.argv[1]):
    print("line", flush=True); time.sleep(0.005)
sys.exit(3)
"#
    )
}

fn inspect(world: &World, pid: u32) -> (Option<i32>, String) {
    let mut command = world.command(&["inspect", &pid.to_string()]);
    let told = command.output().unwrap();
    let text = [told.stdout, told.stderr].concat();
    (told.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_running_program_can_be_asked_about() {
    let world = World::new();
    let stop = world.text("stop");
    let mut child = world.start(&["python3", "-c", &program(""), &stop]);
    world.progress(&mut child);
    let (status, told) = inspect(&world, child.id());
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("keep all of it"), "{told}");
    assert_eq!(world.end(child).0, Some(3));
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let (status, told) = inspect(&world, other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("does not run below hvckpt"), "{told}");
    let (status, told) = inspect(&world, other.id());
    assert_eq!(status, Some(2), "ended, and no store: {told}");
}

pub fn refuses(what: &str, names: &[&str]) {
    let world = World::new();
    let stop = world.text("stop");
    let mut child = world.start(&["python3", "-c", &program(what), &stop]);
    world.progress(&mut child);
    let (status, told) = inspect(&world, child.id());
    assert_eq!(status, Some(1), "{what}: {told}");
    assert!(
        names.iter().all(|name| told.contains(name)),
        "{what}: {told}"
    );
    for more in [&[][..], &["--kill"]] {
        let refused = world.checkpoint(more);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{what}: {why}");
        assert!(names.iter().all(|name| why.contains(name)), "{what}: {why}");
        world.progress(&mut child);
    }
    assert_eq!(world.end(child).0, Some(3));
    let left = fs::read_dir(world.path("store")).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).collect();
    assert_eq!(left, [".lock"], "{what}");
}

#[test]
fn all_that_cannot_be_kept_is_named() {
    refuses(
        "file = open('mapped', 'w+b'); file.truncate(4096)\n\
         shared, i = mmap.mmap(file.fileno(), 4096), libc.inotify_init1(0)",
        &["writable shared memory of a file", "inotify"],
    );
}

#[test]
fn a_child_is_refused() {
    refuses(
        "c = subprocess.Popen(['cat'], stdin=subprocess.PIPE)",
        &["it has a child"],
    );
}

#[test]
fn descriptors_of_other_kinds_are_refused() {
    refuses(
        "m = os.memfd_create('mine'); os.truncate(m, 4096); a = mmap.mmap(m, 4096)",
        &["memfd:mine", "mapping"],
    );
    refuses("i = libc.inotify_init1(0); assert i >= 0", &["inotify"]);
    refuses(
        "import atexit; n = b'/hvckpt-%d' % time.time_ns()\n\
         q = libc.mq_open(n, 0o102, 0o600, None); assert q >= 0\n\
         atexit.register(libc.mq_unlink, n)",
        &["its name does not lead to it"],
    );
    refuses(
        "open('a', 'w').close(); f = open('a'); os.link('a', 'b'); os.remove('a')",
        &["has another one"],
    );
    refuses(
        "os.mkdir('a'); d = os.open('a', 0); os.rmdir('a')",
        &["a deleted directory"],
    );
}

#[test]
fn memory_of_other_kinds_is_refused() {
    refuses(
        "libc.mremap.restype = ctypes.c_void_p\n\
         a = libc.mmap(None, ctypes.c_size_t(8192), 3, 0x21, -1, ctypes.c_long(0))\n\
         b = libc.mremap(ctypes.c_void_p(a), ctypes.c_size_t(0), ctypes.c_size_t(8192), 1)\n\
         assert b != ctypes.c_void_p(-1).value",
        &["shared memory that is mapped at"],
    );
    refuses(
        "m = mmap.mmap(-1, 4096); r, w = os.pipe()\n\
         if os.fork() == 0:\n\
         \x20   if os.fork() == 0:\n\
         \x20       os.close(w); os.read(r, 1)\n\
         \x20   os._exit(0)\n\
         os.wait()",
        &["shared memory that process"],
    );
    refuses(
        "s = libc.shmget(0, ctypes.c_size_t(4096), 0o1600); assert s >= 0\n\
         assert libc.shmat(s, None, 0) > 0; libc.shmctl(s, 0, None)",
        &["SYSV"],
    );
}

#[test]
fn a_timer_of_timer_create_is_refused() {
    refuses(
        "t = ctypes.c_void_p(); assert libc.timer_create(1, None, ctypes.byref(t)) == 0",
        &["timer_create"],
    );
}
