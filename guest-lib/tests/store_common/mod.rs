// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the store share.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use hvckpt::store::{Durable, DurableBuilder};
use hvckpt::{LockPolicy, TrackerKind};

/// A directory which goes when the test ends.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hvckpt-{name}-{}", std::process::id()));
        let _absent = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

pub fn builder(name: &str, tracker: TrackerKind) -> DurableBuilder {
    Durable::builder(name)
        .tracker(tracker)
        .lock(LockPolicy::Never)
}

/// Trackers which work here without a hypervisor.
pub fn trackers() -> Vec<TrackerKind> {
    let works = |kind: &TrackerKind| {
        hvckpt::register_cda()
            .pages(1)
            .tracker(*kind)
            .lock(LockPolicy::Never)
            .register()
            .is_ok()
    };
    let all = [TrackerKind::Pt, TrackerKind::PagemapScan, TrackerKind::Sim];
    all.into_iter().filter(works).collect()
}
