// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session: an authorised way through the gate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fork;
use super::gate::Transport;
use crate::abi::{self, cda_attach};

/// How long an operation is tried again while another thread is inside one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Yields of the processor before sleeping between attempts.
const YIELDS: u32 = 200;
const NAP: Duration = Duration::from_micros(100);

/// What may become of a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// This is a fork child of the process which opened the session.  The
    /// session is the parent's, and the regions are not in this process.
    #[error(
        "this process is a fork child; session and regions are its parent's (exec, or leave it to the parent)"
    )]
    ForkChild,
    /// The hypervisor knows no session of this process: the domain was
    /// resumed on another host, or somebody detached it.
    #[error(
        "the hypervisor knows no session of this process (resumed on another host?); count every page as dirty, the next begin attaches anew"
    )]
    NotAttached,
    /// The administrator revoked the key or ended the session.
    #[error(
        "the administrator ended the session or revoked the key; ask for a new one, or use another tracker"
    )]
    Revoked,
    /// The session belongs to other code in this process, which has attached
    /// anew since.
    #[error(
        "the session is not this library's any more: other code of the process ended it; use one copy of the library"
    )]
    Stolen,
    /// Another thread did not leave its operation for half a minute.
    #[error("another thread keeps the session busy; try again")]
    Busy,
    /// The hypervisor refuses operations from here: a 32-bit process, or a
    /// domain in log-dirty mode (being migrated).
    #[error(
        "the hypervisor refuses operations of this process (32-bit?) or, now, of this domain (being migrated?); try again later"
    )]
    Unsupported,
    /// Another answer, by errno.
    #[error("the hypervisor refused: {}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
}

/// A failed operation.
#[derive(Debug, Clone, Copy)]
pub enum OpError {
    /// It was not tried: this is a fork child of the session's process.
    ForkChild,
    /// The hypervisor's answer.
    Errno(i32),
}

impl OpError {
    /// As every operation may fail.
    #[must_use]
    pub fn session(self) -> SessionError {
        #[allow(clippy::cast_possible_truncation)] // 128
        const REVOKED: i32 = abi::CDA_EKEYREVOKED as i32;
        match self {
            Self::ForkChild => SessionError::ForkChild,
            // Between two looks at the sentinel nobody forks in this thread.
            Self::Errno(libc::ENOENT) => SessionError::NotAttached,
            Self::Errno(libc::EACCES) => SessionError::Stolen,
            Self::Errno(libc::EAGAIN) => SessionError::Busy,
            Self::Errno(libc::EOPNOTSUPP) => SessionError::Unsupported,
            Self::Errno(REVOKED) => SessionError::Revoked,
            Self::Errno(other) => SessionError::Errno(other),
        }
    }
}

/// An attached session; detached when the last user drops it.
#[derive(Debug)]
pub struct Session {
    transport: Arc<dyn Transport>,
    cookie: u64,
}

impl Session {
    /// Attaches.  The token is used up, whatever happens.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn attach(
        transport: Arc<dyn Transport>,
        token: [u8; abi::CDA_TOKEN_BYTES],
    ) -> Result<Self, OpError> {
        let mut attach = cda_attach {
            size: abi::size_field::<cda_attach>(),
            token,
            ..cda_attach::default()
        };
        let at = core::ptr::from_mut(&mut attach) as u64;
        // SAFETY: the structure lives during the call.
        unsafe { call(&*transport, abi::CDA_OP_ATTACH, [at, 0, 0, 0, 0]) }?;
        Ok(Self {
            transport,
            cookie: attach.cookie,
        })
    }

    /// One operation of this session, tried again while it is busy.
    ///
    /// # Errors
    /// The hypervisor's.
    ///
    /// # Safety
    /// As [`Transport::call`].
    #[inline]
    pub unsafe fn op(&self, op: u64, args: [u64; 2]) -> Result<u64, OpError> {
        // SAFETY: forwarded to the caller.
        unsafe { call(&*self.transport, op, [self.cookie, args[0], args[1], 0, 0]) }
    }
}

/// # Safety
/// As [`Transport::call`].
#[inline]
unsafe fn call(transport: &dyn Transport, op: u64, args: [u64; 5]) -> Result<u64, OpError> {
    let mut attempts = 0_u32;
    let mut since = None;
    loop {
        // A child must not act on the parent's session, nor on one which its
        // own address space may have by now.
        if fork::is_child() {
            return Err(OpError::ForkChild);
        }
        // SAFETY: forwarded to the caller.
        let result = unsafe { transport.call(op, args) };
        if let Ok(value) = u64::try_from(result) {
            return Ok(value);
        }
        let errno = i32::try_from(-result).unwrap_or(0);
        let started = *since.get_or_insert_with(Instant::now);
        if errno != libc::EAGAIN || started.elapsed() > PATIENCE {
            return Err(OpError::Errno(errno));
        }
        attempts += 1;
        if attempts < YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(NAP);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: no pointers.  In a fork child `op` does nothing; a session
        // which has ended needs nothing.
        let _gone = unsafe { self.op(abi::CDA_OP_DETACH, [0, 0]) };
    }
}
