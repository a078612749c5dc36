// SPDX-License-Identifier: MIT OR Apache-2.0
mod time;

use hvckpt_wire::ModeSet;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::audit::tail;
use crate::hypervisor::sim::Sim;
use crate::keys::DomainRef;

const NOW: u64 = 1_000_000;
const UUID: &str = "0f0e0d0c-0b0a-0908-0706-050403020100";

struct Lab {
    dir: TempDir,
    sim: Sim,
    policy: Policy,
}

fn peer() -> SocketAddr {
    "10.84.0.2:1234".parse().unwrap()
}

fn open(dir: &Path, sim: &Sim, options: Options) -> Policy {
    let keys = KeyStore::open(dir).unwrap();
    let audit = AuditLog::open(dir, 1 << 20, 2).unwrap();
    Policy::new(keys, audit, Box::new(sim.clone()), options).with_clock(|| NOW)
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::with_domains(&[(0, "Domain-0", ""), (3, "domu", UUID)]);
    let policy = open(dir.path(), &sim, Options::default());
    Lab { dir, sim, policy }
}

fn spec(n: u8) -> KeySpec {
    KeySpec {
        name: format!("k{n}"),
        public: PublicKey([n; 32]),
        domain: DomainRef::parse("domu").unwrap(),
        sessions: 0,
        pages: 0,
        ranges: 0,
        modes: ModeSet::all(),
        expires_in: 0,
    }
}

impl Lab {
    fn add(&self, spec: KeySpec) -> Key {
        self.policy.add_key(spec, "test").unwrap().0
    }
    fn ask(&self, n: u8) -> Result<Grant, Reason> {
        self.ask_for(n, Request::default())
    }
    fn ask_for(&self, n: u8, request: Request) -> Result<Grant, Reason> {
        match self.policy.decide(PublicKey([n; 32]), Ok(request), peer()) {
            Answer::Grant(grant) => Ok(grant),
            Answer::Refusal(refusal) => Err(refusal.reason),
        }
    }
    fn events(&self) -> Vec<String> {
        let lines = tail(self.dir.path(), 1000).unwrap();
        let records = lines.into_iter().map(|l| l.record.unwrap());
        records
            .map(|r| {
                format!(
                    "{} {} {}",
                    r.event,
                    r.decision,
                    r.reason.unwrap_or_default()
                )
            })
            .map(|s| s.trim_end().to_owned())
            .collect()
    }
}

#[test]
fn grant_reaches_the_hypervisor_and_the_log() {
    let lab = lab();
    let key = lab.add(KeySpec {
        sessions: 2,
        pages: 100,
        ranges: 4,
        ..spec(1)
    });
    let grant = lab.ask_for(
        1,
        Request {
            max_pages: 50,
            max_ranges: 9,
            modes: ModeSet::PTXEN,
        },
    );
    let grant = grant.unwrap();
    assert_eq!((grant.domid, grant.tag), (3, key.id.0.get()));
    assert_eq!(
        (grant.max_pages, grant.max_ranges, grant.max_sessions),
        (50, 4, 2)
    );
    assert_eq!(
        grant.modes,
        ModeSet::PTXEN,
        "what key and hypervisor both have"
    );
    {
        let state = lab.sim.state();
        let token = state.tokens[0];
        assert_eq!((token.token, token.domid), (grant.token, 3));
        assert_eq!(
            (token.max_pages, token.max_ranges, token.max_sessions),
            (50, 4, 2)
        );
        assert_eq!(token.lifetime, Duration::from_secs(30));
    }
    assert!(!lab.sim.attach(0, grant.token), "another domain's process");
    assert!(lab.sim.attach(3, grant.token));
    assert!(!lab.sim.attach(3, grant.token), "once only");
    assert_eq!(lab.events(), ["key-add done", "token granted"]);
    let log = std::fs::read_to_string(lab.dir.path().join("audit.log")).unwrap();
    let hex: String = grant.token.iter().map(|b| format!("{b:02x}")).collect();
    assert!(!log.contains(&hex), "tokens are not logged");
}

#[test]
fn tokens_differ() {
    let lab = lab();
    lab.add(spec(1));
    assert_ne!(lab.ask(1).unwrap().token, lab.ask(1).unwrap().token);
}

