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
    world.taken(&[]);
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

/// Files whose names are gone, opened more than once, replaced, unreadable by
/// mode, with holes. Their directory is gone at the end.
const UNLINKED: &str = r#"
import fcntl, os, sys, tempfile, time
os.mkdir("sub")
a = os.open("sub/a", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
b, c, d = os.open("sub/a", os.O_RDONLY), os.dup(a), os.open("sub/a", os.O_WRONLY)
os.unlink("sub/a"); os.rmdir("sub")
os.write(a, b"begin"); os.read(b, 2); os.fchmod(a, 0o440)
old = open("name", "w+"); old.write("old"); old.flush()
with open("other", "w") as new: new.write("new")
os.rename("other", "name")
t = tempfile.TemporaryFile(); t.truncate(1 << 40); t.seek(1 << 39); t.write(b"x" * 9000); t.flush()
empty = tempfile.TemporaryFile()
n = 0
while not os.path.exists(sys.argv[1]):
    n += 1
    os.write(a, b"%d," % n)
    print(n, flush=True)
    time.sleep(0.005)
def tell(what, good):
    if not good: print("BAD", what, flush=True)
want = b"begin" + b"".join(b"%d," % i for i in range(1, n + 1))
tell("contents", os.pread(a, 1 << 20, 0) == want)
tell("offset of its own", os.read(b, 3) == b"gin")
tell("offset that is shared", os.lseek(c, 0, 1) == len(want) == os.lseek(a, 0, 1))
tell("mode", os.fstat(b).st_mode & 0o7777 == 0o440)
tell("no name", os.fstat(a).st_nlink == 0 and os.path.samestat(os.fstat(a), os.fstat(d)))
tell("append", fcntl.fcntl(a, fcntl.F_GETFL) & os.O_APPEND and not fcntl.fcntl(d, fcntl.F_GETFL) & os.O_APPEND)
tell("opened for writing", os.pwrite(d, b"B", 0) == 1 and os.pread(b, 1, 0) == b"B")
old.seek(0); tell("the replaced one", old.read() == "old" and open("name").read() == "new")
tell("a hole", os.fstat(t.fileno()).st_blocks < 1000 and t.tell() == (1 << 39) + 9000)
t.seek(1 << 39); tell("behind a hole", t.read(9001) == b"x" * 9000 + b"\0")
tell("size", os.fstat(t.fileno()).st_size == 1 << 40 and os.fstat(empty.fileno()).st_size == 0)
sys.exit(8)
"#;

#[test]
fn files_without_a_name_go_on() {
    let mut world = World::new();
    world.ordinary = true;
    let stop = world.text("stop");
    let (status, out) = world.lives(&["python3", "-c", UNLINKED, &stop]);
    let bad: Vec<&str> = out.lines().filter(|l| l.starts_with("BAD")).collect();
    assert_eq!((status, bad), (Some(8), Vec::new()));
}

/// A sealed one that is opened twice, and one that is written all the time.
const MEMFD: &str = r#"
import fcntl, os, sys, time
sealed = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
os.write(sealed, b"sealed" * 1000); os.lseek(sealed, 77, 0)
seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, seals)
again = os.open("/proc/self/fd/%d" % sealed, os.O_RDONLY)
plain = os.memfd_create("plain"); os.ftruncate(plain, 1 << 35); os.fchmod(plain, 0o600)
os.lseek(plain, 1 << 34, 0)
n = 0
while not os.path.exists(sys.argv[1]):
    n += 1
    os.write(plain, b"%d," % n)
    print(n, flush=True)
    time.sleep(0.005)
def tell(what, good):
    if not good: print("BAD", what, flush=True)
def refused(f):
    try: f()
    except OSError: return True
want = b"".join(b"%d," % i for i in range(1, n + 1))
tell("contents", os.pread(plain, len(want) + 1, 1 << 34) == want + b"\0")
tell("offset", os.lseek(plain, 0, 1) == (1 << 34) + len(want) and os.lseek(sealed, 0, 1) == 77)
tell("size and mode", os.fstat(plain).st_size == 1 << 35 and os.fstat(plain).st_mode & 0o777 == 0o600)
tell("what is sealed", os.read(again, 9999) == b"sealed" * 1000)
tell("one file", os.path.samestat(os.fstat(again), os.fstat(sealed)))
tell("seals", fcntl.fcntl(sealed, fcntl.F_GET_SEALS) == seals)
tell("no seals", fcntl.fcntl(plain, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL)
tell("sealed against writing", refused(lambda: os.pwrite(sealed, b"x", 0)))
tell("opened for reading", refused(lambda: os.write(again, b"x")))
tell("names", os.readlink("/proc/self/fd/%d" % sealed) == "/memfd:mine (deleted)")
sys.exit(8)
"#;

#[test]
fn memfds_go_on() {
    let mut world = World::new();
    world.ordinary = true;
    let stop = world.text("stop");
    let (status, out) = world.lives(&["python3", "-c", MEMFD, &stop]);
    let bad: Vec<&str> = out.lines().filter(|l| l.starts_with("BAD")).collect();
    assert_eq!((status, bad), (Some(8), Vec::new()));
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

const FIFO: &str = r#"
import os, sys, time
os.mkfifo("fifo"); os.mkfifo("other")
both = os.open("fifo", os.O_RDWR); os.write(both, b"kept")
end = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
reader = os.open("other", os.O_RDONLY | os.O_NONBLOCK)
r, w = os.pipe(); os.write(w, b"once")
again = os.open(f"/proc/self/fd/{r}", os.O_RDONLY)
while not os.path.exists(sys.argv[1]):
    print("line", flush=True); time.sleep(0.005)
assert os.read(end, 99) == b"kept"
os.write(both, b"more"); assert os.read(both, 99) == b"more"
assert os.read(reader, 9) == b""
far = os.open("other", os.O_WRONLY); os.write(far, b"from afar"); assert os.read(reader, 99) == b"from afar"
assert os.read(again, 99) == b"once"
os.write(w, b"x"); assert os.read(r, 9) == b"x"
print("end", flush=True)
sys.exit(8)
"#;

#[test]
fn pipes_with_a_name_and_pipes_opened_twice_go_on() {
    let mut world = World::new();
    world.ordinary = true;
    let stop = world.text("stop");
    let (status, out) = world.lives(&["python3", "-c", FIFO, &stop]);
    assert_eq!(
        (status, out.lines().last()),
        (Some(8), Some("end")),
        "{out}"
    );
}
