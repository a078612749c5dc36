// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory which is moved, replaced, protected and dropped under an open cycle.

#![allow(clippy::cast_possible_truncation)] // page numbers below 1024

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hvckpt_guest_tests::{Area, CHUNK, Checks, PAGE, Rng, Session, may_store};

const WORDS: usize = PAGE / 8;

struct Range {
    area: Area,
    log: Area,
    id: i64,
}

impl Range {
    fn new(s: &Session, area: Area) -> Self {
        let log = area.log();
        let id = s.register(&area.registration(&log));
        assert!(id >= 0, "register: {id}");
        Self { area, log, id }
    }

    /// Ends the cycle: the list, or every page if it is lost.
    fn end(&self, s: &Session) -> Vec<u64> {
        let result = s.end(self.id);
        assert!(result >= 0, "end: {result}");
        if result.cast_unsigned() & hvckpt::abi::CDA_RESULT_LOST != 0 {
            (0..self.area.pages() as u64).collect()
        } else {
            self.log.listed()
        }
    }

    fn close(self, s: &Session) {
        assert_eq!(s.unregister(self.id), 0);
        self.area.unmap();
        self.log.unmap();
    }

    /// Tracks as if nothing had happened.
    fn works(&self, c: &mut Checks, s: &Session, name: &str) {
        assert_eq!(s.begin(self.id), 0);
        self.end(s);
        let mut wrong = Vec::new();
        for round in 0..3_u64 {
            assert_eq!(s.begin(self.id), 0);
            let pages: Vec<u64> = (0..self.area.pages() as u64)
                .filter(|p| p % 3 == round)
                .collect();
            for &page in &pages {
                self.area
                    .word(page as usize * WORDS + 5)
                    .fetch_add(1, Ordering::SeqCst);
            }
            let listed = self.end(s);
            wrong.extend(pages.into_iter().filter(|page| !listed.contains(page)));
        }
        c.equal(&format!("{name}: tracked afterwards"), wrong, vec![]);
    }
}

fn contains(list: &[u64], pages: std::ops::Range<u64>) -> bool {
    pages.into_iter().all(|page| list.contains(&page))
}

fn replaced(c: &mut Checks, s: &Session) {
    for first in [3, 500] {
        let name = format!("munmap and mmap at page {first}");
        let r = Range::new(s, Area::chunks(2));
        assert_eq!(s.begin(r.id), 0);
        let part = r.area.part(first, 20);
        part.unmap();
        let new = Area::map(part.start, part.bytes, 0, -1);
        let list = r.end(s);
        let pages = first as u64..first as u64 + 20;
        c.check(
            &format!("{name}: reported untouched"),
            contains(&list, pages.clone()),
            || format!("{list:?}"),
        );
        assert_eq!(s.begin(r.id), 0);
        (0..new.pages()).for_each(|page| new.set(page * PAGE, 5));
        let list = r.end(s);
        c.check(
            &format!("{name}: reported written"),
            contains(&list, pages.clone()),
            || format!("{list:?}"),
        );
        assert_eq!(s.begin(r.id), 0);
        part.unmap();
        let list = r.end(s);
        c.check(
            &format!("{name}: reported gone"),
            contains(&list, pages),
            || format!("{list:?}"),
        );
        let again = Area::map(part.start, part.bytes, 0, -1);
        (0..again.pages()).for_each(|page| again.set(page * PAGE, 6));
        r.works(c, s, &name);
        r.close(s);
    }
}

