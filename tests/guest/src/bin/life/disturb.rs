// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to the memory.
#![allow(clippy::cast_possible_truncation)] // sizes of this machine, bytes of pages

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hvckpt::{PAGE_SIZE, Region};

use super::fail;
use super::watch::Watch;
use hvckpt_guest_tests::{Area, PAGE, Rng, may_store, spawn, wait};

/// A counter of the kernel's.
pub fn vmstat(name: &str) -> u64 {
    fs::read_to_string("/proc/vmstat")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

fn set(file: &str, value: &str) {
    if let Err(error) = fs::write(file, value) {
        eprintln!("{file}: {error} (run as root)");
        std::process::exit(2);
    }
}

/// Compaction, again and again, of memory full of small holes.
#[derive(Debug)]
pub struct Compaction {
    before: u64,
    stop: Arc<AtomicBool>,
    holes: i32,
}

impl Compaction {
    pub fn start() -> Self {
        set("/proc/sys/vm/compact_memory", "1");
        // A process of its own frees and takes every second page for ever.
        let holes = spawn(|| {
            let area = Area::map(0, 48 << 20, 0, -1);
            loop {
                for page in 0..area.pages() {
                    area.set(page * PAGE, 1);
                }
                for page in (0..area.pages()).step_by(2) {
                    area.part(page, 1).advise(libc::MADV_DONTNEED);
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let _asked = fs::write("/proc/sys/vm/compact_memory", "1");
            }
        });
        Self {
            before: vmstat("pgmigrate_success"),
            stop,
            holes,
        }
    }

    /// Pages that the kernel moved since.
    pub fn moved(&self) -> u64 {
        vmstat("pgmigrate_success") - self.before
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // SAFETY: our child.
        unsafe { libc::kill(self.holes, libc::SIGKILL) };
        wait(self.holes);
    }
}

/// The merging daemon, and a process with pages of the same content.
#[derive(Debug)]
pub struct Ksm {
    twin: i32,
}

impl Ksm {
    pub fn start(pages: usize) -> Self {
        let twin = spawn(move || {
            let area = Area::map(0, pages * PAGE, 0, -1);
            area.advise(libc::MADV_MERGEABLE);
            for page in 0..pages {
                area.set(page * PAGE, 0);
            }
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
                // What merged with it must never change.
                if (0..area.bytes).step_by(512).any(|at| area.get(at) != 0) {
                    return 1;
                }
            }
        });
        set("/sys/kernel/mm/ksm/pages_to_scan", "5000");
        set("/sys/kernel/mm/ksm/sleep_millisecs", "1");
        set("/sys/kernel/mm/ksm/run", "1");
        Self { twin }
    }

    pub fn offer(&self, region: &Region) {
        // SAFETY: changes no content.
        let result =
            unsafe { libc::madvise(region.as_ptr().cast(), region.bytes(), libc::MADV_MERGEABLE) };
        if result != 0 {
            fail(&format!(
                "MADV_MERGEABLE: {}",
                std::io::Error::last_os_error()
            ));
        }
    }

    /// Pages of all processes that are someone else's now.
    pub fn merged(&self) -> u64 {
        fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    pub fn stop(&self) {
        set("/sys/kernel/mm/ksm/run", "2");
        // SAFETY: our child.
        unsafe { libc::kill(self.twin, libc::SIGTERM) };
        match wait(self.twin) {
            status if status == 200 + libc::SIGTERM => {}
            _ => fail("another process's merged page has changed"),
        }
    }
}

/// Wants more memory than there is.
#[derive(Debug)]
pub struct Hog {
    child: i32,
}

impl Hog {
    pub fn start() -> Self {
        let child = spawn(|| {
            let (mut size, mut pages) = (0_u64, 0_u64);
            for line in fs::read_to_string("/proc/meminfo")
                .unwrap_or_default()
                .lines()
            {
                let number = line
                    .split_whitespace()
                    .nth(1)
                    .and_then(|n| n.parse::<u64>().ok());
                if line.starts_with("MemAvailable") {
                    size = number.unwrap_or(0);
                }
                if line.starts_with("SwapFree") {
                    pages = number.unwrap_or(0);
                }
            }
            if pages == 0 {
                return 2;
            }
            // Three quarters of the swap are to be used.
            let area = Area::map(
                0,
                ((size + pages * 3 / 4) as usize) << 10 & !(PAGE - 1),
                libc::MAP_NORESERVE,
                -1,
            );
            loop {
                for page in 0..area.pages() {
                    area.set(page * PAGE, page as u8);
                }
            }
        });
        Self { child }
    }

    pub fn stop(&self) {
        // SAFETY: our child.
        unsafe { libc::kill(self.child, libc::SIGKILL) };
        if wait(self.child) == 2 {
            eprintln!("there is no swap space");
            std::process::exit(2);
        }
    }
}

fn some_pages(region: &Region, rng: &mut Rng) -> Area {
    let pages = 1 + rng.below(8.min(region.pages()));
    let first = rng.below(region.pages() - pages + 1);
    Area {
        start: region.as_ptr() as usize + first * PAGE_SIZE,
        bytes: pages * PAGE_SIZE,
    }
}

/// Pages which the kernel may drop while nobody writes to them (MADV_FREE), every
/// second of which is written to; then it drops what it may, at once.  The number
/// of pages that are gone.
pub fn drop_some(watch: &mut Watch, rng: &mut Rng) -> u64 {
    let area = Area {
        start: watch.region().as_ptr() as usize,
        bytes: watch.region().bytes(),
    };
    let mut pages = [0; 16];
    for page in &mut pages {
        *page = rng.below(area.pages());
        if !area.part(*page, 1).advise(libc::MADV_FREE) {
            fail(&format!("MADV_FREE: {}", std::io::Error::last_os_error()));
        }
        watch.let_go(*page);
    }
    for &page in pages.iter().step_by(2) {
        watch.write_to(page, rng);
    }
    area.advise(libc::MADV_PAGEOUT);
    watch.gone()
}

/// Read-only, a refused store, writable again.  The number of refusals.
pub fn protect_some(watch: &Watch, rng: &mut Rng) -> u64 {
    let area = some_pages(watch.region(), rng);
    area.protect(libc::PROT_READ);
    let at = area.start + rng.below(area.bytes);
    if may_store(at, 0xee) {
        fail("a page that the application made read-only was written");
    }
    if rng.below(2) == 0 {
        area.protect(libc::PROT_NONE);
    }
    area.protect(libc::PROT_READ | libc::PROT_WRITE);
    1
}

#[repr(C)]
#[derive(Default)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}
#[repr(C)]
#[derive(Default)]
struct UffdRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}
#[repr(C)]
#[derive(Default)]
struct UffdProtect {
    start: u64,
    len: u64,
    mode: u64,
}
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const PAGEFAULT_FLAG_WP: u64 = 1 << 0;

/// Write protection by userfaultfd, resolved by a thread.
#[derive(Debug)]
pub struct Uffd {
    fd: i32,
    resolved: Arc<AtomicU64>,
}

fn ioctl<T>(fd: i32, what: u64, argument: &mut T) {
    // SAFETY: the kernel's structure for this request.
    if unsafe { libc::ioctl(fd, what, std::ptr::from_mut(argument)) } != 0 {
        let error = std::io::Error::last_os_error();
        eprintln!("userfaultfd request {what:#x}: {error}");
        std::process::exit(2);
    }
}

impl Uffd {
    pub fn start(region: &Region) -> Self {
        // SAFETY: flags only; faults in user mode need no privilege.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            eprintln!("userfaultfd: {}", std::io::Error::last_os_error());
            std::process::exit(2);
        }
        ioctl(
            fd,
            UFFDIO_API,
            &mut UffdApi {
                api: 0xaa,
                features: PAGEFAULT_FLAG_WP,
                ..UffdApi::default()
            },
        );
        ioctl(
            fd,
            UFFDIO_REGISTER,
            &mut UffdRegister {
                start: region.as_ptr() as u64,
                len: region.bytes() as u64,
                mode: 2,
                ioctls: 0,
            },
        );
        let resolved = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&resolved);
        std::thread::spawn(move || {
            let mut message = [0_u64; 4];
            // SAFETY: a message is 32 bytes.
            while unsafe { libc::read(fd, message.as_mut_ptr().cast(), 32) } == 32 {
                let page = message[2] & !(PAGE as u64 - 1);
                count.fetch_add(1, Ordering::Relaxed);
                ioctl(
                    fd,
                    UFFDIO_WRITEPROTECT,
                    &mut UffdProtect {
                        start: page,
                        len: PAGE as u64,
                        mode: 0,
                    },
                );
            }
        });
        Self { fd, resolved }
    }

    /// Every second list finds some pages protected.
    pub fn protect_some(&self, region: &Region, rng: &mut Rng) {
        for _ in 0..8 {
            let area = some_pages(region, rng);
            ioctl(
                self.fd,
                UFFDIO_WRITEPROTECT,
                &mut UffdProtect {
                    start: area.start as u64,
                    len: area.bytes as u64,
                    mode: 1,
                },
            );
        }
    }

    pub fn resolved(&self) -> u64 {
        self.resolved.load(Ordering::Relaxed)
    }
}

