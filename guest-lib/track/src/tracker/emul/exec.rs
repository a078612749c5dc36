// SPDX-License-Identifier: MIT OR Apache-2.0
//! Performing the store at which a thread stopped.

use core::arch::asm;
use core::ops::Range;

use super::decode::{self, Address, RSI, RSP, Store};
use super::stubs::{self, Frame, KEEP, XSAVE};
use super::table::{Place, Reg, State};
use hvckpt_sys::{PAGE_SIZE, raw};

/// Indices in `gregs` of the registers in the processor's order.
const GREGS: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const RIP: usize = 16;
const EFLAGS: usize = 17;
const CS: usize = 18;

const RCX: usize = 1;
const ARITHMETIC: u64 = 0x8d5;
const TRAP: u64 = 1 << 8;
const DIRECTION: u64 = 1 << 10;
const RESUME: u64 = 1 << 16;
const ALIGNMENT: u64 = 1 << 18;

/// Registers of a stopped thread.
#[derive(Debug)]
struct Registers {
    general: [u64; 16],
    rip: u64,
    flags: u64,
}

/// A store which can be performed.
#[derive(Debug)]
pub(super) struct Work {
    store: Store,
    registers: Registers,
    /// Addresses written.
    pub(super) range: Range<usize>,
    /// Elements of a string.
    count: u64,
    /// What the named address is short of the accessed one.
    beyond: u64,
    /// The copy; zero for [`Place::Pop`].
    target: usize,
    extended: Extended,
}

/// Extended state for [`Frame`].
#[derive(Debug, Clone, Copy, Default)]
struct Extended {
    at: usize,
    components: u64,
    how: u64,
}

impl Extended {
    /// The state in the context, where the copy can use it.
    /// async-signal-safe.
    fn of(machine: &libc::ucontext_t, state: State) -> Option<Self> {
        /// Offset of what the kernel tells about the format.
        const SOFTWARE: usize = 464;
        const MXCSR: usize = 24;
        const MAGIC: u32 = 0x4650_5853;
        const MASKED: u32 = 0x1f80;
        /// x87, SSE, AVX and AVX-512: not the keys of memory protection.
        const COMPONENTS: u64 = 0xe7;
        /// What `xsave` stores at least.
        const XSAVED: u32 = 576;
        let at = machine.uc_mcontext.fpregs as usize;
        if state == State::Unused {
            return Some(Self::default());
        }
        if at == 0 || !at.is_multiple_of(16) {
            return None;
        }
        // SAFETY: the kernel's state has at least 512 bytes.
        let (magic, components, size, control) = unsafe {
            (
                ((at + SOFTWARE) as *const u32).read(),
                ((at + SOFTWARE + 8) as *const u64).read(),
                ((at + SOFTWARE + 16) as *const u32).read(),
                ((at + MXCSR) as *const u32).read(),
            )
        };
        let keep = state == State::Changed;
        // An exception now would meet a blocked signal.
        if keep && control & MASKED != MASKED {
            return None;
        }
        // A kernel that does not use `xsave` writes the mark too, and the size
        // of what `fxsave` stored.
        let xsave = magic == MAGIC && size >= XSAVED;
        if xsave && !at.is_multiple_of(64) {
            return None;
        }
        Some(Self {
            at,
            components: components & COMPONENTS,
            how: if xsave { XSAVE } else { 0 } | if keep { KEEP } else { 0 },
        })
    }
}

/// Whether the code at which the thread stopped is 64-bit code: that is a
/// property of its segment.  async-signal-safe.
fn long_mode(selector: u64) -> bool {
    const LONG: u32 = 1 << 21;
    let rights: u32;
    #[allow(clippy::cast_possible_truncation)] // sixteen bits
    let selector = (selector & 0xffff) as u32;
    // SAFETY: reads a descriptor; leaves the register if it may not.
    unsafe {
        asm!("lar {0:e}, {1:e}", inout(reg) 0_u32 => rights, in(reg) selector, options(nomem, nostack));
    }
    rights & LONG != 0
}

/// async-signal-safe.
fn segment_base(prefix: u8, fsgsbase: bool) -> Option<u64> {
    const ARCH_GET_FS: usize = 0x1003;
    const ARCH_GET_GS: usize = 0x1004;
    let mut base = 0_u64;
    match (prefix, fsgsbase) {
        (0, _) => {}
        // SAFETY: the kernel said that these instructions may be used.
        (0x64, true) => unsafe {
            asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
        },
        // SAFETY: as above.
        (_, true) => unsafe {
            asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
        },
        (prefix, false) => {
            let which = if prefix == 0x64 {
                ARCH_GET_FS
            } else {
                ARCH_GET_GS
            };
            let at = core::ptr::from_mut(&mut base) as usize;
            // SAFETY: the kernel writes eight bytes.
            if unsafe { raw::syscall4(libc::SYS_arch_prctl, which, at, 0, 0) } != 0 {
                return None;
            }
        }
    }
    Some(base)
}

