// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cage, tried from inside: a child process (this program, started for
//! one attempt) enters it and then does what it must not be able to do.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Output};
use std::ptr::null_mut;

use hvckpt_policy::privileges;
use hvckpt_policy::sandbox::{Layer, confine, restrict_files};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// The attempt that the child is for.
const ATTEMPT: &str = "HVCKPT_SANDBOX_ATTEMPT";
const STATE: &str = "HVCKPT_SANDBOX_STATE";

/// Starts a child for `attempt` and returns what came of it.
fn child(attempt: &str, state: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(ATTEMPT, attempt)
        .env(STATE, state)
        .output()
        .unwrap()
}

/// What the attempt came to, in the words of [`outcome`].
fn attempt(name: &str) -> String {
    let state = tempfile::tempdir().unwrap();
    let out = child(name, state.path());
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.signal() == Some(libc::SIGSYS) {
        return "killed".to_owned();
    }
    said.lines()
        .find_map(|line| line.strip_prefix("outcome: "))
        .unwrap_or_else(|| panic!("{name}: {out:?}"))
        .to_owned()
}

/// Not a test: the child's part, which does nothing in an ordinary run.
#[test]
fn inside() {
    let Ok(name) = std::env::var(ATTEMPT) else {
        return;
    };
    let state = std::path::PathBuf::from(std::env::var_os(STATE).unwrap());
    let outcome = outcome(&name, &state);
    // Past the harness, which in a cage cannot do all it wants to.
    let _ = writeln!(std::io::stdout(), "\noutcome: {outcome}");
    std::process::exit(0);
}

fn word<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM) => "EPERM".to_owned(),
            Some(Errno::ACCESS) => "EACCES".to_owned(),
            Some(Errno::NOSYS) => "ENOSYS".to_owned(),
            other => format!("{other:?}"),
        },
    }
}

fn words<T>(result: Result<T, Errno>) -> String {
    word(result.map_err(std::io::Error::from))
}

fn outcome(name: &str, state: &Path) -> String {
    privileges::drop_all().unwrap();
    if let Some(name) = name.strip_prefix("files-only:") {
        // Landlock by itself, where seccomp would be first to refuse.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        if restrict_files(state).unwrap() != Layer::Full {
            return "old kernel".to_owned();
        }
        return match name {
            "tcp-connect" => word(TcpStream::connect(addr)),
            "tcp-bind" => word(TcpListener::bind("127.0.0.1:0")),
            "signal" => words(rustix::process::kill_process(
                rustix::process::getppid().unwrap(),
                rustix::process::Signal::CHILD,
            )),
            "exec" => word(Command::new("/bin/true").status()),
            _ => panic!("{name}?"),
        };
    }
    let confinement = confine(state).unwrap();
    assert!(confinement.holds(), "{confinement}");
    match name {
        // What it needs.
        "own-file" => word(own_file(state)),
        "thread" => word(std::thread::Builder::new().spawn(|| 7).map(|t| t.join())),
        "memory" => word(Ok(vec![1u8; 64 << 20].len())),
        "unix-socket" => word(std::os::unix::net::UnixDatagram::unbound()),
        "random" => word(hvckpt_wire::random(&mut [0; 16])),
        "panic" => match std::panic::catch_unwind(|| panic!("as a defect would")) {
            Ok(()) => "no panic".to_owned(),
            Err(_) => "done".to_owned(),
        },
        // What it must not.
        "read-passwd" => word(fs::read("/etc/passwd")),
        "list-root" => word(fs::read_dir("/")),
        "read-own-memory" => word(fs::File::open("/proc/self/mem")),
        "write-tmp" => word(fs::write("/tmp/hvckpt-sandbox-test", b"x")),
        "make-dir" => word(fs::create_dir(state.join("sub"))),
        "hard-link" => {
            own_file(state).unwrap();
            word(fs::hard_link(state.join("b"), state.join("c")))
        }
        "chmod" => words(rustix::fs::chmod(state, rustix::fs::Mode::RWXU)),
        "tcp-socket" => word(TcpListener::bind("127.0.0.1:0")),
        "fork" => word(Command::new("/bin/true").status()),
        "exec" => word(Err::<(), _>(Command::new("/bin/true").exec())),
        "in-thread-exec" => {
            std::thread::spawn(|| word(Err::<(), _>(Command::new("/bin/true").exec())))
                .join()
                .unwrap()
        }
        "signal" => words(rustix::process::test_kill_process(
            rustix::process::Pid::INIT,
        )),
        "socket-pair" => word(std::os::unix::net::UnixStream::pair()),
        "memfd" => words(rustix::fs::memfd_create(
            "x",
            rustix::fs::MemfdFlags::empty(),
        )),
        "map-code" => words(map(ProtFlags::READ | ProtFlags::EXEC)),
        "make-code" => words(map(ProtFlags::READ | ProtFlags::WRITE).and_then(|page| {
            // SAFETY: the page was just mapped and nobody else knows it.
            unsafe { rustix::mm::mprotect(page, 4096, MprotectFlags::READ | MprotectFlags::EXEC) }
        })),
        "terminal" => words(rustix::termios::tcgetwinsize(std::io::stdout())),
        "setuid" => words(rustix::thread::set_thread_uid(rustix::process::getuid())),
        "unload-sandbox" => words(rustix::process::set_dumpable_behavior(
            rustix::process::DumpableBehavior::Dumpable,
        )),
        _ => panic!("{name}?"),
    }
}

fn own_file(state: &Path) -> std::io::Result<()> {
    hvckpt_files::replace(&state.join("a"), b"1")?;
    fs::rename(state.join("a"), state.join("b"))?;
    assert_eq!(fs::read(state.join("b"))?, b"1");
    hvckpt_files::replace(&state.join("b"), b"2")
}

fn map(protection: ProtFlags) -> Result<*mut std::ffi::c_void, Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { rustix::mm::mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) }
}

#[test]
fn what_the_daemon_does_is_possible() {
    for name in [
        "own-file",
        "thread",
        "memory",
        "unix-socket",
        "random",
        "panic",
    ] {
        assert_eq!(attempt(name), "done", "{name}");
    }
}

#[test]
fn files_elsewhere_are_out_of_reach() {
    for name in ["read-passwd", "list-root", "read-own-memory", "write-tmp"] {
        assert_eq!(attempt(name), "EACCES", "{name}");
    }
}

#[test]
fn calls_it_does_not_make_fail() {
    for name in [
        "make-dir",
        "hard-link",
        "chmod",
        "tcp-socket",
        "fork",
        "signal",
        "memfd",
        "socket-pair",
        "map-code",
        "make-code",
        "terminal",
        "unload-sandbox",
    ] {
        assert_eq!(attempt(name), "EPERM", "{name}");
    }
}

#[test]
fn calls_of_an_intruder_end_the_process() {
    for name in ["exec", "in-thread-exec", "setuid"] {
        assert_eq!(attempt(name), "killed", "{name}");
    }
}

#[test]
fn landlock_holds_by_itself() {
    for (name, expected) in [
        ("tcp-connect", "EACCES"),
        ("tcp-bind", "EACCES"),
        ("signal", "EPERM"),
        ("exec", "EACCES"),
    ] {
        let outcome = attempt(&format!("files-only:{name}"));
        if outcome == "old kernel" {
            eprintln!("landlock here lacks TCP or signal rules: not tried");
            return;
        }
        assert_eq!(outcome, expected, "{name}");
    }
}
