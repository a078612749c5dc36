// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of descriptors, made in a new process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::contents::Contents;
use crate::image::{Descriptor, Image, Kind};
use crate::sys::{self, fcntl, ok};
use crate::{Context, Error, rebind, sockets};

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Makes the table in this process. Its own descriptors from `spare` on are
/// not in the way; all others are closed by the caller.
pub fn make(image: &Image, spare: RawFd) -> Result<(), Error> {
    let table = &image.process.descriptors;
    let mut pipes = Pipes::default();
    let mut halves = rebind::Halves::new();
    let mut contents = Contents::new(image);
    let mut made: Vec<(RawFd, RawFd)> = Vec::new();
    // First all out of the way, then each to its place.
    for one in table {
        let cannot = || format!("cannot make descriptor {} again", one.fd);
        if let Kind::Dup(_) = one.kind {
            continue;
        }
        let fd = match &one.kind {
            Kind::Socket(of) => rebind::open(of, one.flags, &mut halves)
                .context(|| format!("{} ({})", cannot(), sockets::name(of)))?,
            _ => open(one, &mut pipes, &mut contents).context(cannot)?,
        };
        let high = fcntl(fd, libc::F_DUPFD_CLOEXEC, spare).context(cannot)?;
        // SAFETY: a descriptor that this function has opened.
        unsafe { libc::close(fd) };
        made.push((high, one.fd));
    }
    // Each is of a pair whose other end is in the table, or of one that has ended.
    rebind::fill(table, &made, halves).context(|| "cannot fill its sockets".into())?;
    contents
        .finish()
        .context(|| "cannot set the modes of files without a name".into())?;
    // SAFETY: touches no memory; the descriptors below `spare` are given up.
    unsafe { libc::syscall(libc::SYS_close_range, 0, spare - 1, 0) };
    for (high, low) in made {
        // SAFETY: touches no memory.
        ok(unsafe { libc::dup2(high, low) }.into())
            .context(|| format!("cannot make descriptor {low}"))?;
    }
    for one in table {
        let cannot = || format!("cannot make descriptor {} again", one.fd);
        if let Kind::Dup(other) = one.kind {
            // SAFETY: touches no memory.
            ok(unsafe { libc::dup2(other, one.fd) }.into()).context(cannot)?;
        }
        if let Kind::Epoll { targets } = &one.kind {
            for (fd, events, data) in targets {
                let mut event = libc::epoll_event {
                    events: *events,
                    u64: *data,
                };
                // SAFETY: the kernel reads one event.
                let done =
                    unsafe { libc::epoll_ctl(one.fd, libc::EPOLL_CTL_ADD, *fd, &raw mut event) };
                ok(done.into()).context(cannot)?;
            }
        }
    }
    for one in table {
        let flag = if one.cloexec { libc::FD_CLOEXEC } else { 0 };
        fcntl(one.fd, libc::F_SETFD, flag)
            .context(|| format!("cannot mark descriptor {}", one.fd))?;
    }
    Ok(())
}

/// A new open file of what a descriptor of ours is of, so that its flags are
/// its own.
fn again(fd: RawFd, flags: i32) -> std::io::Result<RawFd> {
    let path = c_path(Path::new(&format!("/proc/self/fd/{fd}")));
    // SAFETY: a string with its end.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    ok(fd.into()).map(|_| fd)
}

fn seek(fd: RawFd, offset: u64, flags: i32) -> std::io::Result<()> {
    if flags & libc::O_PATH == 0 {
        // SAFETY: touches no memory.
        ok(unsafe { libc::lseek(fd, offset.cast_signed(), libc::SEEK_SET) })?;
    }
    Ok(())
}

/// Which pipe it is.
#[derive(PartialEq, Eq, Hash)]
enum Pipe {
    Number(u64),
    Name(PathBuf),
}

/// Pipes that are made already: both ends, which stay open until the table is
/// whole, and whether what was in it is in it again.
#[derive(Default)]
struct Pipes(HashMap<Pipe, ([RawFd; 2], bool)>);

impl Pipes {
    fn get(
        &mut self,
        which: Pipe,
        make: impl FnOnce() -> std::io::Result<[RawFd; 2]>,
        capacity: i32,
        content: &[u8],
    ) -> std::io::Result<[RawFd; 2]> {
        let (ends, filled) = match self.0.entry(which) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let ends = make()?;
                fcntl(ends[0], libc::F_SETPIPE_SZ, capacity)?;
                place.insert((ends, false))
            }
        };
        // Every descriptor which reads tells the same.
        if !*filled && !content.is_empty() {
            // SAFETY: the kernel reads the slice. It fits: the pipe had it.
            let wrote = unsafe { libc::write(ends[1], content.as_ptr().cast(), content.len()) };
            if usize::try_from(wrote) != Ok(content.len()) {
                return Err(std::io::Error::last_os_error());
            }
            *filled = true;
        }
        Ok(*ends)
    }
}

