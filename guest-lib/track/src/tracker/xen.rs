// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers inside the hypervisor: what crosses the gate, and the log.
//!
//! One code for every mode; the mode is a number in the registration.

use core::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use super::stores::{MAX_STORES, Stores};
use super::{
    Count, Counters, CycleError, Log, Request, SimGate, TrackError, Tracker, TrackerKind, Written,
};
use crate::attach::{self, Attach, AttachError, SessionRef};
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::abi::{self, Mode, cda_log, cda_query, cda_register};
use hvckpt_sys::fork;
use hvckpt_sys::memory::Mapping;
use hvckpt_sys::session::OpError;

/// The tracker; see the module.
#[derive(Debug)]
pub(super) struct XenTracker {
    kind: TrackerKind,
    session: Arc<Current>,
    /// How to get another session, should this one end.
    origin: Origin,
    shape: cda_register,
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

/// The session as it is now, also for those who count.
#[derive(Debug)]
struct Current(Mutex<Arc<SessionRef>>);

impl Current {
    fn get(&self) -> Arc<SessionRef> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, session: SessionRef) {
        let session = Arc::new(session);
        // The old one is dropped without the lock: that is an operation.
        let _old = core::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            session,
        );
    }
}

/// Where sessions come from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The hypervisor, with this right, for this mode.
    Gate(Attach, Mode),
    /// A simulated one.
    Sim(SimGate),
}

impl Origin {
    fn open(&self) -> Result<SessionRef, AttachError> {
        match self {
            Self::Gate(attach, mode) => attach::current(attach, *mode),
            Self::Sim(gate) => attach::simulated(gate.clone()),
        }
    }

    fn renew(&self, old: &SessionRef, ended: bool) -> Result<SessionRef, AttachError> {
        match self {
            Self::Gate(attach, mode) => attach::renewed(attach, *mode, old, ended),
            Self::Sim(_) => self.open(),
        }
    }
}

/// Registers a range; its number.
fn register(session: &SessionRef, shape: &cda_register) -> Result<u64, TrackError> {
    let at = ptr::from_ref(shape) as u64;
    let pages = usize::try_from(shape.pages).unwrap_or(usize::MAX);
    // SAFETY: the structure lives during the call; memory and log stay mapped
    // until drop unregisters them.
    let range = unsafe { session.op(abi::CDA_OP_REGISTER, [at, 0]) };
    range.map_err(|error| refusal(&error, pages))
}

impl XenTracker {
    pub(super) fn new(
        kind: TrackerKind,
        mode: Mode,
        origin: Origin,
        request: &Request<'_>,
    ) -> Result<Self, TrackError> {
        let session = origin.open()?;
        let memory = request.memory;
        let words = mode == Mode::EmulXen;
        let capacity = request.log_entries + if words { 2 * MAX_STORES } else { 0 };
        let wanted = size_of::<cda_log>() + capacity * size_of::<u64>();
        let mut log = Mapping::new(wanted.next_multiple_of(PAGE_SIZE))?;
        log.prepare()?;
        log.lock(request.lock)?;
        let shape = cda_register {
            size: abi::size_field::<cda_register>(),
            mode: mode.number(),
            start: memory.start() as u64,
            pages: memory.pages() as u64,
            log: log.start() as u64,
            log_bytes: wanted as u64,
            ..cda_register::default()
        };
        let range = register(&session, &shape)?;
        Ok(Self {
            kind,
            session: Arc::new(Current(Mutex::new(Arc::new(session)))),
            origin,
            shape,
            range,
            log,
            capacity,
            stores: words.then(|| Stores::new(memory.pages())),
            count: 0,
            lost: false,
        })
    }

    /// Attaches anew if the hypervisor does not know the session any more, as
    /// after a resume of the domain elsewhere; false if it does.
    fn renew(&mut self, error: OpError) -> Result<bool, CycleError> {
        let ended = match error {
            OpError::Errno(libc::ENOENT) => true,
            // With several regions the first to notice attaches, and the
            // cookie of the others is stale.
            OpError::Errno(libc::EACCES) => false,
            _ => return Ok(false),
        };
        let failed = |error: TrackError| CycleError::Attach(Box::new(error));
        let session = match self.origin.renew(&self.session.get(), ended) {
            // It is there after all, or somebody else's.
            Err(AttachError::ForeignSession) => return Ok(false),
            other => other.map_err(|error| failed(error.into()))?,
        };
        self.range = register(&session, &self.shape).map_err(failed)?;
        self.session.set(session);
        Ok(true)
    }

    fn open_cycle(&self) -> Result<u64, OpError> {
        match self.cycle(abi::CDA_OP_BEGIN) {
            Err(OpError::Errno(libc::EBUSY)) => {
                // A cycle whose end failed; the caller knows its list is lost.
                let _closed = self.cycle(abi::CDA_OP_END);
                self.cycle(abi::CDA_OP_BEGIN)
            }
            other => other,
        }
    }

    fn cycle(&self, op: u64) -> Result<u64, OpError> {
        // SAFETY: plain numbers; the log stays mapped until drop.
        unsafe { self.session.get().op(op, [self.range, 0]) }
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
        let mut result = self.open_cycle();
        if let Err(error) = result
            && self.renew(error)?
        {
            result = self.open_cycle();
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

impl Count for Current {
    fn counters(&self) -> Counters {
        let mut query = cda_query {
            size: abi::size_field::<cda_query>(),
            ..cda_query::default()
        };
        let at = ptr::from_mut(&mut query) as u64;
        // SAFETY: the structure lives during the call.
        match unsafe { self.get().op(abi::CDA_OP_QUERY, [at, 0]) } {
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
            let _gone = unsafe {
                let session = self.session.get();
                session.op(abi::CDA_OP_UNREGISTER, [self.range, 0])
            };
        }
    }
}
