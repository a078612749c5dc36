//! One error for those who do not want to tell them apart.

use core::fmt::Write;

use crate::arena::ArenaError;
use crate::attach::AttachError;
use crate::region::RegionError;
use crate::store::{DurableError, StoreError};
use crate::tracker::CycleError;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A transaction cannot begin or end.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// There is no session.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A durable region.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// An arena.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// An error and everything behind it, in one line.
#[must_use]
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            // Writing to a string does not fail.
            let _infallible = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    text
}
