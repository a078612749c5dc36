// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary itself, over stand-ins for libxencall and libxenstore
//! (`xen-sys/tests/fake.c`) which the dynamic linker finds first.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hvckpt_wire::Key;
use serde_json::Value;
use tempfile::TempDir;

pub struct Daemon {
    pub dir: TempDir,
    pub child: Child,
    pub addr: String,
}

pub fn build(dir: &Path, options: &[&str]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["libxencall.so.1", "libxenstore.so.4"] {
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-include", "stdint.h", "-include"])
            .arg(here.join("../xen-patch/include/public/cda.h"))
            .args(options)
            .arg("-o")
            .arg(dir.join(name))
            .arg(here.join("xen-sys/tests/fake.c"))
            .output()
            .expect("the test needs a C compiler named cc");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
    }
}

pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hvckpt-policy"));
    command
        .env("LD_LIBRARY_PATH", dir)
        .arg("--state")
        .arg(dir.join("state"))
        .current_dir(dir);
    command
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &[]);
        Self::start_in(dir)
    }

    pub fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, &[])
    }

    pub fn start_with(dir: TempDir, options: &[&str]) -> Self {
        let mut serve = command(dir.path());
        serve.args(["serve", "--listen", "127.0.0.1:0"]);
        serve.args(options);
        Self::spawn(dir, serve)
    }

    /// Runs `serve` and waits until it listens; the rest of what it says goes
    /// nowhere.
    pub fn spawn(dir: TempDir, mut serve: Command) -> Self {
        let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let addr = loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("it ended: {said:?}"))
                .unwrap();
            if let Some(addr) = line.strip_prefix("hvckpt-policy: listening on ") {
                break addr.to_owned();
            }
            said.push(line);
        };
        // Read on, or a daemon which says much would wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { dir, child, addr }
    }

    pub fn run(&self, args: &str) -> Output {
        command(self.dir.path())
            .args(args.split(' '))
            .output()
            .unwrap()
    }

    pub fn ok(&self, args: &str) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// A new key for the fake's domain.
    pub fn key(&self, name: &str) -> Key {
        self.ok(&format!("key add --domain domu --out {name} {name}"));
        Key::load(self.path(name)).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn stop(mut self) -> TempDir {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "clean shutdown");
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
