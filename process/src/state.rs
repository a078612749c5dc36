// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that the library knows, in one mapping which no rollback touches.
//!
//! A variable anywhere else would be put back while it is in use. The mapping is left out by
//! its address, and not inherited by children of the program (`MADV_DONTFORK`).

use crate::error::Error;
use crate::pagemap::PAGE;
use crate::raw::{self, Errno, Fd, call};
use crate::threads::{RseqPlace, Thread};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering, Ordering::SeqCst};

pub use crate::open::SLOTS;
/// A scratch stack, on which a thread waits while it is stopped.
pub const SCRATCH: usize = 16 << 10;
/// The agent's stack.
pub const AGENT_STACK: usize = 512 << 10;
/// Places of the table from thread numbers to slots: a power of two, twice the slots.
pub const PLACES: usize = 2 * SLOTS;

/// What only the agent touches, or others while the agent waits for them.
#[derive(Debug)]
#[repr(transparent)]
pub struct Own<T>(UnsafeCell<T>);

// SAFETY: the protocol of each field says who may touch it when; see `Own::get`.
unsafe impl<T> Sync for Own<T> {}

impl<T> Own<T> {
    /// The value.
    ///
    /// # Safety
    /// Nobody else has a reference: only the owner calls this, and lets go before the next.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller says so.
        unsafe { &mut *self.0.get() }
    }

    /// Its address.
    pub fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

/// One thread being stopped. Free only when the thread's last instruction on its scratch
/// stack has cleared `in_use`.
#[derive(Debug)]
pub struct Slot {
    /// Not free?
    pub in_use: AtomicU32,
    /// Serial of the stop times four, plus one of [`OFF`], [`SIGNALLED`], [`CLAIMED`], [`PARKED`].
    pub state: AtomicU32,
    /// What the parked thread shall do: [`WAIT`], [`RESUME`], [`EXIT`].
    pub order: AtomicU32,
    /// Whom the signal was sent to.
    pub tid: AtomicI32,
    /// The agent's: in which listing it was seen.
    pub seen: AtomicU32,
    /// Goes on as `target` says?
    pub adopts: AtomicBool,
    /// The thread's own until it is parked, then the agent's.
    pub now: Own<Thread>,
    /// The agent's, until the order is given.
    pub target: Own<Thread>,
}

/// No stop concerns this slot.
pub const OFF: u32 = 0;
/// The signal is on its way.
pub const SIGNALLED: u32 = 1;
/// The handler runs.
pub const CLAIMED: u32 = 2;
/// The thread waits for its order.
pub const PARKED: u32 = 3;

/// No order yet.
pub const WAIT: u32 = 0;
/// Go on.
pub const RESUME: u32 = 1;
/// End, without touching memory.
pub const EXIT: u32 = 2;

impl Slot {
    /// Is its thread parked in stop `serial`?
    pub fn parked(&self, serial: u32) -> bool {
        self.in_use.load(SeqCst) != 0 && self.state.load(SeqCst) == serial << 2 | PARKED
    }

    /// Gives the order. The slot may be free at once.
    pub fn give(&self, order: u32) {
        self.order.store(order, SeqCst);
        raw::wake(&self.order, 1);
    }

    /// Makes it free; it has no thread.
    pub fn free(&self) {
        self.state.store(OFF, SeqCst);
        self.in_use.store(0, SeqCst);
    }
}

