// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs that are started cost a session: nothing, as `exec` shares
//! no page with them; a fork takes back what Xen granted, once.
//!
//! Prints one line of JSON.  Exit status: 0; 1 wrong counts; 2 not possible
//! here.

use std::process::Command;

use clap::Parser;
use hvckpt::abi::cda_counters;
use hvckpt_guest_tests::{Area, PAGE, Session, in_child, need_gate};

/// Starts programs and forks while a cycle is open.
#[derive(Parser, Debug)]
struct Args {
    /// Programs to start.
    #[arg(long, default_value_t = 60)]
    spawns: u64,
    /// Forks.
    #[arg(long, default_value_t = 10)]
    forks: u64,
}

/// By `vfork` and `exec`, in so many words.
fn vfork_and_exec() {
    // SAFETY: the child does nothing but exec, and leaves.
    let pid = unsafe {
        let program = c"/bin/true".as_ptr();
        let arguments = [program, core::ptr::null()];
        #[allow(deprecated)] // what this is about
        let pid = libc::vfork();
        if pid == 0 {
            libc::execv(program, arguments.as_ptr());
            libc::_exit(127);
        }
        pid
    };
    assert_eq!(hvckpt_guest_tests::wait(pid), 0, "the program fails");
}

/// Writes to each page for the first time in a cycle; what was counted.
fn first_writes(session: &Session, range: i64, area: &Area) -> cda_counters {
    let before = session.query().counters;
    for page in 0..area.pages() {
        area.set(page * PAGE, 1);
    }
    let after = session.query().counters;
    let listed = session.commit(range);
    assert_eq!(
        listed,
        i64::try_from(area.pages()).unwrap(),
        "all are listed"
    );
    cda_counters {
        faults_fixed: after.faults_fixed - before.faults_fixed,
        faults_forwarded: after.faults_forwarded - before.faults_forwarded,
        ..cda_counters::default()
    }
}

fn main() {
    let args = Args::parse();
    need_gate();
    let session = Session::attach();
    let area = Area::chunks(2);
    let log = area.private_log();
    let range = session.register(&area.registration(&log));
    assert!(range >= 0, "register: {range}");
    assert_eq!(session.begin(range), 0, "begin");
    first_writes(&session, range, &area);

    let before = session.query().counters;
    for round in 0..args.spawns {
        if round % 2 == 0 {
            let status = Command::new("/bin/true").status();
            assert!(status.is_ok_and(|status| status.success()), "/bin/true");
        } else {
            vfork_and_exec();
        }
    }
    let spawned = session.query().counters.forks - before.forks;
    let served = first_writes(&session, range, &area);

    let before = session.query().counters;
    for _ in 0..args.forks {
        // The child has an address space, and a program, of its own.
        let status = in_child(|| {
            vfork_and_exec();
            0
        });
        assert_eq!(status, 0, "the child fails");
    }
    let forked = session.query().counters.forks - before.forks;
    let left = first_writes(&session, range, &area);

    let pages = area.pages() as u64;
    let good = spawned == 0
        && served.faults_fixed == pages
        && served.faults_forwarded == 0
        && forked == args.forks
        && left.faults_forwarded >= pages;
    println!(
        "{}",
        serde_json::json!({
            "program": "spawn", "pages": pages,
            "spawns": args.spawns, "taken_back_for_spawns": spawned,
            "then_served_by_xen": served.faults_fixed, "then_left_to_kernel": served.faults_forwarded,
            "forks": args.forks, "taken_back_for_forks": forked,
            "after_forks_left_to_kernel": left.faults_forwarded,
        })
    );
    std::process::exit(i32::from(!good));
}
