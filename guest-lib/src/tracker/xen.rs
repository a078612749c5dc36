//! Trackers inside the hypervisor: what crosses the gate, and the log.
//!
//! One code for every mode; the mode is a number in the registration.

use core::ptr;
use std::sync::Arc;

use super::stores::{MAX_STORES, Stores};
use super::{Count, Counters, CycleError, Log, Request, TrackError, Tracker, TrackerKind, Written};
use crate::abi::{self, cda_log, cda_query, cda_register};
use crate::attach::SessionRef;
use crate::sys::PAGE_SIZE;
use crate::sys::fork;
use crate::sys::memory::Mapping;
use crate::sys::session::OpError;

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct XenTracker {
    kind: TrackerKind,
    session: Arc<SessionRef>,
    range: u64,
    /// Header and entries; the hypervisor writes here during end, commit and
    /// peek only.
    log: Mapping,
    capacity: usize,
    /// The log taken apart, where it has more than pages.
    stores: Option<Stores>,
    /// Entries of the last list.
    count: usize,
    lost: bool,
}

impl XenTracker {
    pub(super) fn new(
        kind: TrackerKind,
        mode: u32,
        session: SessionRef,
        request: &Request<'_>,
    ) -> Result<Self, TrackError> {
        let memory = request.memory;
        let words = mode == abi::CDA_MODE_EMULXEN;
        let capacity = request.log_entries + if words { 2 * MAX_STORES } else { 0 };
        let wanted = size_of::<cda_log>() + capacity * size_of::<u64>();
        let mut log = Mapping::new(wanted.next_multiple_of(PAGE_SIZE))?;
        log.prepare()?;
        log.lock(request.lock)?;
        let register = cda_register {
            size: abi::size_field::<cda_register>(),
            mode,
            start: memory.start() as u64,
            pages: memory.pages() as u64,
            log: log.start() as u64,
            log_bytes: wanted as u64,
            ..cda_register::default()
        };
        let at = ptr::from_ref(&register) as u64;
        // SAFETY: the structure lives during the call; memory and log stay
        // mapped until drop unregisters them.
        let range = unsafe { session.op(abi::CDA_OP_REGISTER, [at, 0]) }
            .map_err(|error| refusal(&error, memory.pages()))?;
        Ok(Self {
            kind,
            session: Arc::new(session),
            range,
            log,
            capacity,
            stores: words.then(|| Stores::new(memory.pages())),
            count: 0,
            lost: false,
        })
    }

    fn cycle(&self, op: u64) -> Result<u64, OpError> {
        // SAFETY: plain numbers; the log stays mapped until drop.
        unsafe { self.session.op(op, [self.range, 0]) }
    }

    /// The entries of the last list as they are in the log.
    fn units(&self) -> &[u64] {
        let first = (self.log.start() + size_of::<cda_log>()) as *const u64;
        // SAFETY: `count` is within the log (checked), and nobody writes to
        // it until the next list, which needs `self` exclusively.
        unsafe { core::slice::from_raw_parts(first, self.count) }
    }

    /// An operation which writes the log.
    fn list(&mut self, op: u64) -> Result<(), CycleError> {
        self.lost = true;
        self.count = 0;
        let result = match self.cycle(op) {
            Err(OpError::Errno(libc::EFAULT)) => {
                // The kernel took log pages away (they are not locked).
                (0..self.log.pages()).for_each(|page| self.log.touch(page));
                match self.cycle(op) {
                    // The first attempt closed the cycle: its list is lost.
                    Err(OpError::Errno(libc::ENODATA)) if op == abi::CDA_OP_END => return Ok(()),
                    again => again,
                }
            }
            first => first,
        };
        if result.is_err() && op == abi::CDA_OP_COMMIT {
            // Errors close the cycle for our caller; so they must below.
            let _closed = self.cycle(abi::CDA_OP_END);
        }
        let result = result.map_err(cycle_error)?;
        // SAFETY: the header is at the start of the log, written by the call
        // above at the latest.
        let header = unsafe { ptr::read_volatile(self.log.start() as *const cda_log) };
        let count = usize::try_from(header.count).unwrap_or(usize::MAX);
        self.lost = result & abi::CDA_RESULT_LOST != 0
            || header.flags & abi::CDA_LOG_LOST != 0
            || header.entry_bytes != 8
            || count > self.capacity;
        self.count = if self.lost { 0 } else { count };
        if let Some(mut stores) = self.stores.take() {
            self.lost |= !stores.fill(self.units());
            self.stores = Some(stores);
        }
        Ok(())
    }
}

