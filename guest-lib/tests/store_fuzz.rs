//! Damaged and hostile images by the thousand: the reader refuses or reads,
//! and never panics, hangs or eats memory.
//!
//! Seeds are the kept stores; HVCKPT_FUZZ_SECONDS makes it longer (unless
//! told: 3), HVCKPT_FUZZ_SEED makes it other.  The same code runs under
//! libFuzzer: guest-lib/fuzz.

#[path = "store_common/fuzz.rs"]
mod fuzz;

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

#[test]
fn mutations_are_survived() {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
    };
    let until = Instant::now() + Duration::from_secs(number("HVCKPT_FUZZ_SECONDS", 3));
    let mut rng = Rng(number("HVCKPT_FUZZ_SEED", 0x5eed) | 1);
    let seeds = seeds();
    let mut inputs = 0;
    // As many as in the short run at least, however slow this machine is.
    while inputs < 300 || Instant::now() < until {
        let mut input = seeds[rng.below(seeds.len())].clone();
        mutate(&mut input, &seeds, &mut rng);
        let start = Instant::now();
        let result = std::panic::catch_unwind(|| fuzz::one(&input));
        if result.is_err() || start.elapsed() > Duration::from_secs(20) {
            let path = std::env::temp_dir().join("hvckpt-fuzz-failure");
            fs::write(&path, &input).unwrap();
            panic!("input {inputs}, kept in {}", path.display());
        }
        inputs += 1;
    }
    println!("{inputs} inputs");
}
