// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls in a row, executed by a few instructions in a hole of the
//! address space while everything else there is taken away and put back.

use std::io;

use crate::remote::{RBX, RIP, Worker};

/// Words of an entry: number, six arguments, what is expected, the result.
const WORDS: usize = 9;
/// Any result but an error will do.
const ANY: u64 = u64::MAX;

std::arch::global_asm!(
    ".pushsection .rodata.hvckpt_plan, \"a\", @progbits",
    ".globl hvckpt_plan_code, hvckpt_plan_gadget, hvckpt_plan_done, hvckpt_plan_end",
    ".hidden hvckpt_plan_code, hvckpt_plan_gadget, hvckpt_plan_done, hvckpt_plan_end",
    "hvckpt_plan_code:",
    "2: mov rax, [rbx]",
    "cmp rax, -1",
    "je 4f",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "hvckpt_plan_gadget:",
    "syscall",
    "mov [rbx + 64], rax",
    "cmp rax, -4095",
    "jae 3f",
    "mov rcx, [rbx + 56]",
    "cmp rcx, -1",
    "je 5f",
    "cmp rcx, rax",
    "jne 3f",
    "5: add rbx, 72",
    "jmp 2b",
    "3: int3",
    "4: int3",
    "hvckpt_plan_done:",
    "hvckpt_plan_end:",
    ".popsection",
);

unsafe extern "C" {
    static hvckpt_plan_code: u8;
    static hvckpt_plan_gadget: u8;
    static hvckpt_plan_done: u8;
    static hvckpt_plan_end: u8;
}

/// The instructions, and where in them the gadget and the good end are.
pub fn code() -> (&'static [u8], u64, u64) {
    let (start, end) = (&raw const hvckpt_plan_code, &raw const hvckpt_plan_end);
    let gadget = (&raw const hvckpt_plan_gadget) as u64 - start as u64;
    let done = (&raw const hvckpt_plan_done) as u64 - start as u64;
    // SAFETY: both labels are of the block above, in this order.
    let code = unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) };
    (code, gadget, done)
}

/// A plan and its data, for a place which is known.
#[derive(Debug)]
pub struct Plan {
    start: u64,
    octets: Vec<u8>,
    calls: Vec<[u64; WORDS]>,
}

impl Plan {
    /// A plan whose data begin at `start`.
    pub fn new(start: u64) -> Self {
        Self {
            start,
            octets: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// Adds data; returns their address.
    pub fn data(&mut self, octets: &[u8]) -> u64 {
        let padded = self.octets.len().next_multiple_of(64);
        self.octets.resize(padded, 0);
        let at = self.start + padded as u64;
        self.octets.extend(octets);
        at
    }

    /// A call which must not fail.
    pub fn call(&mut self, number: i64, arguments: &[u64]) {
        self.expect(number, arguments, ANY);
    }

    /// A call which must return `result`.
    pub fn expect(&mut self, number: i64, arguments: &[u64], result: u64) {
        let mut entry = [0; WORDS];
        entry[0] = number.cast_unsigned();
        for (to, from) in entry[1..7].iter_mut().zip(arguments) {
            *to = *from;
        }
        entry[7] = result;
        self.calls.push(entry);
    }

    /// The address of the calls since the last of these, with an end added.
    pub fn close(&mut self) -> u64 {
        let mut entries = std::mem::take(&mut self.calls);
        entries.push([u64::MAX; WORDS]);
        let octets: Vec<u8> = entries
            .iter()
            .flatten()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        self.data(&octets)
    }

    /// All data.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// Has the worker execute the calls at `plan`; `code` is where the code lies.
pub fn run(
    worker: &mut Worker<'_>,
    code_at: u64,
    plan: u64,
    until: std::time::Instant,
) -> io::Result<()> {
    let (_, _, done) = code();
    let regs = worker.run(code_at, plan, until)?;
    if regs[RIP] == code_at + done {
        return Ok(());
    }
    let entry: [u64; WORDS] = crate::remote::words(&worker.read::<72>(regs[RBX])?);
    let result = entry[8].cast_signed();
    let why = match result {
        -4095..=-1 => io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(0)).to_string(),
        _ => format!("returned {result:#x}, not {:#x}", entry[7]),
    };
    Err(io::Error::other(format!(
        "system call {} ({:#x}, {:#x}, {:#x}): {why}",
        entry[0], entry[1], entry[2], entry[3]
    )))
}