fn open(
    one: &Descriptor,
    pipes: &mut Pipes,
    contents: &mut Contents<'_>,
) -> std::io::Result<RawFd> {
    let missing = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let kept = libc::O_ACCMODE
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_SYNC
        | libc::O_DIRECT
        | libc::O_DIRECTORY
        | libc::O_PATH
        | libc::O_NOATIME;
    let nonblock = one.flags & libc::O_NONBLOCK;
    match &one.kind {
        Kind::Dup(_) | Kind::Socket(_) => Err(missing()),
        Kind::Inherited(n) => {
            // Ours have that flag; those of the one who restarts have not.
            if fcntl(*n, libc::F_GETFD, 0).is_ok_and(|f| f & libc::FD_CLOEXEC == 0) {
                return fcntl(*n, libc::F_DUPFD_CLOEXEC, 0);
            }
            let null = c_path(Path::new("/dev/null"));
            // SAFETY: a string with its end.
            let fd = unsafe { libc::open(null.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
            ok(fd.into()).map(|_| fd)
        }
        Kind::File { path, .. } | Kind::Device { path } => {
            let path_c = c_path(path);
            // SAFETY: a string with its end.
            let fd = unsafe { libc::open(path_c.as_ptr(), (one.flags & kept) | libc::O_NOCTTY) };
            ok(fd.into())?;
            if let Kind::File {
                offset, dir: false, ..
            } = &one.kind
            {
                seek(fd, *offset, one.flags)?;
            }
            Ok(fd)
        }
        Kind::Unlinked {
            path,
            offset,
            mode,
            content,
        } => {
            let file = contents.file(path, *content, *mode)?;
            // O_TMPFILE is one of the bits of O_DIRECTORY, and stays in a file's flags.
            let fd = again(file, one.flags & kept & !libc::O_DIRECTORY)?;
            seek(fd, *offset, one.flags)?;
            Ok(fd)
        }
        Kind::Memfd {
            name,
            offset,
            mode,
            seals,
            content,
        } => {
            let file = contents.memory(name, *content, *mode, *seals)?;
            let fd = again(file, one.flags & kept & !libc::O_DIRECTORY)?;
            seek(fd, *offset, one.flags)?;
            Ok(fd)
        }
        Kind::Pipe {
            inode,
            write,
            content,
            capacity,
        } => {
            let make = || {
                let (read, end) = sys::pipe(libc::O_CLOEXEC)?;
                Ok([read, end].map(std::os::fd::IntoRawFd::into_raw_fd))
            };
            let ends = pipes.get(Pipe::Number(*inode), make, *capacity, &content.0)?;
            again(
                ends[usize::from(*write)],
                (one.flags & libc::O_ACCMODE) | nonblock,
            )
        }
        Kind::Fifo {
            path,
            content,
            capacity,
        } => {
            let make = || {
                let path_c = c_path(path);
                let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
                // SAFETY: a string with its end.
                let fd = unsafe { libc::open(path_c.as_ptr(), flags) };
                ok(fd.into()).map(|_| [fd, fd])
            };
            let ends = pipes.get(Pipe::Name(path.clone()), make, *capacity, &content.0)?;
            again(ends[0], (one.flags & libc::O_ACCMODE) | nonblock)
        }
        Kind::Event { count, semaphore } => {
            let flags = nonblock | if *semaphore { libc::EFD_SEMAPHORE } else { 0 };
            // SAFETY: touches no memory.
            let fd = unsafe { libc::eventfd(0, flags | libc::EFD_NONBLOCK) };
            ok(fd.into())?;
            let from: *const u64 = count;
            // SAFETY: the kernel reads 8 octets.
            ok(unsafe { libc::write(fd, from.cast(), 8) } as std::ffi::c_long)?;
            fcntl(fd, libc::F_SETFL, nonblock)?;
            Ok(fd)
        }
        Kind::Timer {
            clock,
            value,
            interval,
        } => {
            // SAFETY: touches no memory.
            let fd = unsafe { libc::timerfd_create(*clock, nonblock) };
            ok(fd.into())?;
            let time = |of: &[i64; 2]| libc::timespec {
                tv_sec: of[0],
                tv_nsec: of[1],
            };
            let new = libc::itimerspec {
                it_interval: time(interval),
                it_value: time(value),
            };
            let none = std::ptr::null_mut();
            // SAFETY: the kernel reads one structure.
            let done = unsafe { libc::timerfd_settime(fd, 0, &raw const new, none) };
            ok(done.into())?;
            Ok(fd)
        }
        Kind::Epoll { .. } => {
            // SAFETY: touches no memory.
            let fd = unsafe { libc::epoll_create1(0) };
            ok(fd.into()).map(|_| fd)
        }
        Kind::Signal { mask } => {
            let flags = nonblock;
            sys::signal_fd(*mask, flags).map(std::os::fd::IntoRawFd::into_raw_fd)
        }
    }
}
