//! The shortest use: a counter in a critical data area.
//!
//! Usage: counter [TRACKER]

#[macro_use]
#[path = "common/say.rs"]
mod say;

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;

fn main() -> ExitCode {
    match count() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counter: {}", hvckpt::explain(&*error));
            ExitCode::from(2)
        }
    }
}

fn count() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let tracker = arguments.next().unwrap_or_else(|| "ptxen".into()).parse()?;
    if arguments.next().is_some() {
        return Err("usage: counter [TRACKER]".into());
    }
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
