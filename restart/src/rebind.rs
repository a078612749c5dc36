// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets made again: those that wait for others wait again, pairs within the
//! program keep what is in them, and a connection to somebody else has ended as
//! if he had closed it.

use std::collections::HashMap;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::image::{Descriptor, Kind, Socket, State};
use crate::sockets::{address, is_socket, path, set};
use crate::sys::{fcntl, ok, owned};

fn new(of: &Socket) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory.
    owned(unsafe { libc::socket(of.domain, of.kind | libc::SOCK_CLOEXEC, of.protocol) }.into())
}

fn bind(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).unwrap_or(0);
    // SAFETY: the kernel reads the slice.
    ok(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length) }.into()).map(drop)
}

fn connect(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).unwrap_or(0);
    // SAFETY: the kernel reads the slice.
    ok(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) }.into())
        .map(drop)
}

fn listen(socket: &OwnedFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: touches no memory.
    ok(unsafe { libc::listen(socket.as_raw_fd(), backlog) }.into()).map(drop)
}

/// Whether a socket of that name is there of which nobody listens any more.
fn abandoned(of: &Socket, name: &Path) -> bool {
    if is_socket(name).is_none() {
        return false;
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    new(of).is_ok_and(|try_it| connect(&try_it, &of.local.0).is_err_and(refused))
}

/// Gives a new socket the name which the old one had.
fn give_name(socket: &OwnedFd, of: &Socket) -> io::Result<()> {
    let octets = &of.local.0;
    let unnamed = if of.domain == libc::AF_UNIX {
        octets.len() <= 2
    } else {
        octets.get(2..4).is_none_or(|port| port == [0, 0])
    };
    if unnamed {
        return Ok(());
    }
    if of.domain == libc::AF_UNIX {
        if let Some(name) = path(octets).filter(|name| abandoned(of, name)) {
            std::fs::remove_file(name)?;
        }
        bind(socket, octets)?;
        if let (Some(name), Some(mode)) = (path(octets), of.mode) {
            std::fs::set_permissions(name, std::fs::Permissions::from_mode(mode))?;
        }
        return Ok(());
    }
    let port = u16::from_be_bytes([octets[2], octets[3]]);
    let until = Instant::now() + ENDING;
    let mut told = false;
    loop {
        match bind(socket, octets) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                let lists = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
                let lists = lists.map(Result::unwrap_or_default).concat();
                if !only_ending(&lists, port) {
                    return Err(error);
                }
                if !told {
                    eprintln!(
                        "hvckpt: port {port} is kept by connections that have ended, \
                         for a minute at most: waiting"
                    );
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            done => return done,
        }
    }
}

/// How long the kernel keeps a port for connections that have ended, and more.
const ENDING: Duration = Duration::from_secs(70);

/// Whether nobody has the TCP port any more but connections that end. `lists` is
/// what /proc/net/tcp tells.
fn only_ending(lists: &str, port: u16) -> bool {
    let states = lists.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next()?.rsplit(':').next()?;
        let state = words.nth(1)?;
        (u16::from_str_radix(local, 16).ok()? == port).then_some(state)
    });
    let mut some = false;
    for state in states {
        some = true;
        // FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING.
        if !matches!(state, "04" | "05" | "06" | "09" | "0B") {
            return false;
        }
    }
    some
}

/// Two ends which are connected.
fn pair(kind: c_int) -> io::Result<[OwnedFd; 2]> {
    let mut ends = [0; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: room for both ends.
    ok(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) }.into())?;
    Ok([owned(ends[0].into())?, owned(ends[1].into())?])
}

/// A connection over the loopback interface: both ends.
fn loopback(of: &Socket) -> io::Result<[OwnedFd; 2]> {
    let mut any = vec![0_u8; if of.domain == libc::AF_INET { 16 } else { 28 }];
    any[..2].copy_from_slice(&u16::try_from(of.domain).unwrap_or(0).to_ne_bytes());
    if of.domain == libc::AF_INET {
        any[4..8].copy_from_slice(&[127, 0, 0, 1]);
    } else {
        any[23] = 1;
    }
    let listener = new(of)?;
    bind(&listener, &any)?;
    listen(&listener, 1)?;
    let near = new(of)?;
    connect(&near, &address(&listener, false)?)?;
    let none = std::ptr::null_mut();
    let length = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let far = unsafe { libc::accept4(listener.as_raw_fd(), none, length, libc::SOCK_CLOEXEC) };
    Ok([near, owned(far.into())?])
}