/// The parent may trace.
pub fn ask_for_debugger() {
    // SAFETY: no pointers.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
}

/// The debugger takes over.
pub fn stop_myself() {
    // SAFETY: stops.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Single steps after each stop of `child`'s, enough to pass the gate.
/// Returns how often it was passed so, and the exit status.
pub fn step_through(child: i32) -> (u64, i32) {
    let (mut gates, mut left, mut status) = (0_u64, 0_u32, 0);
    loop {
        // SAFETY: our child, which is traced.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        if libc::WIFEXITED(status) {
            return (gates, libc::WEXITSTATUS(status));
        }
        if !libc::WIFSTOPPED(status) {
            return (gates, 200 + libc::WTERMSIG(status));
        }
        let signal = match libc::WSTOPSIG(status) {
            libc::SIGSTOP => {
                left = 3000;
                0
            }
            libc::SIGTRAP => 0,
            other => other,
        };
        // SAFETY: as above; the kernel fills the structure.
        unsafe {
            let mut registers: libc::user_regs_struct = core::mem::zeroed();
            libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers);
            let code = libc::ptrace(libc::PTRACE_PEEKTEXT, child, registers.rip, 0);
            if left > 0 && code & 0xffff == 0x84cd {
                gates += 1;
                // The way back is of no interest.
                left = left.min(20);
            }
            let request = if left > 0 {
                libc::PTRACE_SINGLESTEP
            } else {
                libc::PTRACE_CONT
            };
            left = left.saturating_sub(1);
            libc::ptrace(request, child, 0, signal);
        }
    }
}

/// From now on only read, write, exit and sigreturn; anything else kills.
pub fn seccomp_strict() {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1) } != 0 {
        fail(&format!("seccomp: {}", std::io::Error::last_os_error()));
    }
}

/// exit(2) of this thread; exit_group(2) is not allowed.
pub fn exit_thread(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::syscall(libc::SYS_exit, status) };
    unreachable!("exit returned")
}
