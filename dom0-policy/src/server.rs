//! The TCP side: accepts, limits, authenticates, and hands over to
//! [`Policy`].

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hvckpt_proto::server::{Acceptor, ServerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::limits::{Gate, Pass};
use crate::policy::Policy;

/// How many connections, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open at a time.
    pub connections: usize,
    /// Open at a time from one address.
    pub per_peer: usize,
    /// From accepting a connection to its end.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            per_peer: 16,
            deadline: Duration::from_secs(10),
        }
    }
}

/// Tells every loop to end, once.
#[derive(Debug)]
pub struct Stopper(UnixStream);

/// Where a loop sees that it shall end.
#[derive(Debug)]
pub struct Stop(UnixStream);

/// A pair of them.
///
/// # Errors
/// When the system has no more descriptors.
pub fn stopper() -> io::Result<(Stopper, Stop)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Stopper(ours), Stop(theirs)))
}

impl Stopper {
    /// Now. Every [`Stop`] sees the end of the stream.
    pub fn stop(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl Stop {
    /// Another one for another loop.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn another(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Waits for `time`: true; or until it is time to end: false.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return false,
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// Waits until `listener` has a connection: true; or until it is time to
    /// end: false.
    pub(crate) fn wait(&self, listener: &impl std::os::fd::AsFd) -> bool {
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN),
            ];
            if let Err(error) = poll(&mut fds, None) {
                if error != rustix::io::Errno::INTR {
                    thread::sleep(PAUSE);
                }
                continue;
            }
            if !fds[1].revents().is_empty() {
                return false;
            }
            return true;
        }
    }
}

/// Wait after an error which would else make a loop spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until told to stop. Connections still open then go on in threads of
/// their own, for [`Limits::deadline`] at most; `gate` tells how many.
pub fn serve(
    listener: &TcpListener,
    acceptor: &Acceptor,
    policy: &Arc<Policy>,
    limits: Limits,
    gate: &Gate,
    stop: &Stop,
) {
    // A connection which went away between poll and accept must not block.
    let _ = listener.set_nonblocking(true);
    while stop.wait(listener) {
        match listener.accept() {
            Ok((tcp, peer)) => match gate.enter(peer.ip()) {
                Some(pass) => start(tcp, peer, pass, acceptor, policy, limits.deadline),
                None => {
                    // Closing says enough; the client library retries.
                    drop(tcp);
                    policy.note_connection(peer, "connection-limit", "");
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                crate::log(format_args!("cannot accept a connection: {error}"));
                thread::sleep(PAUSE);
            }
        }
    }
}

fn start(
    tcp: TcpStream,
    peer: SocketAddr,
    pass: Pass,
    acceptor: &Acceptor,
    policy: &Arc<Policy>,
    deadline: Duration,
) {
    let (acceptor, policy) = (acceptor.clone(), Arc::clone(policy));
    let deadline = Instant::now() + deadline;
    let spawned = thread::Builder::new()
        .name("request".to_owned())
        .spawn(move || {
            let _pass = pass;
            // A defect met by one request must not stop the daemon, nor go by
            // unseen: the panic's message is on standard error already.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if let Err(error) = handle(tcp, peer, &acceptor, &policy, deadline) {
                    let (reason, detail) = describe(&error);
                    policy.note_connection(peer, reason, &detail);
                }
            }));
            if outcome.is_err() {
                policy.note_connection(peer, "internal-error", "a thread panicked");
            }
        });
    if let Err(error) = spawned {
        crate::log(format_args!("cannot start a thread: {error}"));
    }
}

fn handle(
    tcp: TcpStream,
    from: SocketAddr,
    acceptor: &Acceptor,
    policy: &Policy,
    deadline: Instant,
) -> Result<(), ServerError> {
    let mut peer = acceptor.accept(tcp, deadline)?;
    let request = match peer.read_request() {
        Ok(request) => Ok(request),
        Err(ServerError::Malformed(error)) => Err(error),
        Err(other) => return Err(other),
    };
    let answer = policy.decide(peer.key(), request, from);
    peer.answer(&answer)
}

fn describe(error: &ServerError) -> (&'static str, String) {
    match error {
        ServerError::Timeout => ("deadline", String::new()),
        ServerError::Handshake(detail) => ("handshake", detail.clone()),
        ServerError::Malformed(error) => ("malformed", error.to_string()),
        other => ("connection-lost", other.to_string()),
    }
}
