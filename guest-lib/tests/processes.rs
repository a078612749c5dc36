// SPDX-License-Identifier: MIT OR Apache-2.0
//! What needs a process of its own: fork children, signal handlers, keys.
//!
//! A test starts this binary again with `HVCKPT_TEST_CASE` set and looks at
//! how it ends.

#![allow(clippy::cast_possible_truncation)] // ids and sizes are small

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use common::{builder, region, trackers};
use hvckpt::{
    AttachError, CycleError, PAGE_SIZE, Region, RegionError, SessionError, TrackError, TrackerKind,
};

const CASE: &str = "HVCKPT_TEST_CASE";
/// Exit status of a body which came to its end; a process which found no test
/// of the name has another.
const DONE: i32 = 42;

/// Runs `body` in a process of its own; `Some` in the one which started it.
fn alone(test: &str, case: &str, body: impl FnOnce()) -> Option<ExitStatus> {
    let name = format!("{test}/{case}");
    match std::env::var(CASE) {
        Ok(wanted) if wanted == name => {
            // No core dumps of deaths on purpose.
            // SAFETY: a plain limit.
            unsafe {
                let none = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            }
            body();
            std::process::exit(DONE);
        }
        Ok(_) => None,
        Err(_) => {
            let exe = std::env::current_exe().unwrap();
            let mut command = Command::new(exe);
            command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
            Some(command.env(CASE, name).status().unwrap())
        }
    }
}

/// As [`alone`], and it must end well.
fn succeeds(test: &str, case: &str, body: impl FnOnce()) {
    if let Some(status) = alone(test, case, body) {
        assert_eq!(status.code(), Some(DONE), "{test}/{case}: {status}");
    }
}

/// Not below the build directory: the binary may have been moved to a guest.
fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("hvckpt-{}-{name}", std::process::id()))
}

fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child leaves by _exit, whatever happens.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            libc::_exit(status.unwrap_or(101));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            200 + libc::WTERMSIG(status)
        }
    }
}

#[test]
fn a_fork_child_is_told_and_does_no_harm() {
    succeeds("a_fork_child_is_told_and_does_no_harm", "", || {
        for kind in trackers() {
            let region = region(kind, 8);
            let mut transaction = Some(region.begin().unwrap());
            let child = |error: Option<CycleError>| {
                matches!(error, Some(CycleError::Session(SessionError::ForkChild)))
            };
            let status = fork(|| {
                let told = child(region.begin().err())
                    && child(transaction.as_mut().and_then(|t| t.peek().err()))
                    && child(transaction.take().and_then(|t| t.commit().err()));
                let new = builder(kind, 1).register();
                let refused = matches!(new, Err(RegionError::Session(SessionError::ForkChild)));
                i32::from(!told) + 2 * i32::from(!refused)
            });
            assert_eq!(status, 0, "{kind}: a child was not told");
            // The child's copies of everything are dropped there.
            let mut owned = Some(common::region(kind, 4));
            let status = fork(|| {
                drop(owned.take());
                // Something else may be where the region was.
                0
            });
            assert_eq!(status, 0, "{kind}");
            let other = owned.take().unwrap();
            let open = other.begin().unwrap();
            other.atomics_u8()[PAGE_SIZE].store(1, Ordering::Relaxed);
            assert_eq!(open.commit().unwrap().to_vec(), [1], "{kind}");
            region.atomics_u8()[3 * PAGE_SIZE].store(1, Ordering::Relaxed);
            let list = transaction.take().unwrap().commit().unwrap().to_vec();
            assert_eq!(list, [3], "{kind}: the parent goes on");
        }
    });
}

#[test]
fn a_fork_child_does_not_unmap_what_is_there_now() {
    succeeds("a_fork_child_does_not_unmap_what_is_there_now", "", || {
        for kind in trackers() {
            let mut owned = Some(region(kind, 4));
            let start = owned.as_ref().unwrap().as_ptr();
            let status = fork(|| {
                // SAFETY: the region is not mapped in the child.
                let got = unsafe {
                    libc::mmap(
                        start.cast(),
                        4 * PAGE_SIZE,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                        -1,
                        0,
                    )
                };
                if got.cast() != start {
                    return 3;
                }
                drop(owned.take());
                // SAFETY: must still be mapped and writable.
                unsafe { start.write_volatile(7) };
                0
            });
            assert_eq!(status, 0, "{kind}");
        }
    });
}

