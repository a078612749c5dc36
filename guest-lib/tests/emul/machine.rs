//! Calling a piece of machine code with every register set, and looking at
//! every register afterwards.

use std::arch::naked_asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// Where XSAVE puts a component, by its number.
fn component(number: u32) -> (usize, usize) {
    let leaf = __cpuid_count(0xd, number);
    (leaf.ebx as usize, leaf.eax as usize)
}

/// Extended state in the format of the processor, 64-byte aligned.
#[derive(Clone)]
pub struct Extended {
    words: Vec<u64>,
    skip: usize,
    length: usize,
}

/// Components of XSAVE which are compared: x87, SSE, AVX, AVX-512; zero if the
/// processor or the system has FXSAVE only.
pub fn components() -> u64 {
    // SAFETY: XGETBV exists if OSXSAVE is set.
    unsafe {
        if __cpuid(1).ecx & 1 << 27 == 0 {
            return 0;
        }
        _xgetbv(0) & 0xe7
    }
}

impl Extended {
    pub fn new() -> Self {
        let length = if components() == 0 {
            512
        } else {
            component(0).0
        };
        let words = vec![0; length / 8 + 8];
        let skip = (64 - words.as_ptr() as usize % 64) % 64;
        Self {
            words,
            skip,
            length,
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.words.as_mut_ptr().cast::<u8>();
        // SAFETY: the vector has 64 bytes more.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.skip), self.length) }
    }

    /// Random registers which may be loaded.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        let mut state = Self::new();
        let bytes = state.bytes();
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[4] = 0xff;
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        for number in 0..8 {
            let at = 32 + number * 16;
            bytes[at..at + 8].copy_from_slice(&(next() | 1 << 63).to_le_bytes());
            // Some fit an integer, some do not.
            let exponent = 0x3fff + u16::try_from(next() % 70).unwrap();
            bytes[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
        }
        let mut fill = |from: usize, length: usize| {
            for at in (from..from + length).step_by(8) {
                bytes[at..at + 8].copy_from_slice(&next().to_le_bytes());
            }
        };
        fill(160, 256);
        let mask = components();
        for number in [2, 5, 6, 7] {
            if mask & 1 << number != 0 {
                let (at, length) = component(number);
                fill(at, length);
            }
        }
        if mask != 0 {
            bytes[512..520].copy_from_slice(&mask.to_le_bytes());
        }
        state
    }

    /// What must be the same: not the addresses of the last x87 instruction.
    pub fn compared(&mut self) -> Vec<u8> {
        let mask = components();
        let bytes = self.bytes();
        let mut kept = bytes[..6].to_vec();
        kept.extend(&bytes[24..28]);
        kept.extend(&bytes[32..416]);
        for number in [2, 5, 6, 7] {
            // A component may be in its initial state, and not written.
            if mask & 1 << number != 0 {
                let (at, length) = component(number);
                kept.extend(&bytes[at..at + length]);
            }
        }
        kept
    }
}

/// Registers before and after.
#[repr(C)]
pub struct Frame {
    /// In the processor's order; `rsp` is not used.
    pub registers: [u64; 16],
    pub flags: u64,
    pub target: usize,
    load: *const u8,
    store: *mut u8,
    components: u64,
    stack: u64,
}

/// A stack for code: its pointer is the same in every call.
pub struct Stack(Vec<u64>);

impl Stack {
    pub fn new() -> Self {
        // Signals are handled here, too.
        Self(vec![0; 32 << 10])
    }

    fn top(&self) -> u64 {
        let end = self.0.as_ptr() as u64 + self.0.len() as u64 * 8;
        end & !63
    }

    /// The stack pointer at the first instruction.
    pub fn pointer(&self) -> u64 {
        self.top() - 32
    }
}

impl Frame {
    /// Calls `target` with these registers; returns those it leaves.
    ///
    /// # Safety
    /// The code must return and leave `rsp` and everything else alone.
    pub unsafe fn call(
        registers: [u64; 16],
        flags: u64,
        load: &mut Extended,
        stack: &Stack,
        target: usize,
    ) -> (Self, Extended) {
        let mut after = Extended::new();
        let mut frame = Self {
            registers,
            flags,
            target,
            load: load.bytes().as_ptr(),
            store: after.bytes().as_mut_ptr(),
            components: components(),
            stack: stack.top(),
        };
        // SAFETY: the caller vouches for the code; both areas are aligned and
        // as long as the processor wants.
        unsafe { enter(&mut frame) };
        (frame, after)
    }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: &mut Frame) {
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
        "mov eax, [rdi + 160]",
        "xor edx, edx",
        "test eax, eax",
        "jz 2f",
        "xrstor64 [r8]",
        "jmp 3f",
        "2:",
        "fxrstor64 [r8]",
        "3:",
        "mov rax, rsp",
        "mov rsp, [rdi + 168]",
        "push rax",
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
        "pop rsp",
        "mov r8, [rdi + 152]",
        "mov eax, [rdi + 160]",
        "xor edx, edx",
        "test eax, eax",
        "jz 4f",
        "xsave64 [r8]",
        "jmp 5f",
        "4:",
        "fxsave64 [r8]",
        "5:",
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
    );
}
