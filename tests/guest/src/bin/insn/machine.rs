// SPDX-License-Identifier: MIT OR Apache-2.0
//! Executing one instruction with every register of the processor chosen.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use std::ptr;

use super::PAGE;

/// Flags which programs see: arithmetic, direction, alignment check.
pub const ARITHMETIC: u64 = 0x8d5;
pub const DIRECTION: u64 = 0x400;
pub const ALIGNMENT: u64 = 1 << 18;

/// Bytes of extended state at most: up to AVX-512.
pub const EXTENDED: usize = 4096;
/// Where it has what; see the manuals at FXSAVE and XSAVE.
pub const FCW: usize = 0;
pub const MXCSR: usize = 24;
pub const ST: usize = 32;
pub const XMM: usize = 160;
pub const SOFTWARE: usize = 416;
pub const HEADER: usize = 512;
pub const WIDE: usize = 576;

/// The registers of one execution: what they are before, then after.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Machine {
    /// In the processor's order.
    pub general: [u64; 16],
    pub flags: u64,
    /// Where it begins.
    pub code: u64,
    /// The stack pointer of the caller.
    host: u64,
    /// Components of [`Self::extended`] for `xsave`; zero: `fxsave`.
    pub components: u64,
    /// The signal which ended it, or zero.
    pub signal: u64,
    pub gs: u64,
    unused: [u64; 2],
    pub extended: [u8; EXTENDED],
}

const _: () = {
    assert!(offset_of!(Machine, flags) == 128);
    assert!(offset_of!(Machine, code) == 136);
    assert!(offset_of!(Machine, host) == 144);
    assert!(offset_of!(Machine, components) == 152);
    assert!(offset_of!(Machine, signal) == 160);
    assert!(offset_of!(Machine, extended) == 192);
};

struct Shared(UnsafeCell<Machine>);

// SAFETY: one thread executes.
unsafe impl Sync for Shared {}

static MACHINE: Shared = Shared(UnsafeCell::new(Machine {
    general: [0; 16],
    flags: 0,
    code: 0,
    host: 0,
    components: 0,
    signal: 0,
    gs: 0,
    unused: [0; 2],
    extended: [0; EXTENDED],
}));

/// Where code is put, in two neighbouring pages.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub usize);

/// Bytes of a way out behind the instruction.
pub const WAY_OUT: usize = 14;

impl Code {
    /// Private to each process after a fork.  `low`: below 2 GiB.
    pub fn new(low: bool) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if low { libc::MAP_32BIT } else { 0 };
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a fresh mapping.
        let at = unsafe { libc::mmap(ptr::null_mut(), 2 * PAGE, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "no memory for code");
        Self(at as usize)
    }

    /// Puts an instruction there, and a jump to [`leave`].
    pub fn put(self, at: u64, instruction: &[u8]) {
        let mut bytes = [0; 16 + WAY_OUT];
        let length = instruction.len();
        bytes[..length].copy_from_slice(instruction);
        // jmp [rip]
        bytes[length..length + 6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        bytes[length + 6..length + WAY_OUT].copy_from_slice(&way_out().to_le_bytes());
        let to = usize::try_from(at).expect("an address");
        assert!(to >= self.0 && to + bytes.len() <= self.0 + 2 * PAGE);
        // SAFETY: inside the mapping, which nobody executes now.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, length + WAY_OUT) };
    }
}

/// Loads the registers and jumps to the code.
///
/// # Safety
/// [`MACHINE`] is set up, and its code ends in [`leave`].
#[unsafe(naked)]
unsafe extern "sysv64" fn enter() {
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
        "mov [rip + {m} + 144], rsp",
        "lea r8, [rip + {m} + 192]",
        "mov eax, [rip + {m} + 152]",
        "mov edx, [rip + {m} + 156]",
        "test eax, eax",
        "jz 2f",
        "xrstor64 [r8]",
        "jmp 3f",
        "2:",
        "fxrstor64 [r8]",
        "3:",
        "push qword ptr [rip + {m} + 128]",
        "popfq",
        "mov rax, [rip + {m}]",
        "mov rcx, [rip + {m} + 8]",
        "mov rdx, [rip + {m} + 16]",
        "mov rbx, [rip + {m} + 24]",
        "mov rsp, [rip + {m} + 32]",
        "mov rbp, [rip + {m} + 40]",
        "mov rsi, [rip + {m} + 48]",
        "mov rdi, [rip + {m} + 56]",
        "mov r8, [rip + {m} + 64]",
        "mov r9, [rip + {m} + 72]",
        "mov r10, [rip + {m} + 80]",
        "mov r11, [rip + {m} + 88]",
        "mov r12, [rip + {m} + 96]",
        "mov r13, [rip + {m} + 104]",
        "mov r14, [rip + {m} + 112]",
        "mov r15, [rip + {m} + 120]",
        "jmp qword ptr [rip + {m} + 136]",
        m = sym MACHINE,
    )
}

/// Stores the registers and returns to whom called [`enter`].
///
/// # Safety
/// For the code which [`enter`] jumped to.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "mov [rip + {m}], rax",
        "mov [rip + {m} + 8], rcx",
        "mov [rip + {m} + 16], rdx",
        "mov [rip + {m} + 24], rbx",
        "mov [rip + {m} + 32], rsp",
        "mov [rip + {m} + 40], rbp",
        "mov [rip + {m} + 48], rsi",
        "mov [rip + {m} + 56], rdi",
        "mov [rip + {m} + 64], r8",
        "mov [rip + {m} + 72], r9",
        "mov [rip + {m} + 80], r10",
        "mov [rip + {m} + 88], r11",
        "mov [rip + {m} + 96], r12",
        "mov [rip + {m} + 104], r13",
        "mov [rip + {m} + 112], r14",
        "mov [rip + {m} + 120], r15",
        "mov rsp, [rip + {m} + 144]",
        "pushfq",
        "pop qword ptr [rip + {m} + 128]",
        "push 0x202",
        "popfq",
        "lea r8, [rip + {m} + 192]",
        "mov eax, [rip + {m} + 152]",
        "mov edx, [rip + {m} + 156]",
        "test eax, eax",
        "jz 2f",
        "xsave64 [r8]",
        "test eax, 4",
        "jz 3f",
        "vzeroupper",
        "jmp 3f",
        "2:",
        "fxsave64 [r8]",
        "3:",
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        m = sym MACHINE,
    )
}