#[test]
fn every_refusal_has_its_reason() {
    let lab = lab();
    assert_eq!(lab.ask(9), Err(Reason::UnknownKey));

    let key = lab.add(KeySpec {
        sessions: 1,
        ..spec(1)
    });
    let wants = Request {
        modes: ModeSet::EMULXEN,
        ..Request::default()
    };
    assert_eq!(lab.ask_for(1, wants), Err(Reason::ModeNotAllowed));
    let malformed = lab
        .policy
        .decide(PublicKey([1; 32]), Err(FrameError::Length), peer());
    assert!(matches!(malformed, Answer::Refusal(r) if r.reason == Reason::Malformed));

    let grant = lab.ask(1).unwrap();
    assert!(lab.sim.attach(3, grant.token));
    assert_eq!(lab.ask(1), Err(Reason::Quota), "its one session is live");

    lab.add(KeySpec {
        domain: DomainRef::parse("other").unwrap(),
        ..spec(2)
    });
    assert_eq!(lab.ask(2), Err(Reason::DomainNotRunning));
    lab.add(spec(3));
    lab.sim.state().max_tokens = 0;
    assert_eq!(lab.ask(3), Err(Reason::Quota), "tokens of the domain");
    lab.sim.state().max_tokens = 9;

    for (error, reason) in [
        (HvError::NoSupport, Reason::NoHypervisorSupport),
        (
            HvError::NoXen("none".to_owned()),
            Reason::NoHypervisorSupport,
        ),
        (HvError::Unsupported, Reason::NoHypervisorSupport),
        (HvError::Denied, Reason::HypervisorRefused),
        (HvError::Other("?".to_owned()), Reason::HypervisorRefused),
    ] {
        lab.sim.state().fails = Some(error);
        assert_eq!(lab.ask(3), Err(reason));
    }
    lab.sim.state().fails = None;

    let twin = lab.sim.state().domains[1].clone();
    lab.sim.state().domains.push(Domain { domid: 4, ..twin });
    assert_eq!(lab.ask(3), Err(Reason::DomainAmbiguous));
    lab.sim.state().domains.pop();

    lab.policy.revoke_key(&key.name, "test").unwrap();
    assert_eq!(lab.ask(1), Err(Reason::Revoked));
    let refused = lab
        .events()
        .iter()
        .filter(|e| e.starts_with("token refused"))
        .count();
    assert_eq!(refused, 13, "each one is in the log");
}

#[test]
fn expiry_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::with_domains(&[(3, "domu", UUID)]);
    let policy = open(dir.path(), &sim, Options::default());
    policy
        .add_key(
            KeySpec {
                expires_in: 10,
                ..spec(1)
            },
            "test",
        )
        .unwrap();
    let ask = |policy: &Policy| policy.decide(PublicKey([1; 32]), Ok(Request::default()), peer());
    let policy = policy.with_clock(|| NOW + 9);
    assert!(matches!(ask(&policy), Answer::Grant(g) if g.expires == NOW + 10));
    let policy = policy.with_clock(|| NOW + 10);
    assert!(matches!(ask(&policy), Answer::Refusal(r) if r.reason == Reason::Expired));
}

#[test]
fn the_uuid_goes_with_the_domain() {
    let lab = lab();
    lab.add(KeySpec {
        domain: DomainRef::parse(&UUID.to_uppercase()).unwrap(),
        ..spec(1)
    });
    assert_eq!(lab.ask(1).unwrap().domid, 3);
    lab.sim.state().domains[1].domid = 8;
    assert_eq!(lab.ask(1).unwrap().domid, 8, "after a reboot of the domain");
}

#[test]
fn revocation_ends_tokens_and_sessions_wherever_they_are() {
    let lab = lab();
    let key = lab.add(spec(1));
    lab.add(spec(2));
    let live = lab.ask(1).unwrap();
    assert!(lab.sim.attach(3, live.token));
    let unused = lab.ask(1).unwrap();
    let other = lab.ask(2).unwrap();

    // The domain is renamed, and another bears its name now.
    lab.sim.state().domains[1].name = Some("old".to_owned());
    lab.sim.state().domains[1].uuid = None;
    lab.sim.state().domains.push(Domain {
        domid: 5,
        name: Some("domu".to_owned()),
        uuid: None,
    });
    let there = lab.ask(1).unwrap();
    assert_eq!(there.domid, 5);

    let (_, out) = lab.policy.revoke_key("k1", "test").unwrap();
    assert_eq!((out.tokens, out.sessions, out.problems.len()), (2, 1, 0));
    assert!(!lab.sim.attach(3, unused.token) && !lab.sim.attach(5, there.token));
    assert!(lab.sim.attach(3, other.token), "other keys keep theirs");
    assert!(lab.sim.state().sessions[0].1.ended);

    let (again, out) = lab.policy.revoke_key(&key.id.to_string(), "test").unwrap();
    assert_eq!((out.tokens, out.sessions), (0, 0));
    assert_eq!(again.revoked, Some(NOW));
    assert!(lab.policy.revoke_key("nobody", "test").is_err());
}

#[test]
fn revocation_is_finished_after_a_restart() {
    let lab = lab();
    lab.add(spec(1));
    let token = lab.ask(1).unwrap().token;
    lab.sim.state().fails = Some(HvError::Other("busy".to_owned()));
    let (key, out) = lab.policy.revoke_key("k1", "test").unwrap();
    assert!(
        key.revocation_pending && out.problems[0].contains("domain 3: busy"),
        "{out:?}"
    );
    lab.sim.state().fails = None;

    let policy = open(lab.dir.path(), &lab.sim, Options::default());
    let _ = policy.tick();
    assert!(!lab.sim.attach(3, token));
    assert!(!policy.keys()[0].revocation_pending);
    let answer = policy.decide(PublicKey([1; 32]), Ok(Request::default()), peer());
    assert!(matches!(answer, Answer::Refusal(r) if r.reason == Reason::Revoked));
}