/// Whole L1 tables change their place.
fn moved(c: &mut Checks, s: &Session) {
    for downwards in [false, true] {
        let name = format!(
            "mremap of 2 MiB {}",
            if downwards { "downwards" } else { "upwards" }
        );
        let both = Area::chunks(2);
        let half = both.pages() / 2;
        let low = Range::new(s, both.part(0, half));
        let high = Range::new(s, both.part(half, half));
        for r in [&low, &high] {
            for page in 0..half {
                r.area
                    .word(page * WORDS)
                    .store(r.area.start as u64 + page as u64, Ordering::SeqCst);
            }
            assert_eq!(s.begin(r.id), 0);
        }
        let (from, to) = if downwards {
            (&high, &low)
        } else {
            (&low, &high)
        };
        // Some are writable by now, some are not.
        (0..half).step_by(3).for_each(|page| {
            from.area.word(page * WORDS + 1).store(7, Ordering::SeqCst);
        });
        from.area.move_to(to.area.start);
        let right = (0..half).all(|page| {
            to.area.word(page * WORDS).load(Ordering::SeqCst)
                == from.area.start as u64 + page as u64
        });
        c.check(&format!("{name}: contents"), right, || "differ".into());
        (0..half).step_by(2).for_each(|page| {
            to.area.word(page * WORDS + 2).store(8, Ordering::SeqCst);
        });
        let all = 0..half as u64;
        let list = to.end(s);
        c.check(
            &format!("{name}: target reported"),
            contains(&list, all.clone()),
            || format!("{} pages", list.len()),
        );
        let list = from.end(s);
        c.check(
            &format!("{name}: source reported"),
            contains(&list, all),
            || format!("{} pages", list.len()),
        );
        let again = Area::map(from.area.start, from.area.bytes, 0, -1);
        (0..half).for_each(|page| again.set(page * PAGE, 1));
        to.works(c, s, &format!("{name}: target"));
        from.works(c, s, &format!("{name}: source"));
        // What became of the source must not make us forget the target.
        to.works(c, s, &format!("{name}: target, after the source"));
        low.close(s);
        high.close(s);
    }
    // The range which a table came from goes while the target is watched.
    for downwards in [false, true] {
        let both = Area::chunks(2);
        let low = Range::new(s, both.part(0, 512));
        let high = Range::new(s, both.part(512, 512));
        let (from, to) = if downwards { (high, low) } else { (low, high) };
        assert_eq!(s.begin(from.id), 0);
        assert_eq!(s.begin(to.id), 0);
        from.area.move_to(to.area.start);
        assert!(s.commit(to.id) >= 0);
        assert_eq!(s.unregister(from.id), 0);
        (0..512).step_by(5).for_each(|page| {
            to.area
                .word(page * WORDS + 2)
                .fetch_add(1, Ordering::SeqCst);
        });
        let list = to.end(s);
        let missed = (0..512)
            .step_by(5)
            .filter(|page| !list.contains(page))
            .count();
        c.equal(
            "the range a table came from is unregistered: missed",
            missed,
            0,
        );
        to.works(c, s, "the range a table came from is unregistered");
        Area::map(from.area.start, from.area.bytes, 0, -1);
        to.close(s);
        from.area.unmap();
        from.log.unmap();
    }
    // Within one range: the upper table replaces the lower one.
    let r = Range::new(s, Area::chunks(2));
    assert_eq!(s.begin(r.id), 0);
    r.area.part(512, 512).move_to(r.area.start);
    let list = r.end(s);
    c.check(
        "mremap within a range: reported",
        contains(&list, 0..1024),
        || format!("{} pages", list.len()),
    );
    let again = Area::map(r.area.start + CHUNK, CHUNK, 0, -1);
    (0..512).for_each(|page| again.set(page * PAGE, 1));
    r.works(c, s, "mremap within a range");
    r.close(s);
}