/// The mapping. Zeroes are a valid one.
#[derive(Debug)]
#[repr(C)]
pub struct State {
    /// Whose state this is.
    pub pid: AtomicI32,
    /// The agent's number.
    pub agent: AtomicI32,
    /// The signal that stops.
    pub signal: AtomicI32,
    /// Held by who makes a request, from asking to having the answer.
    pub busy: AtomicU32,
    /// Counts requests; the agent waits for it.
    pub asked: AtomicU32,
    /// Counts answers; the requester waits for it.
    pub answered: AtomicU32,
    /// Counts threads that parked; the agent waits for it.
    pub parked: AtomicU32,
    /// Of the current stop; 30 bits.
    pub serial: AtomicU32,
    /// Shall threads leave their rseq areas when they park?
    pub leave_rseq: AtomicBool,
    /// Slots at and above this one are free.
    pub high: AtomicU32,
    /// Where rseq areas are.
    pub rseq: Own<RseqPlace>,
    /// The requester's, while it holds `busy`.
    pub request: Own<Option<(Request, usize)>>,
    /// The agent's until it has answered.
    pub answer: Own<Answer>,
    /// The table from thread numbers to slots: serial in the upper half.
    pub places: Own<[u64; PLACES]>,
    /// Directory entries.
    pub entries: Own<[u8; 32 << 10]>,
    /// See [`Slot`].
    pub slots: [Slot; SLOTS],
    /// At each so manieth abort all pages are compared; 0: never.
    pub verify: AtomicU32,
    /// Children that the program made.
    pub forks: AtomicU32,
    /// The agent's: what is not undone.
    pub excluded: Own<crate::exclude::Excluded>,
    /// The agent's: the open speculation.
    pub open: Own<crate::open::Open>,
    /// The agent's: where memory is compared.
    pub room: Own<crate::room::Room>,
    agent_stack: Own<Aligned<AGENT_STACK>>,
    scratch: Own<[Aligned<SCRATCH>; SLOTS]>,
}

#[derive(Debug)]
#[repr(C, align(4096))]
struct Aligned<const N: usize>([u8; N]);

/// What the agent is asked for.
pub type Request = unsafe fn(&'static State, usize) -> Reply;
/// Result, and who goes on only when it can be read.
pub type Reply = (Result<u64, Error>, Option<Stopped<'static>>);

/// What it answered. The discriminant's zero is "nothing yet".
#[derive(Clone, Copy, Debug)]
#[repr(C, u32)]
pub enum Answer {
    /// Nothing yet.
    None = 0,
    /// As the request's function returned.
    Some(Result<u64, Error>) = 1,
}

impl State {
    /// Where it is.
    pub fn place(&self) -> crate::room::Library {
        let start = core::ptr::from_ref(self) as usize;
        (start, start + size_of::<Self>().next_multiple_of(PAGE))
    }

    /// Address behind the scratch stack of slot `i`, aligned for a call.
    pub fn scratch_top(&self, i: usize) -> usize {
        self.scratch.as_ptr() as usize + (i + 1) * SCRATCH
    }

    /// Address behind the agent's stack.
    pub fn agent_top(&self) -> usize {
        self.agent_stack.as_ptr() as usize + AGENT_STACK
    }

    /// Slots that may be in use.
    pub fn used(&self) -> &[Slot] {
        &self.slots[..self.high.load(SeqCst) as usize]
    }

    /// Slots whose threads are parked in the current stop.
    pub fn parked_slots(&self) -> impl Iterator<Item = &Slot> {
        let serial = self.serial.load(SeqCst);
        self.used().iter().filter(move |s| s.parked(serial))
    }

    /// Takes a free slot. For the agent.
    pub fn take_slot(&self) -> Option<usize> {
        let i = self.slots.iter().position(|s| s.in_use.load(SeqCst) == 0)?;
        if i as u32 >= self.high.load(SeqCst) {
            self.high.store(i as u32 + 1, SeqCst);
        }
        let slot = &self.slots[i];
        slot.order.store(WAIT, SeqCst);
        slot.adopts.store(false, SeqCst);
        slot.in_use.store(1, SeqCst);
        Some(i)
    }
}

/// As the kernel writes `siginfo_t` of a queued signal.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queued {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub padding: i32,
    pub pid: i32,
    pub uid: u32,
    pub value: u64,
    pub rest: [u64; 12],
}

impl Queued {
    /// Queues a signal for a thread of this process, as `sigqueue` would: what
    /// `tgkill` sends, a thread may send with this call to itself only.
    pub fn send(state: &State, tid: i32, signo: i32, value: u64) -> Result<(), Errno> {
        let pid = state.pid.load(SeqCst);
        let info = Self {
            signo,
            errno: 0,
            code: libc::SI_QUEUE,
            padding: 0,
            pid,
            uid: 0,
            value,
            rest: [0; 12],
        };
        // SAFETY: a whole siginfo.
        unsafe {
            call!(
                libc::SYS_rt_tgsigqueueinfo,
                pid,
                tid,
                signo,
                &raw const info
            )
        }
        .map(drop)
    }
}

/// Everybody but the agent is parked; they go on when this goes out of scope.
#[derive(Debug)]
pub struct Stopped<'a> {
    /// Who is stopped.
    pub(crate) state: &'a State,
    /// `/proc/self/task`
    pub(crate) tasks: Fd,
}

