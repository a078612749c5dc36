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
use hvckpt::store::{Durability, Durable, DurableError, DurableTransaction, Store, StoreOptions};
use store_common::builder;

const WORDS: usize = 6;
const THREADS: u64 = 4;
const TRANSACTIONS: u64 = 30;
const LIVES: u64 = 12;

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
    acknowledged: bool,
    refused: bool,
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

fn transact(region: &Durable, model: &Model, id: u64, rng: &mut Rng) {
    let transaction = begin(region);
    let before = words(region);
    let mut after = before;
    {
        let mut model = model.lock().unwrap();
        assert_eq!(before, model[&before[0]].words, "between transactions");
        after[0] = id;
        for _ in 0..rng.below(4) {
            after[1 + usize::try_from(rng.below(WORDS as u64 - 1)).unwrap()] = id;
        }
        let made = Made {
            parent: before[0],
            words: after,
            acknowledged: false,
            refused: false,
        };
        model.insert(id, made);
    }
    for (n, value) in after.into_iter().enumerate() {
        region.atomics_u64()[n * 512].store(value, Relaxed);
    }
    let durability = match rng.below(10) {
        0 => {
            transaction.abort();
            model.lock().unwrap().get_mut(&id).unwrap().refused = true;
            return;
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
        (Ok(_), Durability::Group | Durability::Sync) => made.acknowledged = true,
        (Ok(_), _) => {}
        (Err(DurableError::Store(_)), _) => made.refused = true,
        (Err(error), _) => panic!("{error}"),
    }
}

/// The transactions of which a state is made.
fn history(model: &BTreeMap<u64, Made>, mut id: u64) -> Vec<u64> {
    let mut history = Vec::new();
    while id > 0 {
        history.push(id);
        id = model[&id].parent;
    }
    history
}

fn open(gate: &Gate) -> (Arc<Store>, Durable) {
    let mut options = StoreOptions::default();
    options.image_bytes = 8 << 10;
    options.compact_bytes = 32 << 10;
    options.keep = 2;
    options.queue_bytes = 40 << 10;
    let store = Arc::new(Store::open_on(Arc::new(gate.clone()), options).unwrap());
    let region = builder("main", TrackerKind::Pt).pages(WORDS);
    let region = region.open_in(&store).unwrap();
    (store, region)
}

fn live(gate: &Gate, model: &Model, seed: u64, next: &mut u64, failing: bool) {
    let (store, region) = open(gate);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (region, first) = (&region, *next + thread * TRANSACTIONS);
                scope.spawn(move || {
                    let mut rng = Rng(seed * 977 + thread + 1);
                    for id in first..first + TRANSACTIONS {
                        transact(region, model, id, &mut rng);
                    }
                })
            })
            .collect();
        let mut rng = Rng(seed * 31 + 7);
        while workers.iter().any(|worker| !worker.is_finished()) {
            match rng.below(6) {
                0 => gate.largest(Some(usize::try_from(rng.below(700)).unwrap())),
                1 if failing => gate.open_failing(),
                _ => {
                    gate.largest(None);
                    gate.open();
                }
            }
            std::thread::yield_now();
        }
    });
    gate.largest(None);
    gate.open();
    *next += THREADS * TRANSACTIONS;
    drop(region);
    drop(store);
}

fn run(failing: bool) {
    for seed in 1..=LIVES {
        let mut gate = Gate::default();
        let root = Made {
            parent: 0,
            words: [0; WORDS],
            acknowledged: false,
            refused: false,
        };
        let model = Mutex::new(BTreeMap::from([(0, root)]));
        let mut next = 1;
        for life in 0..2 {
            live(&gate, &model, seed * 2 + life, &mut next, failing);
            gate = Gate::on(gate.disk.after_crash(seed));
            let (_store, region) = open(&gate);
            let found = words(&region);
            let model = model.lock().unwrap();
            let known = &model[&found[0]];
            assert_eq!(found, known.words, "life {life} of seed {seed}");
            let history = history(&model, found[0]);
            for (id, made) in model.iter() {
                let there = history.contains(id);
                assert!(
                    there || !made.acknowledged,
                    "seed {seed}: {id} was acknowledged"
                );
                assert!(!there || !made.refused, "seed {seed}: {id} was refused");
            }
        }
    }
}

#[test]
fn refused_on_a_full_disk() {
    run(false);
}
