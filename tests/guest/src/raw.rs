// SPDX-License-Identifier: MIT OR Apache-2.0
//! The raw ABI, and memory to misuse.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bytes to tell pages apart

use std::arch::global_asm;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use hvckpt::abi::{self, cda_attach, cda_log, cda_query, cda_register};
use hvckpt::sys::gate::int84;

pub const PAGE: usize = hvckpt::PAGE_SIZE;
pub const CHUNK: usize = 2 << 20;

/// Negative, as an operation returns it.
pub fn no(errno: i32) -> i64 {
    -i64::from(errno)
}

/// Ends the program (status 2) where there is no gate.
pub fn need_gate() {
    if let Err(error) = hvckpt::Attach::new().gate() {
        eprintln!("{}", hvckpt::explain(&error));
        std::process::exit(2);
    }
}

pub fn fresh_token() -> [u8; 16] {
    hvckpt::Attach::new()
        .request_token()
        .unwrap_or_else(|error| {
            eprintln!("{}", hvckpt::explain(&error));
            std::process::exit(2);
        })
}

/// One operation; every argument goes to the hypervisor as it is.
pub fn op(op: u64, args: [u64; 5]) -> i64 {
    // SAFETY: there is a gate (`need_gate`).  Wrong arguments are what these
    // programs are about: the hypervisor must refuse them, and it writes only
    // to memory of this process which the arguments name.
    unsafe { int84(op, args) }
}

pub fn op1(number: u64, a: u64) -> i64 {
    op(number, [a, 0, 0, 0, 0])
}

pub fn op2(number: u64, a: u64, b: u64) -> i64 {
    op(number, [a, b, 0, 0, 0])
}

pub fn attach_struct(token: [u8; 16]) -> cda_attach {
    cda_attach {
        size: 64,
        token,
        ..cda_attach::default()
    }
}

/// A session through the raw ABI.
#[derive(Debug)]
pub struct Session {
    pub cookie: u64,
    pub max_pages: u64,
}

impl Session {
    pub fn attach() -> Self {
        let mut attach = attach_struct(fresh_token());
        let result = op1(abi::CDA_OP_ATTACH, ptr::from_mut(&mut attach) as u64);
        if result != 0 {
            eprintln!("attach answered {result}");
            std::process::exit(2);
        }
        Self {
            cookie: attach.cookie,
            max_pages: attach.max_pages,
        }
    }

    pub fn op(&self, number: u64, argument: u64) -> i64 {
        op2(number, self.cookie, argument)
    }

    pub fn register(&self, register: &cda_register) -> i64 {
        self.op(abi::CDA_OP_REGISTER, ptr::from_ref(register) as u64)
    }

    pub fn begin(&self, range: i64) -> i64 {
        self.op(abi::CDA_OP_BEGIN, range.cast_unsigned())
    }

    pub fn end(&self, range: i64) -> i64 {
        self.op(abi::CDA_OP_END, range.cast_unsigned())
    }

    pub fn commit(&self, range: i64) -> i64 {
        self.op(abi::CDA_OP_COMMIT, range.cast_unsigned())
    }

    pub fn peek(&self, range: i64) -> i64 {
        self.op(abi::CDA_OP_PEEK, range.cast_unsigned())
    }

    pub fn unregister(&self, range: i64) -> i64 {
        self.op(abi::CDA_OP_UNREGISTER, range.cast_unsigned())
    }

    pub fn detach(&self) -> i64 {
        self.op(abi::CDA_OP_DETACH, 0)
    }

    pub fn query(&self) -> cda_query {
        let mut query = cda_query {
            size: 200,
            ..cda_query::default()
        };
        self.op(abi::CDA_OP_QUERY, ptr::from_mut(&mut query) as u64);
        query
    }
}

/// Mapped pages.
#[derive(Debug)]
pub struct Area {
    pub start: usize,
    pub bytes: usize,
}

