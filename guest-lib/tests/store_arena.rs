// SPDX-License-Identifier: MIT OR Apache-2.0
//! Collections in a durable region: abort and recovery cover them, also in
//! another process.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

mod store_common;

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::RandomState;
use std::path::Path;
use std::process::Command;

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec as ArenaVec;
use hashbrown::HashMap;
use hvckpt::TrackerKind;
use hvckpt::arena::{Arena, ArenaError, ArenaRoot, Heap, UpdateError};
use hvckpt::store::Durability;
use proptest::prelude::*;
use store_common::{Scratch, builder, trackers};

type Bytes = ArenaVec<u8, Heap>;

struct Keys {
    map: HashMap<u64, Bytes, RandomState, Heap>,
    heap: Heap,
}

// SAFETY: everything in it is allocated in the arena, the map never empty of
// capacity, and no part leaves.
unsafe impl ArenaRoot for Keys {
    const TAG: u64 = 1;
}

impl Keys {
    fn new(heap: Heap) -> Self {
        Self {
            map: HashMap::with_capacity_and_hasher_in(8, RandomState::new(), heap),
            heap,
        }
    }

    fn put(&mut self, key: u64, value: &[u8]) {
        let mut bytes = ArenaVec::with_capacity_in(value.len(), self.heap);
        bytes.extend_from_slice(value);
        self.map.insert(key, bytes);
    }
}

fn open(path: &Path, tracker: TrackerKind) -> Arena<Keys> {
    Arena::open(
        builder("keys", tracker).pages(128).open(path).unwrap(),
        Keys::new,
    )
    .unwrap()
}

fn all(arena: &Arena<Keys>) -> BTreeMap<u64, Vec<u8>> {
    arena.read(|keys| {
        keys.map
            .iter()
            .map(|(key, value)| (*key, value.to_vec()))
            .collect()
    })
}

fn value(key: u64, round: u64) -> Vec<u8> {
    vec![(key + round).to_le_bytes()[0]; usize::try_from(key * 37 % 700 + round).unwrap()]
}

const DIRECTORY: &str = "HVCKPT_TEST_ARENA";

/// One round, in a process of its own if the other test starts it.
#[test]
fn round() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let arena = open(Path::new(&directory), TrackerKind::Pt);
    let round = arena.read(|keys| keys.map.get(&0).map_or(0, |bytes| bytes.len() as u64));
    let expected: BTreeMap<u64, Vec<u8>> = (0..round * 10)
        .map(|key| (key, value(key, round)))
        .collect();
    assert!(all(&arena) == expected, "round {round}");
    let next = round + 1;
    arena
        .update(Durability::Sync, |keys| {
            (0..next * 10).for_each(|key| keys.put(key, &value(key, next)));
            Ok::<_, Infallible>(())
        })
        .unwrap();
}

#[test]
fn a_map_comes_back_in_other_processes() {
    let scratch = Scratch::new("arena");
    for _ in 0..5 {
        // Each at other addresses, where the kernel moves programs.
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "round", "--nocapture"])
            .env(DIRECTORY, scratch.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
    assert_eq!(all(&open(scratch.path(), TrackerKind::Pt)).len(), 50);
}

