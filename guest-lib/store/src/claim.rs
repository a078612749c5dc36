// SPDX-License-Identifier: MIT OR Apache-2.0
//! One durable region per area.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Names of areas which are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<HashSet<String>>>);

/// An area which nobody else opens meanwhile.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    name: String,
}

impl Claims {
    pub(crate) fn claim(&self, name: &str) -> Option<Claim> {
        let fresh = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned());
        fresh.then(|| Claim {
            claims: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}
