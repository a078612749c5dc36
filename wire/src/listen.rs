// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is let in: one way of accepting connections for every server here.
//!
//! Whoever has proven who he is ([`Pass::prove`]) is never kept out, nor put
//! out, by those who have not. Those share the places that are left:
//!
//! - Free places are given at once, [`Limits::per_peer`] to one address.
//! - When there is none, connections wait without a thread; who has said
//!   something takes turns with those inside: the oldest of them is closed, of
//!   the same address or of the one with the most, once it has had [`TURN`].
//!   Who says nothing waits, and costs nobody a turn.
//! - Whoever waits longer than [`Limits::deadline`] is closed.
//!
//! Threads, descriptors and memory are bounded: [`Limits::threads`],
//! [`Limits::descriptors`].

mod serve;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use serve::{Refused, Source, Stop, Stopper, Visit, serve, stopper};

/// What a connection has at least to prove itself, whoever waits. A handshake
/// takes two round trips and a few milliseconds.
pub const TURN: Duration = Duration::from_millis(250);

/// Places beside those which may all be taken by proven peers; as many again
/// may be on their way out.
const SPARE: usize = 32;
/// Connections which wait for a place.
const WAITING: usize = 512;
/// ... from one address.
const WAITING_PER_PEER: usize = 384;

/// How many connections, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of peers that have proven who they are, at a time. There are places for
    /// 32 others beside them.
    pub connections: usize,
    /// From one address (IPv6: from one /64) that have proven nothing yet.
    pub per_peer: usize,
    /// For a connection to wait; what it may take in all is for the server to
    /// say.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            per_peer: 32,
            deadline: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The most connections that have a thread at any time.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.connections.saturating_add(2 * SPARE)
    }

    /// The most descriptors that connections take.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.threads().saturating_mul(2).saturating_add(WAITING)
    }
}

/// Where a connection comes from, as far as places are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Local,
    V4([u8; 4]),
    /// Whoever has one address of a /64 has all of them.
    V6([u8; 8]),
}

impl From<Option<IpAddr>> for Origin {
    fn from(ip: Option<IpAddr>) -> Self {
        match ip.map(|ip| ip.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(ip)) => Self::V4(ip.octets()),
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

struct Place {
    number: u64,
    origin: Origin,
    since: Instant,
    who: Option<Vec<u8>>,
    /// It was closed in favour of another; its thread has not ended yet.
    dropped: bool,
    close: Box<dyn Fn() + Send>,
}

impl Place {
    fn drop_it(&mut self) {
        self.dropped = true;
        (self.close)();
    }
}

struct Shared {
    limits: Limits,
    places: Mutex<Vec<Place>>,
    /// Written to when a place becomes free.
    wake: UnixStream,
    woken: UnixStream,
}

/// The places of one server.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("limits", &self.0.limits)
            .field("count", &self.count())
            .finish()
    }
}

/// Whether there is a place.
enum Entry {
    Free(Pass),
    /// Not before this time has passed, or a place has become free.
    After(Duration),
    /// Not before a place has become free.
    Full,
}

