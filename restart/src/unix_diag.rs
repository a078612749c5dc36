// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Unix sockets are connected with each other, as the kernel tells anybody
//! (`sock_diag(7)`).

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::{self, ok};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const DUMP: u16 = 0x301; // NLM_F_REQUEST | NLM_F_DUMP
const SHOW_PEER: u32 = 4;
const ATTRIBUTE_PEER: u16 = 2;
const ATTRIBUTE_SHUTDOWN: u16 = 6;
const DONE: u16 = 3;
const ERROR: u16 = 2;

/// What is told of a socket.
#[derive(Clone, Copy, Default, Debug)]
pub struct Told {
    /// The inode of the other one; 0 if there is none.
    pub peer: u64,
    /// 1: reads no more; 2: writes no more.
    pub shut: u8,
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// All Unix sockets of this network namespace, by inode.
pub fn all() -> io::Result<HashMap<u64, Told>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: touches no memory.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
    let socket = sys::owned(socket.into())?;
    let mut request = Vec::new();
    request.extend(40_u32.to_le_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_le_bytes());
    request.extend(DUMP.to_le_bytes());
    request.extend([0; 8]);
    // Family, protocol, no more; all states; any inode; what to show; no cookie.
    request.extend([1, 0, 0, 0]);
    request.extend([0xff; 4]);
    request.extend([0; 4]);
    request.extend(SHOW_PEER.to_le_bytes());
    request.extend([0; 8]);
    // SAFETY: the kernel reads the slice.
    ok(unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    } as _)?;
    let mut found = HashMap::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        // SAFETY: the kernel writes the slice at most.
        let got = ok(unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        } as _)?;
        let mut rest = &buffer[..usize::try_from(got).unwrap_or(0)];
        while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let length = (length as usize).clamp(16, rest.len().max(16));
            match kind {
                DONE => return Ok(found),
                ERROR => return Err(io::Error::other("the kernel does not list Unix sockets")),
                _ => found.extend(one(rest.get(16..length).unwrap_or_default())),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if got == 0 {
            return Ok(found);
        }
    }
}

/// `struct unix_diag_msg` and what follows it.
fn one(message: &[u8]) -> Option<(u64, Told)> {
    let inode = u32_at(message, 4)?;
    let mut told = Told::default();
    let mut rest = message.get(16..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length).max(4);
        match kind {
            ATTRIBUTE_PEER => told.peer = u32_at(rest, 4)?.into(),
            ATTRIBUTE_SHUTDOWN => told.shut = *rest.get(4)?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode.into(), told))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(of: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", of.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().trim_start_matches("socket:[");
        text.trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn both_ends_name_each_other() {
        let (a, b) = UnixStream::pair().unwrap();
        let told = all().unwrap();
        assert_eq!(told[&inode(&a)].peer, inode(&b));
        assert_eq!(told[&inode(&b)].peer, inode(&a));
        assert_eq!(told[&inode(&a)].shut, 0);
        a.shutdown(std::net::Shutdown::Write).unwrap();
        let told = all().unwrap();
        assert_eq!((told[&inode(&a)].shut, told[&inode(&b)].shut), (2, 1));
        let own = inode(&a);
        drop(b);
        assert_eq!(all().unwrap()[&own].peer, 0);
    }

    #[test]
    fn what_is_cut_short_is_no_harm() {
        for length in 0..24 {
            let _ = one(&[3; 24][..length]);
            let _ = one(&[0; 24][..length]);
        }
    }
}
