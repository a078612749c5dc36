// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;

fn door(connections: usize, per_peer: usize) -> Door {
    Door::new(Limits {
        connections,
        per_peer,
        ..Limits::default()
    })
    .unwrap()
}

fn ip(text: &str) -> Origin {
    Some(text.parse::<IpAddr>().unwrap()).into()
}

struct Guests {
    door: Door,
    number: u64,
}

impl Guests {
    fn enter(&mut self, from: &str, insistent: bool) -> Entry {
        self.number += 1;
        let close = || Ok(Box::new(|| {}) as Box<dyn Fn() + Send>);
        self.door
            .enter(self.number, ip(from), insistent, close)
            .unwrap()
    }

    fn free(&mut self, from: &str) -> Pass {
        match self.enter(from, false) {
            Entry::Free(pass) => pass,
            _ => panic!("no place for {from}"),
        }
    }

    /// Takes a place as soon as somebody has had his turn.
    fn insist(&mut self, from: &str) -> Pass {
        loop {
            match self.enter(from, true) {
                Entry::Free(pass) => return pass,
                Entry::After(time) => std::thread::sleep(time),
                Entry::Full => panic!("no place for {from}"),
            }
        }
    }
}

fn guests(connections: usize, per_peer: usize) -> Guests {
    Guests {
        door: door(connections, per_peer),
        number: 0,
    }
}

#[test]
fn an_address_has_its_places_however_it_is_written() {
    let mut guests = guests(4, 2);
    let first = guests.free("10.0.0.1");
    let _second = guests.free("::ffff:10.0.0.1");
    assert!(matches!(guests.enter("10.0.0.1", false), Entry::Full));
    let _other = guests.free("10.0.0.2");
    drop(first);
    let _again = guests.free("10.0.0.1");
    let _net = [guests.free("fd00::1"), guests.free("fd00::2")];
    assert!(matches!(guests.enter("fd00::3", false), Entry::Full));
    let _far = guests.free("fd00:0:0:1::1");
    assert_eq!(guests.door.count(), 6);
}

#[test]
fn the_oldest_of_the_address_gives_way_after_its_turn() {
    let mut guests = guests(4, 2);
    let (first, second) = (guests.free("10.0.0.1"), guests.free("10.0.0.1"));
    assert!(matches!(guests.enter("10.0.0.1", true), Entry::After(time) if time <= TURN));
    let third = guests.insist("10.0.0.1");
    assert!(first.is_lost() && !second.is_lost() && !third.is_lost());
    assert!(!first.prove(b"late"));
}

#[test]
fn when_all_are_taken_the_address_with_most_gives_way() {
    let mut guests = guests(4, 1000);
    let crowd: Vec<_> = (0..4 + SPARE).map(|_| guests.free("10.0.0.1")).collect();
    let other = guests.insist("10.0.0.2");
    assert!(crowd[0].is_lost() && !other.is_lost());
    // And never the one who has fewer.
    for _ in 0..4 {
        let more = guests.insist("10.0.0.1");
        assert!(!more.is_lost() && !other.is_lost());
    }
    // Those on their way out are bounded as well.
    let mut passes = Vec::new();
    while guests.door.count() < guests.door.limits().threads() {
        passes.push(guests.insist("10.0.0.3"));
    }
    assert!(matches!(guests.enter("10.0.0.9", true), Entry::Full));
}

#[test]
fn the_proven_are_safe_from_all_others() {
    let mut guests = guests(2, 1000);
    let known = guests.free("10.0.0.1");
    assert!(known.prove(b"a"));
    let mut crowd = Vec::new();
    while guests.door.count() < guests.door.limits().threads() {
        crowd.push(guests.insist("10.0.0.1"));
    }
    assert!(!known.is_lost());
}

#[test]
fn among_the_proven_nobody_has_more_at_anothers_cost() {
    let mut guests = guests(3, 1000);
    let passes: Vec<_> = (0..6).map(|_| guests.free("10.0.0.1")).collect();
    for pass in &passes[..3] {
        assert!(pass.prove(b"many"));
    }
    assert!(passes[3].prove(b"one"));
    assert!(passes[0].is_lost() && !passes[1].is_lost());
    // Two and one: the third has a place, the one keeps his.
    assert!(passes[4].prove(b"two"));
    assert!(passes[1].is_lost() && !passes[2].is_lost() && !passes[3].is_lost());
    // One each: a fourth is refused, a second of one takes his own place.
    assert!(!passes[5].prove(b"three"));
    assert!(passes[5].prove(b"one"));
    assert!(passes[3].is_lost() && !passes[2].is_lost() && !passes[4].is_lost());
}
