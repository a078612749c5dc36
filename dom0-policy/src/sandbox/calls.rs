// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls the daemon makes, found by running everything it does
//! under strace, with the libraries of Debian 12 and 13; x86-64, like Xen's
//! PV guests.
//!
//! Three filters, of which the kernel takes the strictest verdict:
//!
//! 1. What only an intruder would call ends the process at once, and loudly
//!    (SIGSYS): a policy daemon that was taken over must not go on.
//! 2. What is not listed fails with EPERM. A new version of libc may make a
//!    harmless call nobody has thought of; killing the daemon for it would
//!    take authorisation from every guest of the host.
//! 3. `clone3` does not exist (ENOSYS): libc then uses `clone`, whose flags a
//!    filter can see.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::Layer;

/// Allowed whatever the arguments: files by descriptor, memory, threads,
/// time. What may be opened is landlock's business.
const ALLOWED: &[i64] = &[
    // Files. The libraries use the old names, Rust the new ones.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_flock,
    // Connections that are there already, or come in.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory. mmap and mprotect: see below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    // Threads.
    libc::SYS_futex,
    // Refused by a filter of its own: see the top.
    libc::SYS_clone3,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Who and when.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_time,
];

/// End the process.
const DEADLY: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_reboot,
    libc::SYS_setuid,
    libc::SYS_setresuid,
    libc::SYS_capset,
];

/// `IOCTL_PRIVCMD_HYPERCALL` of Linux: the only one of the hypercall device
/// that libxencall makes. Those which map other domains' memory fail.
const PRIVCMD_HYPERCALL: u64 = 0x0030_5000;

/// Puts the filters up for this thread and those it will start.
///
/// # Errors
/// A sentence: the kernel has seccomp but does not take the filters.
pub(super) fn restrict() -> Result<Layer, String> {
    // The last one allows no further filter.
    let filters = [deadly(), no_clone3(), allowed()];
    for filter in filters {
        let filter = filter.map_err(|e| format!("cannot make a seccomp filter: {e}"))?;
        match apply_filter(&filter) {
            Ok(()) => {}
            // A kernel without seccomp, or without filters.
            Err(Error::Prctl(e) | Error::Seccomp(e))
                if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(Layer::Missing);
            }
            Err(e) => return Err(format!("cannot set a seccomp filter: {e}")),
        }
    }
    Ok(Layer::Full)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    matched: SeccompAction,
    other: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, other, matched, TargetArch::x86_64)?.try_into()
}

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn deadly() -> Result<BpfProgram, BackendError> {
    filter(
        always(DEADLY),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )
}

fn no_clone3() -> Result<BpfProgram, BackendError> {
    filter(
        always(&[libc::SYS_clone3]),
        errno(libc::ENOSYS),
        SeccompAction::Allow,
    )
}

fn allowed() -> Result<BpfProgram, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let exec = u64::from(libc::PROT_EXEC.unsigned_abs());
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    // Call, argument, test.
    let tested: &[(i64, u8, SeccompCmpOp, u64)] = &[
        // xenstored, and systemd.
        (
            libc::SYS_socket,
            0,
            Eq,
            u64::from(libc::AF_UNIX.unsigned_abs()),
        ),
        // No new code. Libraries are loaded before.
        (libc::SYS_mmap, 2, MaskedEq(exec), 0),
        (libc::SYS_mprotect, 2, MaskedEq(exec), 0),
        // Threads, no processes.
        (libc::SYS_clone, 0, MaskedEq(thread), thread),
        (
            libc::SYS_prctl,
            0,
            Eq,
            u64::from(libc::PR_SET_NAME.unsigned_abs()),
        ),
        // abort(3): to this process, whose number does not change.
        (libc::SYS_tgkill, 0, Eq, u64::from(std::process::id())),
        (libc::SYS_ioctl, 1, Eq, PRIVCMD_HYPERCALL),
        (libc::SYS_ioctl, 1, Eq, libc::FIONBIO),
        (libc::SYS_ioctl, 1, Eq, libc::FIOCLEX),
    ];
    let mut rules = always(ALLOWED);
    for (call, argument, test, value) in tested {
        let condition =
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, test.clone(), *value)?;
        rules
            .entry(*call)
            .or_default()
            .push(SeccompRule::new(vec![condition])?);
    }
    filter(rules, SeccompAction::Allow, errno(libc::EPERM))
}
