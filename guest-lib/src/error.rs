// SPDX-License-Identifier: MIT OR Apache-2.0
//! One error for those who do not want to tell them apart.

use crate::arena::ArenaError;
use crate::store::{DurableError, StoreError};
use hvckpt_track::AttachError;
use hvckpt_track::CycleError;
use hvckpt_track::RegionError;

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