#[test]
fn a_bare_clone_is_a_fork_child_too() {
    succeeds("a_bare_clone_is_a_fork_child_too", "", || {
        let region = region(TrackerKind::Pt, 2);
        // SAFETY: as fork, without the handlers of libc.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0, 0, 0) };
        if pid == 0 {
            let told = matches!(
                region.begin(),
                Err(CycleError::Session(SessionError::ForkChild))
            );
            // SAFETY: leaves at once.
            unsafe { libc::_exit(i32::from(!told)) };
        }
        let mut status = 0;
        // SAFETY: fills the status.
        unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
        assert_eq!(status, 0);
    });
}

#[test]
fn probing_disturbs_nobody() {
    static CHILDREN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn on_child(_signal: i32) {
        CHILDREN.fetch_add(1, Ordering::Relaxed);
    }
    succeeds("probing_disturbs_nobody", "", || {
        let handler: extern "C" fn(i32) = on_child;
        // SAFETY: an async-signal-safe handler; none for SIGSEGV.
        unsafe { libc::signal(libc::SIGCHLD, handler as usize) };
        let answers: Vec<bool> = std::thread::scope(|scope| {
            let probe = || hvckpt::sys::gate::capabilities().is_ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(probe)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_eq!(CHILDREN.load(Ordering::Relaxed), 0, "no SIGCHLD");
        // SAFETY: no status is wanted.
        let left = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        assert_eq!(left, -1, "no child is left");
    });
}

/// Writes where nothing is mapped.
fn crash() {
    // SAFETY: none; this is meant to be fatal.
    unsafe { std::ptr::without_provenance_mut::<u8>(0x10).write_volatile(1) };
}

fn with_pt() -> hvckpt::Region {
    let region = region(TrackerKind::Pt, 4);
    let transaction = region.begin().unwrap();
    region.atomics_u8()[0].store(1, Ordering::Relaxed);
    assert_eq!(transaction.commit().unwrap().to_vec(), [0]);
    region
}

#[test]
fn without_a_handler_a_crash_is_a_crash() {
    const NAME: &str = "without_a_handler_a_crash_is_a_crash";
    let dies = |case: &str, body: &dyn Fn()| {
        if let Some(status) = alone(NAME, case, || {
            // Not even the one of Rust's runtime.
            // SAFETY: the default action.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            let _region = with_pt();
            body();
        }) {
            assert_eq!(status.signal(), Some(libc::SIGSEGV), "{case}: {status}");
        }
    };
    dies("unmapped", &crash);
    dies("read-only", &|| {
        // SAFETY: none; a write to code is meant to be fatal.
        unsafe { (crash as fn() as usize as *mut u8).write_volatile(1) };
    });
    dies("thread", &|| std::thread::spawn(crash).join().unwrap());
    dies("sent", &|| {
        // SAFETY: sends a signal to this thread.
        unsafe { libc::raise(libc::SIGSEGV) };
        std::thread::sleep(std::time::Duration::from_secs(5));
    });
}

#[test]
fn an_ignored_signal_stays_ignored() {
    succeeds("an_ignored_signal_stays_ignored", "", || {
        // SAFETY: ignoring is safe, and so is sending.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_IGN) };
        let _region = with_pt();
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGSEGV) };
    });
}

#[test]
fn rust_still_reports_stack_overflows() {
    const NAME: &str = "rust_still_reports_stack_overflows";
    #[allow(unconditional_recursion)]
    fn deep(n: u64) -> u64 {
        let pad = std::hint::black_box([n; 64]);
        deep(n + 1) + pad[3]
    }
    if let Some(status) = alone(NAME, "", || {
        let _region = with_pt();
        std::hint::black_box(deep(0));
    }) {
        assert_eq!(
            status.signal(),
            Some(libc::SIGABRT),
            "Rust's handler aborts: {status}"
        );
    }
}

