// SPDX-License-Identifier: MIT OR Apache-2.0
//! One tracker, one user at a time.
//!
//! A mutex whose guard may travel to another thread together with the dirty
//! list it protects, and which refuses instead of waiting.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Tracker;

/// Holds a tracker.
#[derive(Debug)]
pub(crate) struct Slot {
    taken: AtomicBool,
    tracker: UnsafeCell<Box<dyn Tracker>>,
}

// SAFETY: the tracker is Send and Sync, and `taken` lets one guard at a time
// reach it.
unsafe impl Sync for Slot {}

impl Slot {
    pub(crate) fn new(tracker: Box<dyn Tracker>) -> Self {
        Self {
            taken: AtomicBool::new(false),
            tracker: UnsafeCell::new(tracker),
        }
    }

    /// The tracker, unless somebody has it.
    pub(crate) fn take(&self) -> Option<SlotGuard<'_>> {
        let free = self
            .taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        free.then_some(SlotGuard { slot: self })
    }
}

/// Exclusive access to the tracker.
#[derive(Debug)]
pub(crate) struct SlotGuard<'a> {
    slot: &'a Slot,
}

impl Deref for SlotGuard<'_> {
    type Target = dyn Tracker;

    fn deref(&self) -> &Self::Target {
        // SAFETY: `taken` is ours; no other guard exists.
        unsafe { (*self.slot.tracker.get()).as_ref() }
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { (*self.slot.tracker.get()).as_mut() }
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.slot.taken.store(false, Ordering::Release);
    }
}