fn protected(c: &mut Checks, s: &Session) {
    let r = Range::new(s, Area::chunks(1));
    for (name, prot) in [("read-only", libc::PROT_READ), ("none", libc::PROT_NONE)] {
        assert_eq!(s.begin(r.id), 0);
        r.area.set(10 * PAGE, 1);
        let part = r.area.part(8, 8);
        part.protect(prot);
        let refused = (0..8).all(|page| !may_store(part.start + page * PAGE, 66));
        c.check(
            &format!("mprotect {name}: no write gets through"),
            refused,
            || "one did".into(),
        );
        c.check(
            &format!("mprotect {name}: others do"),
            may_store(r.area.start, 67),
            || "refused".into(),
        );
        part.protect(libc::PROT_READ | libc::PROT_WRITE);
        let intact = (0..8).all(|page| part.get(page * PAGE) != 66);
        c.check(&format!("mprotect {name}: contents"), intact, || {
            "changed".into()
        });
        let written = (0..8).all(|page| may_store(part.start + page * PAGE, 68));
        c.check(&format!("mprotect {name}: and back"), written, || {
            "refused".into()
        });
        let list = r.end(s);
        let all = contains(&list, 8..16) && list.contains(&0);
        c.check(&format!("mprotect {name}: reported"), all, || {
            format!("{list:?}")
        });
    }
    // Read-only before it is registered.
    let area = Area::chunks(1);
    area.part(0, 4).protect(libc::PROT_READ);
    let ro = Range::new(s, area);
    assert_eq!(s.begin(ro.id), 0);
    let refused = (0..4).all(|page| !may_store(ro.area.start + page * PAGE, 66));
    c.check(
        "read-only from the start: no write gets through",
        refused,
        || "one did".into(),
    );
    assert_eq!(s.commit(ro.id) & 0xffff_ffff, 0);
    let refused = (0..4).all(|page| !may_store(ro.area.start + page * PAGE, 66));
    c.check(
        "read-only from the start: nor after a commit",
        refused,
        || "one did".into(),
    );
    ro.end(s);
    ro.close(s);
    r.works(c, s, "mprotect");
    r.close(s);
}

fn zero_page(c: &mut Checks, s: &Session) {
    let area = Area::map(0, 64 * PAGE, 0, -1);
    area.advise(libc::MADV_NOHUGEPAGE);
    let other = Area::map(0, 64 * PAGE, 0, -1);
    other.advise(libc::MADV_NOHUGEPAGE);
    let zero = |area: &Area| (0..64).all(|page| area.get(page * PAGE + 9) == 0);
    assert!(zero(&area) && zero(&other));
    let r = Range::new(s, area);
    assert_eq!(s.begin(r.id), 0);
    (0..64)
        .step_by(2)
        .for_each(|page| r.area.set(page * PAGE + 9, 9));
    let own = (0..64).all(|page| r.area.get(page * PAGE + 9) == if page % 2 == 0 { 9 } else { 0 });
    c.check("zero page: own contents", own, || "wrong".into());
    c.check("zero page: others still see zero", zero(&other), || {
        "they do not".into()
    });
    let fresh = Area::map(0, 64 * PAGE, 0, -1);
    c.check("zero page: new memory is zero", zero(&fresh), || {
        "it is not".into()
    });
    let list = r.end(s);
    let all = (0..64).step_by(2).all(|page| list.contains(&page));
    c.check("zero page: reported", all, || format!("{list:?}"));
    (0..64).for_each(|page| r.area.set(page * PAGE, 1));
    r.works(c, s, "zero page");
    fresh.unmap();
    other.unmap();
    r.close(s);
}

fn files(c: &mut Checks, s: &Session) {
    let name = std::ffi::CString::new("remap").expect("no zero");
    // SAFETY: a new descriptor, or −1.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    assert!(fd >= 0);
    // SAFETY: our descriptor.
    assert_eq!(unsafe { libc::ftruncate(fd, 64 * PAGE as i64) }, 0);
    let shared = Area::map(0, 64 * PAGE, libc::MAP_SHARED, fd);
    (0..64).for_each(|page| shared.set(page * PAGE, 100 + page as u8));
    let untouched = |shared: &Area| (0..64).all(|page| shared.get(page * PAGE) == 100 + page as u8);

    let private = Area::map(0, 64 * PAGE, 0, fd);
    assert!(untouched(&private));
    let r = Range::new(s, private);
    assert_eq!(s.begin(r.id), 0);
    (0..64)
        .step_by(2)
        .for_each(|page| r.area.set(page * PAGE, 1));
    c.check(
        "private file pages: the file is untouched",
        untouched(&shared),
        || "changed".into(),
    );
    let own = (0..64_u8)
        .all(|page| r.area.get(page as usize * PAGE) == if page % 2 == 0 { 1 } else { 100 + page });
    c.check("private file pages: own contents", own, || "wrong".into());
    let list = r.end(s);
    let all = (0..64).step_by(2).all(|page| list.contains(&page));
    c.check("private file pages: reported", all, || format!("{list:?}"));
    r.works(c, s, "private file pages");
    c.check(
        "private file pages: still untouched",
        untouched(&shared),
        || "changed".into(),
    );
    r.close(s);

    let r = Range::new(s, Area::map(0, 64 * PAGE, libc::MAP_SHARED, fd));
    let tail = Range::new(s, Area::new(4 * PAGE));
    (0..64).for_each(|page| r.area.set(page * PAGE + 1, 1));
    assert_eq!(s.begin(r.id), 0);
    (0..64)
        .step_by(2)
        .for_each(|page| r.area.set(page * PAGE, 3));
    let seen = (0..64).step_by(2).all(|page| shared.get(page * PAGE) == 3);
    c.check("shared file pages: seen by the other mapping", seen, || {
        "not".into()
    });
    let list = r.end(s);
    let all = (0..64).step_by(2).all(|page| list.contains(&page));
    c.check("shared file pages: reported", all, || format!("{list:?}"));
    r.close(s);
    tail.close(s);
    shared.unmap();
    // SAFETY: our descriptor.
    unsafe { libc::close(fd) };
}

