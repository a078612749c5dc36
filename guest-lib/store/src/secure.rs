// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was appended is on the disk, or is taken back.

use std::time::Instant;

use super::error::{StoreError, io};
use super::format::{Chain, IMAGE_HEADER, image_name};
use super::frame::Out;
use super::images::Images;
use super::writer::{Writer, publish};

impl Writer {
    /// Whether a commit was refused which may be on the disk.
    pub(crate) fn unsettled(&self) -> bool {
        self.refused.is_some()
    }

    /// Takes back what was refused, before anything else is written.
    pub(crate) fn settle(&mut self) -> Result<(), StoreError> {
        let Some((mut out, from)) = self.refused.take() else {
            return Ok(());
        };
        match out.cut(from) {
            Ok(()) => {
                withdrawn(&self.images, &out, from);
                Ok(())
            }
            Err(source) => {
                let name = out.name.clone();
                self.refused = Some((out, from));
                Err(StoreError::Poisoned { name, source })
            }
        }
    }

    /// Makes what was appended durable, in a new image under its name.
    pub(super) fn secure(
        &mut self,
        mut out: Out,
        start: u64,
        fresh: bool,
    ) -> Result<Out, StoreError> {
        let before = Instant::now();
        if fresh {
            let name = image_name(out.image);
            let published = publish(&self.images, out, &mut self.refused);
            out = published.inspect_err(|error| {
                if matches!(error, StoreError::LockLost(_)) {
                    self.lost = true;
                } else if self.images.backend().open(&name, false).is_ok() {
                    // It could not be removed: the number is taken.
                    self.next_image += 1;
                }
            })?;
            self.next_image += 1;
        } else if let Err(source) = out.file().sync() {
            let name = out.name.clone();
            if out.cut(start).is_ok() {
                // The next commit goes to a new image: the kernel shows of this
                // one what the disk may not have.
                return Err(io("sync", &name, source));
            }
            self.refused = Some((out, start));
            return Err(StoreError::Unsettled { name, source });
        }
        self.metrics.syncs.observe(before.elapsed());
        Ok(out)
    }

    /// After a write which failed.
    pub(super) fn take_back(
        &mut self,
        mut out: Out,
        (start, chain): (u64, Chain),
        fresh: bool,
        why: StoreError,
    ) -> StoreError {
        if fresh {
            let _leftover = self.images.backend().remove(&out.name);
            return why;
        }
        if let Err(source) = out.cut(start) {
            let name = out.name.clone();
            self.refused = Some((out, start));
            return StoreError::Unsettled { name, source };
        }
        out.resume(chain);
        // Under one key nothing else is ever written at the same place.
        self.out = self.images.key().is_none().then_some(out);
        why
    }
}

/// An image was cut: nothing may be left of it.
pub(super) fn withdrawn(images: &Images, out: &Out, from: u64) {
    if from <= IMAGE_HEADER as u64 {
        // Empty, it does no harm if it stays.
        let _leftover = images.backend().remove(&out.name);
    }
}