static SEEN: AtomicUsize = AtomicUsize::new(0);
static SEEN_CODE: AtomicI32 = AtomicI32::new(0);
static USR1_BLOCKED: AtomicI32 = AtomicI32::new(-1);
static SEGV_BLOCKED: AtomicI32 = AtomicI32::new(-1);
static ON_STACK: AtomicUsize = AtomicUsize::new(0);

/// The application's handler: steps over `mov byte ptr [rax], cl` (2 bytes).
extern "C" fn application(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's arguments, handed through.
    unsafe {
        SEEN.store((*info).si_addr() as usize, Ordering::SeqCst);
        SEEN_CODE.store((*info).si_code, Ordering::SeqCst);
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
        let blocked = |signal| libc::sigismember(&raw const mask, signal);
        USR1_BLOCKED.store(blocked(libc::SIGUSR1), Ordering::SeqCst);
        SEGV_BLOCKED.store(blocked(libc::SIGSEGV), Ordering::SeqCst);
        ON_STACK.store((&raw const mask) as usize, Ordering::SeqCst);
        (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
}

fn install(flags: i32) {
    // SAFETY: the handler is as its flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = application;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        libc::sigaddset(&raw mut action.sa_mask, libc::SIGUSR1);
        assert_eq!(
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

fn faulting_store(address: usize) {
    // SAFETY: the handler steps over the store.
    unsafe {
        std::arch::asm!("mov byte ptr [rax], cl", in("rax") address, in("cl") 1_u8);
    }
}

#[test]
fn the_applications_handler_gets_its_own_faults() {
    succeeds("the_applications_handler_gets_its_own_faults", "", || {
        install(0);
        let region = with_pt();
        for _ in 0..3 {
            faulting_store(0x5550);
            assert_eq!(SEEN.swap(0, Ordering::SeqCst), 0x5550);
            assert_eq!(SEEN_CODE.load(Ordering::SeqCst), 1, "SEGV_MAPERR");
            assert_eq!(USR1_BLOCKED.load(Ordering::SeqCst), 1, "its mask");
            assert_eq!(
                SEGV_BLOCKED.load(Ordering::SeqCst),
                1,
                "and the signal itself"
            );
        }
        // The mask is as before.
        let mut mask: libc::sigset_t = unsafe_zeroed();
        // SAFETY: fills the mask.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
        // SAFETY: the mask is initialised.
        let blocked = unsafe { libc::sigismember(&raw const mask, libc::SIGUSR1) };
        assert_eq!(blocked, 0);
        // Ours do not reach it.
        let transaction = region.begin().unwrap();
        region.atomics_u8()[PAGE_SIZE].store(1, Ordering::Relaxed);
        assert_eq!(SEEN.load(Ordering::SeqCst), 0);
        assert_eq!(transaction.commit().unwrap().to_vec(), [1]);
        // Nor do writes beside a region reach us.
        let bytes = 6 * PAGE_SIZE;
        // SAFETY: a fresh mapping, of which the pages in the middle are given
        // to a region; the first and the last become read-only.
        let (start, inside) = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) as usize;
            for page in [0, 5] {
                let at = (start + page * PAGE_SIZE) as *mut libc::c_void;
                assert_eq!(libc::mprotect(at, PAGE_SIZE, libc::PROT_READ), 0);
            }
            let inside = (start + PAGE_SIZE) as *mut u8;
            (start, hvckpt::RawPages::from_raw(inside, 4 * PAGE_SIZE))
        };
        let region = hvckpt::register_cda()
            .adopt(inside)
            .tracker(TrackerKind::Pt);
        let region = region.register().unwrap();
        let transaction = region.begin().unwrap();
        for beside in [start + PAGE_SIZE - 1, start + 5 * PAGE_SIZE] {
            faulting_store(beside);
            assert_eq!(SEEN.swap(0, Ordering::SeqCst), beside);
            assert_eq!(SEEN_CODE.load(Ordering::SeqCst), 2, "SEGV_ACCERR");
        }
        assert!(transaction.commit().unwrap().is_empty());
    });
}

fn unsafe_zeroed() -> libc::sigset_t {
    // SAFETY: a set of signals may be all zero.
    unsafe { std::mem::zeroed() }
}

#[test]
fn no_defer_and_reset_are_honoured() {
    const NAME: &str = "no_defer_and_reset_are_honoured";
    succeeds(NAME, "nodefer", || {
        install(libc::SA_NODEFER);
        let _region = with_pt();
        faulting_store(0x5550);
        assert_eq!(SEGV_BLOCKED.load(Ordering::SeqCst), 0);
    });
    if let Some(status) = alone(NAME, "resethand", || {
        install(libc::SA_RESETHAND);
        let _region = with_pt();
        faulting_store(0x5550);
        if SEEN.load(Ordering::SeqCst) == 0x5550 {
            // The second one is fatal.
            faulting_store(0x5550);
        }
    }) {
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    }
}

#[test]
fn works_on_an_alternate_stack() {
    succeeds("works_on_an_alternate_stack", "", || {
        // What the kernel itself calls enough; its frame alone takes most.
        // SAFETY: asks for a number.
        let least = unsafe { libc::getauxval(51) } as usize;
        let size = least.max(libc::MINSIGSTKSZ) + 2048;
        let stack = vec![0_u8; size].leak();
        let stack_at = stack.as_ptr() as usize;
        install(libc::SA_ONSTACK);
        let region = with_pt();
        // SAFETY: the stack is never freed.
        unsafe {
            let new = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: size,
            };
            assert_eq!(libc::sigaltstack(&raw const new, std::ptr::null_mut()), 0);
        }
        let transaction = region.begin().unwrap();
        (0..4).for_each(|page| region.atomics_u8()[page * PAGE_SIZE].store(2, Ordering::Relaxed));
        assert_eq!(transaction.commit().unwrap().len(), 4);
        faulting_store(0x5550);
        let at = ON_STACK.load(Ordering::SeqCst);
        assert!(
            (stack_at..stack_at + size).contains(&at),
            "the handler ran elsewhere"
        );
    });
}

#[test]
fn a_replaced_handler_is_noticed() {
    succeeds("a_replaced_handler_is_noticed", "", || {
        let region = with_pt();
        install(0);
        assert!(matches!(
            region.begin(),
            Err(CycleError::HandlerReplaced(_))
        ));
        let new = builder(TrackerKind::Pt, 1).register();
        let handler = |error: &RegionError| {
            matches!(
                error,
                RegionError::Tracker {
                    source: TrackError::Handler(_),
                    ..
                }
            )
        };
        assert!(new.is_err_and(|error| handler(&error)));
    });
}

#[test]
fn faults_in_many_threads_and_handlers() {
    succeeds("faults_in_many_threads_and_handlers", "", || {
        install(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for pages in 1..60 {
                        let region = region(TrackerKind::Pt, pages);
                        let transaction = region.begin().unwrap();
                        region.atomics_u8()[(pages - 1) * PAGE_SIZE].store(1, Ordering::Relaxed);
                        faulting_store(0x5550);
                        assert_eq!(transaction.commit().unwrap().to_vec(), [pages - 1]);
                    }
                });
            }
        });
    });
}

