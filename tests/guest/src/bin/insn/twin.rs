// SPDX-License-Identifier: MIT OR Apache-2.0
//! A child process which executes instructions on memory that nobody tracks,
//! at the same addresses.

use std::io;
use std::ptr;

use super::machine::{self, Code, Machine};
use super::{AREA, PAGE};

const PLACE: u64 = 1;
const EXECUTE: u64 = 2;

/// What both processes see.
#[repr(C)]
struct Shared {
    command: u64,
    address: u64,
    code: u64,
    length: u64,
    bytes: [u8; 16],
    machine: Machine,
}

/// The child, and its memory.
pub struct Twin {
    shared: *mut Shared,
    area: *mut u8,
    to: i32,
    from: i32,
    pid: i32,
}

fn map(bytes: usize) -> *mut libc::c_void {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    at
}

fn pipe() -> [i32; 2] {
    let mut fds = [-1; 2];
    // SAFETY: two descriptors are written.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    fds
}

fn send(fd: i32) -> bool {
    // SAFETY: one byte is read.
    unsafe { libc::write(fd, [0_u8].as_ptr().cast(), 1) == 1 }
}

fn receive(fd: i32) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte is written.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) == 1 }
}

impl Twin {
    /// Before any memory is mapped which the child shall not have.  It uses no
    /// heap: in the emulated machine that is fragile.
    pub fn new(codes: [Code; 2]) -> Self {
        let shared: *mut Shared = map(size_of::<Shared>()).cast();
        let area: *mut u8 = map(AREA).cast();
        let ([child_from, to], [from, child_to]) = (pipe(), pipe());
        // SAFETY: the child goes on with one thread and leaves by _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: descriptors of this process.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::close(to);
                libc::close(from);
            }
            let mut place = area;
            while receive(child_from) {
                // SAFETY: the parent waits; the address is free in this
                // process, where nothing was mapped since.
                unsafe { obey(&mut *shared, &mut place, codes) };
                if !send(child_to) {
                    break;
                }
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: descriptors of this process.
        unsafe {
            libc::close(child_from);
            libc::close(child_to);
        }
        Self {
            shared,
            area,
            to,
            from,
            pid,
        }
    }

    fn ask(&mut self, command: u64) {
        // SAFETY: the child waits.
        unsafe { (*self.shared).command = command };
        assert!(
            send(self.to) && receive(self.from),
            "the process which executes natively died"
        );
    }

    /// Lets the child have its memory at `address`.
    pub fn place(&mut self, address: u64) {
        // SAFETY: the child waits.
        unsafe { (*self.shared).address = address };
        self.ask(PLACE);
    }

    /// Executes an instruction there.
    pub fn execute(&mut self, bytes: &[u8], machine: &mut Machine) {
        // SAFETY: the child waits before and after `ask`.
        unsafe {
            let shared = &mut *self.shared;
            shared.code = machine.code;
            shared.length = bytes.len() as u64;
            shared.bytes[..bytes.len()].copy_from_slice(bytes);
            shared.machine.clone_from(machine);
            self.ask(EXECUTE);
            machine.clone_from(&(*self.shared).machine);
        }
    }

    /// The child's memory.
    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: mapped, and the child waits while this borrow lives.
        unsafe { core::slice::from_raw_parts_mut(self.area, AREA) }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: our descriptors and our child, which leaves as the pipe
        // ends.
        unsafe {
            libc::close(self.to);
            libc::close(self.from);
            libc::waitpid(self.pid, &raw mut status, 0);
        }
    }
}

/// # Safety
/// In the child, with a command which the parent made.
unsafe fn obey(shared: &mut Shared, place: &mut *mut u8, codes: [Code; 2]) {
    if shared.command == PLACE {
        let to = shared.address as *mut libc::c_void;
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the caller vouches for the address.
        let got = unsafe { libc::mremap((*place).cast(), AREA, AREA, how, to) };
        if got != to {
            // SAFETY: ends the child, which the parent notices.
            unsafe { libc::_exit(1) };
        }
        *place = got.cast();
        return;
    }
    let length = usize::try_from(shared.length).unwrap_or(0);
    for code in codes {
        let pages = code.0 as u64..(code.0 + 2 * PAGE) as u64;
        if pages.contains(&shared.code) {
            code.put(shared.code, &shared.bytes[..length]);
        }
    }
    // SAFETY: the parent saw to it that the instruction stores into the area
    // only.
    unsafe { machine::execute(&mut shared.machine) };
}
