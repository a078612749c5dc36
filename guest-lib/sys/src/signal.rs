// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGSEGV and SIGBUS shared between trackers and the application.
//!
//! One handler for the process and signal, installed with the first range
//! which needs it and never removed.  A write fault on a watched range goes
//! to its owner; everything else goes to the handler which was there before,
//! or to the default action, with the mask and the arguments it would have
//! had.
//!
//! The table of ranges is an immutable sorted array behind an atomic pointer.
//! Handlers count themselves in and out of one of two counters (as in
//! sleepable RCU); who changes the table waits until every handler which may
//! see the old array has left.

use core::arch::asm;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{PAGE_SIZE, fork, raw};

/// Handles a write fault at an address, taken by the code whose registers are
/// in `machine`; false passes it on.
///
/// Must be async-signal-safe and must not depend on locks.
pub type FaultFn =
    unsafe fn(context: *const c_void, address: usize, machine: *mut libc::ucontext_t) -> bool;

/// Who is asked about faults on a range.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The signal which faults on the range raise.
    pub signal: Signal,
    /// Given to `handle`.
    pub context: *const c_void,
    /// See [`FaultFn`].
    pub handle: FaultFn,
}

/// A signal which tells of a write fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGSEGV: the page is not writable.
    Segv,
    /// SIGBUS: userfaultfd forbids it.
    Bus,
}

/// A watched range.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    end: usize,
    owner: Owner,
}

/// The application put its own signal handler in place of ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "the SIGSEGV or SIGBUS handler was replaced after the region was registered; install handlers before the first region"
)]
pub struct HandlerReplaced;

/// What there was before us, of one signal.
#[derive(Debug)]
struct Chain {
    number: c_int,
    installed: AtomicBool,
    old_handler: AtomicUsize,
    old_flags: AtomicI32,
    old_mask: AtomicU64,
}

impl Chain {
    const fn new(number: c_int) -> Self {
        Self {
            number,
            installed: AtomicBool::new(false),
            old_handler: AtomicUsize::new(libc::SIG_DFL),
            old_flags: AtomicI32::new(0),
            old_mask: AtomicU64::new(0),
        }
    }
}

static SEGV: Chain = Chain::new(libc::SIGSEGV);
static BUS: Chain = Chain::new(libc::SIGBUS);

impl Signal {
    /// async-signal-safe.
    fn chain(self) -> &'static Chain {
        match self {
            Self::Segv => &SEGV,
            Self::Bus => &BUS,
        }
    }
}

static TABLE: AtomicPtr<Vec<Entry>> = AtomicPtr::new(ptr::null_mut());
static READERS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
static PARITY: AtomicUsize = AtomicUsize::new(0);
/// Held by who changes the table or the handler; never by the handler.
static CHANGE: Mutex<()> = Mutex::new(());

/// Counts the tables: a fault which nobody owned may have come too late for
/// one table and too early for the next.
static GENERATION: AtomicU64 = AtomicU64::new(0);

fn change() -> MutexGuard<'static, ()> {
    CHANGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a range watched until it is dropped.
#[derive(Debug)]
pub struct Watch {
    start: usize,
}

impl Watch {
    /// Sends write faults in `start..start + bytes` to `owner`.
    ///
    /// # Errors
    /// The handler cannot be installed, or was replaced.
    ///
    /// # Safety
    /// The owner's context must be what its function expects, and live until
    /// the `Watch` is dropped.  Ranges must not overlap.
    pub unsafe fn new(start: usize, bytes: usize, owner: Owner) -> io::Result<Self> {
        let _changing = change();
        owner.signal.chain().install()?;
        update(|entries| {
            let at = entries.partition_point(|entry| entry.start < start);
            let end = start + bytes;
            entries.insert(at, Entry { start, end, owner });
        });
        Ok(Self { start })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A fork child has the counters of threads it does not have.
        if fork::is_child() {
            return;
        }
        let _changing = change();
        update(|entries| {
            if let Ok(at) = entries.binary_search_by_key(&self.start, |entry| entry.start) {
                entries.remove(at);
            }
        });
    }
}

