// SPDX-License-Identifier: MIT OR Apache-2.0
//! A primary and its backup, in one process: what each has, when the network
//! is cut, when one of them is away, when another one is promoted.

#![allow(clippy::field_reassign_with_default)] // options are non-exhaustive

mod backup_common;
mod store_common;

use std::time::Duration;

use backup_common::{Primary, Proxy, check, key, options, replication, server, until, vault};
use hvckpt::backup::{
    BackupError, Link, Reason, ReplicationError, Require, Server, ServerOptions, promote,
    remove_key, status,
};
use hvckpt::store::{Durability, Page, PageWrite, Store, StoreError};
use store_common::Scratch;

#[test]
fn what_a_commit_returned_from_is_on_the_backup() {
    for require in [Require::Both, Require::Backup] {
        let scratch = Scratch::new(&format!("backup-{require:?}"));
        let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
        let key = key(&there, "one");
        let backup = server(&there, "127.0.0.1:0");
        let replication = replication(backup.address(), &key, require);
        let mut primary = Primary::open(&here, options(Some(replication))).unwrap();
        for _ in 0..60 {
            let n = primary.commit(Durability::Sync).unwrap();
            // Read beside the running backup.
            assert_eq!(check(&vault(&there, "one")), n);
        }
        let seen = primary.store.replica().unwrap();
        assert_eq!((seen.link, seen.degraded), (Link::Streaming, false));
        assert!(seen.catch_ups <= 2, "{seen:?}");
        let shown = &status(&there, None).unwrap()[0];
        assert!(shown.connected && !shown.promoted);
        assert_eq!(shown.version, Some(primary.store.newest()));
        drop(primary);
        assert_eq!(check(&here), 60);
    }
}

#[test]
fn cut_at_random_points_it_goes_on_without_gap_or_duplicate() {
    let scratch = Scratch::new("backup-cut");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let proxy = Proxy::new(backup.address());
    let replication = replication(proxy.address, &key, Require::Both);
    let mut primary = Primary::open(&here, options(Some(replication))).unwrap();
    let mut random = 88_172_645_463_325_252_u64;
    while proxy.cuts() < 40 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        proxy.cut_after(i64::try_from(random % 6000).unwrap());
        let before = proxy.cuts();
        while proxy.cuts() == before {
            let n = primary.commit(Durability::Sync).unwrap();
            if n.is_multiple_of(3) {
                primary.commit(Durability::Async).unwrap();
            }
        }
        let n = primary.commit(Durability::Sync).unwrap();
        assert_eq!(check(&vault(&there, "one")), n);
    }
    let newest = primary.store.newest();
    drop((primary, backup));
    assert_eq!(status(&there, None).unwrap()[0].version, Some(newest));
}

#[test]
fn after_an_absence_it_catches_up_and_from_nothing_if_it_must() {
    let scratch = Scratch::new("backup-absent");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let proxy = Proxy::new(backup.address());
    let mut replication = replication(proxy.address, &key, Require::Disk);
    // Little fits: what was missed comes from the store.
    replication.queue_bytes = 64 << 10;
    let mut how = options(Some(replication));
    how.keep = 4;
    how.auto_compact = false;
    let mut primary = Primary::open(&here, how).unwrap();
    primary.commit(Durability::Sync).unwrap();
    until("level", || {
        let seen = primary.store.replica().unwrap();
        seen.acknowledged == primary.store.newest()
    });

    proxy.close();
    for _ in 0..50 {
        // The backup is not waited for.
        primary.commit(Durability::Sync).unwrap();
    }
    let seen = primary.store.replica().unwrap();
    assert!(seen.offered - seen.acknowledged >= 50 && seen.queued_bytes <= 64 << 10);
    proxy.open();
    until("level again", || {
        let seen = primary.store.replica().unwrap();
        seen.acknowledged == primary.store.newest()
    });
    let seen = primary.store.replica().unwrap();
    assert!(seen.catch_ups >= 2 && seen.bases <= 1, "{seen:?}");
    assert_eq!(check(&vault(&there, "one")), 51);

    // What the backup has is not kept here any more.
    proxy.close();
    for round in 0..4 {
        for _ in 0..20 {
            primary.commit(Durability::Sync).unwrap();
        }
        primary.store.compact(|_| {}).unwrap();
        assert_eq!(check(&here), 71 + round * 20);
    }
    proxy.open();
    let bases = seen.bases;
    until("level from nothing", || {
        let seen = primary.store.replica().unwrap();
        seen.acknowledged == primary.store.newest() && seen.bases > bases
    });
    assert_eq!(check(&vault(&there, "one")), 131);
}