#[test]
fn another_type_is_refused_and_a_full_arena_is_an_error() {
    struct Other;
    // SAFETY: it holds nothing.
    unsafe impl ArenaRoot for Other {
        const TAG: u64 = 2;
    }
    let scratch = Scratch::new("arena-other");
    let arena = open(scratch.path(), TrackerKind::Pt);
    let used = arena.used();
    let refused = arena.update(Durability::Sync, |keys| {
        let mut bytes = ArenaVec::new_in(keys.heap);
        bytes.try_reserve(1 << 30).map_err(|_| "no room")?;
        keys.map.insert(1, bytes);
        Ok(())
    });
    assert!(matches!(refused, Err(UpdateError::Refused("no room"))));
    assert_eq!(arena.used(), used);
    drop(arena);
    let region = builder("keys", TrackerKind::Pt)
        .open(scratch.path())
        .unwrap();
    match Arena::open(region, |_| Other) {
        Err(ArenaError::OtherRoot {
            found: 1,
            expected: 2,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(all(&open(scratch.path(), TrackerKind::Pt)).len(), 0);
}

#[test]
fn a_panic_in_an_update_undoes_it() {
    let scratch = Scratch::new("arena-panic");
    let arena = open(scratch.path(), TrackerKind::Pt);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        arena.update(Durability::Sync, |keys| -> Result<(), Infallible> {
            (0..100).for_each(|key| keys.put(key, &[1; 100]));
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err() && all(&arena).is_empty());
}

#[test]
fn blocks_never_overlap_and_come_back() {
    let scratch = Scratch::new("arena-blocks");
    let arena = open(scratch.path(), TrackerKind::Pt);
    // SAFETY: everything is freed before the update ends.
    let heap = unsafe { arena.heap() };
    let mut seed = 1_u64;
    let mut random = |end: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % end).unwrap()
    };
    let used = arena.used();
    arena
        .update(Durability::Async, |_| {
            let mut blocks: Vec<(std::ptr::NonNull<u8>, Layout)> = Vec::new();
            let (mut refused, mut served) = (0, 0);
            for _ in 0..20_000 {
                if random(5) < 2 && !blocks.is_empty() {
                    let (block, layout) = blocks.swap_remove(random(blocks.len() as u64));
                    // SAFETY: allocated below with this layout.
                    unsafe { heap.deallocate(block, layout) };
                    continue;
                }
                let most = 1 << (1 + random(14));
                let size = 1 + random(most);
                let layout = Layout::from_size_align(size, 1 << random(13)).unwrap();
                let Ok(block) = heap.allocate(layout) else {
                    refused += 1;
                    let (block, layout) = blocks.swap_remove(0);
                    // SAFETY: as above.
                    unsafe { heap.deallocate(block, layout) };
                    continue;
                };
                served += 1;
                let start = block.cast::<u8>();
                assert_eq!(start.as_ptr() as usize % layout.align(), 0);
                let range = |(block, layout): &(std::ptr::NonNull<u8>, Layout)| {
                    let start = block.as_ptr() as usize;
                    (start, start + layout.size())
                };
                let (from, to) = range(&(start, layout));
                let disjoint = blocks.iter().map(range).all(|(a, b)| to <= a || b <= from);
                assert!(
                    disjoint && to <= usize::try_from(arena.bytes()).unwrap() + heap_base(&arena)
                );
                blocks.push((start, layout));
            }
            assert!(
                refused > 0 && served > 5000,
                "{served} served, {refused} refused"
            );
            // SAFETY: as above.
            blocks
                .iter()
                .for_each(|(block, layout)| unsafe { heap.deallocate(*block, *layout) });
            Ok::<_, Infallible>(())
        })
        .unwrap();
    assert_eq!(arena.used(), used);
}

fn heap_base(arena: &Arena<Keys>) -> usize {
    let (_, area) = arena.store().find_area("keys").unwrap();
    usize::try_from(area.address).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, usize),
    Remove(u64),
    Commit,
    Abort,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u64, 0..600_usize).prop_map(|(key, len)| Step::Put(key, len)),
        3 => (0..40_u64).prop_map(Step::Remove),
        3 => Just(Step::Commit),
        2 => Just(Step::Abort),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_map_is_like_a_plain_one(steps in prop::collection::vec(step(), 1..60)) {
        for tracker in trackers() {
            let scratch = Scratch::new(&format!("arena-model-{tracker}"));
            let mut arena = open(scratch.path(), tracker);
            let mut model = BTreeMap::new();
            let mut waiting: Vec<Step> = Vec::new();
            for step in &steps {
                match step {
                    Step::Put(..) | Step::Remove(_) => {
                        waiting.push(step.clone());
                        continue;
                    }
                    Step::Reopen => {
                        drop(arena);
                        arena = open(scratch.path(), tracker);
                        waiting.clear();
                    }
                    Step::Commit | Step::Abort => {
                        let mut next = model.clone();
                        let result = arena.update(Durability::Async, |keys| {
                            for step in waiting.drain(..) {
                                match step {
                                    Step::Put(key, len) => {
                                        let value = vec![len.to_le_bytes()[0]; len];
                                        keys.put(key, &value);
                                        next.insert(key, value);
                                    }
                                    Step::Remove(key) => {
                                        keys.map.remove(&key);
                                        next.remove(&key);
                                    }
                                    _ => {}
                                }
                            }
                            if matches!(step, Step::Abort) { Err(()) } else { Ok(()) }
                        });
                        if result.is_ok() {
                            model = next;
                        }
                    }
                }
                prop_assert!(all(&arena) == model, "{} differs after {:?}", tracker, step);
            }
        }
    }
}
