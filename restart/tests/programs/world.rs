// SPDX-License-Identifier: MIT OR Apache-2.0
//! A directory of a test's own, and the programs that run there.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No test waits so long unless something hangs.
pub const LONG: Duration = Duration::from_secs(60);

pub struct World {
    pub dir: TempDir,
    pub ordinary: bool,
    pub new_ids: bool,
}

/// A front and all below it; ended when dropped, so that a test which fails
/// leaves nothing behind.
pub struct Program(pub Child);

impl Deref for Program {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            end_tree(i32::try_from(self.0.id()).unwrap());
            let _ = self.0.wait();
        }
    }
}

/// A process and all below it, as /proc tells now.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            all.extend(tree(child.parse().unwrap()));
        }
    }
    all
}

fn end_tree(pid: i32) {
    for pid in tree(pid) {
        // SAFETY: touches no memory.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Whether it is there and is no zombie.
pub fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

impl Drop for World {
    fn drop(&mut self) {
        // What was detached is nobody's child.
        for session in self.sessions() {
            end_tree(i32::try_from(session["front"].as_i64().unwrap()).unwrap());
        }
    }
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
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
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(hvckpt(), dir.path().join("hvckpt")).unwrap();
        let world = Self {
            dir,
            ordinary: false,
            new_ids: false,
        };
        world.build("verify.c");
        world
    }

    /// Compiles a program of this directory to its name without the suffix.
    pub fn build(&self, name: &str) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join(name);
        let mut command = Command::new("cc");
        command.args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
        let built = command
            .arg(self.path(name).with_extension(""))
            .arg(source)
            .status();
        assert!(built.unwrap().success());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
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

    pub fn out(&self) -> Stdio {
        let mut options = fs::OpenOptions::new();
        let file = options
            .create(true)
            .append(true)
            .open(self.path("out"))
            .unwrap();
        let _ = fs::set_permissions(self.path("out"), fs::Permissions::from_mode(0o666));
        file.into()
    }

    fn place(&self) -> impl Iterator<Item = fs::DirEntry> {
        let dirs = fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten();
        dirs.filter(|d| d.file_name().to_string_lossy().starts_with("hvckpt-"))
            .flat_map(|d| fs::read_dir(d.path()).into_iter().flatten().flatten())
    }

    /// Files by which sessions are found.
    pub fn places(&self) -> usize {
        self.place().count()
    }

    /// What those files say.
    pub fn sessions(&self) -> Vec<serde_json::Value> {
        self.place()
            .filter(|f| f.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|f| serde_json::from_slice(&fs::read(f.path()).ok()?).ok())
            .collect()
    }

    pub fn spawn(&self, mut command: Command) -> Program {
        let command = command.stdin(Stdio::null()).stdout(self.out());
        Program(command.spawn().unwrap())
    }

    pub fn start(&self, program: &[&str]) -> Program {
        let mut command = self.command(&["run", "--store", "store", "--"]);
        command.args(program);
        self.spawn(command)
    }

    /// Runs a program until it prints, and leaves a version of it alone.
    pub fn left(&self, program: &[&str]) {
        let mut child = self.start(program);
        self.progress(&mut child);
        self.taken(&["--kill"]);
        child.wait().unwrap();
    }

    /// A checkpoint that is not refused.
    pub fn taken(&self, more: &[&str]) {
        let taken = self.checkpoint(more);
        let why = String::from_utf8_lossy(&taken.stderr).into_owned();
        assert!(taken.status.success(), "{}: {why}", taken.status);
    }

    pub fn restart(&self) -> Program {
        self.spawn(self.restarting(&[]))
    }

    pub fn restarting(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["restart", "store"]);
        if self.new_ids {
            command.arg("--new-ids");
        }
        command.args(more);
        command
    }

    pub fn checkpoint(&self, more: &[&str]) -> Output {
        self.command(&["checkpoint", "--store", "store"])
            .args(more)
            .output()
            .unwrap()
    }

    pub fn lines(&self) -> usize {
        fs::read_to_string(self.path("out"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    pub fn progress(&self, child: &mut Program) {
        let before = self.lines();
        until("progress", || {
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            self.lines() >= before + 4
        });
    }

    pub fn end(&self, mut child: Program) -> (Option<i32>, String) {
        fs::write(self.path("stop"), "").unwrap();
        let mut status = None;
        until("its end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let out = fs::read_to_string(self.path("out")).unwrap();
        (status.unwrap().code(), out)
    }

    /// Three times: checkpoint, kill, restart. The program prints lines until
    /// the file `stop` is there.
    pub fn lives(&self, program: &[&str]) -> (Option<i32>, String) {
        let mut child = self.start(program);
        for life in 0..3 {
            self.progress(&mut child);
            let more: &[&str] = if life == 1 { &["--kill"] } else { &[] };
            self.taken(more);
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
    pub fn kill(&self, child: &mut Program) {
        if self.new_ids {
            // Without a namespace of its own the program outlives its front.
            self.taken(&["--kill"]);
        } else {
            child.kill().unwrap();
        }
        child.wait().unwrap();
    }

    pub fn prints(&self, count: usize) {
        until("output", || self.lines() >= count);
    }
}