fn dropped(c: &mut Checks, s: &Session) {
    for (name, advice) in [
        ("MADV_DONTNEED", libc::MADV_DONTNEED),
        ("MADV_PAGEOUT", libc::MADV_PAGEOUT),
    ] {
        let r = Range::new(s, Area::chunks(1));
        let before: Vec<u8> = (0..512).map(|page| r.area.get(page * PAGE)).collect();
        assert_eq!(s.begin(r.id), 0);
        if !r.area.part(100, 50).advise(advice) {
            c.skip(name, "the kernel refuses it");
            s.end(r.id);
            r.close(s);
            continue;
        }
        let after: Vec<u8> = (0..512).map(|page| r.area.get(page * PAGE)).collect();
        let changed: Vec<u64> = (0..512_u64)
            .filter(|&p| before[p as usize] != after[p as usize])
            .collect();
        let list = r.end(s);
        let missed: Vec<_> = changed.iter().filter(|page| !list.contains(page)).collect();
        c.equal(&format!("{name}: what changed is reported"), missed, vec![]);
        (0..512).for_each(|page| r.area.set(page * PAGE, 1));
        r.works(c, s, name);
        r.close(s);
    }
}

/// The log's own page becomes part of the range, and the other way round.
fn log_moves(c: &mut Checks, s: &Session) {
    let r = Range::new(s, Area::chunks(1));
    assert_eq!(s.begin(r.id), 0);
    r.area.set(0, 1);
    r.log.part(0, 1).move_to(r.area.start + 7 * PAGE);
    let result = s.end(r.id);
    c.equal(
        "the log moved onto the range: end",
        result,
        hvckpt_guest_tests::no(libc::EFAULT),
    );
    let log = Area::map(r.log.start, PAGE, 0, -1);
    log.set(0, 0);
    assert_eq!(s.begin(r.id), 0);
    let list = r.end(s);
    c.check(
        "the log moved onto the range: all is dirty",
        contains(&list, 0..512),
        || format!("{list:?}"),
    );
    r.works(c, s, "the log moved onto the range");

    assert_eq!(s.begin(r.id), 0);
    // A tracked, protected page where the log should be written.
    r.area.part(9, 1).move_to(r.log.start);
    let hole = Area::map(r.area.start + 9 * PAGE, PAGE, 0, -1);
    hole.set(0, 1);
    // It came without write permission; Xen may take that for a bad log.
    let result = s.end(r.id);
    c.check(
        "a tracked page moved onto the log: end",
        result >= 0 || result == hvckpt_guest_tests::no(libc::EFAULT),
        || format!("{result}"),
    );
    let closed = s.end(r.id);
    c.equal(
        "a tracked page moved onto the log: closed",
        closed,
        hvckpt_guest_tests::no(libc::ENODATA),
    );
    r.log.set(0, 0);
    assert_eq!(s.begin(r.id), 0);
    let list = r.end(s);
    let told = if result < 0 {
        contains(&list, 0..512)
    } else {
        list.contains(&9)
    };
    c.check("a tracked page moved onto the log: reported", told, || {
        format!("{list:?}")
    });
    r.works(c, s, "a tracked page moved onto the log");
    r.close(s);
}

