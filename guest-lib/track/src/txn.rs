// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transactions.

use crate::dirty::DirtyPages;
use crate::region::Region;
use crate::tracker::CycleError;

/// An open transaction on a region.
///
/// Every thread of the process may write to the region meanwhile; a write
/// which races with the commit is in this list or in the next.  Writes while
/// no transaction is open are not tracked: no list need have them.  Where that
/// matters keep one open all the time, with [`Self::commit_and_continue`].
///
/// Dropping it ends the transaction and forgets its list.
#[derive(Debug)]
#[must_use = "dropping a transaction ends it and forgets what was dirtied"]
pub struct Transaction<'r> {
    region: &'r Region,
    open: bool,
}

impl<'r> Transaction<'r> {
    pub(crate) fn new(region: &'r Region) -> Self {
        Self { region, open: true }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &'r Region {
        self.region
    }

    /// Ends the transaction: the pages dirtied in it.
    ///
    /// # Errors
    /// See [`CycleError`].  The transaction is over, and every page must be
    /// counted as dirty.
    pub fn commit(mut self) -> Result<DirtyPages<'r>, CycleError> {
        self.open = false;
        self.region.end_cycle()
    }

    /// The pages dirtied so far; the transaction goes on with a clean slate,
    /// without a gap in which writes would be missed.  With a hypervisor
    /// tracker this is one crossing instead of two.
    ///
    /// # Errors
    /// See [`CycleError`].  No cycle is open then, every page must be counted
    /// as dirty, and this transaction can only be dropped.
    pub fn commit_and_continue(&mut self) -> Result<DirtyPages<'_>, CycleError> {
        self.region.commit_cycle()
    }

    /// The pages dirtied so far; the transaction goes on as if nothing had
    /// been asked.
    ///
    /// # Errors
    /// See [`CycleError`].  The transaction is still open.
    pub fn peek(&mut self) -> Result<DirtyPages<'_>, CycleError> {
        self.region.peek_cycle()
    }

    /// Ends the transaction and forgets its list.
    ///
    /// # Errors
    /// See [`CycleError`].  The transaction is over.
    pub fn end(self) -> Result<(), CycleError> {
        self.commit().map(drop)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // There is nobody to tell; the next begin will find out.
            let _forgotten = self.region.end_cycle();
        }
    }
}
