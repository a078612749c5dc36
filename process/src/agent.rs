// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent: a thread which is neither stopped nor undone, and does the work.
//!
//! It has no thread-local storage (FS is zero), blocks all signals, and must not allocate,
//! panic or call libc.

use crate::error::Error;
use crate::raw::{self, call};
use crate::state::{self, Answer, Request, State};
use crate::stop;
use crate::threads::RseqPlace;
use core::arch::naked_asm;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

/// The signal where none was chosen: above what C libraries and most programs use.
pub const SIGNAL: i32 = 44;

/// `clone` with a stack; the new thread calls `run` with `state`.
#[unsafe(naked)]
unsafe extern "C" fn start(flags: usize, top: usize, state: &'static State) -> isize {
    naked_asm!(
        "push r12",
        "mov r12, rdx",
        "xor edx, edx",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "xor ebp, ebp",
        "mov rdi, r12",
        "call {run}",
        "hlt",
        "2:",
        "pop r12",
        "ret",
        run = sym run,
    );
}

unsafe extern "C" fn run(state: &'static State) -> ! {
    // SAFETY: the name ends with a zero.
    unsafe {
        let _ = call!(libc::SYS_prctl, libc::PR_SET_NAME, c"hvckpt-agent".as_ptr());
    }
    state.agent.store(raw::gettid(), SeqCst);
    let mut seen = 0;
    loop {
        while state.asked.load(SeqCst) == seen {
            raw::wait(&state.asked, seen, 0);
        }
        seen = state.asked.load(SeqCst);
        // SAFETY: the requester waits for the answer and touches neither before.
        let stopped = unsafe {
            state.request.get().take().and_then(|(request, argument)| {
                let (result, stopped) = request(state, argument);
                *state.answer.get() = Answer::Some(result);
                stopped
            })
        };
        // A thread which a rollback put back into its wait must find the new answer.
        state.answered.fetch_add(1, SeqCst);
        drop(stopped);
        raw::wake(&state.answered, i32::MAX);
    }
}

unsafe extern "C" fn forked() {
    if let Some(state) = state::current() {
        state.forks.fetch_add(1, SeqCst);
    }
}

static INITIALISING: AtomicU32 = AtomicU32::new(0);

/// Makes the state, the handler of `signal` (0: `HVCKPT_SIGNAL` of the environment, else
/// [`SIGNAL`]) and the agent, if this process
/// has none. Not from a signal handler.
///
/// # Errors
/// What the kernel refused; nothing is left behind but memory.
pub fn init(signal: i32) -> Result<&'static State, Error> {
    while INITIALISING.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
        raw::pause_briefly();
    }
    let made = state::current().map_or_else(|| make(choose(signal)?), Ok);
    INITIALISING.store(0, SeqCst);
    made
}

fn choose(signal: i32) -> Result<i32, Error> {
    let chosen = match (signal, std::env::var_os("HVCKPT_SIGNAL")) {
        (0, None) => Some(SIGNAL),
        (0, Some(text)) => text.to_str().and_then(|t| t.trim().parse().ok()),
        (signal, _) => Some(signal),
    };
    let usable = libc::SIGRTMIN()..=libc::SIGRTMAX();
    chosen
        .filter(|s| usable.contains(s))
        .ok_or(Error::BadSignal)
}

fn make(signal: i32) -> Result<&'static State, Error> {
    let pid = raw::getpid();
    check_proc(pid)?;
    stop::install(signal)?;
    let state = state::create(pid)?;
    state.signal.store(signal, SeqCst);
    // SAFETY: nobody else knows of the state yet.
    unsafe {
        state.rseq.as_ptr().write(RseqPlace::find());
        state.request.as_ptr().write(None);
        state.answer.as_ptr().write(Answer::None);
    }
    // SAFETY: the handler only counts.
    unsafe { libc::pthread_atfork(None, Some(forked), None) };
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS;
    let (all, mut before) = (u64::MAX, 0u64);
    // SAFETY: masks have eight octets; the agent inherits a mask with everything in it, and
    // its stack is its own.
    let started = unsafe {
        let _ = call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            &raw mut before,
            8
        );
        let started = raw::check(start(
            flags.cast_unsigned() as usize,
            state.agent_top(),
            state,
        ));
        let _ = call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            0,
            8
        );
        started
    };
    started.map_err(|e| Error::Refused {
        what: "a thread of the library's",
        errno: e.0,
    })?;
    while state.agent.load(SeqCst) == 0 {
        raw::sleep(50_000);
    }
    state::publish(state);
    Ok(state)
}

/// `/proc/self` must be this process, or threads have other numbers there.
fn check_proc(pid: i32) -> Result<(), Error> {
    let mut text = [0u8; 16];
    // SAFETY: the buffer is as long as said.
    let n = unsafe {
        call!(
            libc::SYS_readlink,
            c"/proc/self".as_ptr(),
            text.as_mut_ptr(),
            text.len()
        )
    }
    .map_err(|e| Error::Refused {
        what: "/proc/self",
        errno: e.0,
    })?;
    let shown = text[..n].iter().fold(0i32, |n, b| {
        n.wrapping_mul(10)
            .wrapping_add(i32::from(b.wrapping_sub(b'0')))
    });
    if shown == pid {
        Ok(())
    } else {
        Err(Error::ForeignProc)
    }
}

/// Has the agent run `request` and waits for what it says. Any thread may ask; one at a time
/// is served. After a rollback the call which was answered *before* returns again.
///
/// # Errors
/// [`Error::NotInitialised`], and what the request says.
///
/// # Safety
/// `request` is sound with `argument` on the agent: no allocation, no libc, no thread-local
/// storage, no panic.
pub unsafe fn ask(request: Request, argument: usize) -> Result<u64, Error> {
    let state = state::current().ok_or(Error::NotInitialised)?;
    while state.busy.swap(1, SeqCst) != 0 {
        raw::wait(&state.busy, 1, 0);
    }
    let before = state.answered.load(SeqCst);
    // SAFETY: who holds `busy` owns the request, until it is counted.
    unsafe { *state.request.get() = Some((request, argument)) };
    state.asked.fetch_add(1, SeqCst);
    raw::wake(&state.asked, 1);
    while state.answered.load(SeqCst) == before {
        raw::wait(&state.answered, before, 0);
    }
    // SAFETY: answered; the agent writes again only for the next who holds `busy`.
    let answer = unsafe { state.answer.as_ptr().read_volatile() };
    state.busy.store(0, SeqCst);
    raw::wake(&state.busy, 1);
    match answer {
        Answer::Some(result) => result,
        Answer::None => Err(Error::NotInitialised),
    }
}
