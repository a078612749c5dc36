// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sectors which the disk does not give back: damage to what is in them, and
//! to nothing else.

#[path = "store_common/bad.rs"]
mod bad;

use std::collections::BTreeMap;
use std::sync::Arc;

use bad::Bad;
use hvckpt::store::backend::{Backend, CrashDisk};
use hvckpt::store::{Durability, Page, PageWrite, Store, StoreError, StoreOptions, verify};

const PAGES: u64 = 70;
const SECTOR: usize = 512;

fn options() -> StoreOptions {
    let mut options = StoreOptions::default();
    options.auto_compact = false;
    options.create = false;
    options.keep = 8;
    options
}

fn lenient() -> StoreOptions {
    let mut options = options();
    options.accept_loss = true;
    options
}

fn contents(store: &Store, version: Option<u64>) -> Result<Vec<Page>, StoreError> {
    let view = store.view(version)?;
    (0..PAGES).map(|page| view.page(0, page)).collect()
}

/// A base, and two increments.
fn build(disk: &CrashDisk) -> BTreeMap<u64, Vec<Page>> {
    let mut history = BTreeMap::new();
    for run in 0..3 {
        let mut options = options();
        options.create = true;
        let store = Store::open_on(Arc::new(disk.clone()), options).unwrap();
        let area = store.area("main", 0x10_0000, PAGES).unwrap();
        for n in 0..3 {
            let page = Page([1 + run * 10 + n; 512]);
            let write = PageWrite::new(area, (run * 3 + n) * 9 % PAGES, &page);
            let version = store.commit(&[write], Durability::Sync).unwrap();
            history.insert(version, contents(&store, None).unwrap());
        }
        if run == 0 {
            store.compact(|_| {}).unwrap();
        }
    }
    history
}

#[test]
fn a_sector_which_cannot_be_read_takes_only_what_is_in_it() {
    let disk = CrashDisk::new();
    let history = build(&disk);
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    let versions = store.versions();
    drop(store);
    let newest = *versions.last().unwrap();
    let mut refused = 0;
    let images = disk.list().unwrap();
    let images = images.iter().filter(|name| name.ends_with(".hvck"));
    for name in images {
        let number = u64::from_str_radix(&name[6..12], 16).unwrap();
        for at in (0..disk.contents(name).unwrap().len()).step_by(SECTOR) {
            let (at, what) = (at as u64, format!("{name} byte {at}"));
            let bad = |disk: CrashDisk| Bad {
                disk,
                name: name.clone(),
                bytes: at..at + SECTOR as u64,
            };
            let backend: Arc<dyn Backend> = Arc::new(bad(disk.copy()));
            let examined = verify(&backend, None, |_| {});
            let whole = examined
                .unwrap_or_else(|error| panic!("{what}: {error}"))
                .whole;
            for version in &versions {
                let before = version.image < number
                    || (version.image == number && version.offset + version.bytes <= at);
                if before || version.floor > number {
                    assert!(whole.contains(&version.number), "{what}: {whole:?}");
                }
            }
            for version in whole
                .iter()
                .filter(|version| history.contains_key(*version))
            {
                let mut back = lenient();
                back.at = Some(*version);
                let store = Store::open_on(Arc::new(bad(disk.copy())), back);
                let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(
                    contents(&store, None).unwrap() == history[version],
                    "{what}"
                );
            }
            // Nobody goes on without what may have been acknowledged, whether
            // or not the hint is there; nor does looking take it away.
            for hint in [true, false] {
                let copy = disk.copy();
                if !hint {
                    copy.remove("acknowledged").unwrap();
                }
                match Store::open_on(Arc::new(bad(copy.clone())), options()) {
                    Ok(store) => assert_eq!(store.newest(), newest.number, "{what}"),
                    Err(StoreError::Damaged(damage)) => {
                        refused += 1;
                        assert!(damage.intact >= whole.last().copied(), "{what}: {damage}");
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
                let store = Store::open_on(Arc::new(copy), options()).unwrap();
                assert_eq!(store.newest(), newest.number, "{what}");
                assert!(contents(&store, None).unwrap() == history[&newest.number]);
            }
        }
    }
    assert!(refused > 4, "{refused}");
}