#[test]
fn a_large_version_and_growing_areas_arrive() {
    let scratch = Scratch::new("backup-large");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let replication = replication(backup.address(), &key, Require::Both);
    let store = Store::open(&here, options(Some(replication))).unwrap();
    let area = store.area("large", 0x4000_0000, 3000).unwrap();
    let pages: Vec<Page> = (0..5000_u64).map(|n| Page([n * n + 1; 512])).collect();
    let writes = |range: std::ops::Range<usize>| -> Vec<PageWrite<'_>> {
        let page = |n: usize| PageWrite::new(area, n as u64, &pages[n]);
        range.map(page).collect()
    };
    store.commit(&writes(0..3000), Durability::Sync).unwrap();
    store.area("large", 0x4000_0000, 5000).unwrap();
    store.area("second", 0x8000_0000, 1).unwrap();
    let newest = store.commit(&writes(2900..5000), Durability::Sync).unwrap();

    let mut only_read = options(None);
    only_read.read_only = true;
    let copy = Store::open(vault(&there, "one"), only_read).unwrap();
    let view = copy.view(None).unwrap();
    assert_eq!(view.version().number, newest);
    assert_eq!(view.areas().len(), 2);
    for (n, page) in pages.iter().enumerate() {
        assert_eq!(view.page(0, n as u64).unwrap(), *page, "page {n}");
    }
}

#[test]
fn a_backup_can_encrypt_what_it_keeps() {
    let scratch = Scratch::new("backup-sealed");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let store_key = hvckpt::store::StoreKey::generate().unwrap();
    let key = key(&there, "one");
    let mut how = ServerOptions::new(&there, "127.0.0.1:0");
    how.store.key = Some(store_key.clone());
    let backup = Server::start(how).unwrap();
    let replication = replication(backup.address(), &key, Require::Both);
    let mut primary = Primary::open(&here, options(Some(replication))).unwrap();
    for _ in 0..5 {
        primary.commit(Durability::Sync).unwrap();
    }
    let newest = primary.store.newest();
    drop((primary, backup));
    let kept = |key: Option<&_>| status(&there, key).unwrap()[0].version;
    assert_eq!((kept(None), kept(Some(&store_key))), (None, Some(newest)));
    // Nobody loses anything for a state which cannot be read.
    assert!(promote(&there, "one", None, None).is_err());
    assert_eq!(status(&there, None).unwrap()[0].epoch, 1);
    let done = promote(&there, "one", None, Some(&store_key)).unwrap();
    assert_eq!((done.version, done.epoch), (newest, 2));
}

#[test]
fn a_promoted_backup_ends_the_primary() {
    let scratch = Scratch::new("backup-fence");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let how = || options(Some(replication(backup.address(), &key, Require::Disk)));
    let mut primary = Primary::open(&here, how()).unwrap();
    let n = primary.commit(Durability::Sync).unwrap();
    primary
        .store
        .wait_for_backup(primary.store.newest())
        .unwrap();

    let done = promote(&there, "one", None, None).unwrap();
    assert_eq!((done.epoch, done.version), (2, primary.store.newest()));
    // Again: nothing new.
    assert_eq!(promote(&there, "one", None, None).unwrap(), done);
    // Even if it need not wait for the backup, soon nothing is acknowledged.
    let mut late = 0;
    let error = loop {
        match primary.commit(Durability::Sync) {
            Ok(_) => late += 1,
            Err(error) => break error,
        }
        assert!(late < 1_000_000);
    };
    assert!(error.fenced(), "{error}");
    drop(primary);
    // Nor after the next start, with a backup or without.
    for how in [how(), options(None)] {
        let error = Primary::open(&here, how).err().unwrap();
        assert!(matches!(error, StoreError::Fenced { epoch: 2 }), "{error}");
    }

    // The new instance goes on where the backup was, with a backup of its own.
    let second = scratch.path().join("second");
    let other = backup_common::key(&second, "one");
    let replica = server(&second, "127.0.0.1:0");
    let how = options(Some(replication(replica.address(), &other, Require::Both)));
    let mut heir = Primary::open(&done.path, how).unwrap();
    assert_eq!(heir.commit(Durability::Sync).unwrap(), n + 1);
    assert_eq!(heir.store.replica().unwrap().epoch, 2);
    assert_eq!(check(&vault(&second, "one")), n + 1);
    // A primary of the first epoch, as one from which the news were kept.
    let stale = scratch.path().join("stale");
    let file = |dir: &std::path::Path| dir.join("replica");
    std::fs::create_dir(&stale).unwrap();
    drop(Store::open(&stale, options(None)).unwrap());
    std::fs::copy(file(&here), file(&stale)).unwrap();
    let mut bytes = std::fs::read(file(&stale)).unwrap();
    bytes[16..24].fill(0);
    let crc = crc32c::crc32c(&bytes[..28]).to_le_bytes();
    bytes[28..].copy_from_slice(&crc);
    std::fs::write(file(&stale), bytes).unwrap();
    let how = options(Some(replication(replica.address(), &other, Require::Both)));
    let mut stale = Primary::open(&stale, how).unwrap();
    let error = stale.commit(Durability::Sync).unwrap_err();
    assert!(error.fenced(), "{error}");
    assert_eq!(check(&vault(&second, "one")), n + 1);
}

