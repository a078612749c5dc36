// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads, aborts, refusals and power cuts against a model: what is there
//! afterwards is one version, with all that was acknowledged and nothing that
//! was refused.

#[path = "store_common/gate.rs"]
#[allow(dead_code)]
mod gate;
mod store_common;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use gate::Gate;
use hvckpt::TrackerKind;
use hvckpt::store::{
    Durability, Durable, DurableError, DurableTransaction, Store, StoreError, StoreOptions,
};
use store_common::builder;

const WORDS: usize = 6;
const THREADS: u64 = 4;
const TRANSACTIONS: u64 = 30;
/// So many stores at least, and until enough commits were refused.
const LIVES: u64 = 8;
const MOST: u64 = 400;
const ENOUGH: u64 = 20;

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// A transaction: what it was built on, and all words after it.
#[derive(Debug, Clone)]
struct Made {
    parent: u64,
    words: [u64; WORDS],
    /// It is there from now on.
    acknowledged: bool,
    /// It never is.
    refused: bool,
    /// Refused, and it may be there until what is left of it was taken back.
    doubtful: bool,
}

impl Made {
    fn new(parent: u64, words: [u64; WORDS]) -> Self {
        Self {
            parent,
            words,
            acknowledged: false,
            refused: false,
            doubtful: false,
        }
    }
}

/// What disturbs the commits.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    /// Long writes find the disk full.
    full: bool,
    /// Syncs fail, with this error.
    syncs: Option<i32>,
}

type Model = Mutex<BTreeMap<u64, Made>>;

/// One word on each page; the first one says which transaction it was.
fn words(region: &Durable) -> [u64; WORDS] {
    core::array::from_fn(|n| region.atomics_u64()[n * 512].load(Relaxed))
}

