// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions and logs, with a simulated hypervisor which fails on command.

mod common;

use std::sync::atomic::Ordering;

use common::builder;
use hvckpt::{
    AttachError, CycleError, Region, RegionError, SessionError, SimGate, TrackError, TrackerKind,
    abi,
};

const PAGES: usize = 8;

fn region(gate: &SimGate) -> Result<Region, RegionError> {
    builder(TrackerKind::Sim, PAGES)
        .sim(gate.clone())
        .register()
}

fn write(region: &Region, page: usize) {
    region.atomics_u64()[page * 512].fetch_add(1, Ordering::Relaxed);
}

#[test]
fn attaches_and_leaves_nothing_behind() {
    let gate = SimGate::default();
    assert!(!gate.attached());
    let first = region(&gate).unwrap();
    assert!(gate.attached());
    assert_eq!(gate.ranges(), 1);
    let transaction = first.begin().unwrap();
    drop(transaction);
    drop(first);
    assert_eq!(gate.ranges(), 0);
    assert!(!gate.attached());
    assert!(region(&gate).is_ok(), "the next session");
}

#[test]
fn a_busy_session_is_tried_again() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    (0..500).for_each(|_| gate.fail_next(abi::CDA_OP_BEGIN, libc::EAGAIN));
    let transaction = region.begin().unwrap();
    write(&region, 3);
    (0..500).for_each(|_| gate.fail_next(abi::CDA_OP_END, libc::EAGAIN));
    assert_eq!(transaction.commit().unwrap().to_vec(), [3]);
}

