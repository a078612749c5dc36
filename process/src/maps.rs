// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/PID/maps`, parsed in place: into arrays which exist before anybody is stopped.

use crate::raw::{Errno, Fd, Path};

/// What a mapping is besides its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Anonymous memory or a file.
    #[default]
    Plain,
    /// What `brk` moves.
    Heap,
    /// The stack which grows by itself.
    Stack,
    /// The kernel's own: vdso, vvar, vsyscall.
    Special,
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// Address behind the last one.
    pub end: usize,
    /// Offset in the file.
    pub offset: usize,
    /// Device, major number in the upper half.
    pub device: u64,
    /// Inode; 0: anonymous.
    pub inode: u64,
    /// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    pub protection: i32,
    /// `MAP_SHARED`?
    pub shared: bool,
    /// See [`Kind`].
    pub kind: Kind,
    /// Where the path is in the text: start and length. A zero follows it.
    pub path: (u32, u32),
}

impl Mapping {
    /// Do both show the same thing at `address`, whatever the protection?
    pub fn same_at(&self, other: &Self, address: usize) -> bool {
        self.shared == other.shared
            && self.inode == other.inode
            && self.device == other.device
            && (self.inode == 0
                || self.offset + (address - self.start) == other.offset + (address - other.start))
    }
}

struct Line<'a> {
    text: &'a [u8],
    at: usize,
}

impl Line<'_> {
    fn number(&mut self, base: u64) -> Option<u64> {
        let (mut value, start) = (0u64, self.at);
        while let Some(digit) = self.text.get(self.at).and_then(|&b| match b {
            b'0'..=b'9' => Some(u64::from(b - b'0')),
            b'a'..=b'f' => Some(u64::from(b - b'a') + 10),
            _ => None,
        }) {
            if digit >= base {
                break;
            }
            value = value.checked_mul(base)?.checked_add(digit)?;
            self.at += 1;
        }
        (self.at > start).then_some(value)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (*self.text.get(self.at)? == byte).then(|| self.at += 1)
    }

    fn flag(&mut self, byte: u8) -> Option<bool> {
        let is = *self.text.get(self.at)? == byte;
        self.at += 1;
        Some(is)
    }
}

fn line(text: &[u8], base: usize) -> Option<Mapping> {
    let mut at = Line { text, at: 0 };
    let start = usize::try_from(at.number(16)?).ok()?;
    at.expect(b'-')?;
    let end = usize::try_from(at.number(16)?).ok()?;
    at.expect(b' ')?;
    let mut protection = 0;
    for (byte, bit) in [
        (b'r', libc::PROT_READ),
        (b'w', libc::PROT_WRITE),
        (b'x', libc::PROT_EXEC),
    ] {
        if at.flag(byte)? {
            protection |= bit;
        }
    }
    let shared = at.flag(b's')?;
    at.expect(b' ')?;
    let offset = usize::try_from(at.number(16)?).ok()?;
    at.expect(b' ')?;
    let major = at.number(16)?;
    at.expect(b':')?;
    let device = major << 32 | at.number(16)?;
    at.expect(b' ')?;
    let inode = at.number(10)?;
    while at.expect(b' ').is_some() {}
    let path = text.get(at.at..)?;
    let kind = match path {
        b"[heap]" => Kind::Heap,
        b"[stack]" => Kind::Stack,
        p if p.starts_with(b"[anon") => Kind::Plain,
        p if p.starts_with(b"[") => Kind::Special,
        _ => Kind::Plain,
    };
    let path = (
        u32::try_from(base + at.at).ok()?,
        u32::try_from(path.len()).ok()?,
    );
    (start < end).then_some(Mapping {
        start,
        end,
        offset,
        device,
        inode,
        protection,
        shared,
        kind,
        path,
    })
}

/// Parses the lines of `text`; the end of each becomes a zero, so that paths are C strings.
/// How many mappings there are, or nothing where `to` is too small or a line is not understood.
pub fn parse(text: &mut [u8], to: &mut [Mapping]) -> Option<usize> {
    let (mut at, mut n) = (0, 0);
    while at < text.len() {
        let length = text[at..].iter().position(|&b| b == b'\n')?;
        *to.get_mut(n)? = line(&text[at..at + length], at)?;
        text[at + length] = 0;
        at += length + 1;
        n += 1;
    }
    Some(n)
}

/// Reads the mappings of `pid` (0: this process) into `to`, by way of `text`.
///
/// # Errors
/// What opening and reading say; `E2BIG` where there are more than fit.
pub fn read(pid: i32, text: &mut [u8], to: &mut [Mapping]) -> Result<usize, Errno> {
    let file = Fd::open(Path::proc(pid, "maps").as_c_str(), libc::O_RDONLY)?;
    let length = file.read_all(text)?;
    if length == text.len() {
        return Err(Errno(libc::E2BIG));
    }
    parse(&mut text[..length], to).ok_or(Errno(libc::E2BIG))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"55d0-66d0 r-xp 00000200 fe:01 1234                       /usr/bin/a b\n\
        7000-8000 rw-s 00000000 00:01 99 /memfd:x (deleted)\n\
        9000-a000 rw-p 00000000 00:00 0 \n\
        b000-c000 rw-p 00000000 00:00 0                          [heap]\n\
        ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0          [vsyscall]\n";

    #[test]
    fn lines_are_understood() {
        let (mut text, mut maps) = (TEXT.to_vec(), [Mapping::default(); 5]);
        assert_eq!(parse(&mut text, &mut maps), Some(5));
        assert_eq!(
            (maps[0].start, maps[0].end, maps[0].offset),
            (0x55d0, 0x66d0, 0x200)
        );
        assert_eq!((maps[0].device, maps[0].inode), (0xfe << 32 | 1, 1234));
        assert_eq!(maps[0].protection, libc::PROT_READ | libc::PROT_EXEC);
        let (at, len) = (maps[0].path.0 as usize, maps[0].path.1 as usize);
        assert_eq!(&text[at..=at + len], b"/usr/bin/a b\0");
        assert!(maps[1].shared && !maps[0].shared);
        assert_eq!(maps[2].path.1, 0);
        assert_eq!((maps[3].kind, maps[4].kind), (Kind::Heap, Kind::Special));
    }

    #[test]
    fn what_is_cut_or_strange_is_refused() {
        let mut maps = [Mapping::default(); 5];
        for cut in 1..TEXT.len() - 1 {
            if TEXT[cut - 1] != b'\n' {
                assert_eq!(parse(&mut TEXT[..cut].to_vec(), &mut maps), None, "{cut}");
            }
        }
        assert_eq!(parse(&mut TEXT.to_vec(), &mut maps[..4]), None);
        let big = b"fffffffffffffffff-1 rw-p 0 0:0 0\n";
        assert_eq!(parse(&mut big.to_vec(), &mut maps), None);
    }

    #[test]
    fn own_mappings_are_read() {
        let (mut text, mut maps) = (vec![0; 1 << 20], vec![Mapping::default(); 4096]);
        let n = read(0, &mut text, &mut maps).unwrap();
        let here = own_mappings_are_read as *const () as usize;
        assert!(maps[..n].iter().any(|m| m.start <= here && here < m.end));
        assert_eq!(
            read(0, &mut text[..100], &mut maps),
            Err(Errno(libc::E2BIG))
        );
    }
}