/// The address of [`leave`].
fn way_out() -> u64 {
    let function: unsafe extern "sysv64" fn() = leave;
    function as usize as u64
}

/// Executes the code of `machine` and leaves there what became of it.
///
/// # Safety
/// The code was [put](Code::put), and what it does with these registers is
/// allowed.
pub unsafe fn execute(machine: &mut Machine) {
    const ARCH_SET_GS: usize = 0x1001;
    let shared = MACHINE.0.get();
    machine.signal = 0;
    // SAFETY: one thread, and nobody else uses GS; the caller vouches for the
    // code.
    unsafe {
        libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, machine.gs);
        (*shared).clone_from(machine);
        enter();
        machine.clone_from(&*shared);
        libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, 0_usize);
    }
}

/// The base of FS, where thread-local storage is.
pub fn fs_base() -> u64 {
    const ARCH_GET_FS: usize = 0x1003;
    let mut base = 0_u64;
    // SAFETY: eight bytes are written.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut base) };
    base
}

/// Components of extended state to be used with `xsave`: x87, SSE, AVX and
/// AVX-512 as far as they are there; zero without `xsave`.  And the bits which
/// MXCSR may have.
pub fn extended_state() -> (u64, u32) {
    use core::arch::x86_64::{__cpuid, _fxsave64};
    const OSXSAVE: u32 = 1 << 27;
    const DEFAULT_MASK: u32 = 0xffbf;
    #[repr(align(16))]
    struct Area([u8; 512]);
    let mut area = Area([0; 512]);
    // SAFETY: the area is large enough and aligned.
    unsafe { _fxsave64(area.0.as_mut_ptr()) };
    let mask = u32::from_le_bytes([area.0[28], area.0[29], area.0[30], area.0[31]]);
    let mask = if mask == 0 { DEFAULT_MASK } else { mask };
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return (0, mask);
    }
    let (low, high): (u32, u32);
    // SAFETY: the system said that it uses xsave.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    ((u64::from(high) << 32 | u64::from(low)) & 0xe7, mask)
}

/// Lets signals end [`execute`].  To be called before a tracker installs its
/// handlers: what is not the tracker's comes here.
pub fn catch_signals() {
    const STACK: usize = 1 << 17;
    extern "C" fn on_signal(signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid context; the thread which executes
        // is this one.  Its alignment checks would go on here.
        unsafe {
            core::arch::asm!(
                "pushfq",
                "and dword ptr [rsp], {keep}",
                "popfq",
                keep = const !(1_i32 << 18),
            );
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let machine = MACHINE.0.get();
            let rip = registers[libc::REG_RIP as usize].cast_unsigned();
            if rip.abs_diff((*machine).code) > 2 * PAGE as u64 {
                // Not the code: die of it.
                libc::signal(signal, libc::SIG_DFL);
                return;
            }
            (*machine).signal = signal.cast_unsigned().into();
            registers[libc::REG_RIP as usize] = way_out().cast_signed();
            registers[libc::REG_EFL as usize] &= !(ALIGNMENT | DIRECTION).cast_signed();
        }
    }
    // SAFETY: the stack is mapped for good, the handler async-signal-safe.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let stack = libc::stack_t {
            ss_sp: libc::mmap(ptr::null_mut(), STACK, prot, flags, -1, 0),
            ss_flags: 0,
            ss_size: STACK,
        };
        assert_ne!(stack.ss_sp, libc::MAP_FAILED, "no memory for a stack");
        assert_eq!(libc::sigaltstack(&raw const stack, ptr::null_mut()), 0);
        let mut action: libc::sigaction = core::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ] {
            assert_eq!(
                libc::sigaction(signal, &raw const action, ptr::null_mut()),
                0
            );
        }
    }
}

impl Machine {
    pub fn new(components: u64) -> Self {
        // SAFETY: nobody executes now.
        let mut machine = unsafe { (*MACHINE.0.get()).clone() };
        machine.components = components;
        machine
    }

    /// What is different after two executions; `flags` are those which count.
    pub fn difference(&self, other: &Self, flags: u64) -> Vec<String> {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        let mut found = Vec::new();
        for ((name, one), two) in NAMES.iter().zip(self.general).zip(other.general) {
            if one != two {
                found.push(format!("{name}: {one:#x} and {two:#x}"));
            }
        }
        if (self.flags ^ other.flags) & flags != 0 {
            found.push(format!("flags: {:#x} and {:#x}", self.flags, other.flags));
        }
        for at in 0..EXTENDED {
            // Not where the last instruction of the x87 was, which is another
            // place if it was a copy, nor what the system writes.
            let counts = match at {
                FCW..5 | MXCSR..28 | WIDE.. => true,
                ST..XMM => at % 16 < 10,
                XMM..SOFTWARE => true,
                _ => false,
            };
            if counts && self.extended[at] != other.extended[at] {
                found.push(format!(
                    "extended state at {at}: {:#x} and {:#x}",
                    self.extended[at], other.extended[at]
                ));
            }
        }
        found
    }
}
