// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop which accepts.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Door, Entry, Origin, Pass, WAITING, WAITING_PER_PEER};

/// Wait after an error which would else make a loop spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepted in one go; then others have their turn.
const BATCH: usize = 64;

/// Something to accept connections from.
pub trait Source: AsFd {
    /// Its connections.
    type Stream: AsFd;

    /// Neither this nor its connections shall block.
    ///
    /// # Errors
    /// Those of the operating system.
    fn prepare(&self) -> io::Result<()>;

    /// The next one; a local one has no address.
    ///
    /// # Errors
    /// Those of the operating system.
    fn next(&self) -> io::Result<(Self::Stream, Option<SocketAddr>)>;

    /// What closes a connection, from another thread.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    fn closer(stream: &Self::Stream) -> io::Result<Box<dyn Fn() + Send>>;
}

impl Source for TcpListener {
    type Stream = TcpStream;

    fn prepare(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }

    fn next(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, peer) = self.accept()?;
        stream.set_nonblocking(false)?;
        Ok((stream, Some(peer)))
    }

    fn closer(stream: &TcpStream) -> io::Result<Box<dyn Fn() + Send>> {
        let handle = stream.try_clone()?;
        Ok(Box::new(move || drop(handle.shutdown(Shutdown::Both))))
    }
}

impl Source for UnixListener {
    type Stream = UnixStream;

    fn prepare(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }

    fn next(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = self.accept()?;
        stream.set_nonblocking(false)?;
        Ok((stream, None))
    }

    fn closer(stream: &UnixStream) -> io::Result<Box<dyn Fn() + Send>> {
        let handle = stream.try_clone()?;
        Ok(Box::new(move || drop(handle.shutdown(Shutdown::Both))))
    }
}

/// A connection which has a place.
#[derive(Debug)]
pub struct Visit<S> {
    /// The connection.
    pub stream: S,
    /// From where, unless it is local.
    pub peer: Option<SocketAddr>,
    /// When it came.
    pub since: Instant,
    /// Its place.
    pub pass: Pass,
}

/// Why a connection was closed before it had a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait.
    Full,
    /// It waited in vain until the deadline.
    Deadline,
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
        let _ = self.0.shutdown(Shutdown::Both);
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
    #[must_use]
    pub fn pause(&self, time: Duration) -> bool {
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
}

struct Waiting<S> {
    number: u64,
    stream: S,
    peer: Option<SocketAddr>,
    origin: Origin,
    since: Instant,
    /// It has said something, or hung up.
    spoke: bool,
}

