// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan that makes an address space and threads of an image.

use std::os::fd::RawFd;
use std::path::Path;

use crate::Error;
use crate::image::{Area, Image, PAGE, Process, Thread};
use crate::plan::Plan;
use crate::sys::bit;

const TOP: u64 = 0x7fff_ffff_f000;
/// What the hole may hold: code, parked areas, the plan.
pub const HOLE: u64 = 256 << 20;
/// Linux 6.13.
const MADV_GUARD_INSTALL: u64 = 102;

/// Descriptors of the new process while it is made.
#[derive(Debug)]
pub struct Opened<'a> {
    pub image: RawFd,
    pub exe: Option<RawFd>,
    pub files: Vec<(&'a Path, RawFd)>,
}

/// A place that is free now and in the image.
pub fn hole(now: &[Area], then: &[Area]) -> Option<u64> {
    let mut taken: Vec<(u64, u64)> = now.iter().chain(then).map(|a| (a.start, a.end)).collect();
    taken.sort_unstable();
    let mut start = 0x100_0000_0000_u64;
    for (from, to) in taken {
        if to.saturating_add(PAGE << 8) <= start {
            continue;
        }
        // Room below for stacks to grow.
        if from >= start + HOLE + (64 << 20) {
            break;
        }
        start = start.max(to + (1 << 20));
    }
    (start + HOLE < TOP).then_some(start)
}

pub fn specials(areas: &[Area]) -> Vec<&Area> {
    areas.iter().filter(|a| a.special.is_some()).collect()
}

fn number(fd: RawFd) -> u64 {
    i64::from(fd).cast_unsigned()
}

fn protection(area: &Area) -> u64 {
    u64::from(area.read) | (u64::from(area.write) << 1) | (u64::from(area.exec) << 2)
}

/// Adds what gives the process its memory. `now` are its areas before.
pub fn memory(
    plan: &mut Plan,
    image: &Image,
    now: &[Area],
    hole: u64,
    fds: &Opened<'_>,
) -> Result<(), Error> {
    let process = &image.process;
    let move_to = |plan: &mut Plan, from: u64, area: &Area, to: u64| {
        let length = area.end - area.start;
        plan.expect(libc::SYS_mremap, &[from, length, length, 3, to], to);
    };
    let mut park = hole + PAGE;
    let mut parked = Vec::new();
    for area in specials(now) {
        move_to(plan, area.start, area, park);
        parked.push(park);
        park += area.end - area.start;
    }
    plan.expect(libc::SYS_munmap, &[0, hole], 0);
    plan.expect(libc::SYS_munmap, &[hole + HOLE, TOP - hole - HOLE], 0);
    for (from, area) in parked.iter().zip(specials(&process.areas)) {
        move_to(plan, *from, area, area.start);
    }
    let mut runs = image.runs.iter().peekable();
    for area in process.areas.iter().filter(|a| a.special.is_none()) {
        let length = area.end - area.start;
        let (fd, offset) = match &area.file {
            None => (u64::MAX, 0),
            Some(of) => {
                let found = fds.files.iter().find(|(path, _)| *path == of.path);
                let missing = || Error::refused(format!("{} is not open", of.path.display()));
                (number(found.ok_or_else(missing)?.1), area.offset)
            }
        };
        let mut flags = libc::MAP_FIXED_NOREPLACE;
        flags |= if area.shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        for (asked, flag) in [
            (area.file.is_none(), libc::MAP_ANONYMOUS),
            (area.grows_down, libc::MAP_GROWSDOWN),
            (area.no_reserve, libc::MAP_NORESERVE),
        ] {
            flags |= if asked { flag } else { 0 };
        }
        let mut reads: Vec<(u64, u64, u64)> = Vec::new();
        while let Some(run) = runs.next_if(|r| r.address < area.end) {
            let octets = u64::from(run.pages) * PAGE;
            if run.address < area.start || run.address + octets > area.end {
                return Err(Error::Damaged(format!(
                    "{}: pages outside of its mappings",
                    image.path.display()
                )));
            }
            match reads.last_mut() {
                Some((at, from, length))
                    if *at + *length == run.address && *from + *length == run.at =>
                {
                    *length += octets;
                }
                _ => reads.push((run.address, run.at, octets)),
            }
        }
        let then = protection(area);
        let first = if reads.is_empty() { then } else { 3 };
        let flags = i64::from(flags).cast_unsigned();
        plan.expect(
            libc::SYS_mmap,
            &[area.start, length, first, flags, fd, offset],
            area.start,
        );
        for (at, from, length) in reads {
            plan.expect(
                libc::SYS_pread64,
                &[number(fds.image), at, length, from],
                length,
            );
        }
        for [from, to] in process
            .guards
            .iter()
            .filter(|g| g[0] >= area.start && g[1] <= area.end)
        {
            plan.expect(
                libc::SYS_madvise,
                &[*from, to - from, MADV_GUARD_INSTALL],
                0,
            );
        }
        if first != then {
            plan.expect(libc::SYS_mprotect, &[area.start, length, then], 0);
        }
        for (asked, advice) in [
            (area.dont_fork, libc::MADV_DONTFORK),
            (area.wipe_on_fork, libc::MADV_WIPEONFORK),
        ] {
            if asked {
                plan.expect(libc::SYS_madvise, &[area.start, length, number(advice)], 0);
            }
        }
    }
    let auxv = plan.data(&process.layout.auxv.0);
    let mut map: Vec<u8> = process
        .layout
        .fields
        .iter()
        .flat_map(|f| f.to_le_bytes())
        .collect();
    map.extend(auxv.to_le_bytes());
    map.extend(
        u32::try_from(process.layout.auxv.0.len())
            .unwrap_or(0)
            .to_le_bytes(),
    );
    map.extend(fds.exe.unwrap_or(-1).to_le_bytes());
    let size = map.len() as u64;
    let map = plan.data(&map);
    plan.expect(libc::SYS_prctl, &[35, 14, map, size, 0], 0);
    Ok(())
}

