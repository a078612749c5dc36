// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection of a primary, at its backup.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hvckpt_wire::Channel;
use hvckpt_wire::listen::Pass;

use super::incoming::Incoming;
use super::link::Conversation;
use super::server::Inner;
use super::state::Hello;
use super::vault::{Attached, Vault};
use super::wire::{Message, Reason, Refusal, WireError};

/// A key which was taken back is noticed after this time.
const RECHECK: Duration = Duration::from_secs(1);

/// Why a conversation ended.
enum Ended {
    /// The other side went, or was too slow.
    Link(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match WireError::of(&error) {
            Some(wire) => Self::Refused(Refusal::new(Reason::Malformed, wire.to_string())),
            None => Self::Link(error),
        }
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Serves until the primary goes, or is refused.
pub(crate) fn serve(
    inner: &Inner,
    channel: Channel,
    pass: &Pass,
    peer: SocketAddr,
    connection: u64,
) {
    let key = channel.peer_key();
    let mut link = Conversation::new(channel, inner.options.handshake);
    let vault = match inner.vaults.by_key(key) {
        Ok(Some(vault)) => vault,
        Ok(None) => {
            let text = format!("{key} is not known here; see hvckpt backup key add");
            return link.end(&Message::Refusal(Refusal::new(Reason::UnknownKey, text)));
        }
        Err(error) => {
            let text = hvckpt_sys::explain(&error);
            inner.say(&format!("{peer}: {text}"));
            return link.end(&Message::Refusal(Refusal::new(Reason::Unavailable, text)));
        }
    };
    let name = &vault.name;
    if !pass.prove(&key.0) {
        let text = "as many primaries as --max-connections allows are connected";
        return link.end(&Message::Refusal(Refusal::new(Reason::Unavailable, text)));
    }
    let ended = converse(inner, &vault, &mut link, peer, connection);
    vault.detach(connection);
    match ended {
        Ended::Refused(refusal) => {
            inner.say(&format!("{name} ({peer}): refused, {refusal}"));
            link.end(&Message::Refusal(refusal));
        }
        Ended::Link(error) => {
            let why = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it closed".to_owned(),
                io::ErrorKind::TimedOut => "it was silent or too slow".to_owned(),
                _ => error.to_string(),
            };
            inner.say(&format!("{name} ({peer}): gone, {why}"));
        }
    }
}

fn converse(
    inner: &Inner,
    vault: &Arc<Vault>,
    link: &mut Conversation,
    peer: SocketAddr,
    connection: u64,
) -> Ended {
    let attached = match greet(inner, vault, link, peer, connection) {
        Ok(attached) => attached,
        Err(ended) => return ended,
    };
    let (name, have, epoch) = (&vault.name, attached.have, attached.epoch);
    inner.say(&format!(
        "{name} ({peer}): connected in epoch {epoch}, version {have} is here"
    ));
    let mut incoming = Incoming::new(have, attached.areas);
    let mut checked = Instant::now();
    link.set_timeout(inner.options.idle);
    loop {
        if let Err(ended) = step(vault, link, &mut incoming, connection) {
            return ended;
        }
        if checked.elapsed() > RECHECK {
            checked = Instant::now();
            if !vault.path.join("key").is_file() {
                return Refusal::new(Reason::UnknownKey, "the key was taken back").into();
            }
        }
    }
}

fn greet(
    inner: &Inner,
    vault: &Vault,
    link: &mut Conversation,
    peer: SocketAddr,
    connection: u64,
) -> Result<Attached, Ended> {
    let Message::Hello {
        store,
        epoch,
        newest,
    } = link.get()?
    else {
        return Err(Refusal::new(Reason::Malformed, "no greeting").into());
    };
    let hello = Hello {
        store,
        epoch,
        newest,
    };
    let from = (connection, link.handle(), peer);
    let attached = vault.attach(&hello, from, &inner.options.store)?;
    link.put(&Message::Welcome {
        epoch: attached.epoch,
        have: attached.have,
        time: attached.time,
    })?;
    link.flush()?;
    Ok(attached)
}

fn step(
    vault: &Vault,
    link: &mut Conversation,
    incoming: &mut Incoming,
    connection: u64,
) -> Result<(), Ended> {
    match link.get()? {
        Message::Begin(begin) => incoming.begin(begin, &vault.path)?,
        Message::Pages(records) => {
            vault.with(connection, |shared| incoming.pages(&records, shared))?;
        }
        Message::End { version, pages } => incoming.end(version, pages)?,
        Message::Sync { newest } => {
            let version = vault.apply(connection, &incoming.take()?, newest)?;
            link.put(&Message::Ack { version })?;
            link.flush()?;
        }
        _ => return Err(Refusal::new(Reason::Malformed, "not for a backup").into()),
    }
    Ok(())
}