impl Registers {
    /// async-signal-safe.
    fn of(machine: &libc::ucontext_t) -> Self {
        let gregs = &machine.uc_mcontext.gregs;
        let mut general = [0; 16];
        for (register, &index) in general.iter_mut().zip(&GREGS) {
            *register = gregs[index].cast_unsigned();
        }
        Self {
            general,
            rip: gregs[RIP].cast_unsigned(),
            flags: gregs[EFLAGS].cast_unsigned(),
        }
    }

    /// async-signal-safe.
    fn general(&self, number: u8) -> u64 {
        self.general[usize::from(number & 15)]
    }

    /// The address without its segment.  async-signal-safe.
    fn offset(&self, address: &Address, length: u8) -> u64 {
        let mut sum = address.displacement.cast_unsigned();
        if let Some(base) = address.base {
            sum = sum.wrapping_add(self.general(base));
        }
        if let Some((index, shift)) = address.index {
            sum = sum.wrapping_add(self.general(index) << shift);
        }
        if address.relative {
            sum = sum.wrapping_add(self.rip).wrapping_add(length.into());
        }
        if address.narrow {
            sum & 0xffff_ffff
        } else {
            sum
        }
    }
}

/// Elements of `size` bytes which a string has in the page of its first, at
/// `at`; one if that lies in two pages.  async-signal-safe.
fn elements(at: u64, size: u64, down: bool) -> u64 {
    let offset = at % PAGE_SIZE as u64;
    let count = if down {
        offset / size + 1
    } else {
        (PAGE_SIZE as u64 - offset) / size
    };
    if offset + size > PAGE_SIZE as u64 {
        1
    } else {
        count
    }
}

/// Finds out what the thread was about to store.  `None` if that cannot be
/// performed: it is not known, is not what faulted at `fault`, or does not lie
/// within one page.  async-signal-safe.
///
/// # Safety
/// `machine` is the context which the kernel passed to a signal handler in
/// the thread which is to be served.
pub(super) unsafe fn understand(
    machine: &libc::ucontext_t,
    fault: usize,
    fsgsbase: bool,
) -> Option<Work> {
    let mut registers = Registers::of(machine);
    if registers.flags & (TRAP | ALIGNMENT) != 0
        || !long_mode(machine.uc_mcontext.gregs[CS].cast_unsigned())
    {
        return None;
    }
    let code = registers.rip as *const u8;
    // SAFETY: the thread was about to execute these bytes, and no byte behind
    // the instruction is read.
    let store = decode::decode(|at| unsafe { code.add(at.into()).read_volatile() })?;
    let shape = &store.shape;
    if shape.place == Place::Pop {
        // The address is taken after the pop.
        let rsp = &mut registers.general[usize::from(RSP)];
        *rsp = rsp.wrapping_add(shape.size.into());
    }
    let base = segment_base(store.address.segment, fsgsbase)?;
    let mut at = registers
        .offset(&store.address, store.length)
        .wrapping_add(base);
    let size = u64::from(shape.size);
    let mut beyond = 0;
    if shape.reg == Reg::BitOffset {
        // A signed number of operand size, in units of operands.
        let bits = 8 * u32::from(shape.size);
        let value = registers.general(store.reg) << (64 - bits);
        let units = (value.cast_signed() >> (64 - bits)).div_euclid(bits.into());
        beyond = (units * i64::from(shape.size)).cast_unsigned();
        at = at.wrapping_add(beyond);
    }
    let down = registers.flags & DIRECTION != 0;
    let mut count = 1;
    if store.repeat {
        count = registers.general[RCX].min(elements(at, size, down));
        if shape.place == Place::Movs {
            let source = registers.general(RSI);
            count = count.min(elements(source, size, down));
        }
    }
    if down && count > 1 {
        at = at.wrapping_sub((count - 1) * size);
    }
    let first = usize::try_from(at).ok()?;
    let bytes = usize::try_from(size * count).ok()?;
    let range = first..first.checked_add(bytes)?;
    let one_page = bytes != 0 && first / PAGE_SIZE == (range.end - 1) / PAGE_SIZE;
    if !one_page || !range.contains(&fault) {
        return None;
    }
    let extended = Extended::of(machine, shape.state)?;
    let target = if shape.place == Place::Pop {
        0
    } else {
        // SAFETY: called below only, with the registers of the original.
        unsafe { stubs::find(store.copy()) }?
    };
    Some(Work {
        store,
        registers,
        range,
        count,
        beyond,
        target,
        extended,
    })
}