#[test]
fn a_moved_state_leaves_room_for_the_next_epoch() {
    let scratch = Scratch::new("backup-move");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let how = || options(Some(replication(backup.address(), &key, Require::Both)));
    let mut primary = Primary::open(&here, how()).unwrap();
    for _ in 0..5 {
        primary.commit(Durability::Sync).unwrap();
    }
    let moved = scratch.path().join("moved");
    let done = promote(&there, "one", Some(&moved), None).unwrap();
    assert_eq!((done.path.as_path(), done.epoch), (moved.as_path(), 2));
    assert!(primary.commit(Durability::Sync).unwrap_err().fenced());
    assert!(matches!(
        promote(&there, "one", None, None),
        Err(BackupError::Remote(_))
    ));
    let mut heir = Primary::open(&moved, how()).unwrap();
    assert_eq!(heir.commit(Durability::Sync).unwrap(), 6);
    assert_eq!(check(&vault(&there, "one")), 6);
}

#[test]
fn what_must_not_be_mixed_is_refused() {
    let scratch = Scratch::new("backup-mixed");
    let there = scratch.path().join("there");
    let (key, lost) = (key(&there, "one"), key(&there, "two"));
    let backup = server(&there, "127.0.0.1:0");
    let open = |name: &str, key, require| {
        let replication = replication(backup.address(), key, require);
        Primary::open(&scratch.path().join(name), options(Some(replication))).unwrap()
    };
    let refusal = |primary: &mut Primary| match primary.commit(Durability::Sync) {
        Err(StoreError::Unreplicated {
            source: ReplicationError::Refused(refusal),
            ..
        }) => refusal.reason,
        other => panic!("{other:?}"),
    };
    let mut first = open("first", &key, Require::Both);
    first.commit(Durability::Sync).unwrap();
    // Another store with the same key.
    let mut other = open("other", &key, Require::Both);
    assert_eq!(refusal(&mut other), Reason::OtherStore);
    // A key which was taken back.
    remove_key(&there, "two").unwrap();
    let mut unknown = open("unknown", &lost, Require::Both);
    assert_eq!(refusal(&mut unknown), Reason::UnknownKey);
    // The memory of a commit which is in doubt is kept, and so is the version.
    assert_eq!(unknown.commit(Durability::Async).unwrap(), 2);
    drop(unknown);
    assert_eq!(check(&scratch.path().join("unknown")), 2);

    // The disk lost what the backup has.
    let old = scratch.path().join("old");
    first.store.flush().unwrap();
    copy(&scratch.path().join("first"), &old);
    first.commit(Durability::Sync).unwrap();
    drop(first);
    let mut back = open("old", &key, Require::Both);
    until("refused", || {
        let seen = back.store.replica().unwrap();
        seen.trouble.is_some_and(|why| why.contains("backup-ahead"))
    });
    assert!(back.commit(Durability::Sync).is_err());
    // It went on all the same, and has other contents under the number.
    drop(back);
    let mut fork = open("old", &key, Require::Disk);
    for _ in 0..3 {
        fork.commit(Durability::Sync).unwrap();
    }
    until("refused", || {
        let seen = fork.store.replica().unwrap();
        seen.trouble.is_some_and(|why| why.contains("other-store"))
    });
    assert_eq!(check(&vault(&there, "one")), 2);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_absent_backup_fails_commits_or_degrades_them() {
    let scratch = Scratch::new("backup-degrade");
    let there = scratch.path().join("there");
    let key = key(&there, "one");
    let backup = server(&there, "127.0.0.1:0");
    let proxy = Proxy::new(backup.address());
    let here = scratch.path().join("here");
    let how = |degrade, milliseconds| {
        let mut replication = replication(proxy.address, &key, Require::Both);
        replication.timeout = Duration::from_millis(milliseconds);
        replication.degrade = degrade;
        options(Some(replication))
    };
    let mut primary = Primary::open(&here, how(false, 30_000)).unwrap();
    primary.commit(Durability::Sync).unwrap();
    drop((primary, backup));
    proxy.close();
    let mut primary = Primary::open(&here, how(false, 400)).unwrap();
    let error = primary.commit(Durability::Sync).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Unreplicated {
                source: ReplicationError::Timeout(..),
                ..
            }
        ),
        "{error}"
    );
    drop(primary);
    // Also the time in which the next one must answer.
    let mut primary = Primary::open(&here, how(true, 2000)).unwrap();
    assert_eq!(primary.commit(Durability::Sync).unwrap(), 3);
    assert!(primary.store.replica().unwrap().degraded);
    // It comes back, and commits wait for it again.
    let backup = server(&there, "127.0.0.1:0");
    proxy.retarget(backup.address());
    proxy.open();
    until("level", || {
        let seen = primary.store.replica().unwrap();
        !seen.degraded && seen.acknowledged == primary.store.newest()
    });
    assert_eq!(check(&vault(&there, "one")), 3);
}

