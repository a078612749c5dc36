// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies of instructions which can be called, and the call.
//!
//! A copy is written once, through a mapping which cannot be executed, and
//! never changes after it is published, so that any number of threads share
//! it.  It is found by its bytes: the address of the store is a register, so
//! the same few copies serve a whole program.

use core::arch::{asm, naked_asm};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::decode::LONGEST;
use hvckpt_sys::memory::{Mapping, MemoryError};
use hvckpt_sys::{PAGE_SIZE, raw};

const COUNT: usize = 1024;
/// An instruction and `ret`.
const SLOT: usize = LONGEST + 1;
const RET: u8 = 0xc3;
/// Places looked at for one copy.
const PROBES: usize = 32;

const EMPTY: u32 = 0;
const FILLING: u32 = 1;
const READY: u32 = 2;

#[derive(Debug)]
struct Slot {
    state: AtomicU32,
    /// The bytes, once ready.
    key: [AtomicU64; 2],
}

static SLOTS: [Slot; COUNT] = [const {
    Slot {
        state: AtomicU32::new(EMPTY),
        key: [const { AtomicU64::new(0) }; 2],
    }
}; COUNT];
/// Where copies are executed, and where the same memory is written.
static EXECUTED: AtomicUsize = AtomicUsize::new(0);
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
/// Whether `membarrier` makes every processor see new code.
static CORE_BARRIER: AtomicUsize = AtomicUsize::new(0);

const MEMBARRIER_PRIVATE_EXPEDITED_SYNC_CORE: usize = 1 << 5;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: usize = 1 << 6;

/// Makes room for copies.  Idempotent.
pub(super) fn prepare() -> Result<(), MemoryError> {
    static PREPARING: Mutex<()> = Mutex::new(());
    let _preparing = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    if EXECUTED.load(Ordering::SeqCst) != 0 {
        return Ok(());
    }
    let bytes = (COUNT * SLOT).next_multiple_of(PAGE_SIZE);
    let mapping = Mapping::aliased(bytes)?;
    let executed = mapping.alias().unwrap_or(0);
    // SAFETY: memory of ours, to which nothing refers.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        if libc::mprotect(executed as *mut libc::c_void, bytes, prot) != 0 {
            return Err(MemoryError::Os {
                what: "mprotect(PROT_EXEC)",
                bytes,
                source: io::Error::last_os_error(),
            });
        }
        let register = MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
        let done = raw::syscall4(libc::SYS_membarrier, register, 0, 0, 0) == 0;
        CORE_BARRIER.store(usize::from(done), Ordering::SeqCst);
    }
    WRITTEN.store(mapping.start(), Ordering::SeqCst);
    EXECUTED.store(executed, Ordering::SeqCst);
    // Copies stay: threads may be inside.
    core::mem::forget(mapping);
    Ok(())
}

