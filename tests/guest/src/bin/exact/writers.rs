// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to let the kernel write into a critical data area.

use std::io;
use std::ptr;
use std::str::FromStr;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The program's own stores.
    Mem,
    /// `read(2)` from a pipe.
    Read,
    /// `recv(2)` from a socket pair.
    Recv,
    /// `readv(2)` from a pipe, into two places at once.
    Readv,
    /// `process_vm_writev(2)` by another process.
    VmWritev,
    /// `ptrace(PTRACE_POKEDATA)` by another process.
    Ptrace,
}

impl Writer {
    pub const NAMES: [(&'static str, Self); 6] = [
        ("mem", Self::Mem),
        ("read", Self::Read),
        ("recv", Self::Recv),
        ("readv", Self::Readv),
        ("vm_writev", Self::VmWritev),
        ("ptrace", Self::Ptrace),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, writer)| *writer == self)
            .map_or("?", |(name, _)| name)
    }

    fn remote(self) -> bool {
        matches!(self, Self::VmWritev | Self::Ptrace)
    }
}

impl FromStr for Writer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|&(_, writer)| writer)
            .ok_or_else(|| format!("no writer is called {text}"))
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What another process is told to write, and answers with `errno`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Order {
    address: usize,
    value: u64,
    thread: i32,
}

/// The means to write in one of the ways.
#[derive(Debug)]
pub struct Hand {
    writer: Writer,
    from: i32,
    to: i32,
}

impl Hand {
    /// Must be called before there is a region: the helper process must not be
    /// a fork child of one which has.
    pub fn new(writer: Writer) -> io::Result<Self> {
        if writer.remote() {
            return Self::helper(writer);
        }
        let mut fds = [-1; 2];
        // SAFETY: both calls fill two descriptors.
        let result = unsafe {
            if writer == Writer::Recv {
                libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr())
            } else {
                libc::pipe(fds.as_mut_ptr())
            }
        };
        check(result as isize)?;
        Ok(Self {
            writer,
            from: fds[0],
            to: fds[1],
        })
    }

    fn helper(writer: Writer) -> io::Result<Self> {
        let mut orders = [-1; 2];
        let mut answers = [-1; 2];
        // SAFETY: fills two descriptors each; the child execs nothing and
        // never returns.  One thread exists yet.
        unsafe {
            check(libc::pipe(orders.as_mut_ptr()) as isize)?;
            check(libc::pipe(answers.as_mut_ptr()) as isize)?;
            // The child may write to us even where the kernel is strict.
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0);
            let parent = libc::getpid();
            let child = libc::fork();
            check(child as isize)?;
            if child == 0 {
                libc::close(orders[1]);
                libc::close(answers[0]);
                obey(writer, parent, orders[0], answers[1]);
            }
            libc::close(orders[0]);
            libc::close(answers[1]);
        }
        Ok(Self {
            writer,
            from: answers[0],
            to: orders[1],
        })
    }

    /// Writes `value` at `address`, and with [`Writer::Readv`] also at
    /// `second`.  `store` is used for [`Writer::Mem`].
    ///
    /// # Safety
    /// Eight bytes at both addresses must be the caller's to change, and be
    /// accessed atomically by others only.
    pub unsafe fn write(
        &self,
        address: usize,
        second: usize,
        value: u64,
        store: impl FnOnce(),
    ) -> io::Result<()> {
        let size = size_of::<u64>();
        let source = ptr::from_ref(&value).cast();
        // SAFETY: the kernel reads eight or sixteen bytes of ours and writes
        // them where the caller allows.
        unsafe {
            match self.writer {
                Writer::Mem => {
                    store();
                    Ok(())
                }
                Writer::Read => {
                    check(libc::write(self.to, source, size))?;
                    self.drained(
                        libc::read(self.from, address as *mut libc::c_void, size),
                        size,
                    )
                }
                Writer::Recv => {
                    check(libc::write(self.to, source, size))?;
                    let got = libc::recv(self.from, address as *mut libc::c_void, size, 0);
                    self.drained(got, size)
                }
                Writer::Readv => {
                    check(libc::write(self.to, source, size))?;
                    check(libc::write(self.to, source, size))?;
                    let piece = |at: usize| libc::iovec {
                        iov_base: at as *mut libc::c_void,
                        iov_len: size,
                    };
                    let pieces = [piece(address), piece(second)];
                    self.drained(libc::readv(self.from, pieces.as_ptr(), 2), 2 * size)
                }
                Writer::VmWritev | Writer::Ptrace => {
                    let order = Order {
                        address,
                        value,
                        thread: libc::gettid(),
                    };
                    check(libc::write(
                        self.to,
                        ptr::from_ref(&order).cast(),
                        size_of::<Order>(),
                    ))?;
                    let mut errno = 0_i32;
                    loop {
                        match check(libc::read(self.from, ptr::from_mut(&mut errno).cast(), 4)) {
                            // Being traced interrupts.
                            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                            Ok(4) => break,
                            other => return other.map(drop),
                        }
                    }
                    if errno == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::from_raw_os_error(errno))
                    }
                }
            }
        }
    }

    /// Empties the pipe if the kernel could not deliver everything.
    fn drained(&self, got: isize, want: usize) -> io::Result<()> {
        let error = io::Error::last_os_error();
        let mut left = want.saturating_sub(usize::try_from(got).unwrap_or(0));
        let mut sink = [0_u8; 16];
        let mut emptied = false;
        while left > 0 {
            // SAFETY: at most sixteen bytes are left, and they fit.
            let more = check(unsafe { libc::read(self.from, sink.as_mut_ptr().cast(), left) })?;
            if more == 0 {
                break;
            }
            left -= more;
            emptied = true;
        }
        match usize::try_from(got) {
            Err(_) => Err(error),
            // A short transfer: the rest hit a protected page.
            Ok(_) if emptied => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Ok(_) => Ok(()),
        }
    }
}

