// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of descriptors of a running program.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::contents::Unlinked;
use crate::image::{Descriptor, Kind, Octets};
use crate::sys::{self, fcntl};
use crate::{Context, Error, sockets, unix_diag};

/// Devices without state.
const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn number<T: std::str::FromStr>(info: &str, name: &str) -> Option<T> {
    field(info, name)?.parse().ok()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim(), 16).ok()
}

/// `(seconds, nanoseconds)` of fdinfo.
fn pair(info: &str, name: &str) -> Option<[i64; 2]> {
    let (seconds, nanoseconds) = field(info, name)?
        .strip_prefix('(')?
        .strip_suffix(')')?
        .split_once(", ")?;
    Some([seconds.parse().ok()?, nanoseconds.parse().ok()?])
}

/// What descriptors have in common.
#[derive(Default)]
struct Seen {
    /// What the kernel tells of Unix sockets; asked for by the first of them.
    told: Option<HashMap<u64, unix_diag::Told>>,
    unlinked: Unlinked,
}

/// Reads the table of `pid`. What cannot be kept is added to `objections`. `giver`
/// started it, and gave it what its descriptors 0 to 2 are of.
pub fn read(pid: i32, giver: i32, objections: &mut Vec<String>) -> Result<Vec<Descriptor>, Error> {
    let dir = format!("/proc/{pid}/fd");
    let mut fds: Vec<RawFd> = fs::read_dir(&dir)
        .context(|| format!("cannot read {dir}"))?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    let mut links: HashMap<PathBuf, Vec<RawFd>> = HashMap::new();
    let mut pipes: BTreeMap<u64, [bool; 2]> = BTreeMap::new();
    let mut table = Vec::new();
    let mut seen = Seen::default();
    for fd in fds {
        let path = PathBuf::from(format!("{dir}/{fd}"));
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"));
        let (Ok(link), Ok(info)) = (fs::read_link(&path), info) else {
            continue;
        };
        let flags = field(&info, "flags")
            .and_then(|f| i32::from_str_radix(f, 8).ok())
            .unwrap_or(0);
        let elder = links
            .get(&link)
            .into_iter()
            .flatten()
            .find(|o| sys::same_file(pid, fd, pid, **o));
        let kind = match elder {
            Some(other) => Ok(Kind::Dup(*other)),
            None => examine(pid, giver, fd, &path, &link, &info, flags, &mut seen),
        };
        links.entry(link.clone()).or_default().push(fd);
        match kind {
            Ok(kind) => {
                if let Kind::Pipe { inode, write, .. } = &kind {
                    pipes.entry(*inode).or_default()[usize::from(*write)] = true;
                }
                let cloexec = flags & libc::O_CLOEXEC != 0;
                table.push(Descriptor {
                    fd,
                    flags: flags & !libc::O_CLOEXEC,
                    cloexec,
                    kind,
                });
            }
            Err(why) => objections.push(format!("descriptor {fd} ({}): {why}", link.display())),
        }
    }
    for one in &table {
        if let Kind::Pipe { inode, .. } = one.kind
            && pipes.get(&inode) != Some(&[true, true])
        {
            objections.push(format!(
                "descriptor {} (pipe:[{inode}]): its other end is not in the program; close it before",
                one.fd
            ));
        }
    }
    Ok(table)
}

