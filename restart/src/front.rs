// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process in the foreground: it makes the namespaces, passes signals on,
//! and ends as the program ends.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::sys::{self, bit};
use crate::{Context, Error};

/// Signals which are meant for the program.
pub const PASSED: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

pub fn passed() -> u64 {
    PASSED.iter().map(|s| bit(*s)).fold(0, |a, b| a | b)
}

/// The next signal of a signalfd: its number, and whether the kernel sent it
/// (to the whole foreground group, so to the program as well).
pub fn next_signal(from: &File) -> io::Result<Option<(i32, bool)>> {
    let mut octets = [0; 128];
    match (&*from).read(&mut octets) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(e) => return Err(e),
    }
    let word = |at: usize| {
        i32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    Ok(Some((word(0), word(8) == 0x80)))
}

/// Waits until one of these can be read, or for `milliseconds`.
pub fn poll(of: &[i32], milliseconds: i32) -> Vec<bool> {
    let mut asked: Vec<libc::pollfd> = of
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: the kernel is told the vector's length.
    unsafe { libc::poll(asked.as_mut_ptr(), of.len() as libc::nfds_t, milliseconds) };
    asked.iter().map(|p| p.revents != 0).collect()
}

/// How the supervisor got its place.
#[derive(Debug)]
pub struct Placed {
    pub pid: i32,
    pub from: BufReader<File>,
}

/// What the supervisor says, a line each.
pub fn say(to: &File, line: &str) {
    // One who does not listen any more needs no answer.
    let _ = writeln!(&*to, "{}", line.replace('\n', " "));
}

/// Makes the supervisor, in namespaces if `own_ids`, and runs `body` in it,
/// which gets the end of the pipe to the front. `None`: the system allows no
/// namespaces.
pub fn place(own_ids: bool, body: &dyn Fn(File) -> i32) -> Result<Option<Placed>, Error> {
    let cannot = || "cannot start the supervisor".to_owned();
    let pipe = || sys::pipe(libc::O_CLOEXEC).map(|(r, w)| (File::from(r), File::from(w)));
    let (from, to) = pipe().context(cannot)?;
    let (mut go, tell) = pipe().context(cannot)?;
    let new = |f: i32| u64::from(f.cast_unsigned());
    let (ids, user) = (
        new(libc::CLONE_NEWPID | libc::CLONE_NEWNS),
        new(libc::CLONE_NEWUSER),
    );
    // SAFETY: cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let tries: &[u64] = match (own_ids, root) {
        (false, _) => &[0],
        (true, true) => &[ids, ids | user],
        (true, false) => &[ids | user],
    };
    for flags in tries {
        // SAFETY: this process has one thread.
        let Ok(pid) = (unsafe { sys::fork(*flags, None) }) else {
            continue;
        };
        if pid == 0 {
            drop(from);
            drop(tell);
            let mut word = [0];
            let told = go.read(&mut word).is_ok_and(|n| n == 1 && word == *b"g");
            drop(go);
            let ready = told && (!own_ids || own_proc().is_ok());
            say(&to, if ready { "placed" } else { "no" });
            let status = if ready { body(to) } else { 0 };
            // SAFETY: ends the supervisor; nothing of the front's is to be run.
            unsafe { libc::_exit(status) };
        }
        let mapped = flags & user == 0 || map_ids(pid).is_ok();
        let _ = (&tell).write_all(if mapped { b"g" } else { b"n" });
        let copy = from.try_clone().context(cannot)?;
        let mut lines = BufReader::with_capacity(1, copy);
        let mut word = String::new();
        let _ = lines.read_line(&mut word);
        if word.trim_end() == "placed" {
            return Ok(Some(Placed {
                pid,
                from: BufReader::new(from),
            }));
        }
        let _ = sys::wait(pid, 0);
    }
    Ok(None)
}

fn map_ids(pid: i32) -> io::Result<()> {
    // SAFETY: cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1"))
}

/// /proc of the new namespace, for the supervisor and for the program.
fn own_proc() -> io::Result<()> {
    let text = |t: &str| CString::new(t).unwrap_or_default();
    let (none, root, proc) = (text("none"), text("/"), text("/proc"));
    let kind = text("proc");
    let no_data = std::ptr::null();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings end with a zero.
    unsafe {
        let own = libc::MS_REC | libc::MS_PRIVATE;
        sys::ok(libc::mount(none.as_ptr(), root.as_ptr(), no_data, own, no_data.cast()).into())?;
        sys::ok(
            libc::mount(
                kind.as_ptr(),
                proc.as_ptr(),
                kind.as_ptr(),
                flags,
                no_data.cast(),
            )
            .into(),
        )?;
    }
    if Path::new("/proc/1/task").exists() {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Passes signals on until the supervisor has told the program's end.
/// Returns the wait status.
pub fn follow(mut placed: Placed) -> Result<i32, Error> {
    let cannot = || "cannot wait for signals".to_owned();
    let signals = sys::signal_fd(passed(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    let signals = File::from(signals.context(cannot)?);
    loop {
        let ready = poll(
            &[signals.as_raw_fd(), placed.from.get_ref().as_raw_fd()],
            -1,
        );
        while let Some((signal, everybody)) = next_signal(&signals).context(cannot)? {
            if !everybody {
                let _ = sys::kill(placed.pid, signal);
            }
        }
        if ready.get(1) == Some(&true) {
            let mut line = String::new();
            let read = placed.from.read_line(&mut line);
            let status = line
                .trim_end()
                .strip_prefix("status ")
                .and_then(|s| s.parse().ok());
            if let Some(status) = status {
                let _ = sys::wait(placed.pid, 0);
                return Ok(status);
            }
            if !matches!(read, Ok(n) if n > 0) {
                return Err(Error::refused(
                    "the supervisor was killed, and the program with it",
                ));
            }
        }
    }
}

/// Ends this process as the program ended.
pub fn end_as(status: i32) -> u8 {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let none = [0_u64; 2];
        let at: *const u64 = none.as_ptr();
        // SAFETY: the kernel reads two words; a second core is of no use.
        unsafe {
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, at, 0);
            libc::signal(signal, libc::SIG_DFL);
        }
        let _ = sys::set_blocked(bit(signal), libc::SIG_UNBLOCK);
        // SAFETY: touches no memory.
        unsafe { libc::raise(signal) };
        return u8::try_from(128 + signal).unwrap_or(255);
    }
    u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255)
}