impl Stopped<'_> {
    /// The parked threads. Without the agent, and without a leader that has exited.
    pub fn threads(&self) -> impl Iterator<Item = &Thread> {
        // SAFETY: parked threads have filled `now` in and wait for their order.
        self.state.parked_slots().map(|s| &*unsafe { s.now.get() })
    }

    /// Living threads, the agent and a leader that has exited among them.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn count(&self) -> Result<u64, Errno> {
        Ok(self.tasks.links()?.saturating_sub(2))
    }

    /// Lets everybody go on.
    pub fn resume(self) {}
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        release(self.state);
    }
}

/// Lets all go on, and forgets of slots what it can.
pub fn release(state: &State) {
    for slot in state.parked_slots() {
        slot.give(RESUME);
    }
    let high = state
        .used()
        .iter()
        .rposition(|s| s.in_use.load(SeqCst) != 0)
        .map_or(0, |i| i + 1);
    state.high.store(high as u32, SeqCst);
}

/// The state, once there is one; changes in a child of the program only.
static STATE: AtomicPtr<State> = AtomicPtr::new(core::ptr::null_mut());
/// Whose it is: a child has the pointer, but not the mapping.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// This process's state. May run in a signal handler.
pub fn current() -> Option<&'static State> {
    if OWNER.load(Ordering::Acquire) != raw::getpid() {
        return None;
    }
    // SAFETY: published below with its owner, and never unmapped.
    unsafe { STATE.load(Ordering::Acquire).as_ref() }
}

/// Makes the state of `pid`.
///
/// # Errors
/// The mapping was refused.
pub fn create(pid: i32) -> Result<&'static State, Error> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let size = size_of::<State>().next_multiple_of(PAGE);
    let refused = |e: Errno| Error::Refused {
        what: "memory for the library",
        errno: e.0,
    };
    // SAFETY: a new mapping; advice for it only.
    let at = unsafe {
        // A page at each end keeps it from becoming one with a mapping of the program's, which
        // the program may have marked like this one.
        let edges = size + 2 * PAGE;
        let at = call!(libc::SYS_mmap, 0, edges, libc::PROT_NONE, flags, -1isize, 0)
            .map_err(refused)?
            + PAGE;
        call!(libc::SYS_mprotect, at, size, protection).map_err(refused)?;
        call!(libc::SYS_madvise, at, size, libc::MADV_DONTFORK).map_err(refused)?;
        // These two are for the sake of size; without them it works, too.
        let _ = call!(libc::SYS_madvise, at, size, libc::MADV_NOHUGEPAGE);
        let _ = call!(libc::SYS_madvise, at, size, libc::MADV_DONTDUMP);
        &*(at as *const State)
    };
    at.pid.store(pid, SeqCst);
    Ok(at)
}

/// From now on it is this process's state.
pub fn publish(state: &'static State) {
    STATE.store(core::ptr::from_ref(state).cast_mut(), Ordering::Release);
    OWNER.store(state.pid.load(SeqCst), Ordering::Release);
}