/// Replaces the table and returns when no handler sees the old one.
fn update(edit: impl FnOnce(&mut Vec<Entry>)) {
    let old = TABLE.load(Ordering::SeqCst);
    // SAFETY: tables are freed below only, under the same lock.
    let mut entries = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    edit(&mut entries);
    TABLE.store(Box::into_raw(Box::new(entries)), Ordering::SeqCst);
    // Before the caller protects anything.
    GENERATION.fetch_add(1, Ordering::SeqCst);
    // A reader which counted itself in before the store may hold the old
    // table; one which does so later loads the new one.  Turning the parity
    // keeps newcomers from holding us up.
    for _ in 0..2 {
        let leaving = PARITY.fetch_xor(1, Ordering::SeqCst) & 1;
        while READERS[leaving].load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
    if !old.is_null() {
        // SAFETY: made by Box::into_raw above, and no reader is left.
        drop(unsafe { Box::from_raw(old) });
    }
}

/// From now on `int 0x84` without a gate answers −ENOENT instead of raising
/// SIGSEGV: the domain may be saved and restored where it was not admitted, or
/// where Xen lacks the patch.  Does nothing if the application has put its own
/// handler in the place of ours.
///
/// # Errors
/// The handler cannot be installed.
pub fn catch_lost_gate() -> io::Result<()> {
    let _changing = change();
    if SEGV.installed.load(Ordering::Relaxed) {
        return Ok(());
    }
    SEGV.install()
}

fn ours() -> usize {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_signal;
    handler as usize
}

/// Fails if another handler has taken our place.
///
/// # Errors
/// See [`HandlerReplaced`].
pub fn check_installed(signal: Signal) -> Result<(), HandlerReplaced> {
    match signal.chain().current() {
        Ok(action) if action.sa_sigaction == ours() => Ok(()),
        _ => Err(HandlerReplaced),
    }
}

impl Chain {
    fn current(&self) -> io::Result<libc::sigaction> {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: fills the structure on success.
        unsafe {
            if libc::sigaction(self.number, ptr::null(), action.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(action.assume_init())
        }
    }

    fn install(&self) -> io::Result<()> {
        let now = self.current()?;
        if self.installed.load(Ordering::Relaxed) {
            return if now.sa_sigaction == ours() {
                Ok(())
            } else {
                Err(io::Error::other(HandlerReplaced))
            };
        }
        // What we chain to is known before the first fault can ask for it.
        self.remember(&now);
        // SAFETY: the handler lives as long as the process (the C library is
        // linked with -z nodelete) and is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = ours();
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&raw mut action.sa_mask);
            let mut old = MaybeUninit::<libc::sigaction>::uninit();
            if libc::sigaction(self.number, &raw const action, old.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            self.remember(&old.assume_init());
        }
        self.installed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn remember(&self, action: &libc::sigaction) {
        // SAFETY: the kernel's set of 64 signals is the first word of
        // sigset_t.
        let mask = unsafe { ptr::from_ref(&action.sa_mask).cast::<u64>().read() };
        self.old_mask.store(mask, Ordering::SeqCst);
        self.old_flags.store(action.sa_flags, Ordering::SeqCst);
        self.old_handler
            .store(action.sa_sigaction, Ordering::SeqCst);
    }
}

/// The handler.  async-signal-safe.
extern "C" fn on_signal(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    const SEGV_ACCERR: c_int = 2;
    const SI_KERNEL: c_int = 128;
    const BUS_ADRERR: c_int = 2;
    const WRITE: i64 = 2;
    const FETCH: i64 = 16;
    #[allow(clippy::cast_sign_loss)] // an index, 19
    const ERR: usize = libc::REG_ERR as usize;
    allow_unaligned();
    let machine: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes valid pointers (SA_SIGINFO).
    let (code, address, error) = unsafe {
        (
            (*info).si_code,
            (*info).si_addr() as usize,
            (*machine).uc_mcontext.gregs[ERR],
        )
    };
    let (signal, expected) = if number == libc::SIGBUS {
        (Signal::Bus, BUS_ADRERR)
    } else {
        (Signal::Segv, SEGV_ACCERR)
    };
    if signal == Signal::Segv && code == SI_KERNEL && error == NO_GATE {
        // SAFETY: as above; the processor was at our instruction.
        unsafe { answer_for_gate(machine) };
        return;
    }
    if code == expected && error & (WRITE | FETCH) == WRITE && serve(signal, address, machine) {
        return;
    }
    // SAFETY: the arguments come from the kernel.
    unsafe { chain(signal, info, context, code) };
}

/// What an `INT` raises which the IDT does not allow: its vector, and the bit
/// for the IDT.  Nothing else in this process has that error code.
const NO_GATE: i64 = (0x84 << 3) | 2;

/// As if the hypervisor had said that there is no session.  async-signal-safe.
///
/// # Safety
/// The context of a handler, whose instruction is `int 0x84`.
unsafe fn answer_for_gate(machine: *mut libc::ucontext_t) {
    #[allow(clippy::cast_sign_loss)] // indices
    const RAX: usize = libc::REG_RAX as usize;
    #[allow(clippy::cast_sign_loss)]
    const RIP: usize = libc::REG_RIP as usize;
    // SAFETY: the caller vouches.
    let registers = unsafe { &mut (*machine).uc_mcontext.gregs };
    registers[RAX] = -i64::from(libc::ENOENT);
    registers[RIP] += 2;
}

/// A handler begins with the alignment checks of the thread, under which the
/// C library's memcpy would raise SIGBUS.  They come back as it returns.
/// async-signal-safe.
fn allow_unaligned() {
    // SAFETY: clears one flag (AC), which Rust does not use.
    unsafe {
        asm!(
            "pushfq",
            "and dword ptr [rsp], {keep}",
            "popfq",
            keep = const !(1_i32 << 18),
        );
    }
}

/// Whether the write may be tried again.  async-signal-safe.
fn serve(signal: Signal, address: usize, machine: *mut libc::ucontext_t) -> bool {
    on_one_table(|| dispatch(signal, address, machine) || is_writable(address))
}

/// A range may be unwatched and watched anew between the steps of `attempt`,
/// so its "no" counts only if the table stayed the same.  async-signal-safe.
fn on_one_table(mut attempt: impl FnMut() -> bool) -> bool {
    loop {
        let generation = GENERATION.load(Ordering::SeqCst);
        if attempt() {
            return true;
        }
        if GENERATION.load(Ordering::SeqCst) == generation {
            return false;
        }
    }
}

/// async-signal-safe.
fn dispatch(signal: Signal, address: usize, machine: *mut libc::ucontext_t) -> bool {
    let readers = &READERS[PARITY.load(Ordering::SeqCst) & 1];
    readers.fetch_add(1, Ordering::SeqCst);
    // SAFETY: counted in, so the table cannot be freed.
    let table = unsafe { TABLE.load(Ordering::SeqCst).as_ref() };
    let mut handled = false;
    if let Some(entries) = table {
        let after = entries.partition_point(|entry| entry.start <= address);
        if let Some(entry) = after.checked_sub(1).and_then(|at| entries.get(at))
            && address < entry.end
            && entry.owner.signal == signal
        {
            // SAFETY: the context lives while its entry may be seen.
            handled = unsafe { (entry.owner.handle)(entry.owner.context, address, machine) };
        }
    }
    readers.fetch_sub(1, Ordering::SeqCst);
    handled
}

/// Whether the page can be written now: then the fault was taken before its
/// range was unwatched, and the instruction may simply be tried again.
/// async-signal-safe.
fn is_writable(address: usize) -> bool {
    let page = address & !(PAGE_SIZE - 1);
    #[allow(clippy::cast_sign_loss)] // 23
    let populate = libc::MADV_POPULATE_WRITE as usize;
    // SAFETY: changes no content; fails if the page is not writable.
    unsafe { raw::syscall4(libc::SYS_madvise, page, PAGE_SIZE, populate, 0) == 0 }
}

/// Does what would have happened without us.  async-signal-safe, unless the
/// application's handler is not.
///
/// # Safety
/// The arguments of a handler of this signal.
unsafe fn chain(signal: Signal, info: *mut libc::siginfo_t, context: *mut c_void, code: c_int) {
    let old = signal.chain();
    let number = old.number;
    let handler = old.old_handler.load(Ordering::SeqCst);
    let flags = old.old_flags.load(Ordering::SeqCst);
    let from_processor = code > 0;
    if handler == libc::SIG_IGN && !from_processor {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        default_action(number, from_processor);
        return;
    }
    if flags & libc::SA_RESETHAND != 0 {
        old.old_handler.store(libc::SIG_DFL, Ordering::SeqCst);
    }
    // SAFETY: the mask of the interrupted code is in its context; the kernel
    // restores it when the handler returns.  The address is a handler of this
    // process with the signature its flags tell.
    unsafe {
        let interrupted = &raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask;
        let mut mask = interrupted.cast::<u64>().read() | old.old_mask.load(Ordering::SeqCst);
        if flags & libc::SA_NODEFER == 0 {
            mask |= 1 << (number - 1);
        }
        set_mask(mask);
        if flags & libc::SA_SIGINFO != 0 {
            let call: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                core::mem::transmute(handler);
            call(number, info, context);
        } else {
            let call: extern "C" fn(c_int) = core::mem::transmute(handler);
            call(number);
        }
    }
}

/// async-signal-safe.
fn set_mask(mask: u64) {
    #[allow(clippy::cast_sign_loss)] // 2
    let how = libc::SIG_SETMASK as usize;
    // SAFETY: the kernel reads eight bytes.
    unsafe {
        raw::syscall4(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const mask as usize,
            0,
            8,
        )
    };
}

/// Lets the process die of the signal as if nobody had caught it: the fault
/// repeats, or the signal is sent again.  async-signal-safe.
fn default_action(signal: c_int, from_processor: bool) {
    // SAFETY: sigaction and the raw system calls are async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
        if !from_processor {
            #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)] // ids are small
            {
                let process = raw::syscall4(libc::SYS_getpid, 0, 0, 0, 0) as usize;
                let thread = raw::syscall4(libc::SYS_gettid, 0, 0, 0, 0) as usize;
                raw::syscall4(libc::SYS_tgkill, process, thread, signal as usize, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_from_between_two_tables_does_not_count() {
        let mut attempts = 0;
        let served = on_one_table(|| {
            attempts += 1;
            if attempts == 1 {
                // Another thread watches the range anew, and protects it.
                let _changing = change();
                update(|_| {});
            }
            attempts == 2
        });
        assert!(served);
    }

    #[test]
    fn a_gate_that_is_gone_says_that_there_is_no_session() {
        catch_lost_gate().unwrap();
        for _ in 0..3 {
            // SAFETY: takes no arguments; without a gate, see above.
            let answer = unsafe { crate::gate::int84(crate::abi::CDA_OP_VERSION, [0; 5]) };
            assert!(answer == -i64::from(libc::ENOENT) || answer > 0, "{answer}");
        }
    }

    #[test]
    fn a_page_is_writable_or_not() {
        let bytes = PAGE_SIZE;
        // SAFETY: a fresh private mapping, unmapped below.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let page = libc::mmap(ptr::null_mut(), bytes, prot, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            assert!(is_writable(page as usize + 5));
            libc::mprotect(page, bytes, libc::PROT_READ);
            assert!(!is_writable(page as usize + 5));
            libc::munmap(page, bytes);
        }
    }
}
