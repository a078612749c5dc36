// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged and hostile images by the thousand: the reader refuses or reads,
//! and never panics, hangs or eats memory.
//!
//! Seeds are the kept stores, and the kept corpus: inputs which lead to
//! different ends each.  An input which leads to a new one is mutated further.
//!
//! HVCKPT_FUZZ_SECONDS makes it longer (unless told: 3), HVCKPT_FUZZ_SEED makes
//! it other, HVCKPT_FUZZ_KEEP names a file for the corpus as it then is.  The
//! same code runs under libFuzzer: guest-lib/fuzz.

#[path = "store_common/fuzz.rs"]
mod fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// xorshift64*: repeatable.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8;
        usize::try_from(value).unwrap_or(0) % end.max(1)
    }
}

/// The kept stores, as inputs.
fn seeds() -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut seeds = Vec::new();
    for (name, flags) in [("store-1", 1), ("store-2", 1), ("store-2-sealed", 3)] {
        let entries = fs::read_dir(data.join(name)).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let images = files
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "hvck"));
        let mut input = vec![flags];
        images.for_each(|path| input.extend(fs::read(path).unwrap()));
        seeds.push(input);
    }
    seeds
}

/// Inputs of a corpus, in memory.
const MOST: usize = 4096;
/// Characters of a line which is kept.
const LONGEST: usize = 160;

const WORDS: [u64; 10] = [
    0,
    1,
    7,
    127,
    4096,
    0xffff,
    u32::MAX as u64,
    1 << 40,
    (1 << 48) - 8,
    u64::MAX,
];

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    for _ in 0..=rng.below(5) {
        let at = rng.below(input.len());
        match rng.below(8) {
            0 => input[at] ^= 1 << rng.below(8),
            1 => input[at] = u8::try_from(rng.below(256)).unwrap_or(0),
            // A number of the format, wholly or in part.
            2 | 3 => {
                let at = 1 + (at & !7);
                let size = [1, 4, 8][rng.below(3)];
                let mut word = WORDS[rng.below(WORDS.len())];
                if rng.below(2) == 0 {
                    word = word.wrapping_add(rng.below(64) as u64);
                }
                if let Some(to) = input.get_mut(at..at + size) {
                    to.copy_from_slice(&word.to_le_bytes()[..size]);
                }
            }
            // A place or a size of elsewhere.
            4 => {
                let from = 1 + (rng.below(input.len()) & !7);
                let to = 1 + (at & !7);
                if from.max(to) + 8 <= input.len() {
                    input.copy_within(from..from + 8, to);
                }
            }
            5 => input.truncate(at.max(2)),
            6 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = rng.below(other.len());
                let part = &other[from..(from + rng.below(600)).min(other.len())];
                let end = (at + part.len()).min(input.len());
                input.splice(at..end, part.iter().copied());
            }
            _ => input[0] = u8::try_from(rng.below(8)).unwrap_or(0),
        }
    }
}

/// What this thread has worked; it may have waited for others longer.
fn worked() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap();
    Duration::new(u64::try_from(time.tv_sec).unwrap(), nanoseconds)
}

#[test]
fn seeds_are_read() {
    for seed in seeds() {
        fuzz::one(&seed);
    }
    // Checksums which are right stay as they are: mending knows the format.
    for seed in &seeds() {
        let images = &seed[1..];
        let second = (8..images.len()).find(|&at| images[at..].starts_with(b"hvckimg\0"));
        let first = &images[..second.unwrap_or(images.len())];
        let mut mended = first.to_vec();
        fuzz::mend(&mut mended);
        assert!(mended == first);
        for at in [50, first.len() / 2, first.len() - 3] {
            mended.copy_from_slice(first);
            mended[at] ^= 1;
            fuzz::mend(&mut mended);
            assert!(mended != first, "{at}");
        }
    }
}

/// Inputs which were not survived once.
#[test]
fn old_failures_are_survived() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz");
    for entry in fs::read_dir(kept).unwrap() {
        fuzz::one(&fs::read(entry.unwrap().path()).unwrap());
    }
}

/// Inputs by what they lead to.
type Corpus = BTreeMap<String, Vec<u8>>;

