// SPDX-License-Identifier: MIT OR Apache-2.0
//! One input for the reader of images: what it must survive, and how inputs
//! are changed.  Used by the test and by the fuzz target.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use hvckpt::store::backend::{Backend, CrashDisk};
use hvckpt::store::{
    Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions, examine, verify,
};
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"hvckimg\0";
const FRAME: &[u8] = b"HVTX";

/// The key of the sealed stores of the tests.
pub fn key() -> StoreKey {
    StoreKey::new(Zeroizing::new([0x42; 32]))
}

fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    let mut word = [0; 8];
    if let Some(part) = bytes.get(at..at + size) {
        word[..size].copy_from_slice(part);
    }
    usize::try_from(u64::from_le_bytes(word)).unwrap_or(usize::MAX)
}

fn sum(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    if from <= to && to <= bytes.len() && at + 4 <= bytes.len() {
        let crc = crc32c::crc32c(&bytes[from..to]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Sets every checksum of an image right, as far as it can be walked.
pub fn mend(image: &mut [u8]) {
    if image.len() < 128 {
        return;
    }
    let sealed = number(image, 72, 8) & 1 == 1;
    let mut frame = if number(image, 8, 4) < 3 { 128 } else { 192 };
    sum(image, 0, frame - 4, frame - 4);
    while image.get(frame..frame + 4) == Some(FRAME) && frame + 128 <= image.len() {
        let body = frame + 128;
        let end = body.saturating_add(number(image, frame + 56, 8));
        let table = body.saturating_add(number(image, frame + 64, 8));
        let (records, nodes) = (number(image, frame + 72, 4), number(image, frame + 76, 4));
        if end > image.len() || table > end {
            sum(image, frame, frame + 124, frame + 124);
            return;
        }
        let mut at = body;
        for n in 0..records.saturating_add(nodes) {
            if at + 24 > table {
                break;
            }
            let size = if sealed {
                24 + number(image, at + 4, 4)
            } else if n < records {
                40 + number(image, at + 12, 4)
            } else {
                match number(image, at + 12, 1) {
                    0 => 536,
                    entries => 40 + 8 * entries,
                }
            };
            let to = at.saturating_add(size);
            sum(image, at.saturating_add(4), to.min(table), at);
            at = to.min(table).next_multiple_of(8);
        }
        let to = if sealed {
            table + 24 + number(image, table + 4, 4)
        } else {
            end
        };
        sum(image, (table + 4).min(end), to.min(end), table);
        sum(image, body, end, frame + 120);
        sum(image, frame, frame + 124, frame + 124);
        frame = end;
    }
}

/// The images in an input, one after the other, as a directory.
fn disk(input: &[u8], fix: bool) -> CrashDisk {
    let disk = CrashDisk::new();
    let starts: Vec<usize> = (0..input.len())
        .filter(|&at| input[at..].starts_with(MAGIC))
        .take(8)
        .collect();
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(input.len());
        let mut image = input[start..end].to_vec();
        if fix {
            mend(&mut image);
        }
        let name = number(&image, 32, 8) & 0xff_ffff;
        disk.put(&format!("image-{:06x}.hvck", name.max(1)), &image);
    }
    disk
}

fn read(store: &Store) -> Result<(), StoreError> {
    for version in store.versions() {
        let view = store.view(Some(version.number))?;
        for area in 0..view.areas().len() {
            for page in view.present(area)? {
                view.page(area, page)?;
            }
        }
    }
    Ok(())
}

/// A message without its numbers and names.
fn gist(message: &dyn Display) -> String {
    let message = message.to_string();
    let words = message.split([' ', ':', ',', ';']);
    let plain = words.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
    plain.collect::<Vec<_>>().join(" ")
}

/// Opens what an input says every way there is.  Must not panic, hang or eat
/// memory; and what can be opened for writing must hold what is then written.
/// What came of it, in words which other inputs may share.
///
/// The first byte says whether checksums are set right and a key is given.
pub fn one(input: &[u8]) -> String {
    let Some((flags, images)) = input.split_first() else {
        return String::new();
    };
    let mut outcome = format!("{} ", flags & 7);
    let mut came = |what: &str, error: &dyn Display| {
        outcome += &format!("{what} {}; ", gist(error));
    };
    let disk = disk(images, flags & 1 == 1);
    let key = (flags & 2 == 2).then(key);
    let backend: Arc<dyn Backend> = Arc::new(disk);
    match verify(&backend, key.as_ref(), |_| {}) {
        Ok(found) => {
            let problems: BTreeSet<String> = found.problems.iter().map(|it| gist(it)).collect();
            let problems: Vec<String> = problems.into_iter().collect();
            came("verified", &problems.join("/"));
        }
        Err(error) => came("not verified", &error),
    }
    if let Err(error) = examine(&backend, key.as_ref(), |_| {}) {
        came("not examined", &error);
    }
    let mut options = StoreOptions::default();
    options.key = key;
    options.create = false;
    options.auto_compact = false;
    options.accept_loss = flags & 4 == 4;
    options.keep = 2;
    let mut reading = options.clone();
    reading.read_only = true;
    match Store::open_on(backend.clone(), reading).and_then(|store| read(&store)) {
        Ok(()) => came("read", &""),
        Err(error) => came("not read", &error),
    }
    let page = Page([0x5a; 512]);
    let written = match Store::open_on(backend.clone(), options.clone()) {
        Ok(store) => store.area("fuzzed", 0x10_0000, 3).and_then(|area| {
            store.commit(&[PageWrite::new(area, 2, &page)], Durability::Sync)?;
            // Damage of old pages may stand in the way.
            let _damaged = store.compact(|_| {});
            Ok(())
        }),
        Err(error) => {
            came("not opened", &error);
            return outcome;
        }
    };
    if let Err(error) = written {
        came("not written", &error);
        return outcome;
    }
    options.accept_loss = true;
    let store = Store::open_on(backend, options).expect("it was open before");
    // Damage of other pages may stand in the way.
    match store.view(None) {
        Ok(view) => {
            let area = view.area("fuzzed").expect("written just now");
            assert!(view.page(area, 2).expect("written just now") == page);
            came("written", &"");
        }
        Err(error) => came("not viewed", &error),
    }
    outcome
}
