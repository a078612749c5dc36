//! The shortest use: a counter in a critical data area.
//!
//! Usage: counter [TRACKER]

use std::sync::atomic::Ordering::Relaxed;

fn main() {
    if let Err(error) = run() {
        eprintln!("counter: {}", hvckpt::explain(&*error));
        std::process::exit(2);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
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
        println!(
            "{}: dirty pages {:?}",
            region.tracker(),
            transaction.commit()?.to_vec()
        );
    }
    Ok(())
}
