// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TCP side: accepts, limits, authenticates, and hands over to
//! [`Policy`].

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use hvckpt_wire::listen::{self, Door, Pass, Refused, Stop, Visit};
use hvckpt_wire::{Acceptor, ServerError};

use crate::policy::Policy;

/// Serves until told to stop. Connections still open then go on in threads of
/// their own, until their deadline at most; `door` tells how many.
pub fn serve(
    listener: &TcpListener,
    acceptor: &Acceptor,
    policy: &Arc<Policy>,
    door: &Door,
    stop: &Stop,
) {
    let unnamed = SocketAddr::from(([0; 4], 0));
    let deadline = door.limits().deadline;
    listen::serve(
        listener,
        door,
        stop,
        |visit| {
            let peer = visit.peer.unwrap_or(unnamed);
            let until = visit.since + deadline;
            start(visit, peer, acceptor, policy, until);
        },
        |peer, why| {
            // Closing says enough; the client library retries.
            let reason = match why {
                Refused::Full => LIMIT,
                Refused::Deadline => "deadline",
            };
            policy.note_connection(peer.unwrap_or(unnamed), reason, "");
        },
        |error| crate::log(format_args!("cannot accept a connection: {error}")),
    );
}

/// In the audit log.
const LIMIT: &str = "connection-limit";

fn start(
    visit: Visit<TcpStream>,
    peer: SocketAddr,
    acceptor: &Acceptor,
    policy: &Arc<Policy>,
    deadline: Instant,
) {
    let (acceptor, policy) = (acceptor.clone(), Arc::clone(policy));
    let spawned = thread::Builder::new()
        .name("request".to_owned())
        .spawn(move || {
            let Visit { stream, pass, .. } = visit;
            // A defect met by one request must not stop the daemon, nor go by
            // unseen: the panic's message is on standard error already.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                handle(stream, peer, &pass, &acceptor, &policy, deadline)
            }));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(_)) if pass.is_lost() => policy.note_connection(peer, LIMIT, ""),
                Ok(Err(error)) => {
                    let (reason, detail) = describe(&error);
                    policy.note_connection(peer, reason, &detail);
                }
                Err(_) => policy.note_connection(peer, "internal-error", "a thread panicked"),
            }
        });
    if let Err(error) = spawned {
        crate::log(format_args!("cannot start a thread: {error}"));
    }
}

fn handle(
    tcp: TcpStream,
    from: SocketAddr,
    pass: &Pass,
    acceptor: &Acceptor,
    policy: &Policy,
    deadline: Instant,
) -> Result<(), ServerError> {
    let mut peer = acceptor.accept(tcp, deadline)?;
    // Anybody can prove a key of his own making. Who has no place any more
    // sees a closed connection below.
    if policy.knows(peer.key()) && !pass.prove(&peer.key().0) {
        return Err(ServerError::Io(io::ErrorKind::ConnectionAborted.into()));
    }
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
