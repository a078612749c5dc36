// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated disk loses power at random instants, a thousand times, and
//! refuses syncs before.  No version which was acknowledged is lost, none comes
//! back which was refused, and what is found is a version as it was committed.

#![allow(clippy::cast_possible_truncation, clippy::rc_clone_in_vec_init)] // 64-bit only; pages are shared on purpose

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hvckpt::store::backend::CrashDisk;
use hvckpt::store::{
    Compression, Durability, Page, PageWrite, Store, StoreError, StoreKey, StoreOptions,
};

const PAGES: u64 = 80;
const ITERATIONS: u64 = 1000;
/// Crashes which one store goes through.
const LIVES: u64 = 12;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

type State = Vec<Rc<Page>>;

/// What was committed, and what of it must be there.
struct Model {
    versions: BTreeMap<u64, State>,
    acknowledged: u64,
    now: State,
    /// Told that they were not committed.
    refused: BTreeSet<u64>,
    /// Told that they may be there or not.
    unsettled: BTreeSet<u64>,
}

impl Model {
    fn new() -> Self {
        let now: State = vec![Rc::new(Page::ZERO); PAGES as usize];
        Self {
            versions: BTreeMap::from([(0, now.clone())]),
            acknowledged: 0,
            now,
            refused: BTreeSet::new(),
            unsettled: BTreeSet::new(),
        }
    }

    fn refuse(&mut self, number: u64) {
        self.versions.remove(&number);
        self.refused.insert(number);
    }

    fn change(&mut self, rng: &mut Rng) -> (State, Vec<u64>) {
        let mut next = self.now.clone();
        let mut pages: Vec<u64> = (0..=rng.below(6)).map(|_| rng.below(PAGES)).collect();
        pages.sort_unstable();
        pages.dedup();
        for &page in &pages {
            let mut content = *next[page as usize];
            match rng.below(4) {
                0 => content = Page::ZERO,
                1 => content.0.iter_mut().for_each(|word| *word = rng.next()),
                _ => content.0[rng.below(512) as usize] = rng.next(),
            }
            next[page as usize] = Rc::new(content);
        }
        (next, pages)
    }
}

fn options(rng: &mut Rng, key: Option<&StoreKey>) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.key = key.cloned();
    options.keep = 4;
    options.image_bytes = 1 << (12 + rng.below(6));
    options.interval = Duration::ZERO;
    options.group_delay = Duration::ZERO;
    options.auto_compact = rng.below(4) == 0;
    options.compact_bytes = 1 << 16;
    options.compression = match rng.below(3) {
        0 => Compression::None,
        1 => Compression::Lz4,
        _ => Compression::Zstd(1),
    };
    options
}

fn check(store: &Store, model: &mut Model, what: &str) {
    let version = store.newest();
    assert!(
        version >= model.acknowledged,
        "{what}: {version}, {}",
        model.acknowledged
    );
    // The area itself is a version too.
    let last = model.versions.range(..=version).next_back().expect(what);
    let (number, state) = (*last.0, last.1.clone());
    assert!(
        number == version || number == 0,
        "{what}: {version} was never committed"
    );
    if version > 0 {
        let view = store.view(None).expect(what);
        for (page, expected) in state.iter().enumerate() {
            let found = view.page(0, page as u64).expect(what);
            assert!(
                found == **expected,
                "{what}: page {page} of version {version}"
            );
        }
    }
    for kept in store.versions() {
        assert!(
            !model.refused.contains(&kept.number),
            "{what}: version {} was refused",
            kept.number
        );
        if let (Some(state), Ok(view)) = (
            model.versions.get(&kept.number),
            store.view(Some(kept.number)),
        ) && !view.areas().is_empty()
        {
            let page = kept.number % PAGES;
            let found = view.page(0, page).expect(what);
            assert!(
                found == *state[page as usize],
                "{what}: version {} kept",
                kept.number
            );
        }
    }
    model.versions.split_off(&(version + 1));
    model.now = state;
    // Opening made it durable, and settled what was not.
    model.acknowledged = version;
    model.unsettled.clear();
    model.refused.split_off(&(version + 1));
}

