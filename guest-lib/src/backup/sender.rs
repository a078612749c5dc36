// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread which sends a store's versions to its backup.
//!
//! Versions go in groups: as many as have gathered are sent, then one
//! acknowledgement is awaited, which stands for one sync at the backup.  While
//! that is under way the next group gathers.

use std::io;
use std::time::Duration;

use hvckpt_wire::Channel;

use super::link::Conversation;
use super::replica::{Replica, Work};
use super::wire::{ALPN, Begin, GROUP_PAGES, Message, PAGES_TARGET, Reason, Refusal};
use hvckpt_store::StoreError;
use hvckpt_store::follow::{Feed, Follower};
use hvckpt_store::parts::RecordWriter;
use hvckpt_store::parts::{Batch, Change};
use hvckpt_sys::explain;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A large version may take the backup a second for this many pages.
const BULK_PAGES_A_SECOND: u64 = 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot reach the backup at {0}: {1}; is `hvckpt backup serve` running there?")]
    Connect(String, String),
    #[error(
        "the server at {0} is not the backup this key belongs to; check the address, or get a new key file"
    )]
    NotAuthentic(String, #[source] hvckpt_wire::Error),
    #[error("the connection to the backup broke")]
    Link(#[from] io::Error),
    #[error("the backup refuses")]
    Refused(Refusal),
    #[error("the backup breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("the store cannot be read for the backup")]
    Store(#[from] StoreError),
}

/// The protocol's words, which do not know whose server it is, are left out
/// where the kernel's say enough.
fn cause(error: &hvckpt_wire::Error) -> String {
    use hvckpt_wire::Error::{Closed, Connect, Timeout};
    match error {
        Connect(error) | Closed(error) => error.to_string(),
        Timeout => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

/// Sends until the store is dropped.
pub(super) fn replicate(replica: &Replica, feed: Feed<'_>) {
    let mut retry = RETRY_FIRST;
    let mut base = false;
    let mut written = false;
    loop {
        let before = replica.status();
        let ended = match Sender::connect(feed, replica, base, &mut written) {
            Ok(mut sender) => {
                base = false;
                sender.run()
            }
            Err(ended) => Err(ended),
        };
        let Err(ended) = ended else { return };
        let refusal = match &ended {
            Ended::Refused(refusal) => Some(refusal),
            _ => None,
        };
        if let Some(refusal) = refusal {
            base |= refusal.reason == Reason::Mismatch;
            if refusal.reason == Reason::Stale {
                let kept = feed.replaced(refusal.epoch);
                let said = kept.err().map(|error| explain(&error)).unwrap_or_default();
                replica.down(format!("{refusal} {said}"), Some(refusal));
                return;
            }
        }
        let trouble = match &ended {
            Ended::Refused(refusal) => refusal.to_string(),
            other => explain(other),
        };
        replica.down(trouble, refusal);
        // A backup which lets in and then refuses is not asked more often.
        let after = replica.status();
        let fresh = after.connections > before.connections
            && (refusal.is_none() || after.acknowledged > before.acknowledged);
        retry = if fresh { RETRY_FIRST } else { retry * 2 };
        retry = retry.min(RETRY_MOST);
        if !replica.pause(retry) {
            return;
        }
    }
}

struct Sender<'s> {
    feed: Feed<'s>,
    replica: &'s Replica,
    link: Conversation,
    records: RecordWriter,
    /// The backup has it.
    sent: u64,
    /// Nothing the backup has may be built upon.
    base: bool,
}

impl<'s> Sender<'s> {
    /// `written`: this process wrote down the epoch which was granted.
    fn connect(
        feed: Feed<'s>,
        replica: &'s Replica,
        base: bool,
        written: &mut bool,
    ) -> Result<Self, Ended> {
        let options = &replica.options;
        let channel = Channel::connect(&*options.address, &options.key, ALPN, options.timeout)
            .map_err(|error| {
                let address = options.address.clone();
                match error {
                    hvckpt_wire::Error::ServerNotAuthentic(_) => {
                        Ended::NotAuthentic(address, error)
                    }
                    _ => Ended::Connect(address, cause(&error)),
                }
            })?;
        let mut link = Conversation::new(channel, options.timeout);
        let epoch = replica.status().epoch;
        link.put(&Message::Hello {
            store: feed.id(),
            epoch,
            newest: feed.newest(),
        })?;
        link.flush()?;
        let (granted, have, time) = match link.get()? {
            Message::Welcome { epoch, have, time } => (epoch, have, time),
            Message::Refusal(refusal) => return Err(Ended::Refused(refusal)),
            _ => return Err(Ended::Protocol("no answer to the greeting")),
        };
        if granted < epoch || granted == 0 {
            return Err(Ended::Protocol("an epoch which is over"));
        }
        // What an earlier process wrote may not have reached the disk.
        if granted != epoch || !*written {
            feed.granted(granted)?;
            *written = true;
        }
        let newest = feed.newest();
        let mut sender = Self {
            feed,
            replica,
            link,
            records: feed.records(),
            sent: have,
            base,
        };
        if have > newest {
            return Err(Ended::Refused(ahead(have, newest)));
        }
        if have > 0
            && let Some(own) = feed.time_of(have)
            && own != time
        {
            // Numbers are the same, contents are not: a copy of this store
            // was here before.
            let mut refusal = Refusal::new(
                Reason::OtherStore,
                format!("version {have} of the backup is not the one of this store"),
            );
            refusal.version = have;
            return Err(Ended::Refused(refusal));
        }
        replica.connected(sender.link.handle(), granted, have);
        sender.link.set_timeout(options.timeout);
        Ok(sender)
    }

    /// Returns when the store is dropped.
    fn run(&mut self) -> Result<(), Ended> {
        let ended = self.stream();
        if let Err(Ended::Link(_)) = &ended {
            // A backup which refuses closes: perhaps it said why.
            self.link.set_timeout(LAST_WORDS);
            if let Ok(Message::Refusal(refusal)) = self.link.get() {
                return Err(Ended::Refused(refusal));
            }
        }
        ended
    }

    fn stream(&mut self) -> Result<(), Ended> {
        loop {
            match self.replica.work(self.sent) {
                Work::Stop => return Ok(()),
                Work::Idle => self.sync(self.sent, 0)?,
                Work::CatchUp => self.catch_up()?,
                Work::Group(_) if self.base => self.catch_up()?,
                Work::Group(group) => self.group(&group)?,
            }
        }
    }

    fn group(&mut self, group: &[(u64, std::sync::Arc<Batch>)]) -> Result<(), Ended> {
        let mut pages = 0;
        let mut last = self.sent;
        for (previous, batch) in group {
            let bulk = batch.changes.len() > GROUP_PAGES;
            self.link.put(&Message::Begin(Begin {
                version: batch.version,
                previous: *previous,
                time: batch.time,
                base: false,
                bulk,
                areas: None,
            }))?;
            let changed: Vec<_> = batch.changes.iter().filter(|c| !c.same()).collect();
            let count = changed.len() as u64;
            self.pages(changed.into_iter().map(Ok), !bulk)?;
            let version = batch.version;
            self.link.put(&Message::End {
                version,
                pages: count,
            })?;
            pages += count;
            last = version;
        }
        self.sync(last, pages)
    }

    /// Sends what the backup misses, as one version.
    fn catch_up(&mut self) -> Result<(), Ended> {
        let since = Some(self.sent).filter(|&sent| sent > 0 && !self.base);
        let delta = self.feed.delta(since)?;
        let version = delta.version;
        if version.number <= self.sent {
            // A base needs a version of its own: with the next commit.
            return if self.replica.pause(RETRY_FIRST) {
                self.sync(self.sent, 0)
            } else {
                Ok(())
            };
        }
        self.replica.catching_up(delta.base);
        let pages = delta.pages() as u64;
        self.link.put(&Message::Begin(Begin {
            version: version.number,
            previous: self.sent,
            time: version.time,
            base: delta.base,
            bulk: true,
            areas: Some(delta.areas.clone()),
        }))?;
        self.pages(delta.changes(), false)?;
        self.link.put(&Message::End {
            version: version.number,
            pages,
        })?;
        self.sync(version.number, pages)?;
        self.base = false;
        Ok(())
    }

    fn pages<C: core::borrow::Borrow<Change>>(
        &mut self,
        changes: impl Iterator<Item = Result<C, StoreError>>,
        differences: bool,
    ) -> Result<(), Ended> {
        let mut records = Vec::new();
        for change in changes {
            self.records
                .write(&mut records, change?.borrow(), differences);
            if records.len() >= PAGES_TARGET {
                self.link
                    .put(&Message::Pages(core::mem::take(&mut records)))?;
            }
        }
        if !records.is_empty() {
            self.link.put(&Message::Pages(records))?;
        }
        Ok(())
    }

    /// Waits until the backup has everything up to a version.
    fn sync(&mut self, version: u64, pages: u64) -> Result<(), Ended> {
        let newest = self.feed.newest();
        let timeout = self.replica.options.timeout;
        let sent = self
            .link
            .put(&Message::Sync { newest })
            .and_then(|()| self.link.flush());
        // Who refuses closes: its reason may be there all the same.
        self.replica.sent(self.link.take_written());
        let longer = Duration::from_secs(pages / BULK_PAGES_A_SECOND);
        self.link.set_timeout(timeout.saturating_add(longer));
        let answer = self.link.get();
        self.link.set_timeout(timeout);
        match (answer, sent) {
            (Ok(Message::Refusal(refusal)), _) => Err(Ended::Refused(refusal)),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error.into()),
            (Ok(Message::Ack { version: had }), Ok(())) if had == version => {
                self.sent = version;
                self.replica.acknowledged(version);
                Ok(())
            }
            (Ok(_), Ok(())) => Err(Ended::Protocol("acknowledges what was not sent")),
        }
    }
}

fn ahead(have: u64, newest: u64) -> Refusal {
    let mut refusal = Refusal::new(
        Reason::Ahead,
        format!(
            "the backup has version {have}, this store {newest} only: promote the backup, or \
             bring the store up to date from it"
        ),
    );
    refusal.version = have;
    refusal
}