/// Accepts until told to stop. `start` gets each connection that has a place,
/// and must not block; `refused` hears of those that will never have one, and
/// of errors.
pub fn serve<L: Source>(
    listener: &L,
    door: &Door,
    stop: &Stop,
    mut start: impl FnMut(Visit<L::Stream>),
    mut refused: impl FnMut(Option<SocketAddr>, Refused),
    mut trouble: impl FnMut(&io::Error),
) {
    // A connection which went away between poll and accept must not block.
    let _ = listener.prepare();
    let mut waiting: VecDeque<Waiting<L::Stream>> = VecDeque::new();
    let mut number = 0;
    loop {
        trim(&mut waiting, &mut refused);
        let next = settle::<L>(door, &mut waiting, &mut start, &mut refused);
        let Some(come) = wait(listener, door, stop, &mut waiting, next) else {
            return;
        };
        for _ in 0..if come { BATCH } else { 0 } {
            match listener.next() {
                Ok((stream, peer)) => {
                    number += 1;
                    waiting.push_back(Waiting {
                        number,
                        stream,
                        peer,
                        origin: peer.map(|peer| peer.ip()).into(),
                        since: Instant::now(),
                        spoke: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // Out of descriptors, perhaps.
                    trouble(&error);
                    let silent = waiting.iter().position(|one| !one.spoke);
                    match silent.and_then(|at| waiting.remove(at)) {
                        Some(one) => refused(one.peer, Refused::Full),
                        None => door.relieve(),
                    }
                    if !stop.pause(PAUSE) {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

/// Lets in whom it can; the time after which there may be more to do.
fn settle<L: Source>(
    door: &Door,
    waiting: &mut VecDeque<Waiting<L::Stream>>,
    start: &mut impl FnMut(Visit<L::Stream>),
    refused: &mut impl FnMut(Option<SocketAddr>, Refused),
) -> Option<Duration> {
    let deadline = door.limits().deadline;
    let mut next: Option<Duration> = None;
    // (origin, spoke) for which there is no place now.
    let mut full = HashSet::new();
    for _ in 0..waiting.len() {
        let Some(one) = waiting.pop_front() else {
            break;
        };
        let waited = one.since.elapsed();
        if waited >= deadline {
            refused(one.peer, Refused::Deadline);
            continue;
        }
        let mut earlier = |time: Duration| next = Some(next.map_or(time, |n| n.min(time)));
        if !full.contains(&(one.origin, one.spoke)) {
            let close = || L::closer(&one.stream);
            match door.enter(one.number, one.origin, one.spoke, close) {
                Ok(Entry::Free(pass)) => {
                    start(Visit {
                        stream: one.stream,
                        peer: one.peer,
                        since: one.since,
                        pass,
                    });
                    continue;
                }
                Ok(Entry::After(time)) => earlier(time),
                Ok(Entry::Full) => {}
                // No descriptor for it: not in this round.
                Err(_) => earlier(PAUSE),
            }
            full.insert((one.origin, one.spoke));
        }
        earlier(deadline - waited);
        // In the order in which they came.
        waiting.push_back(one);
    }
    next
}

/// Waits for something to do; whether somebody has come, or None: the end.
fn wait<L: Source>(
    listener: &L,
    door: &Door,
    stop: &Stop,
    waiting: &mut VecDeque<Waiting<L::Stream>>,
    time: Option<Duration>,
) -> Option<bool> {
    let mut fds = vec![
        PollFd::from_borrowed_fd(stop.0.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(door.0.woken.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
    ];
    let silent = waiting.iter().filter(|one| !one.spoke);
    fds.extend(silent.map(|one| PollFd::from_borrowed_fd(one.stream.as_fd(), PollFlags::IN)));
    // A millisecond more than needed, rather than twice.
    let time = time.map(|time| time + Duration::from_millis(1));
    let timeout = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Some(false),
        Err(_) => {
            thread::sleep(PAUSE);
            return Some(false);
        }
    }
    let seen: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    if seen[0] {
        return None;
    }
    if seen[1] {
        door.woken();
    }
    let silent = waiting.iter_mut().filter(|one| !one.spoke);
    for (one, &spoke) in silent.zip(&seen[3..]) {
        one.spoke = spoke;
    }
    Some(seen[2])
}

/// When too many wait, of those of one address or of the one with the most: the
/// oldest goes which had the time to say something and did not, or else the
/// newest.
fn trim<S>(
    waiting: &mut VecDeque<Waiting<S>>,
    refused: &mut impl FnMut(Option<SocketAddr>, Refused),
) {
    let mut counts: HashMap<Origin, usize> = HashMap::new();
    for one in waiting.iter() {
        *counts.entry(one.origin).or_default() += 1;
    }
    loop {
        let most = counts.iter().max_by_key(|(_, count)| **count);
        let Some((&origin, &most)) = most else { return };
        if waiting.len() <= WAITING && most <= WAITING_PER_PEER {
            return;
        }
        let silent =
            |one: &Waiting<S>| one.origin == origin && !one.spoke && one.since.elapsed() >= PAUSE;
        let oldest = waiting.iter().position(silent);
        let at = oldest.or_else(|| waiting.iter().rposition(|one| one.origin == origin));
        if let Some(one) = at.and_then(|at| waiting.remove(at)) {
            refused(one.peer, Refused::Full);
        }
        counts.insert(origin, most - 1);
    }
}
