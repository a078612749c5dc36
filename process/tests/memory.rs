// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory in every state in which it can be.

mod common;

use common::{PAGE, Pages, alone, undone};
use hvckpt_process::rollback::{counts, verify_every};
use std::ptr;

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// A child of the program's own, which ends at once.
fn fork() {
    // SAFETY: the child does nothing but end.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(3);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(libc::WEXITSTATUS(status), 3);
    }
}

fn read(page: Pages) -> u8 {
    // SAFETY: readable.
    unsafe { page.at.read_volatile() }
}

/// `f` is undone, and so is every page of the process.
fn undone_everywhere(f: impl FnOnce()) {
    let before = counts().unwrap();
    verify_every(1).unwrap();
    undone(f);
    verify_every(0).unwrap();
    let after = counts().unwrap();
    assert!(after.compared > before.compared);
    assert_eq!(after.wrong, before.wrong);
}

#[test]
fn pages_that_were_not_there() {
    let _alone = alone();
    let area = Pages::new(8);
    area.page(0).fill(1);
    read(area.page(1));
    area.page(4).fill(5);
    undone_everywhere(|| {
        area.page(0).advise(libc::MADV_DONTNEED);
        area.page(4).advise(libc::MADV_DONTNEED);
        // The zero page, in place of one's own.
        read(area.page(4));
        area.page(1).fill(2);
        area.page(2).fill(3);
    });
    assert!(area.page(0).all(1) && area.page(4).all(5));
    assert!([1, 2, 3, 5, 6, 7].iter().all(|&n| area.page(n).all(0)));
}

#[test]
fn children_of_the_program() {
    let _alone = alone();
    let area = Pages::new(32);
    area.fill(1);
    for (before, within) in [(false, true), (true, true), (true, false)] {
        if before {
            fork();
        }
        undone_everywhere(|| {
            area.fill(2);
            if within {
                fork();
            }
        });
        assert!(area.all(1), "{before} {within}");
    }
}

#[test]
fn locked_memory() {
    let _alone = alone();
    let area = Pages::new(4);
    area.page(0).fill(1);
    let lock = || {
        // SAFETY: the pages are the test's own.
        let done = unsafe { libc::mlock(area.at.cast(), area.len) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    undone_everywhere(|| {
        lock();
        area.fill(2);
    });
    assert!(area.page(0).all(1) && area.page(1).all(0));
    lock();
    undone_everywhere(|| area.fill(3));
    assert!(area.page(0).all(1) && area.page(1).all(0));
    area.unmap();
}

/// Can the kernel read it?
fn readable(page: Pages) -> bool {
    // SAFETY: the pipe is closed again; the kernel reads or refuses.
    unsafe {
        let mut ends = [0; 2];
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let done = libc::write(ends[1], page.at.cast(), 1);
        libc::close(ends[0]);
        libc::close(ends[1]);
        done == 1
    }
}

#[test]
fn guard_pages() {
    let _alone = alone();
    let area = Pages::new(6);
    area.fill(1);
    if area.page(0).try_advise(GUARD_INSTALL) != 0 {
        println!("skipped: this kernel has no guard pages");
        return;
    }
    area.page(1).advise(GUARD_INSTALL);
    undone_everywhere(|| {
        area.page(0).advise(GUARD_REMOVE);
        area.page(0).fill(2);
        area.page(2).advise(GUARD_INSTALL);
        area.page(3).advise(GUARD_INSTALL);
        area.page(3).advise(GUARD_REMOVE);
    });
    assert!(!readable(area.page(0)) && !readable(area.page(1)));
    assert!((2..6).all(|n| readable(area.page(n)) && area.page(n).all(1)));
}

#[test]
fn protections() {
    let _alone = alone();
    let area = Pages::new(6);
    area.fill(1);
    area.page(1).protect(libc::PROT_READ);
    area.page(2).protect(libc::PROT_NONE);
    let both = libc::PROT_READ | libc::PROT_WRITE;
    undone_everywhere(|| {
        area.protect(both);
        area.fill(2);
        area.page(4).protect(libc::PROT_NONE);
    });
    assert!(area.page(4).all(1) && readable(area.page(1)) && !readable(area.page(2)));
    assert!(
        area.page(1).flags().starts_with(" rd mr "),
        "{}",
        area.page(1).flags()
    );
    area.protect(both);
    assert!(area.all(1));
}

#[test]
fn another_mapping_in_its_place() {
    let _alone = alone();
    let area = Pages::new(6);
    area.fill(1);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    undone_everywhere(|| {
        area.page(1).unmap();
        Pages::map(area.page(1).at, 1, anonymous, -1).fill(2);
        area.page(3).unmap();
        let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        Pages::map(area.page(4).at, 1, shared, -1).fill(3);
        Pages::new(9).fill(4);
    });
    assert!(area.all(1));
    // A page of a file under it is seen again where nothing was written.
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let map = Pages::map(ptr::null_mut(), 2, libc::MAP_PRIVATE, fd);
    map.page(1).fill(7);
    undone_everywhere(|| {
        map.fill(8);
        map.unmap();
        Pages::map(map.at, 2, anonymous, -1).fill(9);
    });
    assert_eq!(read(map), 0x7f);
    assert!(map.page(1).all(7));
}

#[test]
fn the_break() {
    let _alone = alone();
    // SAFETY: what is taken is given back, or undone; nobody else moves the break meanwhile.
    let moved = |by: isize| unsafe { libc::sbrk(by) } as usize;
    let more = 16 * PAGE.cast_signed();
    let start = moved(more);
    let area = Pages {
        at: ptr::without_provenance_mut(start.next_multiple_of(PAGE)),
        len: 15 * PAGE,
    };
    area.fill(1);
    let end = moved(0);
    undone_everywhere(|| {
        moved(more);
        area.fill(2);
    });
    assert!(moved(0) == end && area.all(1));
    undone_everywhere(|| {
        moved(-more);
    });
    assert!(moved(0) == end && area.all(1));
    moved(-more);
}
