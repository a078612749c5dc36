// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transactions of durable regions.

use super::{Durability, Durable, DurableError, Published};

/// An open transaction on a durable region.  Dropping it, also by a panic,
/// aborts it.
#[derive(Debug)]
#[must_use = "dropping a transaction aborts it"]
pub struct DurableTransaction<'d> {
    pub(super) durable: &'d Durable,
    pub(super) open: bool,
}

impl<'d> DurableTransaction<'d> {
    /// The region.
    #[must_use]
    pub fn durable(&self) -> &'d Durable {
        self.durable
    }

    /// Commits what was written to the region, also since the transaction
    /// before; the number of the version.  A write which races with this call
    /// belongs to this transaction or to the next.
    ///
    /// Other threads may see what was committed, and begin the next
    /// transaction, while this call waits for the disk or for the backup.
    ///
    /// # Errors
    /// See [`StoreError`].  The transaction was aborted, but for
    /// [`StoreError::Unreplicated`]: then memory and store have it, and whether
    /// the backup has is not known.  With an aborted transaction go those of
    /// other threads which were built on it; the memory is as it was before
    /// once none of them is open.
    ///
    /// [`StoreError`]: crate::store::StoreError
    /// [`StoreError::Unreplicated`]: crate::store::StoreError::Unreplicated
    pub fn commit(mut self, durability: Durability) -> Result<u64, DurableError> {
        self.open = false;
        self.durable.commit(durability)
    }

    /// Commits in memory, and waits for nothing.
    pub(crate) fn publish(mut self, durability: Durability) -> Result<Published, DurableError> {
        self.open = false;
        self.durable.publish(durability)
    }

    /// Brings back exactly the bytes which were committed last.
    pub fn abort(self) {}
}

impl Drop for DurableTransaction<'_> {
    fn drop(&mut self) {
        if self.open {
            self.durable.abort();
        }
    }
}