fn refusal(error: &OpError, pages: usize) -> TrackError {
    match *error {
        OpError::Errno(libc::EEXIST) => TrackError::Overlap,
        OpError::Errno(libc::EPERM) => TrackError::Mode,
        OpError::Errno(libc::ENOSPC | libc::ENOMEM) => TrackError::Quota { pages },
        OpError::Errno(libc::EINVAL) => TrackError::Shape,
        ref other => TrackError::Session(other.session()),
    }
}

fn cycle_error(error: OpError) -> CycleError {
    match error {
        OpError::Errno(libc::EBUSY) => CycleError::AlreadyOpen,
        OpError::Errno(libc::ENODATA) => CycleError::NotOpen,
        OpError::Errno(libc::EFAULT) => CycleError::LogFault,
        OpError::Errno(libc::EPERM) => CycleError::Untrackable,
        other => CycleError::Session(other.session()),
    }
}

impl Tracker for XenTracker {
    fn kind(&self) -> TrackerKind {
        self.kind
    }

    fn begin(&mut self) -> Result<(), CycleError> {
        let mut result = self.cycle(abi::CDA_OP_BEGIN);
        if let Err(OpError::Errno(libc::EBUSY)) = result {
            // A cycle whose end failed; the caller knows its list is lost.
            let _closed = self.cycle(abi::CDA_OP_END);
            result = self.cycle(abi::CDA_OP_BEGIN);
        }
        result.map(drop).map_err(cycle_error)
    }

    fn end(&mut self) -> Result<(), CycleError> {
        self.list(abi::CDA_OP_END)
    }

    fn commit(&mut self) -> Result<(), CycleError> {
        self.list(abi::CDA_OP_COMMIT)
    }

    fn peek(&mut self) -> Result<(), CycleError> {
        self.list(abi::CDA_OP_PEEK)
    }

    fn log(&self) -> Log<'_> {
        Log {
            entries: match &self.stores {
                Some(_) if self.lost => &[],
                Some(stores) => &stores.pages,
                None => self.units(),
            },
            lost: self.lost,
        }
    }

    fn written(&self) -> Option<&[Written]> {
        let stores = self.stores.as_ref()?;
        (!self.lost).then_some(&stores.written)
    }

    fn count(&self) -> Arc<dyn Count> {
        Arc::clone(&self.session) as Arc<dyn Count>
    }
}

impl Count for SessionRef {
    fn counters(&self) -> Counters {
        let mut query = cda_query {
            size: abi::size_field::<cda_query>(),
            ..cda_query::default()
        };
        let at = ptr::from_mut(&mut query) as u64;
        // SAFETY: the structure lives during the call.
        match unsafe { self.op(abi::CDA_OP_QUERY, [at, 0]) } {
            Ok(_) => Counters {
                faults: Some(query.counters.faults_fixed),
                emulated: Some(query.counters.emulated),
                hypervisor: Some(query.counters),
            },
            Err(_) => Counters::default(),
        }
    }
}

impl Drop for XenTracker {
    fn drop(&mut self) {
        if !fork::is_child() {
            // SAFETY: a plain number.  If the session has ended the range is
            // gone already.
            let _gone = unsafe { self.session.op(abi::CDA_OP_UNREGISTER, [self.range, 0]) };
        }
    }
}