/// As much as there is room for, at once.
fn send(socket: RawFd, octets: &[u8]) -> io::Result<usize> {
    if octets.is_empty() {
        return Ok(0);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (from, length) = (octets.as_ptr().cast(), octets.len());
    // SAFETY: the kernel reads the slice.
    let sent = ok(unsafe { libc::send(socket, from, length, flags) } as _)?;
    Ok(usize::try_from(sent).unwrap_or(0))
}

/// Pairs of which one end has been made: its inode, and the other end.
pub type Halves = HashMap<u64, OwnedFd>;

/// Makes the socket again.
pub fn open(of: &Socket, flags: c_int, halves: &mut Halves) -> io::Result<RawFd> {
    let socket = match &of.state {
        State::Idle | State::Listening { .. } | State::Connected { .. } => new(of)?,
        State::Ended { content } => {
            let ends = if of.domain == libc::AF_UNIX {
                pair(of.kind)?
            } else {
                loopback(of).or_else(|_| pair(libc::SOCK_STREAM))?
            };
            let [near, far] = ends;
            send(far.as_raw_fd(), &content.0)?;
            near
        }
        State::Pair { own, peer, .. } => match halves.remove(own) {
            Some(end) => end,
            None => {
                let [near, far] = pair(of.kind)?;
                // Whoever is not in the program has closed his end.
                halves.insert(*peer, far);
                near
            }
        },
    };
    for (level, name, value) in &of.options {
        // What this system or this user may not set stays as it is by itself.
        let _ = set(socket.as_raw_fd(), (*level, *name), &value.0);
    }
    match &of.state {
        State::Listening { backlog } => {
            give_name(&socket, of)?;
            listen(&socket, *backlog)?;
        }
        State::Idle => give_name(&socket, of)?,
        State::Connected { peer } => {
            give_name(&socket, of)?;
            connect(&socket, &peer.0)?;
        }
        State::Ended { .. } | State::Pair { .. } => {}
    }
    fcntl(socket.as_raw_fd(), libc::F_SETFL, flags & libc::O_NONBLOCK)?;
    Ok(socket.into_raw_fd())
}

/// Puts into pairs what was in them. `made` are descriptors of now and their
/// numbers in `table`; `halves` are ends which nobody has.
pub fn fill(table: &[Descriptor], made: &[(RawFd, RawFd)], halves: Halves) -> io::Result<()> {
    let pairs = || {
        table.iter().filter_map(|one| match &one.kind {
            Kind::Socket(of) => match &of.state {
                State::Pair {
                    own,
                    peer,
                    content,
                    shut,
                } => Some((one.fd, *own, *peer, content, *shut)),
                _ => None,
            },
            _ => None,
        })
    };
    let now = |fd: RawFd| {
        made.iter()
            .find(|(_, number)| *number == fd)
            .map(|(now, _)| *now)
    };
    for (_, own, peer, content, _) in pairs() {
        let from = pairs()
            .find(|other| other.1 == peer && other.2 == own)
            .and_then(|other| now(other.0))
            .or_else(|| halves.get(&peer).map(AsRawFd::as_raw_fd));
        let Some(from) = from else { continue };
        if send(from, &content.0)? != content.0.len() {
            return Err(io::Error::other("there is no room for what was in one"));
        }
    }
    drop(halves);
    for (fd, _, _, _, shut) in pairs() {
        for (bit, how) in [(1, libc::SHUT_RD), (2, libc::SHUT_WR)] {
            if let Some(now) = now(fd).filter(|_| shut & bit != 0) {
                // SAFETY: touches no memory. That the other has gone is no error.
                unsafe { libc::shutdown(now, how) };
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::only_ending;

    #[test]
    fn a_port_that_somebody_has_is_not_waited_for() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let line = |port: &str, state: &str| {
            format!("   0: 0100007F:{port} 0100007F:8F4A {state} 00000000:00000000 00:0 0\n")
        };
        let ends = ["04", "05", "06", "09", "0B"]
            .map(|s| line("1F90", s))
            .concat();
        assert!(only_ending(&format!("{head}{ends}"), 8080));
        assert!(!only_ending(head, 8080), "nobody has it");
        for state in ["01", "0A", "08"] {
            let more = line("1F90", state);
            assert!(
                !only_ending(&format!("{head}{ends}{more}"), 8080),
                "{state}"
            );
        }
        let other = line("1F91", "0A");
        assert!(only_ending(&format!("{head}{ends}{other}"), 8080));
    }
}