impl Work {
    /// Performs the store `delta` bytes higher, and has the thread go on
    /// behind it.  `region` are the addresses which are also there.
    /// async-signal-safe.
    ///
    /// # Safety
    /// `machine` is the one which was understood; [`Self::range`] lies in
    /// `region`, and `region` plus `delta` is the same memory, writable.
    pub(super) unsafe fn perform(
        mut self,
        machine: &mut libc::ucontext_t,
        region: &Range<usize>,
        delta: usize,
    ) {
        let shape = self.store.shape;
        let delta = delta as u64;
        let before = self.registers.general;
        let mut frame = Frame {
            registers: before,
            flags: self.registers.flags & !RESUME,
            target: self.target,
            extended: self.extended.at,
            components: self.extended.components,
            how: self.extended.how,
        };
        let pointer = usize::from(self.store.pointer);
        let strings = matches!(shape.place, Place::Stos | Place::Movs);
        if strings {
            frame.registers[pointer] = before[pointer].wrapping_add(delta);
            if self.store.repeat {
                frame.registers[RCX] = self.count;
            }
        } else {
            let named = (self.range.start as u64).wrapping_sub(self.beyond);
            frame.registers[pointer] = named.wrapping_add(delta);
        }
        // Processors look at addresses to see whether strings overlap.
        let rsi = usize::from(RSI);
        let both = shape.place == Place::Movs
            && usize::try_from(before[rsi]).is_ok_and(|source| region.contains(&source));
        if both {
            frame.registers[rsi] = before[rsi].wrapping_add(delta);
        }
        if shape.place == Place::Pop {
            let top = before[usize::from(RSP)].wrapping_sub(shape.size.into());
            // SAFETY: the thread read its stack before the store failed; the
            // caller vouches for where it goes.
            unsafe { move_popped(top, frame.registers[pointer], shape.size) };
        } else {
            // SAFETY: the copy does what the thread was about to do, to the
            // same memory.
            unsafe { stubs::call(&mut frame) };
        }
        let after = &mut self.registers;
        let rsp = before[usize::from(RSP)];
        after.general = frame.registers;
        after.general[usize::from(RSP)] = rsp;
        let mut done = true;
        if strings {
            after.general[pointer] = after.general[pointer].wrapping_sub(delta);
            if self.store.repeat {
                let left = before[RCX].wrapping_sub(self.count);
                after.general[RCX] = left.wrapping_add(frame.registers[RCX]);
                done = after.general[RCX] == 0;
            }
        } else {
            after.general[pointer] = before[pointer];
        }
        if both {
            after.general[rsi] = after.general[rsi].wrapping_sub(delta);
        }
        if done {
            after.rip = after.rip.wrapping_add(self.store.length.into());
        }
        after.flags = after.flags & !(ARITHMETIC | RESUME) | frame.flags & ARITHMETIC;
        let gregs = &mut machine.uc_mcontext.gregs;
        for (&register, &index) in after.general.iter().zip(&GREGS) {
            gregs[index] = register.cast_signed();
        }
        gregs[RIP] = after.rip.cast_signed();
        gregs[EFLAGS] = after.flags.cast_signed();
    }
}

/// Moves the popped value, of two or eight bytes.  async-signal-safe.
///
/// # Safety
/// The top of the stack can be read, and `to` may be written.
unsafe fn move_popped(top: u64, to: u64, size: u16) {
    // SAFETY: the caller vouches.  One store each, as the original has it.
    unsafe {
        if size == 2 {
            let value = (top as *const u16).read_unaligned();
            asm!("mov [{}], {:x}", in(reg) to, in(reg) value, options(nostack, preserves_flags));
        } else {
            let value = (top as *const u64).read_unaligned();
            asm!("mov [{}], {}", in(reg) to, in(reg) value, options(nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Area([u8; 1024]);

    /// What a kernel that saved `size` bytes leaves.
    fn saved(size: u32) -> Option<Extended> {
        let mut area = Area([0; 1024]);
        let mut put = |at: usize, bytes: &[u8]| area.0[at..at + bytes.len()].copy_from_slice(bytes);
        put(24, &0x1f80_u32.to_le_bytes());
        put(464, &0x4650_5853_u32.to_le_bytes());
        put(472, &3_u64.to_le_bytes());
        put(480, &size.to_le_bytes());
        // SAFETY: all zeros is a context.
        let mut machine: libc::ucontext_t = unsafe { core::mem::zeroed() };
        machine.uc_mcontext.fpregs = core::ptr::from_mut(&mut area).cast();
        Extended::of(&machine, State::Changed)
    }

    #[test]
    fn the_format_is_that_of_the_instruction_which_saved() {
        // `xrstor` is an invalid opcode where the kernel does not use it.
        assert_eq!(saved(512).map(|state| state.how), Some(KEEP));
        assert_eq!(saved(576).map(|state| state.how), Some(KEEP | XSAVE));
        assert_eq!(saved(832).map(|state| state.how), Some(KEEP | XSAVE));
    }
}