/// The address of a function which consists of these bytes and returns;
/// `None` if there is no room.  async-signal-safe.
///
/// # Safety
/// Who calls the function must know what the bytes do.
pub(super) unsafe fn find(copy: &[u8]) -> Option<usize> {
    let mut code = [0_u8; SLOT];
    let length = copy.len().min(LONGEST);
    code[..length].copy_from_slice(&copy[..length]);
    code[length] = RET;
    let number = |half: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&code[half * 8..half * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let key = [number(0), number(1)];
    let executed = EXECUTED.load(Ordering::SeqCst);
    let hash = (key[0] ^ key[1].rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let first = usize::try_from(hash).unwrap_or(0);
    for probe in 0..PROBES {
        let index = (first + probe) % COUNT;
        let slot = &SLOTS[index];
        let mut state = slot.state.load(Ordering::Acquire);
        if state == EMPTY {
            match slot
                .state
                .compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => {
                    fill(slot, index, key);
                    return Some(executed + index * SLOT);
                }
                Err(now) => state = now,
            }
        }
        // Who is filling one is not waited for; there may be two of a kind.
        let same = |half: usize| slot.key[half].load(Ordering::Relaxed) == key[half];
        if state == READY && same(0) && same(1) {
            return Some(executed + index * SLOT);
        }
    }
    None
}

/// async-signal-safe.
fn fill(slot: &Slot, index: usize, key: [u64; 2]) {
    let at = WRITTEN.load(Ordering::SeqCst) + index * SLOT;
    for (half, &word) in key.iter().enumerate() {
        slot.key[half].store(word, Ordering::Relaxed);
        // SAFETY: the slot is ours until it is published, is inside of the
        // area, and aligned.
        unsafe { AtomicU64::from_ptr((at + half * 8) as *mut u64) }.store(word, Ordering::SeqCst);
    }
    // Written at one address and executed at another: every processor must
    // forget what it may have fetched.
    if CORE_BARRIER.load(Ordering::Relaxed) != 0 {
        let command = MEMBARRIER_PRIVATE_EXPEDITED_SYNC_CORE;
        // SAFETY: no memory is involved.
        unsafe { raw::syscall4(libc::SYS_membarrier, command, 0, 0, 0) };
    }
    // SAFETY: a serializing instruction.
    unsafe {
        asm!("push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, out("ecx") _, out("edx") _);
    }
    slot.state.store(READY, Ordering::Release);
}

/// Registers with which a copy is called, and which it leaves.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Frame {
    /// In the processor's order; `rsp` is not used.
    pub(super) registers: [u64; 16],
    pub(super) flags: u64,
    /// The copy.
    pub(super) target: usize,
    /// Extended state to be loaded before, or zero.
    pub(super) extended: usize,
    /// Its components, for `xrstor`.
    pub(super) components: u64,
    /// [`XSAVE`] and [`KEEP`].
    pub(super) how: u64,
}

/// The extended state is in the format of `xsave`, not `fxsave`.
pub(super) const XSAVE: u64 = 1;
/// x87 and SSE state is written back.
pub(super) const KEEP: u64 = 2;

const _: () = {
    assert!(core::mem::offset_of!(Frame, flags) == 128);
    assert!(core::mem::offset_of!(Frame, target) == 136);
    assert!(core::mem::offset_of!(Frame, extended) == 144);
    assert!(core::mem::offset_of!(Frame, components) == 152);
    assert!(core::mem::offset_of!(Frame, how) == 160);
};

/// Calls the copy.  async-signal-safe.
///
/// # Safety
/// `frame.target` comes from [`find`], and what the copy does with these
/// registers must be allowed.  `frame.extended` is zero or a state which the
/// kernel made, aligned.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn call(frame: &mut Frame) {
    // Vector registers belong to the callee, MXCSR and the x87 control word
    // to the caller.
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov r8, [rdi + 144]",
        "test r8, r8",
        "jz 3f",
        "test byte ptr [rdi + 160], 1",
        "jz 2f",
        "mov eax, [rdi + 152]",
        "mov edx, [rdi + 156]",
        "xrstor64 [r8]",
        "jmp 3f",
        "2:",
        "fxrstor64 [r8]",
        "3:",
        "push rdi",
        "push qword ptr [rdi + 136]",
        "push qword ptr [rdi + 128]",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "popfq",
        "call [rsp]",
        "pushfq",
        "cld",
        "push rdi",
        "mov rdi, [rsp + 24]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "pop rax",
        "mov [rdi + 56], rax",
        "pop rax",
        "mov [rdi + 128], rax",
        "add rsp, 16",
        "mov r8, [rdi + 144]",
        "test r8, r8",
        "jz 6f",
        "test byte ptr [rdi + 160], 2",
        "jz 5f",
        "test byte ptr [rdi + 160], 1",
        "jz 4f",
        "mov eax, 3",
        "xor edx, edx",
        "xsave64 [r8]",
        "jmp 5f",
        "4:",
        "fxsave64 [r8]",
        "5:",
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "6:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    );
}