#[expect(clippy::too_many_arguments, reason = "what is known of a descriptor")]
fn examine(
    pid: i32,
    giver: i32,
    fd: RawFd,
    path: &Path,
    link: &Path,
    info: &str,
    flags: i32,
    seen: &mut Seen,
) -> Result<Kind, String> {
    let name = link.to_string_lossy();
    let of = fs::metadata(path).map_err(|e| e.to_string())?;
    let kind = of.file_type();
    // Also a file: it is not the program's to cut, others may write into it.
    let given = (0..3)
        .chain([fd].into_iter().filter(|_| giver != pid))
        .find(|n| sys::same_file(pid, fd, giver, *n));
    if let Some(number) = given {
        return Ok(Kind::Inherited(number));
    }
    let unknown = || "its state cannot be read".to_owned();
    if kind.is_file() || kind.is_dir() {
        let offset = number(info, "pos").ok_or_else(unknown)?;
        // Another file system's name, as a POSIX queue's, or a mount in between.
        let same = |there: fs::Metadata| (there.dev(), there.ino()) == (of.dev(), of.ino());
        if !link.is_absolute() || !fs::metadata(link).is_ok_and(same) {
            return seen.unlinked.examine(path, link, &of, offset);
        }
        Ok(Kind::File {
            path: link.to_owned(),
            offset,
            size: of.len(),
            dir: kind.is_dir(),
        })
    } else if DEVICES.contains(&&*name) {
        Ok(Kind::Device {
            path: link.to_owned(),
        })
    } else if name.starts_with("pipe:[") {
        let (content, capacity) = peek(pid, fd).map_err(|e| e.to_string())?;
        Ok(Kind::Pipe {
            inode: of.ino(),
            write: flags & 3 == libc::O_WRONLY,
            content,
            capacity,
        })
    } else if kind.is_fifo() {
        let same = |there: fs::Metadata| (there.dev(), there.ino()) == (of.dev(), of.ino());
        if flags & libc::O_PATH != 0 || !fs::metadata(link).is_ok_and(same) {
            return Err("its name does not lead to it; close it before".into());
        }
        let (content, capacity) = peek(pid, fd).map_err(|e| e.to_string())?;
        Ok(Kind::Fifo {
            path: link.to_owned(),
            content,
            capacity,
        })
    } else if name == "anon_inode:[eventfd]" {
        let count = field(info, "eventfd-count")
            .and_then(hex)
            .ok_or_else(unknown)?;
        Ok(Kind::Event {
            count,
            semaphore: number(info, "eventfd-semaphore") == Some(1),
        })
    } else if name == "anon_inode:[timerfd]" {
        let value = pair(info, "it_value").ok_or_else(unknown)?;
        let interval = pair(info, "it_interval").ok_or_else(unknown)?;
        Ok(Kind::Timer {
            clock: number(info, "clockid").ok_or_else(unknown)?,
            value,
            interval,
        })
    } else if name == "anon_inode:[signalfd]" {
        Ok(Kind::Signal {
            mask: field(info, "sigmask").and_then(hex).ok_or_else(unknown)?,
        })
    } else if name == "anon_inode:[eventpoll]" {
        let target = |line: &str| {
            let mut words = line.split_whitespace().filter(|w| !w.ends_with(':'));
            let fd = words.next()?.parse().ok()?;
            let events = u32::try_from(hex(words.next()?)?).ok()?;
            Some((fd, events, hex(words.next()?)?))
        };
        let lines = info.lines().filter(|l| l.starts_with("tfd:"));
        let targets = lines
            .map(target)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(unknown)?;
        Ok(Kind::Epoll { targets })
    } else if kind.is_socket() {
        let told = &*seen
            .told
            .get_or_insert_with(|| unix_diag::all().unwrap_or_default());
        sockets::read(pid, fd, of.ino(), told).map(|socket| Kind::Socket(Box::new(socket)))
    } else {
        Err("this kind of descriptor is not kept; close it before".into())
    }
}

/// What is in a pipe, without taking it out.
fn peek(pid: i32, fd: RawFd) -> std::io::Result<(Octets, i32)> {
    let end = sys::descriptor_of(pid, fd)?;
    let capacity = fcntl(end.as_raw_fd(), libc::F_GETPIPE_SZ, 0)?;
    if fcntl(end.as_raw_fd(), libc::F_GETFL, 0)? & 3 == libc::O_WRONLY {
        return Ok((Octets::default(), capacity));
    }
    let (read, write) = sys::pipe(libc::O_CLOEXEC | libc::O_NONBLOCK)?;
    fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, capacity)?;
    // SAFETY: touches no memory of ours.
    let got = unsafe {
        libc::tee(
            end.as_raw_fd(),
            write.as_raw_fd(),
            1 << 30,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    let length = usize::try_from(got).unwrap_or(0);
    let mut content = vec![0; length];
    if length > 0 {
        std::io::Read::read_exact(&mut fs::File::from(read), &mut content)?;
    }
    Ok((Octets(content), capacity))
}

/// Looks before anything is touched: what is missing, and what grew.
pub fn check(table: &[Descriptor]) -> Vec<String> {
    let mut objections = Vec::new();
    for one in table {
        if let Kind::Fifo { path, .. } = &one.kind
            && !fs::metadata(path).is_ok_and(|of| of.file_type().is_fifo())
        {
            objections.push(format!(
                "descriptor {} ({}): no FIFO is there; make it (mkfifo)",
                one.fd,
                path.display()
            ));
        }
        let Kind::File {
            path, size, dir, ..
        } = &one.kind
        else {
            continue;
        };
        match fs::metadata(path) {
            Err(error) => objections.push(format!(
                "descriptor {} ({}): {error}",
                one.fd,
                path.display()
            )),
            Ok(of) if *dir != of.is_dir() => {
                objections.push(format!(
                    "descriptor {} ({}): of another kind now",
                    one.fd,
                    path.display()
                ));
            }
            Ok(of) if !*dir && of.len() < *size => objections.push(format!(
                "descriptor {} ({}): {} octets, and there were {size}; put the file back",
                one.fd,
                path.display(),
                of.len()
            )),
            Ok(_) => {}
        }
    }
    objections
}

/// A file which is longer than it was.
pub struct Grown<'a> {
    pub of: &'a Descriptor,
    pub path: &'a Path,
    pub size: u64,
    pub now: u64,
}

/// Those of `table` that are regular files and longer than they were.
pub fn grown<'a>(
    table: impl Iterator<Item = &'a Descriptor>,
) -> impl Iterator<Item = Result<Grown<'a>, Error>> {
    table.filter_map(|of| {
        let Kind::File {
            path,
            size,
            dir: false,
            ..
        } = &of.kind
        else {
            return None;
        };
        let size = *size;
        let cannot = || format!("cannot look at {}", path.display());
        match fs::metadata(path).context(cannot) {
            Ok(now) if now.len() <= size => None,
            found => Some(found.map(|now| Grown {
                of,
                path,
                size,
                now: now.len(),
            })),
        }
    })
}