/// The helper's life.
///
/// # Safety
/// Only in a fresh child with one thread.
unsafe fn obey(writer: Writer, parent: i32, orders: i32, answers: i32) -> ! {
    let mut order = Order {
        address: 0,
        value: 0,
        thread: 0,
    };
    // SAFETY: plain system calls on our own buffers; what is written to the
    // parent is what it asked for.
    unsafe {
        loop {
            let got = libc::read(orders, ptr::from_mut(&mut order).cast(), size_of::<Order>());
            if got != size_of::<Order>().cast_signed() {
                libc::_exit(0);
            }
            let good = if writer == Writer::VmWritev {
                let local = libc::iovec {
                    iov_base: ptr::from_mut(&mut order.value).cast(),
                    iov_len: 8,
                };
                let remote = libc::iovec {
                    iov_base: order.address as *mut libc::c_void,
                    iov_len: 8,
                };
                libc::process_vm_writev(parent, &raw const local, 1, &raw const remote, 1, 0) == 8
            } else {
                poke(order)
            };
            let errno: i32 = if good {
                0
            } else {
                io::Error::last_os_error().raw_os_error().unwrap_or(-1)
            };
            libc::write(answers, ptr::from_ref(&errno).cast(), 4);
        }
    }
}

/// # Safety
/// As [`obey`].
unsafe fn poke(order: Order) -> bool {
    // SAFETY: forwarded to the caller.
    unsafe {
        let none = ptr::null_mut::<libc::c_void>();
        if libc::ptrace(libc::PTRACE_ATTACH, order.thread, none, none) != 0 {
            return false;
        }
        let mut status = 0;
        libc::waitpid(order.thread, &raw mut status, libc::__WALL);
        let done = libc::ptrace(
            libc::PTRACE_POKEDATA,
            order.thread,
            order.address,
            order.value,
        );
        let error = *libc::__errno_location();
        libc::ptrace(libc::PTRACE_DETACH, order.thread, none, none);
        *libc::__errno_location() = error;
        done == 0
    }
}
