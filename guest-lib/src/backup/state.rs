// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a backup remembers of a primary, and whom it lets in.

use std::path::Path;

use super::files;
use super::server::BackupError;
use super::wire::{Reason, Refusal};

const STATE: &str = "hvckpt-backup-state 1";

/// What is remembered of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) epoch: u64,
    /// Id of the primary's store; `None` before the first contact.
    pub(crate) store: Option<[u8; 16]>,
    pub(crate) promoted: bool,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then(|| number.to_be_bytes())
}

impl State {
    pub(crate) fn read(path: &Path) -> Result<Self, BackupError> {
        let damaged = || BackupError::State(path.to_owned());
        let text = files::read(path).map_err(|error| BackupError::io("read", path, error))?;
        let Some(text) = text else {
            return Ok(Self::default());
        };
        let [epoch, store, promoted] =
            files::fields(&text, STATE, ["epoch", "store", "promoted"]).ok_or_else(damaged)?;
        let store = match store.as_str() {
            "none" => None,
            id => Some(unhex(id).ok_or_else(damaged)?),
        };
        Ok(Self {
            epoch: epoch.parse().map_err(|_| damaged())?,
            store,
            promoted: match promoted.as_str() {
                "yes" => true,
                "no" => false,
                _ => return Err(damaged()),
            },
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), BackupError> {
        let store = self.store.map_or("none".to_owned(), |id| hex(&id));
        let promoted = if self.promoted { "yes" } else { "no" };
        let epoch = self.epoch;
        let text = format!("{STATE}\nepoch: {epoch}\nstore: {store}\npromoted: {promoted}\n");
        hvckpt_files::replace(path, text.as_bytes())
            .map_err(|error| BackupError::io("write", path, error))
    }
}

/// What a primary says first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) store: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) newest: u64,
}

pub(crate) fn stale(epoch: u64) -> Refusal {
    let text = format!("another instance was promoted; epoch {epoch} has begun");
    let mut refusal = Refusal::new(Reason::Stale, text);
    refusal.epoch = epoch;
    refusal
}

/// The state with which a primary is let in.
pub(crate) fn admit(state: &State, hello: &Hello) -> Result<State, Refusal> {
    // Zero: it never had contact, or fell between the answer and writing it
    // down.
    let older = hello.epoch < state.epoch && hello.epoch > 0;
    if older || (state.promoted && hello.epoch < state.epoch) {
        return Err(stale(state.epoch));
    }
    if state.promoted {
        let text = "what is kept under this key was promoted; move it away (hvckpt backup \
                    promote --to) before this backup is used again";
        return Err(Refusal::new(Reason::Promoted, text));
    }
    let other = state.store.is_some_and(|store| store != hello.store);
    if other && hello.epoch <= state.epoch {
        let text = "another store is kept under this key; give each primary its own key";
        return Err(Refusal::new(Reason::OtherStore, text));
    }
    Ok(State {
        epoch: state.epoch.max(hello.epoch).max(1),
        store: Some(hello.store),
        promoted: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 16] = [1; 16];
    const OTHER: [u8; 16] = [2; 16];

    fn answer(state: State, store: [u8; 16], epoch: u64) -> Result<u64, Reason> {
        let newest = 9;
        let hello = Hello {
            store,
            epoch,
            newest,
        };
        admit(&state, &hello)
            .map(|state| state.epoch)
            .map_err(|refusal| refusal.reason)
    }

    #[test]
    fn who_is_let_in() {
        let store = Some(OURS);
        let kept = |epoch, promoted| State {
            epoch,
            store,
            promoted,
        };
        let fresh = State::default();
        assert_eq!(answer(fresh, OURS, 0), Ok(1));
        assert_eq!(answer(fresh, OURS, 4), Ok(4));
        // It fell before it wrote down what it was granted.
        assert_eq!(answer(kept(1, false), OURS, 0), Ok(1));
        assert_eq!(answer(kept(2, false), OURS, 2), Ok(2));
        assert_eq!(answer(kept(2, false), OURS, 1), Err(Reason::Stale));
        assert_eq!(answer(kept(2, true), OURS, 1), Err(Reason::Stale));
        assert_eq!(answer(kept(2, true), OURS, 0), Err(Reason::Stale));
        assert_eq!(answer(kept(2, true), OURS, 2), Err(Reason::Promoted));
        assert_eq!(answer(kept(2, false), OTHER, 2), Err(Reason::OtherStore));
        assert_eq!(answer(kept(2, false), OTHER, 0), Err(Reason::OtherStore));
        // The line of a later promotion.
        assert_eq!(answer(kept(2, false), OTHER, 3), Ok(3));
        // Promoted and moved away.
        let moved = State {
            store: None,
            ..kept(2, false)
        };
        assert_eq!(answer(moved, OURS, 1), Err(Reason::Stale));
        assert_eq!(answer(moved, OTHER, 2), Ok(2));
    }

    #[test]
    fn a_state_comes_back_and_a_damaged_one_is_refused() {
        let path = std::env::temp_dir().join(format!("hvckpt-state-{}", std::process::id()));
        let state = State {
            epoch: 7,
            store: Some(OURS),
            promoted: true,
        };
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in ["", "promoted: maybe", "epoch: -1", "more: lines"] {
            let damaged = match bad.split_once(':') {
                Some((name, _)) if text.contains(name) => text
                    .lines()
                    .map(|line| if line.starts_with(name) { bad } else { line })
                    .collect::<Vec<_>>()
                    .join("\n"),
                Some(_) => format!("{text}{bad}\n"),
                None => String::new(),
            };
            std::fs::write(&path, damaged).unwrap();
            assert!(State::read(&path).is_err(), "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
