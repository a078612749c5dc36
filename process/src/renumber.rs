// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a thread can do with another number: the kernel finds owners of robust and
//! priority-inheritance mutexes by theirs.

use crate::error::Error;
use crate::pagemap::read_at;
use crate::threads::Thread;
use crate::undo::Undo;

/// The owner in such a mutex's word.
const OWNER: u32 = 0x3fff_ffff;
const LOCK_PI: [i32; 3] = [6, 13, 11];

impl Undo<'_> {
    /// Whether the thread that was `number` may have another one.
    ///
    /// # Errors
    /// It holds such a mutex, as far as that can be seen: a priority-inheritance mutex which
    /// is not robust, and for which nobody waits, cannot.
    pub fn may_renumber(&self, threads: &[Thread], number: i32) -> Result<(), Error> {
        let held = Error::HoldsMutex { tid: number };
        for t in threads {
            if t.tid == number && t.robust != 0 {
                // Next entry, offset, and the mutex that is being locked or unlocked.
                let mut head = [0u8; 24];
                read_at(&self.their_memory, &mut head, t.robust)?;
                let word = |at: usize| {
                    let octets = head[at..at + 8].try_into().unwrap_or([0; 8]);
                    usize::from_ne_bytes(octets)
                };
                if word(0) != t.robust || word(16) != 0 {
                    return Err(held);
                }
            }
            let frame = t.context as *const libc::ucontext_t;
            // SAFETY: the address of a field of what is not read.
            let registers = unsafe { &raw const (*frame).uc_mcontext.gregs } as usize;
            let mut octets = [0u8; 8 * 23];
            read_at(&self.their_memory, &mut octets, registers)?;
            let register = |r: i32| {
                let at = r as usize * 8;
                usize::from_ne_bytes(octets[at..at + 8].try_into().unwrap_or([0; 8]))
            };
            let operation = register(libc::REG_RSI) as i32 & libc::FUTEX_CMD_MASK;
            if register(libc::REG_RAX) as i64 == libc::SYS_futex && LOCK_PI.contains(&operation) {
                let mut word = [0u8; 4];
                let at = if operation == LOCK_PI[2] {
                    register(libc::REG_R8)
                } else {
                    register(libc::REG_RDI)
                };
                if read_at(&self.their_memory, &mut word, at).is_ok()
                    && u32::from_ne_bytes(word) & OWNER == number.cast_unsigned()
                {
                    return Err(held);
                }
            }
        }
        Ok(())
    }
}