impl Area {
    /// Private anonymous pages, present unless `MAP_NORESERVE` is in `flags`.
    pub fn new(bytes: usize) -> Self {
        let area = Self::map(0, bytes, 0, -1);
        for page in 0..area.pages() {
            area.set(page * PAGE, 1 + (page % 250) as u8);
        }
        area
    }

    /// As [`Self::new`], beginning on 2 MiB.
    pub fn chunks(count: usize) -> Self {
        let bytes = count * CHUNK;
        let raw = Self::map(0, bytes + CHUNK, 0, -1);
        let start = raw.start.next_multiple_of(CHUNK);
        let area = Self { start, bytes };
        area.advise(libc::MADV_NOHUGEPAGE);
        for page in 0..area.pages() {
            area.set(page * PAGE, 1 + (page % 250) as u8);
        }
        area
    }

    /// `pages` on each side of a multiple of 2 MiB: two tables map them.
    pub fn across_chunks(pages: usize) -> Self {
        let raw = Self::map(0, 3 * CHUNK, 0, -1);
        let border = (raw.start + CHUNK).next_multiple_of(CHUNK);
        let area = Self {
            start: border - pages * PAGE,
            bytes: 2 * pages * PAGE,
        };
        raw.advise(libc::MADV_NOHUGEPAGE);
        for page in 0..area.pages() {
            area.set(page * PAGE, 1 + (page % 250) as u8);
        }
        area
    }

    /// At `start` if that is not zero; private unless `flags` says shared.
    pub fn map(start: usize, bytes: usize, flags: i32, fd: i32) -> Self {
        let kind = if flags & libc::MAP_SHARED != 0 {
            0
        } else {
            libc::MAP_PRIVATE
        };
        let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
        let fixed = if start != 0 { libc::MAP_FIXED } else { 0 };
        // SAFETY: a fixed address is one which the caller mapped before.
        let got = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | kind | anonymous | fixed,
                fd,
                0,
            )
        };
        assert_ne!(
            got,
            libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        Self {
            start: got as usize,
            bytes,
        }
    }

    pub fn pages(&self) -> usize {
        self.bytes / PAGE
    }

    pub fn set(&self, offset: usize, value: u8) {
        assert!(offset < self.bytes);
        // SAFETY: inside the area, which is mapped.
        unsafe { ptr::write_volatile((self.start + offset) as *mut u8, value) }
    }

    pub fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.bytes);
        // SAFETY: inside the area, which is mapped.
        unsafe { ptr::read_volatile((self.start + offset) as *const u8) }
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index * 8 < self.bytes);
        // SAFETY: inside the area, which is mapped, and accessed atomically.
        unsafe { AtomicU64::from_ptr((self.start + index * 8) as *mut u64) }
    }

    pub fn unmap(&self) {
        // SAFETY: nobody holds references into the area.
        let result = unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
        assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
    }

    pub fn protect(&self, prot: i32) {
        // SAFETY: who writes without permission is prepared for it.
        let result = unsafe { libc::mprotect(self.start as *mut libc::c_void, self.bytes, prot) };
        assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
    }

    /// As [`Self::protect`], where there may be holes; false if one was met.
    pub fn protect_mapped(&self, prot: i32) -> bool {
        // SAFETY: who writes without permission is prepared for it.
        unsafe { libc::mprotect(self.start as *mut libc::c_void, self.bytes, prot) == 0 }
    }

    pub fn advise(&self, advice: i32) -> bool {
        // SAFETY: content may go, nobody counts on it.
        unsafe { libc::madvise(self.start as *mut libc::c_void, self.bytes, advice) == 0 }
    }

    /// Moves it over `to`, which it replaces.
    pub fn move_to(&self, to: usize) {
        // SAFETY: both were mapped by this program and hold no references.
        let got = unsafe {
            libc::mremap(
                self.start as *mut libc::c_void,
                self.bytes,
                self.bytes,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to as *mut libc::c_void,
            )
        };
        assert_eq!(
            got as usize,
            to,
            "mremap: {}",
            std::io::Error::last_os_error()
        );
    }

    pub fn part(&self, first_page: usize, pages: usize) -> Self {
        assert!(first_page + pages <= self.pages());
        Self {
            start: self.start + first_page * PAGE,
            bytes: pages * PAGE,
        }
    }

    pub fn registration(&self, log: &Area) -> cda_register {
        cda_register {
            size: 64,
            mode: abi::CDA_MODE_PTXEN,
            start: self.start as u64,
            pages: self.pages() as u64,
            log: log.start as u64,
            log_bytes: log.bytes as u64,
            ..cda_register::default()
        }
    }

    /// A log for it.
    pub fn log(&self) -> Self {
        Self::new((64 + 8 * self.pages()).next_multiple_of(PAGE))
    }

    /// The same, and forks leave it writable.
    pub fn private_log(&self) -> Self {
        let log = self.log();
        assert!(log.advise(libc::MADV_DONTFORK));
        log
    }

    pub fn header(&self) -> cda_log {
        // SAFETY: the area is a log.
        unsafe { ptr::read_volatile(self.start as *const cda_log) }
    }

    /// The listed pages, sorted.
    pub fn listed(&self) -> Vec<u64> {
        let count = usize::try_from(self.header().count)
            .unwrap_or(0)
            .min(self.bytes / 8 - 8);
        let mut pages: Vec<u64> = (0..count)
            .map(|i| self.word(8 + i).load(Ordering::Relaxed))
            .collect();
        pages.sort_unstable();
        pages
    }
}