impl Door {
    /// All places are free.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Self(Arc::new(Shared {
            limits,
            places: Mutex::default(),
            wake,
            woken,
        })))
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// Connections that have a [`Pass`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.places().len()
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        self.places().iter_mut().for_each(Place::drop_it);
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, taken from another connection if need be and if `insistent`.
    fn enter(
        &self,
        number: u64,
        origin: Origin,
        insistent: bool,
        close: impl FnOnce() -> io::Result<Box<dyn Fn() + Send>>,
    ) -> io::Result<Entry> {
        let limits = &self.0.limits;
        let mut places = self.places();
        if places.len() >= limits.threads() {
            return Ok(Entry::Full);
        }
        let mut active = 0;
        let mut unproven: HashMap<Origin, usize> = HashMap::new();
        for place in places.iter().filter(|place| !place.dropped) {
            active += 1;
            if place.who.is_none() {
                *unproven.entry(place.origin).or_default() += 1;
            }
        }
        let mine = unproven.get(&origin).copied().unwrap_or(0);
        let most = unproven.into_iter().max_by_key(|(_, count)| *count);
        let from = if mine >= limits.per_peer {
            Some(origin)
        } else if active >= limits.connections.saturating_add(SPARE) {
            // Of two with as many, the one who comes gives way to himself.
            most.map(|(other, count)| if mine >= count { origin } else { other })
        } else {
            None
        };
        let now = Instant::now();
        if let Some(from) = from {
            let theirs =
                |place: &&mut Place| !place.dropped && place.who.is_none() && place.origin == from;
            let oldest = places.iter_mut().filter(theirs).min_by_key(|p| p.since);
            let Some(oldest) = oldest.filter(|_| insistent) else {
                return Ok(Entry::Full);
            };
            let had = now.saturating_duration_since(oldest.since);
            if had < TURN {
                return Ok(Entry::After(TURN - had));
            }
            oldest.drop_it();
        }
        places.push(Place {
            number,
            origin,
            since: now,
            who: None,
            dropped: false,
            close: close()?,
        });
        Ok(Entry::Free(Pass {
            door: self.clone(),
            number,
        }))
    }

    /// Closes the oldest connection that has proven nothing and has had its
    /// turn.
    fn relieve(&self) {
        let mut places = self.places();
        let idle = places
            .iter_mut()
            .filter(|place| !place.dropped && place.who.is_none() && place.since.elapsed() >= TURN);
        if let Some(oldest) = idle.min_by_key(|place| place.since) {
            oldest.drop_it();
        }
    }

    fn wake(&self) {
        // Full: it is being woken.
        let _ = (&self.0.wake).write(&[0]);
    }

    /// Takes what [`Self::wake`] wrote.
    fn woken(&self) {
        while matches!((&self.0.woken).read(&mut [0; 64]), Ok(1..)) {}
    }
}

/// One connection that is open. It counts until this is dropped.
#[derive(Debug)]
pub struct Pass {
    door: Door,
    number: u64,
}

impl Pass {
    /// From now on nobody who has proven less can have the place. Call it for
    /// peers that are known only: anybody can make a key. False if the place
    /// is lost: to others, before this call, or because all are proven. Peers
    /// with several connections then lose their oldest.
    #[must_use]
    pub fn prove(&self, who: &[u8]) -> bool {
        let mut places = self.door.places();
        let mut proven: HashMap<&[u8], usize> = HashMap::new();
        for place in places.iter() {
            match &place.who {
                _ if place.number == self.number && place.dropped => return false,
                Some(name) if !place.dropped && place.number != self.number => {
                    *proven.entry(name).or_default() += 1;
                }
                _ => {}
            }
        }
        if proven.values().sum::<usize>() >= self.door.0.limits.connections {
            let mine = proven.get(who).copied().unwrap_or(0);
            let most = proven.iter().max_by_key(|(_, count)| **count);
            let from = match most {
                Some((&name, &count)) if count > mine + 1 => name.to_vec(),
                _ if mine > 0 => who.to_vec(),
                _ => return false,
            };
            let theirs = |place: &&mut Place| {
                !place.dropped && place.number != self.number && place.who.as_deref() == Some(&from)
            };
            let oldest = places.iter_mut().filter(theirs).min_by_key(|p| p.since);
            oldest.into_iter().for_each(Place::drop_it);
        }
        let own = places.iter_mut().find(|p| p.number == self.number);
        own.into_iter().for_each(|p| p.who = Some(who.to_vec()));
        drop(places);
        self.door.wake();
        true
    }

    /// Whether it was closed in favour of another.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let places = self.door.places();
        places
            .iter()
            .any(|place| place.number == self.number && place.dropped)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.door
            .places()
            .retain(|place| place.number != self.number);
        self.door.wake();
    }
}

#[cfg(test)]
mod tests;
