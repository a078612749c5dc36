// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of a running program, read without touching them. `rebind` makes them
//! again.

use std::collections::HashMap;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::image::{Octets, Socket, State};
use crate::sys::{self, ok};
use crate::unix_diag::Told;

/// What is set again, where the system allows it.
const OPTIONS: [(c_int, c_int); 18] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_PASSCRED),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
];
/// Of a connection that ends: what had come and was not read yet.
const MOST: usize = 16 << 20;
// States of a TCP socket in TCP_INFO.
const CLOSED: u8 = 7;

pub fn get(socket: &OwnedFd, level: c_int, name: c_int) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; 256];
    let mut length: libc::socklen_t = 256;
    // SAFETY: the kernel writes at most the length told.
    ok(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    }
    .into())?;
    value.truncate(length as usize);
    Ok(value)
}

pub fn set(socket: RawFd, (level, name): (c_int, c_int), value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the kernel reads the slice.
    ok(unsafe { libc::setsockopt(socket, level, name, value.as_ptr().cast(), length) }.into())
        .map(drop)
}

fn word(socket: &OwnedFd, name: c_int) -> io::Result<c_int> {
    let value = get(socket, libc::SOL_SOCKET, name)?;
    let four = value.get(..4).and_then(|v| v.try_into().ok());
    four.map(c_int::from_ne_bytes)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// An address: the socket's own, or its peer's.
pub fn address(socket: &OwnedFd, peer: bool) -> io::Result<Vec<u8>> {
    let mut octets = vec![0_u8; 128];
    let mut length: libc::socklen_t = 128;
    let at = octets.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most the length told.
    let done = unsafe {
        if peer {
            libc::getpeername(socket.as_raw_fd(), at, &raw mut length)
        } else {
            libc::getsockname(socket.as_raw_fd(), at, &raw mut length)
        }
    };
    ok(done.into())?;
    octets.truncate(length as usize);
    Ok(octets)
}

/// What waits to be read, left where it is. `None`: not all of it can be had.
fn waiting(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut octets = vec![0_u8; MOST];
    let mut vector = libc::iovec {
        iov_base: octets.as_mut_ptr().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: all zero is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes into the vector, and of the message its flags.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let got = match ok(got as _) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        // Of a connection which is broken nothing can be had.
        Err(_) => 0,
        Ok(got) => usize::try_from(got).unwrap_or(0),
    };
    octets.truncate(got);
    // Descriptors on their way, or more than there is room for.
    let whole = message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) == 0 && got < MOST;
    Ok(whole.then_some(octets))
}

/// The path of a Unix socket's address; none if it has no name or an abstract one.
pub fn path(address: &[u8]) -> Option<&Path> {
    let name = address
        .get(2..)
        .filter(|n| n.first().is_some_and(|b| *b != 0))?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Some(Path::new(std::ffi::OsStr::from_bytes(&name[..end])))
}

pub fn is_socket(path: &Path) -> Option<u32> {
    let of = std::fs::symlink_metadata(path).ok()?;
    (of.file_type().is_socket()).then(|| of.permissions().mode() & 0o777)
}

/// The address with the whole path in it, and the mode of the file.
fn named(pid: i32, local: Vec<u8>) -> Result<(Vec<u8>, Option<u32>), String> {
    let Some(name) = path(&local) else {
        return Ok((local, None));
    };
    let name = if name.is_absolute() {
        name.to_owned()
    } else {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).map_err(|e| e.to_string())?;
        cwd.join(name)
    };
    let mode = is_socket(&name).ok_or_else(|| {
        format!(
            "its name {} does not lead to it; close it before",
            name.display()
        )
    })?;
    let mut whole = local[..2].to_vec();
    whole.extend(name.as_os_str().as_bytes());
    whole.push(0);
    if whole.len() > 110 {
        return Err("the whole path of its name is too long".into());
    }
    Ok((whole, Some(mode)))
}

