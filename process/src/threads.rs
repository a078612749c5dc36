// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a parked thread is: what the kernel knows of it and its frame does not say.

use crate::raw::call;
use core::ffi::c_int;

const PR_GET_TID_ADDRESS: c_int = 40;
const ARCH_SET_GS: c_int = 0x1001;
const ARCH_SET_FS: c_int = 0x1002;
const ARCH_GET_FS: c_int = 0x1003;
const ARCH_GET_GS: c_int = 0x1004;
const RSEQ_SIGNATURE: u32 = 0x5305_3053;
const RSEQ_UNREGISTER: c_int = 1;

/// Where the C library registers restartable sequences, relative to FS.
#[derive(Clone, Copy, Debug, Default)]
pub struct RseqPlace {
    /// From the thread pointer.
    pub offset: isize,
    /// As registered; 0: the C library does not.
    pub length: u32,
}

impl RseqPlace {
    /// Asks the C library. Not after a stop.
    pub fn find() -> Self {
        // SAFETY: the names end with a zero; what the C library exports under them are a
        // `ptrdiff_t` and an `unsigned int`.
        unsafe {
            let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr());
            let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr());
            if offset.is_null() || size.is_null() || size.cast::<u32>().read() == 0 {
                return Self::default();
            }
            // Newer libraries say how much is in use; what they register is 32 at least.
            Self {
                offset: offset.cast::<isize>().read(),
                length: size.cast::<u32>().read().max(32),
            }
        }
    }
}

/// A stopped thread. Registers, vector state, signal mask and alternate stack are in the
/// frame at `context`, which the kernel wrote and `rt_sigreturn` takes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Thread {
    /// Number in the program's pid namespace.
    pub tid: i32,
    /// Was the system call it was in set to begin again ([`repair`](crate::repair))?
    pub repaired: bool,
    /// Address of its `ucontext_t`.
    pub context: usize,
    /// FS base: the thread pointer.
    pub fs: usize,
    /// GS base.
    pub gs: usize,
    /// What the kernel zeroes and wakes when the thread ends.
    pub clear_tid: usize,
    /// Head of the list of robust mutexes.
    pub robust: usize,
    /// Its length as registered.
    pub robust_len: usize,
    /// Name, zero-terminated.
    pub name: [u8; 16],
    /// Address of the registered restartable sequence area; 0: none.
    pub rseq: usize,
    /// Its length as registered.
    pub rseq_len: u32,
    /// Signals that wait for it: for anybody when observed, for itself in a pre-image.
    pub pending: u64,
    /// Processors on which it may run, and octets of it; 0: more than are known here.
    pub affinity: ([u64; 16], usize),
    /// How it is scheduled.
    pub scheduling: Scheduling,
}

/// As `sched_getattr` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scheduling {
    /// In octets; 0: unknown.
    pub size: u32,
    /// `SCHED_OTHER` and so on.
    pub policy: u32,
    /// Flags.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Runtime, deadline and period, in nanoseconds.
    pub times: [u64; 3],
}

impl Thread {
    /// What the calling thread is, with `context` its frame. For a signal handler.
    pub fn observe(context: usize, place: RseqPlace) -> Self {
        let mut t = Self {
            tid: crate::raw::gettid(),
            context,
            ..Self::default()
        };
        // SAFETY: every address is a field of `t`, which outlives the calls.
        unsafe {
            let _ = call!(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut t.fs);
            let _ = call!(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut t.gs);
            let _ = call!(libc::SYS_prctl, PR_GET_TID_ADDRESS, &raw mut t.clear_tid);
            let _ = call!(
                libc::SYS_get_robust_list,
                0,
                &raw mut t.robust,
                &raw mut t.robust_len
            );
            let _ = call!(libc::SYS_prctl, libc::PR_GET_NAME, t.name.as_mut_ptr());
            let _ = call!(libc::SYS_rt_sigpending, &raw mut t.pending, 8);
            let (processors, n) = (&raw mut t.affinity.0, size_of_val(&t.affinity.0));
            t.affinity.1 = call!(libc::SYS_sched_getaffinity, 0, n, processors).unwrap_or(0);
            let (to, n) = (&raw mut t.scheduling, size_of::<Scheduling>());
            let _ = call!(libc::SYS_sched_getattr, 0, to, n, 0);
        }
        if place.length != 0 && t.fs != 0 {
            let area = t.fs.wrapping_add_signed(place.offset);
            // SAFETY: a thread with a thread pointer has the C library's block behind it; the
            // word is `cpu_id`, negative while nothing is registered.
            if unsafe { (area as *const i32).add(1).read_volatile() } >= 0 {
                (t.rseq, t.rseq_len) = (area, place.length);
            }
        }
        t
    }

    /// The alternate signal stack it has, as its frame says.
    ///
    /// # Safety
    /// The thread is parked.
    pub unsafe fn altstack(&self) -> libc::stack_t {
        // SAFETY: a parked thread's frame is whole and nobody changes it.
        unsafe { (*(self.context as *const libc::ucontext_t)).uc_stack }
    }

    /// Has the kernel write no more into this thread's restartable sequence area.
    ///
    /// # Safety
    /// The calling thread is this one.
    pub unsafe fn leave_rseq(&self) {
        if self.rseq != 0 {
            // SAFETY: as registered, says `observe`.
            let _ = unsafe {
                call!(
                    libc::SYS_rseq,
                    self.rseq,
                    self.rseq_len,
                    RSEQ_UNREGISTER,
                    RSEQ_SIGNATURE
                )
            };
        }
    }

    /// Registers the area again; the kernel fills in where the thread runs.
    ///
    /// # Safety
    /// The calling thread is this one, its area is mapped and not registered.
    pub unsafe fn join_rseq(&self) {
        if self.rseq != 0 {
            // SAFETY: the second word of the area is `rseq_cs`; no sequence is being executed.
            unsafe {
                (self.rseq as *mut u64).add(1).write_volatile(0);
                let _ = call!(libc::SYS_rseq, self.rseq, self.rseq_len, 0, RSEQ_SIGNATURE);
            }
        }
    }

    /// Gives the calling thread the identity of `self` where it has another one.
    ///
    /// # Safety
    /// The caller is `current`, and goes on from the frame of `self`.
    pub unsafe fn become_from(&self, current: &Self) {
        // SAFETY: what is set is what the program itself had set.
        unsafe {
            if current.fs != self.fs {
                let _ = call!(libc::SYS_arch_prctl, ARCH_SET_FS, self.fs);
            }
            if current.gs != self.gs {
                let _ = call!(libc::SYS_arch_prctl, ARCH_SET_GS, self.gs);
            }
            if current.clear_tid != self.clear_tid {
                let _ = call!(libc::SYS_set_tid_address, self.clear_tid);
            }
            if (current.robust, current.robust_len) != (self.robust, self.robust_len) {
                let _ = call!(libc::SYS_set_robust_list, self.robust, self.robust_len);
            }
            if current.affinity != self.affinity && self.affinity.1 != 0 {
                let (processors, n) = (&raw const self.affinity.0, self.affinity.1);
                let _ = call!(libc::SYS_sched_setaffinity, 0, n, processors);
            }
            if current.scheduling != self.scheduling && self.scheduling.size != 0 {
                let _ = call!(libc::SYS_sched_setattr, 0, &raw const self.scheduling, 0);
            }
            if current.name != self.name {
                let _ = call!(libc::SYS_prctl, libc::PR_SET_NAME, self.name.as_ptr());
            }
        }
    }
}
