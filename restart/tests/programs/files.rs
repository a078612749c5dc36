// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a restart does with files that grew.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::world::World;

/// Writes lines into the second argument and to the output until the first is there;
/// holds the third open.
const WRITER: &str = r#"
import os, sys, time
log, other, n = open(sys.argv[2], "a"), open(sys.argv[3]), 0
while not os.path.exists(sys.argv[1]):
    n += 1
    print(n, file=log, flush=True)
    print(n, flush=True)
    time.sleep(0.005)
sys.exit(6)
"#;

/// A version of the writer, which wrote on for a while; the log as it is then.
fn written(world: &World) -> Vec<u8> {
    fs::write(world.path("other"), "").unwrap();
    fs::set_permissions(world.path("other"), fs::Permissions::from_mode(0o644)).unwrap();
    let (stop, log, other) = (world.text("stop"), world.text("log"), world.text("other"));
    let mut child = world.start(&["python3", "-c", WRITER, &stop, &log, &other]);
    world.progress(&mut child);
    assert!(world.checkpoint(&[]).status.success());
    world.progress(&mut child);
    assert_eq!(world.end(child).0, Some(6));
    fs::remove_file(world.path("stop")).unwrap();
    fs::read(world.path("log")).unwrap()
}

fn cuts(world: &World) -> usize {
    let names = fs::read_dir(world.path("store")).unwrap().flatten();
    names
        .filter(|e| e.file_name().to_string_lossy().contains(".cut-"))
        .count()
}

#[test]
fn a_restart_that_fails_leaves_files_as_they_were() {
    let mut world = World::new();
    world.ordinary = true;
    let log = written(&world);
    // The new process is there when it finds that it may not open this.
    fs::set_permissions(world.path("other"), fs::Permissions::from_mode(0o000)).unwrap();
    let refused = world.restarting(&[]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("cannot make descriptor"), "{why}");
    assert!(fs::read(world.path("log")).unwrap() == log, "it was cut");
    assert_eq!(cuts(&world), 0);
    // No descriptors: refused before there is a process.
    fs::set_permissions(world.path("other"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = world.restarting(&[]);
    // SAFETY: one system call, which reads a structure.
    unsafe {
        command.pre_exec(|| {
            let few = libc::rlimit {
                rlim_cur: 32,
                rlim_max: 32,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few);
            Ok(())
        });
    }
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(fs::read(world.path("log")).unwrap() == log, "it was cut");
    assert_eq!(cuts(&world), 0);
    let mut child = world.restart();
    world.progress(&mut child);
    assert_eq!(cuts(&world), 1);
    assert_eq!(world.end(child).0, Some(6));
}

#[test]
fn files_are_kept_or_checked_where_that_is_asked_for() {
    let world = World::new();
    let log = written(&world);
    let refused = world.restarting(&["--files", "check"]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("log") && why.contains("octets"), "{why}");
    assert!(fs::read(world.path("log")).unwrap() == log, "it was cut");
    let mut child = world.spawn(world.restarting(&["--files", "keep"]));
    world.progress(&mut child);
    assert_eq!(world.end(child).0, Some(6));
    let now = fs::read(world.path("log")).unwrap();
    assert!(now.len() > log.len() && now.starts_with(&log));
    assert_eq!(cuts(&world), 0);
    // As it was at the version nothing has grown.
    let image = hvckpt_restart::image::Image::open(&world.path("store/000001.hvproc")).unwrap();
    let size = image
        .process
        .descriptors
        .iter()
        .find_map(|d| match &d.kind {
            hvckpt_restart::image::Kind::File { path, size, .. } if path.ends_with("log") => {
                Some(*size)
            }
            _ => None,
        });
    let file = fs::OpenOptions::new()
        .write(true)
        .open(world.path("log"))
        .unwrap();
    file.set_len(size.unwrap()).unwrap();
    fs::remove_file(world.path("stop")).unwrap();
    let mut child = world.spawn(world.restarting(&["--files", "check"]));
    world.progress(&mut child);
    assert_eq!(world.end(child).0, Some(6));
    // Shorter than it was: refused in any mode.
    file.set_len(0).unwrap();
    for mode in ["rewind", "keep", "check"] {
        let refused = world.restarting(&["--files", mode]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{mode}");
    }
}