#[test]
fn a_missing_right_is_named() {
    const NAME: &str = "a_missing_right_is_named";
    // Where there is a gate the errors of the key follow, elsewhere there is
    // nothing to authorise; the request itself can be made anywhere.
    succeeds(NAME, "", || {
        // SAFETY: this process has one thread.
        unsafe {
            std::env::remove_var(hvckpt::ENV_KEY);
            std::env::remove_var(hvckpt::ENV_POLICY);
        }
        let attach = hvckpt::Attach::new;
        assert!(matches!(attach().request_token(), Err(AttachError::NoKey)));
        let missing = attach().key("/nonexistent/key");
        assert!(matches!(
            missing.clone().request_token(),
            Err(AttachError::NoPolicy)
        ));
        let missing = missing.policy("127.0.0.1:1").request_token();
        assert!(
            matches!(missing, Err(AttachError::KeyUnreadable { .. })),
            "{missing:?}"
        );
        let path = scratch("bad-key");
        std::fs::write(&path, "not a key\n").unwrap();
        let bad = |mode| {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            attach().key(&path).policy("127.0.0.1:1").request_token()
        };
        let open = bad(0o644);
        assert!(
            matches!(open, Err(AttachError::KeyOpen { mode: 0o644, .. })),
            "{open:?}"
        );
        let bad = bad(0o600);
        assert!(
            matches!(bad, Err(AttachError::KeyInvalid { .. })),
            "{bad:?}"
        );
        std::fs::remove_file(path).unwrap();
        assert_eq!(attach().token([5; 16]).request_token().unwrap(), [5; 16]);
        assert!(
            !format!("{:?}", attach().token([0x5a; 16])).contains("90"),
            "never shown"
        );
    });
}