/// An input as a line: number of the seed which it is most like, length, and
/// OFFSET=HEX of what differs.
fn to_line(input: &[u8], seeds: &[Vec<u8>]) -> String {
    let line = |number: usize, seed: &[u8]| {
        let mut line = format!("{number} {}", input.len());
        let same = |at: usize| seed.get(at) == input.get(at);
        let mut at = 0;
        while at < input.len() {
            if same(at) {
                at += 1;
                continue;
            }
            // Short gaps are taken along.
            let mut end = at + 1;
            while end < input.len() && (end..input.len().min(end + 4)).any(|at| !same(at)) {
                end += 1;
            }
            line += &format!(" {at}=");
            input[at..end]
                .iter()
                .for_each(|byte| line += &format!("{byte:02x}"));
            at = end;
        }
        line
    };
    let lines = seeds.iter().enumerate().map(|(n, seed)| line(n, seed));
    lines.min_by_key(String::len).unwrap()
}

fn from_line(line: &str, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut words = line.split(' ');
    let mut number = || words.next().unwrap().parse::<usize>().unwrap();
    let (seed, length) = (number(), number());
    let mut input = seeds[seed].clone();
    input.resize(length, 0);
    for word in words {
        let (at, hex) = word.split_once('=').unwrap();
        let at: usize = at.parse().unwrap();
        for n in 0..hex.len() / 2 {
            input[at + n] = u8::from_str_radix(&hex[2 * n..][..2], 16).unwrap();
        }
    }
    input
}

fn kept(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let lines = include_str!("data/fuzz-corpus.txt").lines();
    lines.map(|line| from_line(line, seeds)).collect()
}

#[test]
fn the_kept_corpus_is_survived() {
    let seeds = seeds();
    let inputs = kept(&seeds);
    let ends: BTreeSet<String> = inputs.iter().map(|input| fuzz::one(input)).collect();
    // A corpus whose inputs all meet the same fate has lost its use.
    assert!(ends.len() > inputs.len() / 2, "{} ends", ends.len());
    for input in &inputs {
        assert!(from_line(&to_line(input, &seeds), &seeds) == *input);
    }
}

#[test]
fn mutations_are_survived() {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
    };
    let until = Instant::now() + Duration::from_secs(number("HVCKPT_FUZZ_SECONDS", 3));
    let mut rng = Rng(number("HVCKPT_FUZZ_SEED", 0x5eed) | 1);
    let seeds = seeds();
    let ends = kept(&seeds).into_iter().map(|it| (fuzz::one(&it), it));
    let mut corpus: Corpus = ends.collect();
    let mut from = seeds.clone();
    from.extend(corpus.values().cloned());
    let mut inputs = 0;
    // As many as in the short run at least, however slow this machine is.
    while inputs < 300 || Instant::now() < until {
        let mut input = from[rng.below(from.len())].clone();
        mutate(&mut input, &seeds, &mut rng);
        let start = worked();
        let result = std::panic::catch_unwind(|| fuzz::one(&input));
        if result.is_err() || worked() - start > Duration::from_secs(20) {
            let path = std::env::temp_dir().join("hvckpt-fuzz-failure");
            fs::write(&path, &input).unwrap();
            panic!("input {inputs}, kept in {}", path.display());
        }
        inputs += 1;
        let end = result.unwrap_or_default();
        if !corpus.contains_key(&end) && corpus.len() < MOST {
            from.push(input.clone());
            corpus.insert(end, input);
        }
    }
    println!("{inputs} inputs, {} different ends", corpus.len());
    if let Some(file) = std::env::var_os("HVCKPT_FUZZ_KEEP") {
        let line = |(end, it): (&String, &Vec<u8>)| (to_line(it, &seeds), end.clone());
        let mut lines: Vec<(String, String)> = corpus.iter().map(line).collect();
        lines.sort_by_key(|(line, _)| line.len());
        // The shortest which together show everything that came of a step.
        let mut seen = BTreeSet::new();
        lines.retain(|(line, end)| {
            let parts = end.split([';', '/']).map(str::to_owned);
            line.len() < LONGEST && parts.fold(false, |new, part| seen.insert(part) | new)
        });
        let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
        fs::write(file, text).unwrap();
    }
}
