// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified programs through the command: checkpoint, kill, restart.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No test waits so long unless something hangs.
const LONG: Duration = Duration::from_secs(60);

struct World {
    dir: TempDir,
    ordinary: bool,
    new_ids: bool,
}

/// The command of the same build.
fn hvckpt() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("hvckpt");
    assert!(
        path.exists(),
        "{} is missing; `cargo build --bin hvckpt` makes it",
        path.display()
    );
    path
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(hvckpt(), dir.path().join("hvckpt")).unwrap();
        let world = Self {
            dir,
            ordinary: false,
            new_ids: false,
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify.c");
        let cc = ["-O1", "-pthread", "-o"];
        let built = Command::new("cc")
            .args(cc)
            .arg(world.path("verify"))
            .arg(source)
            .status();
        assert!(built.unwrap().success());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = if self.ordinary {
            let mut command = Command::new("setpriv");
            // SAFETY: cannot fail.
            if unsafe { libc::geteuid() } == 0 {
                command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            }
            command.arg("--no-new-privs").arg(self.path("hvckpt"));
            command
        } else {
            Command::new(self.path("hvckpt"))
        };
        command.args(arguments).current_dir(self.dir.path());
        // A directory of the sockets for this test only.
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env("TMPDIR", self.dir.path());
        if self.new_ids {
            command.env("NEW_IDS", "1");
        }
        command
    }

    fn out(&self) -> Stdio {
        let mut options = fs::OpenOptions::new();
        let file = options
            .create(true)
            .append(true)
            .open(self.path("out"))
            .unwrap();
        let _ = fs::set_permissions(self.path("out"), fs::Permissions::from_mode(0o666));
        file.into()
    }

    fn start(&self, program: &[&str]) -> Child {
        let mut command = self.command(&["run", "--store", "store", "--"]);
        command
            .args(program)
            .stdin(Stdio::null())
            .stdout(self.out())
            .spawn()
            .unwrap()
    }

    fn restart(&self) -> Child {
        let mut command = self.command(&["restart", "store"]);
        if self.new_ids {
            command.arg("--new-ids");
        }
        command
            .stdin(Stdio::null())
            .stdout(self.out())
            .spawn()
            .unwrap()
    }

    fn checkpoint(&self, more: &[&str]) -> Output {
        self.command(&["checkpoint", "--store", "store"])
            .args(more)
            .output()
            .unwrap()
    }

    fn lines(&self) -> usize {
        fs::read_to_string(self.path("out"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    fn progress(&self, child: &mut Child) {
        let (before, until) = (self.lines(), Instant::now() + LONG);
        while self.lines() < before + 4 {
            assert!(Instant::now() < until, "no progress");
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&self, mut child: Child) -> (Option<i32>, String) {
        fs::write(self.path("stop"), "").unwrap();
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status.code(), fs::read_to_string(self.path("out")).unwrap());
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Three times: checkpoint, kill, restart. The program prints lines until
    /// the file `stop` is there.
    fn lives(&self, program: &[&str]) -> (Option<i32>, String) {
        let mut child = self.start(program);
        for life in 0..3 {
            self.progress(&mut child);
            let more: &[&str] = if life == 1 { &["--kill"] } else { &[] };
            let taken = self.checkpoint(more);
            assert!(
                taken.status.success(),
                "{}",
                String::from_utf8_lossy(&taken.stderr)
            );
            if life == 1 {
                assert_eq!(child.wait().unwrap().signal(), Some(9));
            } else {
                self.kill(&mut child);
            }
            child = self.restart();
        }
        self.progress(&mut child);
        self.end(child)
    }

    /// SIGKILL of everything.
    fn kill(&self, child: &mut Child) {
        if self.new_ids {
            // Without a namespace of its own the program outlives its front.
            let taken = self.checkpoint(&["--kill"]);
            assert!(
                taken.status.success(),
                "{}",
                String::from_utf8_lossy(&taken.stderr)
            );
        } else {
            child.kill().unwrap();
        }
        child.wait().unwrap();
    }
}

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
    let mut child = world.start(&[&verify, "4", &stop]);
    world.progress(&mut child);
    assert!(world.checkpoint(&["--kill"]).status.success());
    child.wait().unwrap();
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
fn what_cannot_be_kept_is_refused_by_name_and_runs_on() {
    let world = World::new();
    let (stop, script) = (
        world.text("stop"),
        r#"
import mmap, os, socket, sys, time
shared, pair = mmap.mmap(-1, 4096), socket.socketpair()
while not os.path.exists(sys.argv[1]):
    print("line", flush=True); time.sleep(0.005)
sys.exit(3)
"#,
    );
    let mut child = world.start(&["python3", "-c", script, &stop]);
    world.progress(&mut child);
    let refused = world.checkpoint(&[]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        why.contains("shared memory") && why.contains("sockets"),
        "{why}"
    );
    world.progress(&mut child);
    assert_eq!(world.end(child).0, Some(3));
    assert!(
        !fs::read_dir(world.path("store"))
            .unwrap()
            .flatten()
            .any(|e| e.path().extension().is_some())
    );
}

#[test]
fn signals_and_status_are_the_programs() {
    let world = World::new();
    let script =
        r#"trap 'echo got; exit 4' TERM; echo a; echo b; echo c; echo d; while :; do :; done"#;
    let mut child = world.start(&["bash", "-c", script]);
    world.progress_or_lines(4);
    // SAFETY: touches no memory.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let mut child = world.start(&["bash", "-c", "kill -USR1 $$"]);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
    assert_eq!(
        world.start(&["/no/such/program"]).wait().unwrap().code(),
        Some(1)
    );
}

impl World {
    fn progress_or_lines(&self, count: usize) {
        let until = Instant::now() + LONG;
        while self.lines() < count {
            assert!(Instant::now() < until, "no progress");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