#[test]
fn an_unreachable_daemon_is_named() {
    succeeds("an_unreachable_daemon_is_named", "", || {
        let secret = hvckpt_proto::Secret::generate().unwrap();
        let server = hvckpt_proto::Secret::generate().unwrap().public_key();
        let key = hvckpt_proto::Key::new("test", 7, server, secret).unwrap();
        let path = scratch("good-key");
        std::fs::write(&path, key.to_text().as_bytes()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        let attach = hvckpt::Attach::new().key(&path);
        let attach = attach.timeout(std::time::Duration::from_secs(60));
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        // Nobody else can take the port while we have it.
        let port = silent.local_addr().unwrap().port();
        let closed = attach.clone().policy(format!("127.0.0.2:{port}"));
        let closed = closed.request_token();
        assert!(
            matches!(closed, Err(AttachError::Unreachable { .. })),
            "{closed:?}"
        );
        // One who listens and says nothing.
        let short = std::time::Duration::from_millis(500);
        let mute = attach.clone().timeout(short).policy(address);
        let mute = mute.request_token();
        assert!(
            matches!(mute, Err(AttachError::Unreachable { .. })),
            "{mute:?}"
        );
        // One who speaks something else.
        let babbler = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = babbler.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = babbler.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"220 smtp ready\r\n").unwrap();
            // A reset could overtake what was said.
            let _all = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let babble = attach.policy(address).request_token();
        assert!(
            matches!(babble, Err(AttachError::Protocol { .. })),
            "{babble:?}"
        );
        thread.join().unwrap();
        std::fs::remove_file(path).unwrap();
    });
}

/// More runs of pages than the kernel allows a process: the list degrades to
/// "all", and is never wrong.  While there are so many, nothing else of the
/// process can be mapped.
#[test]
fn more_runs_than_the_kernel_allows() {
    const NAME: &str = "more_runs_than_the_kernel_allows";
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 200_000 {
        common::skipped(NAME, "vm.max_map_count is large");
        return;
    }
    succeeds(NAME, "", || {
        let write = |region: &Region, page: usize| {
            region.atomics_u8()[page * PAGE_SIZE].fetch_add(1, Ordering::Relaxed);
        };
        let pages = limit + 2000;
        let build = builder(TrackerKind::Pt, pages).lock(hvckpt::LockPolicy::Never);
        let region = build.register().unwrap();
        let mut transaction = region.begin().unwrap();
        (0..pages).step_by(2).for_each(|page| write(&region, page));
        let dirty = transaction.commit_and_continue().unwrap();
        assert!(dirty.lost(), "so many runs cannot be told apart");
        assert_eq!(dirty.len(), pages);
        drop(dirty);
        // And it recovers.
        write(&region, 77);
        assert_eq!(transaction.commit_and_continue().unwrap().to_vec(), [77]);
        write(&region, 78);
        assert_eq!(transaction.commit().unwrap().to_vec(), [78]);
    });
}
