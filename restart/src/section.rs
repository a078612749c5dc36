// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image tells of a process besides its pages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Octets in JSON: hexadecimal text.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Octets(pub Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
        let text: String = self
            .0
            .iter()
            .flat_map(|b| [digit(b >> 4), digit(b & 15)])
            .collect();
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom("not hexadecimal");
        let value = |c: u8| {
            char::from(c)
                .to_digit(16)
                .and_then(|n| u8::try_from(n).ok())
        };
        if text.len() % 2 != 0 {
            return Err(wrong());
        }
        let pairs = text.as_bytes().chunks_exact(2);
        let octets = pairs.map(|p| Some((value(p[0])? << 4) | value(p[1])?));
        octets
            .collect::<Option<Vec<u8>>>()
            .map(Octets)
            .ok_or_else(wrong)
    }
}

/// What a file must still be, so that its pages need not be in the image.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Mapped {
    pub path: PathBuf,
    pub size: u64,
    pub mtime_ns: i128,
}

/// One mapping of the address space.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Area {
    pub start: u64,
    pub end: u64,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    pub shared: bool,
    pub offset: u64,
    /// The file below it; none is anonymous memory.
    pub file: Option<Mapped>,
    /// `[vdso]`, `[vvar]`, …: the kernel's own.
    pub special: Option<String>,
    pub grows_down: bool,
    pub no_reserve: bool,
    /// `MADV_DONTFORK`: a fork has no such area.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub dont_fork: bool,
    /// `MADV_WIPEONFORK`: it is empty in a fork.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub wipe_on_fork: bool,
    /// Of anonymous shared memory, which object it is; tells nothing later.
    #[serde(skip)]
    pub object: u64,
}

impl Area {
    /// Whether a copy made by fork has not what is in here now.
    pub(crate) fn apart(&self) -> bool {
        let memory = self.special.is_none() && self.file.is_none();
        self.dont_fork || self.wipe_on_fork || (self.shared && memory)
    }
}

/// Fields of the kernel's `prctl_mm_map`, in its order.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Layout {
    pub fields: [u64; 11],
    pub auxv: Octets,
    pub exe: PathBuf,
}

/// A timer of `setitimer`, in microseconds.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Itimer {
    pub which: i32,
    pub interval: [i64; 2],
    pub value: [i64; 2],
}

/// One thread.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Thread {
    pub tid: i32,
    pub name: Octets,
    pub regs: Octets,
    pub xstate: Octets,
    pub blocked: u64,
    pub altstack: [u64; 3],
    pub clear_tid: u64,
    pub robust: [u64; 2],
    /// Address, length, signature; all 0 without.
    pub rseq: [u64; 3],
    pub nice: i32,
    pub affinity: Octets,
    pub pending: u64,
}

/// What a file without a name holds: pages of the image, from an address on
/// that no memory has. Descriptors with the same address are of one file.
#[derive(Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Content {
    pub at: u64,
    pub size: u64,
}

/// What a descriptor is of.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    /// The same number of the one who restarts.
    Inherited(i32),
    /// The same open file as this lower descriptor.
    Dup(i32),
    File {
        path: PathBuf,
        offset: u64,
        size: u64,
        dir: bool,
    },
    /// A regular file without a name; what it holds is among the pages.
    Unlinked {
        /// Where it was when it had a name; only the directory matters.
        path: PathBuf,
        offset: u64,
        mode: u32,
        content: Content,
    },
    /// Of `memfd_create`; what it holds is among the pages.
    Memfd {
        name: Octets,
        offset: u64,
        mode: u32,
        seals: i32,
        content: Content,
    },
    Device {
        path: PathBuf,
    },
    Pipe {
        inode: u64,
        write: bool,
        content: Octets,
        capacity: i32,
    },
    /// A pipe which has a name.
    Fifo {
        path: PathBuf,
        content: Octets,
        capacity: i32,
    },
    Event {
        count: u64,
        semaphore: bool,
    },
    Timer {
        clock: i32,
        value: [i64; 2],
        interval: [i64; 2],
    },
    Epoll {
        targets: Vec<(i32, u32, u64)>,
    },
    Signal {
        mask: u64,
    },
    Socket(Box<Socket>),
}

/// A socket: domain, type and protocol as of `socket`, addresses as of `bind`.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Socket {
    pub domain: i32,
    pub kind: i32,
    pub protocol: i32,
    pub local: Octets,
    /// Of the file which is its name.
    pub mode: Option<u32>,
    /// Level, name and value of `setsockopt`.
    pub options: Vec<(i32, i32, Octets)>,
    pub state: State,
}

/// What a socket is doing.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum State {
    Idle,
    Listening {
        backlog: i32,
    },
    /// Of datagrams.
    Connected {
        peer: Octets,
    },
    /// Connected with somebody else: ended now, with what is still to be read.
    Ended {
        content: Octets,
    },
    /// Connected with the socket of inode `peer`, itself `own`; what is to be
    /// read here, and which directions are shut (1: this end reads no more).
    Pair {
        own: u64,
        peer: u64,
        content: Octets,
        shut: u8,
    },
}

impl Kind {
    /// What is among the pages, where the file has no name.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        match self {
            Kind::Unlinked { content, .. } | Kind::Memfd { content, .. } => Some(*content),
            _ => None,
        }
    }
}

/// One descriptor; `flags` as of `open`.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Descriptor {
    pub fd: i32,
    pub flags: i32,
    pub cloexec: bool,
    pub kind: Kind,
}

/// The process section.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[allow(missing_docs)]
pub struct Process {
    pub pid: i32,
    /// The program had its pids in a namespace of its own.
    pub own_ids: bool,
    pub cwd: PathBuf,
    pub umask: u32,
    pub no_new_privs: bool,
    pub own_session: bool,
    pub own_group: bool,
    /// Effective, permitted, inheritable.
    pub capabilities: [u64; 3],
    pub rlimits: Vec<[u64; 2]>,
    pub areas: Vec<Area>,
    pub guards: Vec<[u64; 2]>,
    pub vdso_crc: u32,
    pub layout: Layout,
    /// Handler, flags, restorer, mask of signals 1 to 64.
    pub actions: Vec<[u64; 4]>,
    pub itimers: Vec<Itimer>,
    pub pending: u64,
    pub threads: Vec<Thread>,
    pub descriptors: Vec<Descriptor>,
}
