// SPDX-License-Identifier: MIT OR Apache-2.0
//! Expiry, clocks that jump, and restarts under live sessions.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

fn with_expiry(lab: &Lab, n: u8, expires_in: u64) -> Key {
    lab.add(KeySpec {
        expires_in,
        ..spec(n)
    })
}

/// A lab whose clock the test sets.
macro_rules! lab_with_clock {
    ($clock:ident) => {{
        static $clock: AtomicU64 = AtomicU64::new(NOW);
        let lab = lab();
        let policy = lab.policy.with_clock(|| $clock.load(Ordering::Relaxed));
        (Lab { policy, ..lab }, |now| {
            $clock.store(now, Ordering::Relaxed)
        })
    }};
}

#[test]
fn expiry_ends_live_sessions_and_unused_tokens() {
    let (lab, set) = lab_with_clock!(CLOCK);
    with_expiry(&lab, 1, 100);
    lab.add(spec(2));
    let (live, other) = (lab.ask(1).unwrap(), lab.ask(2).unwrap());
    assert!(lab.sim.attach(3, live.token) && lab.sim.attach(3, other.token));
    let unused = lab.ask(1).unwrap();
    assert_eq!(lab.policy.tick(), Duration::from_secs(10));
    set(NOW + 99);
    assert_eq!(lab.policy.tick(), Duration::from_secs(1));
    assert!(!lab.sim.state().sessions[0].1.ended, "a second is left");

    set(NOW + 100);
    let _ = lab.policy.tick();
    {
        let state = lab.sim.state();
        assert!(state.sessions[0].1.ended, "the session is ended");
        assert!(!state.sessions[1].1.ended, "the other key's is not");
    }
    assert!(!lab.sim.attach(3, unused.token));
    assert_eq!(lab.events().last().unwrap(), "key-expire done");
    // Once.
    let _ = lab.policy.tick();
    let count = |events: Vec<String>| events.iter().filter(|e| e.contains("expire")).count();
    assert_eq!(count(lab.events()), 1);
}

#[test]
fn expiry_is_tried_until_the_hypervisor_takes_it() {
    let (lab, set) = lab_with_clock!(CLOCK);
    with_expiry(&lab, 1, 100);
    let live = lab.ask(1).unwrap();
    assert!(lab.sim.attach(3, live.token));
    set(NOW + 200);
    lab.sim.state().fails = Some(HvError::Other("busy".to_owned()));
    for _ in 0..5 {
        let _ = lab.policy.tick();
    }
    let failed = lab
        .events()
        .iter()
        .filter(|e| *e == "key-expire failed")
        .count();
    assert_eq!(failed, 1, "said once");
    // Also by a daemon which was not there when it expired.
    let policy = open(lab.dir.path(), &lab.sim, Options::default()).with_clock(|| NOW + 300);
    let _ = policy.tick();
    assert!(!lab.sim.state().sessions[0].1.ended);
    lab.sim.state().fails = None;
    let _ = policy.tick();
    assert!(lab.sim.state().sessions[0].1.ended);
}

#[test]
fn a_revocation_is_finished_without_a_restart() {
    let lab = lab();
    lab.add(spec(1));
    let live = lab.ask(1).unwrap();
    assert!(lab.sim.attach(3, live.token));
    lab.sim.state().fails = Some(HvError::Other("busy".to_owned()));
    lab.policy.revoke_key("k1", "test").unwrap();
    let _ = lab.policy.tick();
    lab.sim.state().fails = None;
    let _ = lab.policy.tick();
    assert!(lab.sim.state().sessions[0].1.ended);
    assert!(!lab.policy.keys()[0].revocation_pending);
}

#[test]
fn no_token_outlives_its_key() {
    let (lab, set) = lab_with_clock!(CLOCK);
    with_expiry(&lab, 1, 100);
    set(NOW + 93);
    assert_eq!(lab.ask(1).unwrap().lifetime, Duration::from_secs(7));
    assert_eq!(lab.sim.state().tokens[0].lifetime, Duration::from_secs(7));
}

#[test]
fn a_clock_that_jumps() {
    let (lab, set) = lab_with_clock!(CLOCK);
    with_expiry(&lab, 1, 100);
    lab.add(spec(2));
    let expected = Options::default().token_lifetime;
    // Far back: tokens live as long as ever, nothing expires early.
    for now in [0, 1, NOW - 1, NOW, NOW + 50] {
        set(now);
        let _ = lab.policy.tick();
        assert_eq!(lab.ask(1).unwrap().lifetime, expected, "at {now}");
    }
    // Far ahead: keys that expire have; the others do not care.
    set(u64::MAX);
    let _ = lab.policy.tick();
    assert_eq!(lab.ask(1), Err(Reason::Expired));
    assert_eq!(lab.ask(2).unwrap().lifetime, expected);
    // Back again: the key is good, what was ended stays so.
    set(NOW);
    let _ = lab.policy.tick();
    let token = lab.ask(1).unwrap().token;
    assert!(lab.sim.attach(3, token));
    // And on: its new sessions end, too.
    set(NOW + 100);
    let _ = lab.policy.tick();
    assert!(lab.sim.state().sessions[0].1.ended);
}

#[test]
fn a_restart_under_live_sessions() {
    let lab = lab();
    lab.add(KeySpec {
        sessions: 2,
        ..spec(1)
    });
    let (one, two) = (lab.ask(1).unwrap(), lab.ask(1).unwrap());
    assert!(lab.sim.attach(3, one.token));
    let Lab { dir, sim, policy } = lab;
    drop(policy);

    let policy = open(dir.path(), &sim, Options::default());
    let lab = Lab { dir, sim, policy };
    assert!(lab.sim.attach(3, two.token), "a token told before is good");
    assert_eq!(lab.policy.sessions(None).unwrap().len(), 2);
    assert_eq!(lab.ask(1), Err(Reason::Quota), "they count");
    let (_, out) = lab.policy.revoke_key("k1", "test").unwrap();
    assert_eq!((out.sessions, out.problems.len()), (2, 0));
}