/// A socket of `pid`. `told` is of Unix sockets, `own` which one it is.
pub fn read(pid: i32, fd: RawFd, own: u64, told: &HashMap<u64, Told>) -> Result<Socket, String> {
    let text = |error: io::Error| error.to_string();
    let socket = sys::descriptor_of(pid, fd).map_err(text)?;
    let domain = word(&socket, libc::SO_DOMAIN).map_err(text)?;
    let kind = word(&socket, libc::SO_TYPE).map_err(text)?;
    let protocol = word(&socket, libc::SO_PROTOCOL).map_err(text)?;
    let internet = matches!(domain, libc::AF_INET | libc::AF_INET6);
    let known = (internet && matches!(kind, libc::SOCK_STREAM | libc::SOCK_DGRAM))
        || domain == libc::AF_UNIX;
    if !known || (internet && !matches!(protocol, libc::IPPROTO_TCP | libc::IPPROTO_UDP)) {
        return Err(format!(
            "a socket of family {domain}, protocol {protocol}, is not kept; close it before"
        ));
    }
    let options = OPTIONS.iter().filter_map(|(level, name)| {
        let value = get(&socket, *level, *name).ok()?;
        Some((*level, *name, Octets(value)))
    });
    let mut options: Vec<_> = options.collect();
    if domain == libc::AF_UNIX
        && let Ok(twice) = word(&socket, libc::SO_SNDBUF)
    {
        // The kernel doubles what it is told.
        let half = Octets((twice / 2).to_ne_bytes().to_vec());
        options.push((libc::SOL_SOCKET, libc::SO_SNDBUF, half));
    }
    let mut local = address(&socket, false).map_err(text)?;
    let peer = address(&socket, true).ok();
    let mut mode = None;
    let stream = kind == libc::SOCK_STREAM;
    let info = get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO).unwrap_or_default();
    let listens = word(&socket, libc::SO_ACCEPTCONN).map_err(text)? != 0;
    let waiting = || {
        let found = waiting(&socket).map_err(text)?;
        let found = found.ok_or("what waits in it (descriptors, or much) is not kept yet")?;
        Ok::<_, String>(Octets(found))
    };
    let state = if listens {
        // TCP_INFO: the length of the queue is where else lost segments are.
        let backlog = info.get(28..32).and_then(|b| b.try_into().ok());
        State::Listening {
            backlog: backlog.map_or(c_int::MAX, c_int::from_ne_bytes),
        }
    } else if domain == libc::AF_UNIX {
        let told = told.get(&own).copied().unwrap_or_default();
        match peer {
            _ if told.peer != 0 => State::Pair {
                own,
                peer: told.peer,
                content: waiting()?,
                shut: told.shut,
            },
            Some(_) => State::Ended {
                content: waiting()?,
            },
            None => State::Idle,
        }
    } else if stream && info.first().is_some_and(|state| *state != CLOSED) {
        State::Ended {
            content: waiting()?,
        }
    } else {
        match peer {
            Some(peer) if !stream => State::Connected { peer: Octets(peer) },
            _ => State::Idle,
        }
    };
    if domain == libc::AF_UNIX {
        if matches!(state, State::Pair { .. } | State::Ended { .. }) {
            if !stream
                && !matches!(&state, State::Pair { content, .. } | State::Ended { content } if content.0.is_empty())
            {
                return Err("messages that wait in it are not kept yet; read them before".into());
            }
        } else {
            (local, mode) = named(pid, local)?;
        }
    }
    Ok(Socket {
        domain,
        kind,
        protocol,
        local: Octets(local),
        mode,
        options,
        state,
    })
}

/// What a socket is called in complaints.
pub fn name(of: &Socket) -> String {
    let octets = &of.local.0;
    let port = || octets.get(2..4).map(|p| u16::from_be_bytes([p[0], p[1]]));
    match (of.domain, path(octets)) {
        (libc::AF_UNIX, Some(path)) => format!("socket {}", path.display()),
        (libc::AF_INET | libc::AF_INET6, _) => format!("port {}", port().unwrap_or(0)),
        _ => "socket".into(),
    }
}
