// SPDX-License-Identifier: MIT OR Apache-2.0
//! What opening a store makes, cleans up, and takes back.

use std::sync::Arc;

use super::backend::{Backend, Hold};
use super::error::StoreError;
use super::format;
use super::key::StoreKeyError;

/// What opening a store made so far.
pub(crate) struct Made {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) lock: Option<Arc<dyn Hold>>,
    pub(crate) store: bool,
}

impl Made {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            lock: None,
            store: false,
        }
    }

    /// Removes it, as far as that is possible: the error at hand says more.
    pub(crate) fn undo(&self) {
        if self.store {
            let ours = |name: &String| {
                let name = name.strip_suffix(".tmp").unwrap_or(name);
                name == format::ACK_FILE || format::image_number(name).is_some()
            };
            let names = self.backend.list().unwrap_or_default();
            for name in names.iter().filter(|name| ours(name)) {
                let _left = self.backend.remove(name);
            }
        }
        if let Some(lock) = &self.lock {
            lock.discard();
        }
        self.backend.discard();
    }
}

/// Sixteen bytes which no other store has.
pub(crate) fn store_id() -> Result<[u8; 16], StoreError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(StoreKeyError::Random)?;
    Ok(id)
}