/// Commits until the power is gone.
fn work(
    disk: &CrashDisk,
    store: &Store,
    model: &mut Model,
    rng: &mut Rng,
) -> Result<(), StoreError> {
    let area = store.area("main", 0x1000_0000, PAGES)?;
    let shaped = store.durable();
    if !model.versions.contains_key(&shaped) {
        model.versions.insert(shaped, model.now.clone());
        model.acknowledged = shaped;
    }
    let mut last = store.newest();
    for _ in 0..400 {
        let full = rng.below(25) == 0;
        disk.space(full.then(|| rng.below(4000)));
        refuse_syncs(disk, rng, 20);
        let (next, pages) = model.change(rng);
        let durability = match rng.below(4) {
            0 => Durability::Async,
            1 => Durability::Group,
            _ => Durability::Sync,
        };
        let differ = |page: u64| {
            let (old, new) = (&model.now[page as usize].0, &next[page as usize].0);
            let words = (0..512).filter(|&word| old[word as usize] != new[word as usize]);
            words.map(|word| word * 8..word * 8 + 8).collect::<Vec<_>>()
        };
        let changed: BTreeMap<u64, _> = pages.iter().map(|&page| (page, differ(page))).collect();
        let writes: Vec<PageWrite<'_>> = pages
            .iter()
            .map(|&page| {
                let write = PageWrite::new(area, page, &next[page as usize]);
                match rng.below(8) {
                    0 => write,
                    1..4 => write.words(&changed[&page]),
                    _ => write.old(&model.now[page as usize]),
                }
            })
            .collect();
        // It may be there even if its commit does not return any more.
        let number = last + 1;
        last = number;
        model.versions.insert(number, next.clone());
        model.refused.remove(&number);
        match store.commit(&writes, durability) {
            Ok(version) => assert_eq!(version, number),
            // It is never seen again.
            Err(StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Poisoned { .. })
                if disk.powered() =>
            {
                model.refuse(number);
                continue;
            }
            Err(StoreError::Unsettled { .. }) if disk.powered() && rng.below(3) > 0 => {
                model.unsettled.insert(number);
                continue;
            }
            Err(error) => return Err(error),
        }
        if durability != Durability::Async {
            model.acknowledged = number;
            // They were taken back first.
            for number in core::mem::take(&mut model.unsettled) {
                model.refuse(number);
            }
        }
        model.now = next;
        if rng.below(40) == 0
            && !full
            && let Err(error) = store.compact(|_| {})
            && !disk.powered()
        {
            return Err(error);
        }
    }
    disk.fail_syncs(None, 1, 1);
    Ok(())
}

/// Lets syncs fail for a while, one time in `rarely`.
fn refuse_syncs(disk: &CrashDisk, rng: &mut Rng, rarely: u64) {
    let errno = match rng.below(rarely) {
        0 => Some(libc::EIO),
        1 => Some(libc::ENOSPC),
        2..5 => None,
        _ => return,
    };
    disk.fail_syncs(errno, 1 + rng.below(3), rng.next());
}

/// HVCKPT_CRASHES makes it longer.
fn iterations() -> u64 {
    std::env::var("HVCKPT_CRASHES").map_or(ITERATIONS, |text| text.parse().unwrap())
}

#[test]
fn nothing_committed_is_lost_and_nothing_else_is_shown() {
    let mut rng = Rng(0x5eed);
    let mut disk = CrashDisk::new();
    let mut model = Model::new();
    let mut key = None;
    let (mut cuts, mut kept) = (0, 0);
    for iteration in 0..iterations() {
        if iteration % LIVES == 0 {
            disk = CrashDisk::new();
            model = Model::new();
            // Every fifth store is encrypted: ciphers are slow in a debug build.
            let encrypt = (iteration / LIVES).is_multiple_of(5);
            key = encrypt.then(|| StoreKey::generate().unwrap());
        }
        let what = format!("iteration {iteration}");
        let early = rng.below(5) == 0;
        if early {
            disk.cut_after(rng.below(12));
        }
        let how = options(&mut rng, key.as_ref());
        refuse_syncs(&disk, &mut rng, 12);
        let mut opened = Store::open_on(Arc::new(disk.clone()), how.clone());
        for tries in 0..8 {
            if !matches!(
                opened,
                Err(StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Unsettled { .. })
            ) || !disk.powered()
            {
                break;
            }
            if tries == 7 {
                disk.fail_syncs(None, 1, 1);
            }
            opened = Store::open_on(Arc::new(disk.clone()), how.clone());
        }
        disk.fail_syncs(None, 1, 1);
        match opened {
            Ok(store) => {
                check(&store, &mut model, &what);
                kept += u64::from(model.acknowledged > 0);
                if !early {
                    disk.cut_after(rng.below(120));
                }
                match work(&disk, &store, &mut model, &mut rng) {
                    Ok(()) => {}
                    Err(StoreError::Unsettled { .. }) => cuts += 1,
                    Err(_) if !disk.powered() => cuts += 1,
                    Err(error) => panic!("{what}: {}", hvckpt::explain(&error)),
                }
            }
            Err(_) if early && !disk.powered() => cuts += 1,
            Err(error) => panic!("{what}: {}", hvckpt::explain(&error)),
        }
        if rng.below(3) > 0 {
            disk = disk.after_crash(rng.next());
        } else {
            // Only the program died: what it wrote is still on its way.
            disk.cut_after(u64::MAX);
            disk.space(None);
            disk.fail_syncs(None, 1, 1);
        }
    }
    assert!(
        cuts > iterations() * 3 / 4 && kept > iterations() / 2,
        "{cuts} cuts, {kept} recoveries"
    );
}
