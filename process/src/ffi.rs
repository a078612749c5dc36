// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface: `include/hvckpt-process.h` says what it promises.

use crate::agent;
use crate::error::Error;
use crate::rollback;
use crate::speculate;
use core::ffi::c_long;

fn code(result: Result<u64, Error>) -> c_long {
    match result {
        Ok(n) => c_long::try_from(n).unwrap_or(c_long::MAX),
        Err(Error::NotStopped { .. }) => -c_long::from(libc::ETIMEDOUT),
        Err(Error::TooManyThreads) => -c_long::from(libc::E2BIG),
        Err(Error::Refused { errno, .. }) => -c_long::from(errno.max(1)),
        Err(Error::LeaderEnded) => -c_long::from(libc::EOPNOTSUPP),
        Err(Error::Nested) => -c_long::from(libc::EBUSY),
        Err(Error::PreimageGone) => -c_long::from(libc::ESRCH),
        Err(Error::MappingLost { .. }) => -c_long::from(libc::ENOENT),
        Err(Error::HoldsMutex { .. }) => -c_long::from(libc::EOWNERDEAD),
        Err(Error::TooManyExcluded) => -c_long::from(libc::ENOSPC),
        Err(Error::NotPages { .. } | Error::BadSignal | Error::SignalInUse { .. }) => {
            -c_long::from(libc::EINVAL)
        }
        Err(Error::NotSpeculating | Error::NotInitialised | Error::ForeignProc) => {
            -c_long::from(libc::EINVAL)
        }
    }
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_speculate() -> c_long {
    // SAFETY: made for the agent; the caller accepts what the header says.
    code(agent::init(0).and_then(|_| unsafe { agent::ask(rollback::begin, 0) }))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_speculation_commit() -> c_long {
    // SAFETY: made for the agent.
    code(unsafe { agent::ask(rollback::commit, 0) })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn hvckpt_speculation_abort() -> c_long {
    // SAFETY: made for the agent; who began accepted it.
    code(unsafe { agent::ask(rollback::abort, 0) })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvckpt_exclude(address: usize, length: usize) -> c_long {
    // SAFETY: the caller accepts what the header says.
    code(unsafe { speculate::exclude(address, length) }.map(|()| 0))
}
