// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shortest use: a counter in a critical data area.
//!
//! Usage: counter [TRACKER]

#[macro_use]
#[path = "common/say.rs"]
mod say;

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;

use hvckpt::TrackerKind;

fn main() -> ExitCode {
    let fail = |error: &(dyn std::error::Error + 'static), status| {
        complain!("counter: {}", hvckpt::explain(error));
        ExitCode::from(status)
    };
    match arguments() {
        Err(error) => fail(&*error, 2),
        Ok(tracker) => match count(tracker) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&*error, 1),
        },
    }
}

fn arguments() -> Result<TrackerKind, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let tracker = arguments.next().unwrap_or_else(|| "ptxen".into());
    if tracker.starts_with('-') || arguments.next().is_some() {
        return Err("usage: counter [TRACKER]".into());
    }
    Ok(tracker.parse()?)
}

fn count(tracker: TrackerKind) -> Result<(), Box<dyn std::error::Error>> {
    let region = hvckpt::register_cda()
        .pages(4)
        .tracker(tracker)
        .register()?;
    for page in 0..region.pages() {
        let transaction = region.begin()?;
        region.atomics_u64()[512 * page].fetch_add(1, Relaxed);
        say!(
            "{}: dirty pages {:?}",
            region.tracker(),
            transaction.commit()?.to_vec()
        );
    }
    Ok(())
}