/// A frame with a body.
fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// What a right primary says: a base of one page, or what looks like it.
fn conversation(have: u64) -> Vec<Vec<u8>> {
    let mut begin = numbers(&[have + 1, have, 7]);
    begin.extend(7_u32.to_le_bytes());
    begin.extend(1_u32.to_le_bytes());
    begin.extend([b'm'; 4]);
    begin.extend([0; 44]);
    begin.extend(numbers(&[0x10_0000, 4]));
    let mut record = vec![0; 40 + 4096];
    record[4..8].copy_from_slice(&crc32c::crc32c(&[9; 4096]).to_le_bytes());
    record[8] = 1;
    record[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    record[40..].fill(9);
    let crc = crc32c::crc32c(&record[4..]).to_le_bytes();
    record[..4].copy_from_slice(&crc);
    vec![
        frame(4, &begin),
        frame(5, &record),
        frame(6, &numbers(&[have + 1, 1])),
        frame(7, &numbers(&[1])),
    ]
}

#[test]
fn hostile_peers_harm_nobody_else() {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    let scratch = Scratch::new("backup-hostile");
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    let (good, bad) = (key(&there, "good"), key(&there, "bad"));
    let backup = server(&there, "127.0.0.1:0");
    let how = options(Some(replication(backup.address(), &good, Require::Both)));
    let mut primary = Primary::open(&here, how).unwrap();
    primary.commit(Durability::Sync).unwrap();

    // Strangers: one who says nothing, one who says nonsense.
    let _silent = std::net::TcpStream::connect(backup.address()).unwrap();
    let mut loud = std::net::TcpStream::connect(backup.address()).unwrap();
    let _refused = loud.write_all(&[0x16; 4096]);

    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 20).unwrap() % below
    };
    let seconds = std::env::var("HVCKPT_FUZZ_SECONDS").map_or(2, |text| text.parse().unwrap());
    let deadline = std::time::Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    let (mut welcome, mut taken) = (0, 0_u64);
    while std::time::Instant::now() < deadline || rounds < 60 {
        rounds += 1;
        // Earlier ones may not be gone yet: there are places for a few only.
        let mut channel = None;
        until("a place", || {
            let time = Duration::from_secs(60);
            let tried =
                hvckpt_wire::Channel::connect(backup.address(), &bad, b"hvckpt-backup/1", time);
            channel = tried.ok();
            channel.is_some()
        });
        let mut channel = channel.unwrap();
        let mut hello = vec![7; 16];
        hello.extend(numbers(&[0, 1_000_000]));
        channel.write_all(&frame(1, &hello)).unwrap();
        let mut answer = [0; 32];
        if channel.read_exact(&mut answer).is_err() || answer[6] != 2 {
            continue;
        }
        welcome += 1;
        let have = u64::from_le_bytes(answer[16..24].try_into().unwrap());
        let mut frames = conversation(have);
        for _ in 0..next(3) {
            let frame = next(frames.len());
            match next(4) {
                0 => {
                    let at = next(frames[frame].len());
                    frames[frame][at] ^= 1 << next(8);
                }
                1 => drop(frames.remove(frame)),
                2 => frames.push(frames[frame].clone()),
                _ => {
                    let length = next(frames[frame].len());
                    frames[frame].truncate(length);
                }
            }
            if frames.is_empty() {
                break;
            }
        }
        // The other side may refuse in the middle.
        let _refused = channel.write_all(&frames.concat());
        if rounds % 8 == 0 {
            channel.finish();
        } else {
            // Or it would be waited for what was taken out.
            let _gone = channel.handle().unwrap().shutdown(Shutdown::Write);
            answer.fill(0);
            let _last = channel.read_exact(&mut answer[..16]);
            taken += u64::from(answer[6] == 8);
        }
        let n = primary.commit(Durability::Sync).unwrap();
        assert_eq!(check(&vault(&there, "good")), n);
    }
    assert!(welcome > rounds / 2, "{welcome} of {rounds} got in");
    assert!(taken > 5, "{taken} of {rounds} were taken");
    println!("{rounds} rounds, {taken} taken");
    drop(backup);
    let directory: std::sync::Arc<dyn hvckpt::store::backend::Backend> =
        std::sync::Arc::new(hvckpt::store::backend::Directory::new(vault(&there, "bad")));
    let found = hvckpt::store::verify(&directory, None, |_| {}).unwrap();
    assert!(found.sound(), "{:?}", found.problems);
}
