// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commits on a disk which refuses now and then, and looks afterwards whether
//! all that was acknowledged is there.
//!
//! Usage: refused commit DIRECTORY LOG COUNT [ADDRESS KEY]
//!        refused check DIRECTORY LOG
//!
//! `commit` goes on until COUNT more commits were acknowledged, writes a line
//! to LOG for each (`a NUMBER`, or `r NUMBER why` for a refusal), and then
//! waits to be killed.  With ADDRESS and KEY it has a backup, which must
//! acknowledge too.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hvckpt::backup::{Key, Replication, Require};
use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{Durability, Page, PageWrite, Store, StoreOptions, verify};

/// Numbers below have a page of their own each.
const PAGES: u64 = 4001;

fn place(number: u64) -> u64 {
    1 + number * 37 % (PAGES - 1)
}

fn page(number: u64) -> Page {
    Page([number; 512])
}

fn newest(store: &Store) -> Result<u64, Box<dyn Error>> {
    Ok(store.view(None)?.page(0, 0)?.0[0])
}

/// As a user would who is told that the disk refused: once more.  An error of
/// writing which nobody has heard of yet meets whoever syncs the file next,
/// though the disk works again.
fn open(directory: &str, options: &StoreOptions) -> Result<Store, Box<dyn Error>> {
    let mut tries = 0;
    loop {
        match Store::open(directory, options.clone()) {
            Ok(store) => return Ok(store),
            Err(error) if tries < 20 => {
                println!("opening: {}", hvckpt::explain(&error));
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn commit(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [directory, log, count, backup @ ..] = arguments else {
        return Err("commit DIRECTORY LOG COUNT [ADDRESS KEY]".into());
    };
    let mut options = StoreOptions::default();
    if let [address, key] = backup {
        let mut replication = Replication::new(address.clone(), Key::load(key)?);
        replication.require = Require::Both;
        replication.timeout = Duration::from_secs(120);
        options.replication = Some(replication.into());
    }
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;
    let store = open(directory, &options)?;
    let area = store.area("main", 0x10_0000, PAGES)?;
    let mut left: u64 = count.parse()?;
    let mut number = newest(&store)?;
    while left > 0 {
        number += 1;
        let page = page(number);
        let writes = [
            PageWrite::new(area, 0, &page),
            PageWrite::new(area, place(number), &page),
        ];
        match store.commit(&writes, Durability::Sync) {
            Ok(_) => {
                left -= 1;
                writeln!(log, "a {number}")?;
            }
            Err(error) => {
                writeln!(log, "r {number} {}", hvckpt::explain(&error))?;
                number -= 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    println!("committed up to {number}");
    loop {
        std::thread::park();
    }
}

fn check(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [directory, log] = arguments else {
        return Err("check DIRECTORY LOG".into());
    };
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(Path::new(directory)));
    let found = verify(&backend, None, |_| {})?;
    if !found.sound() {
        return Err(format!("damaged: {:?}", found.problems).into());
    }
    let mut options = StoreOptions::default();
    options.create = false;
    let store = Store::open(directory, options)?;
    let number = newest(&store)?;
    let log = fs::read_to_string(log)?;
    let (mut acknowledged, mut refused) = (0, 0);
    for line in log.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next().map(str::parse::<u64>)) {
            (Some("a"), Some(Ok(number))) => acknowledged = number.max(acknowledged),
            (Some("r"), Some(Ok(_))) => refused += 1,
            _ => return Err(format!("not a line of the log: {line}").into()),
        }
    }
    if number < acknowledged {
        return Err(format!("{acknowledged} was acknowledged, {number} is there").into());
    }
    let view = store.view(None)?;
    for number in 1..=number {
        if view.page(0, place(number))? != page(number) {
            return Err(format!("commit {number} is not what it was").into());
        }
    }
    println!("{acknowledged} acknowledged and {refused} refused, {number} there");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("commit") => commit(&arguments[1..]),
        Some("check") => check(&arguments[1..]),
        _ => Err("refused commit|check …".into()),
    }
}
