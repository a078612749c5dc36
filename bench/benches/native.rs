// SPDX-License-Identifier: MIT OR Apache-2.0
//! What transactions cost on this machine, without an emulator.
//!
//! `cargo bench -p hvckpt-bench`.  Trackers which do not work here are left
//! out, and say why.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hvckpt::TrackerKind;
use hvckpt_bench::cases::{Case, Op, Visit, find};
use hvckpt_bench::counts::AREA_PAGES;
use hvckpt_bench::memory::{Memory, PAGE_WORDS, plain, words};
use hvckpt_bench::structures::Structure;
use hvckpt_bench::trackers;

/// Trackers which do their work here; the simulated one is for tests.
fn available() -> Vec<&'static str> {
    let works = |kind: &TrackerKind| {
        *kind != TrackerKind::Sim
            && trackers::open(kind.name(), 1)
                .inspect_err(|why| eprintln!("{kind} is left out: {why}"))
                .is_ok()
    };
    TrackerKind::ALL
        .into_iter()
        .filter(works)
        .map(TrackerKind::name)
        .collect()
}

/// Pages at equal distances of an area of 4 MiB, one write each.
fn pages(criterion: &mut Criterion) {
    const PAGES: u32 = 1024;
    let mut group = criterion.benchmark_group("transaction");
    for tracker in available() {
        for dirty in [1, 16, 256] {
            let region = trackers::open(tracker, PAGES as usize).expect("it worked before");
            let memory = words(&region);
            let page_words = u32::try_from(PAGE_WORDS).expect("a page has few words");
            let mut transaction = region.begin().expect("nothing is open");
            let mut number = 0;
            group.throughput(Throughput::Elements(dirty.into()));
            group.bench_function(BenchmarkId::new(tracker, dirty), |bencher| {
                bencher.iter(|| {
                    number += 1;
                    for index in 0..dirty {
                        memory.store(index * (PAGES / dirty) * page_words, number);
                    }
                    let list = transaction.commit_and_continue().expect("it is open");
                    black_box(list.len())
                });
            });
        }
    }
}

/// Ten thousand operations outside of any region.
struct Plain(Case);

impl Visit for Plain {
    type Output = ();

    fn visit<S: Structure>(self) {
        const COUNT: u32 = 10_000;
        let memory = plain(AREA_PAGES);
        let mut structure: S = self.0.prepare(memory.as_slice(), COUNT);
        for index in 0..COUNT {
            self.0
                .operate(&mut structure, memory.as_slice(), index, COUNT);
        }
        black_box(&structure.keys(memory.as_slice()));
    }
}

fn structures(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10,000 operations, no tracker");
    group.sample_size(10);
    for name in ["aa", "hashquad", "heap", "rb"] {
        let case = find(name, Op::Insert).expect("a row of Table 2");
        group.bench_function(name, |bencher| bencher.iter(|| case.with(Plain(case))));
    }
}

criterion_group!(benches, pages, structures);
criterion_main!(benches);