/// Protection changes while others write and cycles run.
fn storm(c: &mut Checks, s: &Session) {
    let r = Range::new(s, Area::chunks(2));
    let stop = AtomicBool::new(false);
    let mut owed: Vec<bool> = vec![false; 512];
    let mut copy: Vec<u64> = vec![0; 512];
    let mut missed = 0;
    let mut changes = 0;
    assert_eq!(s.begin(r.id), 0);
    for (page, copy) in copy.iter_mut().enumerate() {
        *copy = r.area.word(page * WORDS + 1).load(Ordering::SeqCst);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            // The upper half comes and goes.
            let upper = r.area.part(512, 512);
            let mut round = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                let part = upper.part(round % 400, 100);
                match round % 4 {
                    0 => part.protect(libc::PROT_READ),
                    1 => part.protect(libc::PROT_READ | libc::PROT_WRITE),
                    2 => assert!(part.advise(libc::MADV_DONTNEED)),
                    _ => {
                        part.unmap();
                        Area::map(part.start, part.bytes, 0, -1);
                    }
                }
                round += 1;
            }
        });
        scope.spawn(|| {
            let mut rng = Rng::new(5);
            while !stop.load(Ordering::Relaxed) {
                let page = rng.below(512);
                r.area.word(page * WORDS + 1).fetch_add(1, Ordering::SeqCst);
            }
        });
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < 400 || (changes < 1000 && start.elapsed() < Duration::from_secs(100)) {
            rounds += 1;
            let result = s.commit(r.id);
            assert!(result >= 0, "commit: {result}");
            let lost = result.cast_unsigned() & hvckpt::abi::CDA_RESULT_LOST != 0;
            let list = r.log.listed();
            let mut listed = vec![lost; 1024];
            list.iter().for_each(|&page| listed[page as usize] = true);
            for page in 0..512 {
                let now = r.area.word(page * WORDS + 1).load(Ordering::SeqCst);
                let changed = now != copy[page];
                copy[page] = now;
                changes += usize::from(changed);
                missed += usize::from(owed[page] && !listed[page]);
                owed[page] = changed && !listed[page];
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    c.equal(
        "storm of mprotect, munmap, MADV_DONTNEED: missed",
        missed,
        0,
    );
    c.check("storm: something was written", changes > 100, || {
        format!("{changes}")
    });
    s.end(r.id);
    r.area.protect(libc::PROT_READ | libc::PROT_WRITE);
    (0..1024).for_each(|page| r.area.set(page * PAGE, 1));
    r.works(c, s, "storm");
    r.close(s);
}

/// The session ends while a cycle is open and pages are protected.
fn torn_down(c: &mut Checks) {
    let s = Session::attach();
    let r = Range::new(&s, Area::chunks(1));
    assert_eq!(s.begin(r.id), 0);
    r.area.set(3 * PAGE, 3);
    c.equal("detach in an open cycle", s.detach(), 0);
    let fine = (0..512).all(|page| may_store(r.area.start + page * PAGE, 9));
    c.check("pages can be written after detach", fine, || {
        "one cannot".into()
    });
    let right = (0..512).all(|page| r.area.get(page * PAGE) == 9);
    c.check("contents after detach", right, || "wrong".into());
}

fn main() {
    hvckpt_guest_tests::need_gate();
    hvckpt_guest_tests::catch_faults();
    let mut c = Checks::default();
    let session = Session::attach();
    replaced(&mut c, &session);
    moved(&mut c, &session);
    protected(&mut c, &session);
    zero_page(&mut c, &session);
    files(&mut c, &session);
    dropped(&mut c, &session);
    log_moves(&mut c, &session);
    storm(&mut c, &session);
    assert_eq!(session.detach(), 0);
    torn_down(&mut c);
    c.finish();
}