#[test]
fn nothing_is_issued_unaudited() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::with_domains(&[(3, "domu", UUID)]);
    let policy = open(dir.path(), &sim, Options::default());
    policy.add_key(spec(1), "test").unwrap();
    drop(policy);

    std::fs::remove_file(dir.path().join("audit.log")).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("audit.log")).unwrap();
    let policy = open(dir.path(), &sim, Options::default());
    let ask = || policy.decide(PublicKey([1; 32]), Ok(Request::default()), peer());
    let unavailable =
        |answer| matches!(answer, Answer::Refusal(r) if r.reason == Reason::Unavailable);
    assert!(unavailable(ask()));
    // The first attempt may have registered a token which nobody was told;
    // with the log known to fail there is not even that.
    assert!(sim.state().tokens.len() <= 1);
    assert!(unavailable(ask()));
    assert!(sim.state().tokens.len() <= 1);
    // Revoking works all the same, and says what did not.
    let (_, out) = policy.revoke_key("k1", "test").unwrap();
    assert_eq!(out.problems.len(), 1, "{out:?}");
    assert!(out.problems[0].contains("audit log"));
    assert!(sim.state().tokens.is_empty());
    // No key is added either.
    let error = policy.add_key(spec(2), "test").unwrap_err();
    assert!(matches!(error, Failure::Storage(_)), "{error}");
    assert_eq!(policy.keys().len(), 1);
}

#[test]
fn state_that_cannot_be_written() {
    let lab = lab();
    lab.add(spec(1));
    // The directory of the key file is gone: nothing can be saved.
    let away = lab.dir.path().with_extension("away");
    std::fs::rename(lab.dir.path(), &away).unwrap();
    assert_eq!(
        lab.ask(1),
        Err(Reason::Unavailable),
        "where a token goes must be remembered"
    );
    assert!(lab.sim.state().tokens.is_empty());
    assert!(lab.policy.add_key(spec(2), "test").is_err());
    let (_, out) = lab.policy.revoke_key("k1", "test").unwrap();
    assert!(
        out.problems[0].contains("until the daemon restarts"),
        "{out:?}"
    );
    assert_eq!(lab.ask(1), Err(Reason::Revoked), "revoked in memory");
    std::fs::rename(&away, lab.dir.path()).unwrap();
}

#[test]
fn each_key_has_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::with_domains(&[(3, "domu", UUID)]);
    let key_rate = Rate {
        per_second: 1e-6,
        burst: 2,
    };
    let policy = open(
        dir.path(),
        &sim,
        Options {
            key_rate,
            ..Options::default()
        },
    );
    policy.add_key(spec(1), "test").unwrap();
    policy.add_key(spec(2), "test").unwrap();
    let ask = |n| policy.decide(PublicKey([n; 32]), Ok(Request::default()), peer());
    assert!(matches!(ask(1), Answer::Grant(_)));
    assert!(matches!(ask(1), Answer::Grant(_)));
    let Answer::Refusal(refusal) = ask(1) else {
        panic!("third at once")
    };
    assert_eq!(refusal.reason, Reason::RateLimited);
    assert!(refusal.retry_after > Duration::from_secs(60));
    assert!(matches!(ask(2), Answer::Grant(_)), "another key");
}

#[test]
fn strangers_cannot_fill_the_log() {
    let lab = lab();
    for _ in 0..1000 {
        assert_eq!(lab.ask(9), Err(Reason::UnknownKey));
        lab.policy.note_connection(peer(), "handshake", "garbage");
    }
    assert!(lab.events().len() < 100, "{}", lab.events().len());
}

#[test]
fn sessions_limits_and_counters() {
    let lab = lab();
    lab.add(spec(1));
    assert!(lab.policy.sessions(None).unwrap().is_empty());
    let token = lab.ask(1).unwrap().token;
    assert!(lab.sim.attach(3, token));
    for domain in [None, Some("domu"), Some(UUID), Some("3")] {
        let listed = lab.policy.sessions(domain).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].key.as_ref().unwrap().1, "k1");
    }
    assert!(lab.policy.sessions(Some("none")).is_err());
    let (_, limits) = lab
        .policy
        .change_limits("domu", |l| l.max_tokens = 5, "test")
        .unwrap();
    assert_eq!(limits.max_tokens, 5);
    assert_eq!(lab.policy.limits("3").unwrap().1.max_tokens, 5);
    assert!(lab.policy.counters("domu").is_ok());
    let one = std::num::NonZeroU64::new(1).unwrap();
    assert_eq!(
        lab.policy
            .end_session("domu", one, "test")
            .unwrap()
            .sessions,
        1
    );
    assert_eq!(
        lab.policy
            .end_session("domu", one, "test")
            .unwrap()
            .sessions,
        0
    );
    let done = [
        "key-add done",
        "token granted",
        "limits-set done",
        "session-end done",
    ];
    assert_eq!(lab.events()[..4], done);
}

#[test]
fn notes_need_the_log() {
    let lab = lab();
    lab.policy.note(Record::new("start", "done")).unwrap();
    let full = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", full.path().join("audit.log")).unwrap();
    let policy = open(full.path(), &lab.sim, Options::default());
    let error = policy.note(Record::new("start", "done")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
