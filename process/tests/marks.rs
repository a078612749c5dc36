// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory which children do not inherit, or find empty, comes back like any other.

mod common;

use common::{Pages, alone, undone};
use hvckpt_process::Speculation;

fn marked_areas(advice: i32, flag: &str) {
    let _alone = alone();
    let areas = [Pages::new(4), Pages::new(4), Pages::new(4)];
    for (area, n) in areas.iter().zip(1..) {
        area.fill(n);
        area.advise(advice);
    }
    let untouched = Pages::new(4);
    untouched.advise(advice);
    let plain = Pages::new(4);
    plain.fill(9);
    for _ in 0..3 {
        // The mark is there while the program runs.
        undone(|| {
            for area in areas {
                assert!(area.flags().contains(flag), "{}", area.flags());
                area.page(1).fill(0xee);
            }
            untouched.fill(0xee);
            areas[1].unmap();
            areas[2].advise(match advice {
                libc::MADV_DONTFORK => libc::MADV_DOFORK,
                _ => libc::MADV_KEEPONFORK,
            });
            plain.advise(advice);
            plain.fill(0xee);
        });
        for (area, n) in areas.iter().zip(1..) {
            assert!(area.all(n), "{n}");
            assert!(area.flags().contains(flag), "{n}: {}", area.flags());
        }
        assert!(untouched.all(0) && untouched.flags().contains(flag));
        assert!(plain.all(9) && !plain.flags().contains(flag));
    }
    // Committed, they are as marked as before, too.
    // SAFETY: nothing outside of memory is touched.
    unsafe { Speculation::begin() }.unwrap().commit().unwrap();
    assert!(areas.iter().all(|a| a.flags().contains(flag)));
    areas
        .iter()
        .chain([&plain, &untouched])
        .for_each(Pages::unmap);
}

#[test]
fn memory_that_children_do_not_inherit() {
    marked_areas(libc::MADV_DONTFORK, " dc ");
}

#[test]
fn memory_that_children_find_empty() {
    marked_areas(libc::MADV_WIPEONFORK, " wf ");
}

#[test]
fn guards_are_kept_in_marked_memory() {
    const GUARD_INSTALL: i32 = 102;
    let _alone = alone();
    let area = Pages::new(4);
    if area.try_advise(GUARD_INSTALL) != 0 {
        println!("skipped: this kernel has no guard pages");
        return;
    }
    area.advise(libc::MADV_WIPEONFORK);
    undone(|| area.advise(103));
    // Still a guard: the kernel cannot read it.
    let mut pipe = [0; 2];
    // SAFETY: a pipe of this test's own; the guard is not touched by the program.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        assert_eq!(libc::write(pipe[1], area.at.cast(), 1), -1);
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    area.unmap();
}