#[test]
fn refusals_at_registration() {
    let refused = |op: u64, errno: i32| {
        let gate = SimGate::default();
        gate.fail_next(op, errno);
        let error = match region(&gate) {
            Err(RegionError::Tracker { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        assert!(!gate.attached(), "nothing is left behind");
        error
    };
    let attach = |errno| match refused(abi::CDA_OP_ATTACH, errno) {
        TrackError::Attach(error) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(attach(libc::EACCES), AttachError::TokenRefused));
    assert!(matches!(attach(libc::EEXIST), AttachError::ForeignSession));
    assert!(matches!(attach(libc::ENOSPC), AttachError::Quota(_)));
    let unsupported = AttachError::Session(SessionError::Unsupported);
    assert_eq!(
        attach(libc::EOPNOTSUPP).to_string(),
        unsupported.to_string(),
        "a 32-bit process, or migration"
    );
    let register = |errno| refused(abi::CDA_OP_REGISTER, errno);
    assert!(matches!(register(libc::EEXIST), TrackError::Overlap));
    assert!(matches!(register(libc::EPERM), TrackError::Mode));
    assert!(matches!(
        register(libc::ENOSPC),
        TrackError::Quota { pages: PAGES }
    ));
    assert!(matches!(register(libc::ENOMEM), TrackError::Quota { .. }));
    assert!(matches!(register(libc::EINVAL), TrackError::Shape));
    assert!(matches!(
        register(128),
        TrackError::Session(SessionError::Revoked)
    ));
}

#[test]
fn the_end_of_a_session_is_told() {
    let begin = |errno| {
        let gate = SimGate::default();
        let region = region(&gate).unwrap();
        gate.fail_next(abi::CDA_OP_BEGIN, errno);
        let error = region.begin().unwrap_err();
        // Nothing is open, and it may be tried again.
        region.begin().unwrap().end().unwrap();
        error
    };
    assert!(matches!(
        begin(128),
        CycleError::Session(SessionError::Revoked)
    ));
    assert!(matches!(
        begin(libc::ENOENT),
        CycleError::Session(SessionError::NotAttached)
    ));
    assert!(matches!(
        begin(libc::EACCES),
        CycleError::Session(SessionError::Stolen)
    ));
    assert!(matches!(
        begin(libc::EOPNOTSUPP),
        CycleError::Session(SessionError::Unsupported)
    ));
    assert!(matches!(begin(libc::EPERM), CycleError::Untrackable));
    assert!(matches!(
        begin(1234),
        CycleError::Session(SessionError::Errno(1234))
    ));
}

#[test]
fn resumed_on_another_host() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    let transaction = region.begin().unwrap();
    write(&region, 1);
    gate.forget_session();
    let error = transaction.commit().unwrap_err();
    assert!(
        matches!(error, CycleError::Session(SessionError::NotAttached)),
        "{error}"
    );
    // The next transaction attaches anew, and all is as before.
    let transaction = region.begin().unwrap();
    assert!(gate.attached() && gate.ranges() == 1);
    write(&region, 2);
    assert_eq!(transaction.commit().unwrap().to_vec(), [2]);
    assert!(region.counters().hypervisor.is_some());

    // Or tells why not, and tries again the next time.
    gate.forget_session();
    gate.fail_next(abi::CDA_OP_ATTACH, libc::EACCES);
    match region.begin() {
        Err(error @ CycleError::Attach(_)) => {
            let text = hvckpt::explain(&error);
            assert!(text.contains("refuses the token"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    gate.fail_next(abi::CDA_OP_REGISTER, libc::ENOSPC);
    assert!(matches!(region.begin(), Err(CycleError::Attach(_))));
    let transaction = region.begin().unwrap();
    write(&region, 3);
    assert_eq!(transaction.commit().unwrap().to_vec(), [3]);
    drop(region);
    assert!(!gate.attached() && gate.ranges() == 0);
}

#[test]
fn a_short_log_means_every_page() {
    let gate = SimGate::default();
    let region = builder(TrackerKind::Sim, PAGES)
        .sim(gate)
        .log_entries(2)
        .register()
        .unwrap();
    let mut transaction = region.begin().unwrap();
    write(&region, 3);
    write(&region, 5);
    let dirty = transaction.commit_and_continue().unwrap();
    assert!(!dirty.lost());
    assert_eq!(dirty.to_vec(), [3, 5]);
    drop(dirty);
    (2..5).for_each(|page| write(&region, page));
    let dirty = transaction.commit_and_continue().unwrap();
    assert!(dirty.lost());
    assert_eq!(dirty.to_vec(), Vec::from_iter(0..PAGES));
    assert_eq!(dirty.runs().collect::<Vec<_>>().len(), 1);
    assert!(dirty.raw().is_empty());
    drop(dirty);
    write(&region, 7);
    assert_eq!(transaction.commit().unwrap().to_vec(), [7]);
}

#[test]
fn a_log_fault_is_mended_once() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    // The hypervisor closes the cycle and then cannot write the header: what
    // it would say to the second attempt is scripted too.
    let transaction = region.begin().unwrap();
    write(&region, 1);
    gate.fail_next(abi::CDA_OP_END, libc::EFAULT);
    gate.fail_next(abi::CDA_OP_END, libc::ENODATA);
    let dirty = transaction.commit().unwrap();
    assert!(dirty.lost(), "the list is not known");
    assert_eq!(dirty.len(), PAGES);
}

#[test]
fn a_log_fault_which_stays_is_an_error() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    let mut transaction = region.begin().unwrap();
    write(&region, 1);
    gate.fail_next(abi::CDA_OP_COMMIT, libc::EFAULT);
    gate.fail_next(abi::CDA_OP_COMMIT, libc::EFAULT);
    let error = transaction.commit_and_continue().unwrap_err();
    assert!(matches!(error, CycleError::LogFault), "{error}");
    // The cycle is closed, below as well.
    assert!(matches!(
        transaction.commit_and_continue(),
        Err(CycleError::NotOpen)
    ));
    drop(transaction);
    let transaction = region.begin().unwrap();
    write(&region, 2);
    assert_eq!(transaction.commit().unwrap().to_vec(), [2]);
}

#[test]
fn a_cycle_left_open_below_is_closed_by_begin() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    let transaction = region.begin().unwrap();
    write(&region, 1);
    // The end fails without doing anything.
    gate.fail_next(abi::CDA_OP_END, libc::EOPNOTSUPP);
    assert!(transaction.commit().is_err());
    let transaction = region.begin().unwrap();
    write(&region, 2);
    assert_eq!(transaction.commit().unwrap().to_vec(), [2]);
}

#[test]
fn a_failed_peek_leaves_the_transaction_open() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    let mut transaction = region.begin().unwrap();
    write(&region, 6);
    gate.fail_next(abi::CDA_OP_PEEK, libc::EOPNOTSUPP);
    assert!(transaction.peek().is_err());
    assert_eq!(transaction.commit().unwrap().to_vec(), [6]);
}

#[test]
fn counters_come_from_the_hypervisor() {
    let gate = SimGate::default();
    let region = region(&gate).unwrap();
    let before = region.counters().hypervisor.unwrap();
    region.begin().unwrap().end().unwrap();
    let after = region.counters().hypervisor.unwrap();
    assert_eq!(after.cycles - before.cycles, 1);
    let pt = builder(TrackerKind::Pt, 2).register().unwrap();
    assert_eq!(pt.counters().faults, Some(0));
    let transaction = pt.begin().unwrap();
    write(&pt, 1);
    write(&pt, 1);
    transaction.end().unwrap();
    assert_eq!(pt.counters().faults, Some(1));
    assert_eq!(pt.counters().hypervisor, None);
}