global_asm!(
    ".globl hvckpt_test_store",
    "hvckpt_test_store:",
    "mov byte ptr [rdi], sil",
    "xor eax, eax",
    "ret",
    ".globl hvckpt_test_store_failed",
    "hvckpt_test_store_failed:",
    "mov eax, 1",
    "ret",
);

unsafe extern "C" {
    fn hvckpt_test_store(address: usize, value: u8) -> i32;
    fn hvckpt_test_store_failed();
}

extern "C" fn on_segv(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let store: unsafe extern "C" fn(usize, u8) -> i32 = hvckpt_test_store;
    let failed: unsafe extern "C" fn() = hvckpt_test_store_failed;
    // SAFETY: the kernel passes a valid context.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        if registers[libc::REG_RIP as usize] as usize != store as usize {
            // Not ours: die of it.
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            return;
        }
        registers[libc::REG_RIP as usize] = failed as usize as i64;
    }
}

/// Lets [`may_store`] survive.
pub fn catch_faults() {
    // SAFETY: the handler is async-signal-safe and lives as long as we.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_segv;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(
            libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()),
            0
        );
        assert_eq!(
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()),
            0
        );
    }
}

/// Stores a byte; false if the processor or the kernel refuse.
pub fn may_store(address: usize, value: u8) -> bool {
    // SAFETY: a refused store is caught (`catch_faults`).
    unsafe { hvckpt_test_store(address, value) == 0 }
}

/// The calling thread goes before all others of the guest.  Needs root.
pub fn before_all_others() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: this thread's, with a valid parameter.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    let error = std::io::Error::last_os_error();
    assert_eq!(set, 0, "no priority: {error}");
}

/// Runs `body` in a fork child and returns its exit status, or 200 + signal.
pub fn in_child(body: impl FnOnce() -> i32) -> i32 {
    wait(spawn(body))
}

/// Starts a fork child.
pub fn spawn(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs on with one thread and leaves by _exit; bodies
    // which allocate do so while no other thread holds the allocator for long
    // (glibc repairs it in the child).
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            libc::_exit(status.unwrap_or(101));
        }
        pid
    }
}

/// Waits for a child.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: fills the status.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        let error = std::io::Error::last_os_error();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::Interrupted,
            "waitpid: {error}"
        );
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        200 + libc::WTERMSIG(status)
    }
}