fn begin(region: &Durable) -> DurableTransaction<'_> {
    loop {
        match region.begin() {
            // The others were refused, or are at it.
            Err(DurableError::AlreadyOpen | DurableError::TakenBack { .. }) => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

/// Whether it was refused.
fn transact(region: &Durable, model: &Model, id: u64, rng: &mut Rng) -> bool {
    let transaction = begin(region);
    let before = words(region);
    let mut after = before;
    let doubtful: Vec<u64>;
    {
        let mut model = model.lock().unwrap();
        assert_eq!(before, model[&before[0]].words, "between transactions");
        after[0] = id;
        for _ in 0..rng.below(4) {
            after[1 + usize::try_from(rng.below(WORDS as u64 - 1)).unwrap()] = id;
        }
        doubtful = model
            .iter()
            .filter_map(|(id, made)| made.doubtful.then_some(*id))
            .collect();
        model.insert(id, Made::new(before[0], after));
    }
    for (n, value) in after.into_iter().enumerate() {
        region.atomics_u64()[n * 512].store(value, Relaxed);
    }
    let durability = match rng.below(10) {
        0 => {
            transaction.abort();
            model.lock().unwrap().get_mut(&id).unwrap().refused = true;
            return false;
        }
        1 => Durability::Memory,
        2..4 => Durability::Async,
        4..7 => Durability::Group,
        _ => Durability::Sync,
    };
    let result = transaction.commit(durability);
    let mut model = model.lock().unwrap();
    let made = model.get_mut(&id).unwrap();
    match (&result, durability) {
        (Ok(_), Durability::Group | Durability::Sync) => {
            made.acknowledged = true;
            // Nothing is written before what was refused is gone.
            for id in doubtful {
                let made = model.get_mut(&id).unwrap();
                (made.doubtful, made.refused) = (false, true);
            }
        }
        (Ok(_), _) => {}
        (Err(DurableError::Store(StoreError::Unsettled { .. })), _) => made.doubtful = true,
        (Err(DurableError::Store(_)), _) => made.refused = true,
        (Err(error), _) => panic!("{error}"),
    }
    result.is_err()
}

/// The transactions of which a state is made.
fn history(model: &BTreeMap<u64, Made>, mut id: u64) -> Vec<u64> {
    let mut history = vec![id];
    while id > 0 {
        id = model[&id].parent;
        history.push(id);
    }
    history
}

fn store(gate: &Gate) -> Arc<Store> {
    let mut options = StoreOptions::default();
    options.image_bytes = 8 << 10;
    options.compact_bytes = 32 << 10;
    options.keep = 2;
    options.queue_bytes = 40 << 10;
    Arc::new(Store::open_on(Arc::new(gate.clone()), options).unwrap())
}

fn open(gate: &Gate) -> (Arc<Store>, Durable) {
    let store = store(gate);
    let region = builder("main", TrackerKind::Pt).pages(WORDS);
    let region = region.open_in(&store).unwrap();
    (store, region)
}

/// What a disk holds, against what was known of it then.
fn check(found: [u64; WORDS], known: &BTreeMap<u64, Made>, made: &BTreeMap<u64, Made>, at: &str) {
    assert_eq!(found, made[&found[0]].words, "{at}");
    let history = history(made, found[0]);
    for (id, made) in known {
        let there = history.contains(id);
        assert!(there || !made.acknowledged, "{at}: {id} was acknowledged");
        assert!(!there || !made.refused, "{at}: {id} was refused");
    }
}

/// Lets the power fail while threads commit, and looks at what is left.
fn cut(gate: &Gate, model: &Model, seed: u64) {
    let known = model.lock().unwrap().clone();
    let disk = gate.disk.after_crash(seed);
    let made = model.lock().unwrap().clone();
    let store = store(&Gate::on(disk));
    let Some((area, _)) = store.find_area("main") else {
        panic!("the area was made before");
    };
    let view = store.view(None).unwrap();
    let words = core::array::from_fn(|n| view.page(area as usize, n as u64).unwrap().0[0]);
    check(words, &known, &made, "after a cut");
}

/// How many commits were refused.
fn live(gate: &Gate, model: &Model, seed: u64, first: u64, trouble: Trouble) -> u64 {
    let (store, region) = open(gate);
    let mut rng = Rng(seed * 31 + 7);
    let refused = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (region, first) = (&region, first + thread * TRANSACTIONS);
                scope.spawn(move || {
                    let mut rng = Rng(seed * 977 + thread + 1);
                    let all = first..first + TRANSACTIONS;
                    all.filter(|&id| transact(region, model, id, &mut rng))
                        .count()
                })
            })
            .collect();
        let mut cuts = 3;
        while workers.iter().any(|worker| !worker.is_finished()) {
            match rng.below(8) {
                0 if trouble.full => {
                    gate.largest(Some(usize::try_from(rng.below(700)).unwrap()));
                }
                1 | 2 if trouble.syncs.is_some() => {
                    let one_in = 1 + rng.below(3);
                    gate.disk.fail_syncs(trouble.syncs, one_in, rng.0);
                }
                3 if cuts > 0 => {
                    cuts -= 1;
                    cut(gate, model, rng.0);
                }
                _ => {
                    gate.largest(None);
                    gate.disk.fail_syncs(None, 1, 1);
                }
            }
            std::thread::yield_now();
        }
        let refused = workers.into_iter().map(|worker| worker.join().unwrap());
        refused.sum::<usize>()
    });
    if rng.below(2) == 0 {
        gate.largest(None);
        gate.disk.fail_syncs(None, 1, 1);
    }
    drop(region);
    drop(store);
    gate.largest(None);
    gate.disk.fail_syncs(None, 1, 1);
    refused as u64
}

fn run(trouble: Trouble) {
    let mut refused = 0;
    for seed in 1..=MOST {
        let mut gate = Gate::default();
        let model = Mutex::new(BTreeMap::from([(0, Made::new(0, [0; WORDS]))]));
        for life in 0..3 {
            let first = 1 + life * THREADS * TRANSACTIONS;
            refused += live(&gate, &model, seed * 3 + life, first, trouble);
            // Every other time the kernel remembers what the disk may not have.
            if (seed + life) % 2 == 0 {
                gate = Gate::on(gate.disk.after_crash(seed));
            }
            let (_store, region) = open(&gate);
            let found = words(&region);
            let mut model = model.lock().unwrap();
            check(
                found,
                &model,
                &model,
                &format!("life {life} of seed {seed}"),
            );
            // What was found stays, and nothing else comes back.
            let history = history(&model, found[0]);
            for (id, made) in model.iter_mut() {
                let there = history.contains(id);
                (made.acknowledged, made.refused) = (there, !there);
                made.doubtful = false;
            }
        }
        if seed >= LIVES && refused >= ENOUGH {
            return;
        }
    }
    panic!("only {refused} commits were refused");
}

#[test]
fn on_a_full_disk() {
    run(Trouble {
        full: true,
        syncs: None,
    });
}

#[test]
fn with_syncs_which_fail() {
    run(Trouble {
        full: false,
        syncs: Some(libc::EIO),
    });
}

#[test]
fn with_syncs_which_find_no_space() {
    run(Trouble {
        full: false,
        syncs: Some(libc::ENOSPC),
    });
}

#[test]
fn with_everything_at_once() {
    run(Trouble {
        full: true,
        syncs: Some(libc::EIO),
    });
}
