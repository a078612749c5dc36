// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated hypervisor: the operations of the gate, by comparing memory
//! with a copy.  Lets the code for the real one run everywhere, and lets tests
//! make it fail in every way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::abi::{self, cda_attach, cda_log, cda_query, cda_register};
use hvckpt_sys::gate::Transport;

const WORDS: u64 = (PAGE_SIZE / 8) as u64;

/// A hypervisor in this process.  Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SimGate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    attached: bool,
    cookie: u64,
    next: u64,
    ranges: BTreeMap<u64, Simulated>,
    /// What to answer instead, per operation, oldest first.
    scripted: Vec<(u64, i64)>,
    counters: abi::cda_counters,
}

#[derive(Debug)]
struct Simulated {
    shape: cda_register,
    copy: Vec<u64>,
    open: bool,
    epoch: u64,
}

impl Simulated {
    fn memory(&self) -> impl Iterator<Item = u64> {
        let start = self.shape.start;
        (0..self.shape.pages * WORDS).map(move |word| {
            // SAFETY: who registered the range keeps it mapped; shared access
            // is atomic.
            unsafe { AtomicU64::from_ptr((start + word * 8) as *mut u64) }.load(Ordering::Relaxed)
        })
    }

    /// Writes the log; the new copy is what was compared.
    fn list(&mut self, keep: bool) -> u64 {
        let now: Vec<u64> = self.memory().collect();
        let pages = now
            .chunks_exact(PAGE_SIZE / 8)
            .zip(self.copy.chunks_exact(PAGE_SIZE / 8));
        let dirty: Vec<u64> = (0_u64..)
            .zip(pages)
            .filter(|(_, (a, b))| a != b)
            .map(|(page, _)| page)
            .collect();
        let header = size_of::<cda_log>() as u64;
        let capacity = usize::try_from((self.shape.log_bytes - header) / 8).unwrap_or(0);
        let listed = dirty.len().min(capacity);
        let lost = dirty.len() > capacity;
        // SAFETY: who registered the log keeps it mapped and does not read it
        // during the call; no more than `log_bytes` are written.
        unsafe {
            let first = (self.shape.log + header) as *mut u64;
            core::ptr::copy_nonoverlapping(dirty.as_ptr(), first, listed);
            (self.shape.log as *mut cda_log).write(cda_log {
                epoch: self.epoch,
                count: listed as u64,
                dirty: dirty.len() as u64,
                flags: if lost { abi::CDA_LOG_LOST } else { 0 },
                entry_bytes: 8,
                reserved: [0; 4],
            });
        }
        if !keep {
            self.copy = now;
            self.epoch += 1;
        }
        dirty.len() as u64 | if lost { abi::CDA_RESULT_LOST } else { 0 }
    }
}

impl SimGate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `op` fails with `errno` instead of being done.  Several
    /// queue up.
    pub fn fail_next(&self, op: u64, errno: i32) {
        self.state().scripted.push((op, -i64::from(errno)));
    }

    /// Ends the session, as a migration to another host does.
    pub fn forget_session(&self) {
        let mut state = self.state();
        state.attached = false;
        state.ranges.clear();
    }

    /// Ranges registered now.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.state().ranges.len()
    }

    /// Whether a session is attached.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.state().attached
    }
}

fn no(errno: i32) -> i64 {
    -i64::from(errno)
}

fn yes(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl State {
    /// # Safety
    /// `at` is a [`cda_attach`].
    unsafe fn attach(&mut self, at: u64) -> i64 {
        if self.attached {
            return no(libc::EEXIST);
        }
        self.attached = true;
        self.cookie += 0x5151_0001;
        // SAFETY: the caller vouches.
        let attach = unsafe { &mut *(at as *mut cda_attach) };
        attach.token = [0; abi::CDA_TOKEN_BYTES];
        attach.cookie = self.cookie;
        attach.max_pages = 1 << 30;
        0
    }

    /// # Safety
    /// `at` is a [`cda_register`] which keeps its promises.
    unsafe fn register(&mut self, at: u64) -> i64 {
        // SAFETY: the caller vouches.
        let shape = unsafe { *(at as *const cda_register) };
        let page = PAGE_SIZE as u64;
        if shape.start % page != 0 || shape.pages == 0 || shape.log % 64 != 0 {
            return no(libc::EINVAL);
        }
        let end = |shape: &cda_register| shape.start + shape.pages * page;
        if self
            .ranges
            .values()
            .any(|other| shape.start < end(&other.shape) && other.shape.start < end(&shape))
        {
            return no(libc::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        self.ranges.insert(
            id,
            Simulated {
                shape,
                copy: Vec::new(),
                open: false,
                epoch: 0,
            },
        );
        yes(id)
    }

    fn cycle(&mut self, op: u64, id: u64) -> i64 {
        let Some(range) = self.ranges.get_mut(&id) else {
            return no(libc::EBADF);
        };
        match (op, range.open) {
            (abi::CDA_OP_BEGIN, true) => no(libc::EBUSY),
            (abi::CDA_OP_BEGIN, false) => {
                range.copy = range.memory().collect();
                range.open = true;
                0
            }
            (_, false) => no(libc::ENODATA),
            (_, true) => {
                range.open = op != abi::CDA_OP_END;
                let peek = op == abi::CDA_OP_PEEK;
                self.counters.cycles += u64::from(!peek);
                yes(range.list(peek))
            }
        }
    }
}

impl Transport for SimGate {
    unsafe fn call(&self, op: u64, args: [u64; 5]) -> i64 {
        let mut state = self.state();
        if let Some(at) = state
            .scripted
            .iter()
            .position(|&(scripted, _)| scripted == op)
        {
            return state.scripted.remove(at).1;
        }
        state.counters.crossings += 1;
        match op {
            abi::CDA_OP_VERSION => yes(abi::CDA_ABI_VERSION | abi::CDA_CAP_PTXEN),
            // SAFETY: the caller vouches for the arguments of each operation.
            abi::CDA_OP_ATTACH => unsafe { state.attach(args[0]) },
            _ if !state.attached => no(libc::ENOENT),
            _ if args[0] != state.cookie => no(libc::EACCES),
            abi::CDA_OP_DETACH => {
                state.attached = false;
                state.ranges.clear();
                0
            }
            // SAFETY: as above.
            abi::CDA_OP_REGISTER => unsafe { state.register(args[1]) },
            abi::CDA_OP_UNREGISTER => match state.ranges.remove(&args[1]) {
                Some(_) => 0,
                None => no(libc::EBADF),
            },
            abi::CDA_OP_BEGIN | abi::CDA_OP_END | abi::CDA_OP_COMMIT | abi::CDA_OP_PEEK => {
                state.cycle(op, args[1])
            }
            abi::CDA_OP_QUERY => {
                // SAFETY: as above.
                let query = unsafe { &mut *(args[1] as *mut cda_query) };
                query.counters = state.counters;
                query.ranges = u32::try_from(state.ranges.len()).unwrap_or(u32::MAX);
                0
            }
            _ => no(libc::ENOSYS),
        }
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}