/// Adds what belongs to the process as a whole.
pub fn process(plan: &mut Plan, process: &Process, spare: RawFd) {
    for (signal, action) in (1_i32..).zip(&process.actions) {
        if !matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGTRAP) {
            let at = plan.data(&crate::remote::octets(action));
            plan.expect(libc::SYS_rt_sigaction, &[number(signal), at, 0, 8], 0);
        }
    }
    for timer in &process.itimers {
        let [a, b] = timer.interval.map(i64::cast_unsigned);
        let [c, d] = timer.value.map(i64::cast_unsigned);
        let at = plan.data(&crate::remote::octets(&[a, b, c, d]));
        plan.expect(libc::SYS_setitimer, &[number(timer.which), at, 0], 0);
    }
    plan.expect(libc::SYS_close_range, &[number(spare), 0xffff_ffff, 0], 0);
}

/// The arguments of clone3 for a thread.
pub fn clone_arguments(plan: &mut Plan, thread: &Thread, same_tid: bool) -> u64 {
    let regs: crate::remote::Regs = crate::remote::words(&thread.regs.0);
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | if thread.clear_tid == 0 {
            0
        } else {
            libc::CLONE_CHILD_CLEARTID
        };
    let tid = plan.data(&thread.tid.to_le_bytes());
    let mut args = [0_u64; 11];
    args[0] = u64::from(flags.cast_unsigned());
    args[2] = thread.clear_tid;
    args[7] = regs[21];
    if same_tid {
        args[8] = tid;
        args[9] = 1;
    }
    plan.data(&crate::remote::octets(&args))
}

/// The calls with which a thread gets what only it can set. Capabilities are
/// the last: to make threads with their tids needs one.
pub fn thread(plan: &mut Plan, process: &Process, thread: &Thread, leader: bool) -> u64 {
    if leader {
        plan.call(libc::SYS_set_tid_address, &[thread.clear_tid]);
    }
    if thread.robust[1] != 0 {
        plan.expect(libc::SYS_set_robust_list, &thread.robust, 0);
    }
    let [address, length, signature] = thread.rseq;
    if address != 0 {
        plan.expect(libc::SYS_rseq, &[address, length, 0, signature], 0);
    }
    let mut name = thread.name.0.clone();
    name.resize(16, 0);
    let name = plan.data(&name);
    plan.expect(libc::SYS_prctl, &[15, name], 0);
    let mut stack = thread.altstack;
    // SS_ONSTACK is no state, it follows from the stack pointer.
    stack[1] &= !1;
    let stack = plan.data(&crate::remote::octets(&stack));
    plan.expect(libc::SYS_sigaltstack, &[stack, 0], 0);
    if process.no_new_privs {
        plan.expect(libc::SYS_prctl, &[38, 1, 0, 0, 0], 0);
    }
    let [effective, permitted, inheritable] = process.capabilities;
    let low = |n: u64| n & 0xffff_ffff;
    let header = plan.data(&0x2008_0522_u64.to_le_bytes());
    let sets = [
        low(effective) | (low(permitted) << 32),
        low(inheritable) | ((effective >> 32) << 32),
        (permitted >> 32) | ((inheritable >> 32) << 32),
    ];
    let sets = plan.data(&crate::remote::octets(&sets));
    plan.expect(libc::SYS_capset, &[header, sets], 0);
    plan.close()
}

/// Signals of a set, one by one.
pub fn signals(set: u64) -> impl Iterator<Item = i32> {
    (1..=64).filter(move |s| set & bit(*s) != 0)
}
