// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a running program to an image: stop, fork, resume, write the copy.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::image::{Area, Descriptor, Itimer, Layout, Octets, Process, Thread, Writer};
use crate::remote::{self, RSP, Worker};
use crate::stop::{self, Stopped};
use crate::sys::{self, ok, ptrace_with};
use crate::{Context, Error, contents, files, maps, memory, preflight};

const GET_TID_ADDRESS: u64 = 40;
const GET_RSEQ: u32 = 0x420f;

/// What a checkpoint took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub version: u64,
    pub frozen_us: u64,
    pub octets: u64,
    pub pages: u64,
}

/// A copy of the program which nobody else sees; ended when dropped.
struct Copy(i32);

impl Drop for Copy {
    fn drop(&mut self) {
        stop::reap(self.0);
    }
}

/// What is only to be had while the program stands still.
struct Frozen {
    threads: Vec<Thread>,
    descriptors: Vec<Descriptor>,
    itimers: Vec<Itimer>,
    pending: u64,
    /// Where the mappings were.
    outline: Vec<[u64; 2]>,
    apart: memory::Apart,
    copy: Copy,
}

/// Where the program's vdso has a `syscall` instruction, and the vdso's checksum.
fn vdso(areas: &[Area], memory: &File) -> Result<(u64, u32), Error> {
    let none = || Error::refused("its address space has no vdso");
    let area = areas
        .iter()
        .find(|a| a.special.as_deref() == Some("[vdso]"))
        .ok_or_else(none)?;
    let mut code = vec![0; usize::try_from(area.end - area.start).unwrap_or(0)];
    memory
        .read_exact_at(&mut code, area.start)
        .context(|| "cannot read its vdso".into())?;
    let at = code
        .windows(2)
        .position(|w| w == [0x0f, 0x05])
        .ok_or_else(none)?;
    Ok((area.start + at as u64, crc32c::crc32c(&code)))
}

fn scheduling(tid: i32) -> (i32, Octets) {
    let mut cpus = vec![0_u8; 128];
    // SAFETY: the kernel writes at most the length told.
    let got = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            cpus.len(),
            cpus.as_mut_ptr(),
        )
    };
    cpus.truncate(usize::try_from(got).unwrap_or(0));
    // SAFETY: touches no memory.
    let nice = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
    (20 - i32::try_from(nice).unwrap_or(20), Octets(cpus))
}

fn thread(pid: i32, tid: i32, held: &stop::Held, gadget: u64, memory: &File) -> io::Result<Thread> {
    let mut robust = [0_u64; 2];
    let (head, length): (*mut u64, *mut u64) = (&raw mut robust[0], &raw mut robust[1]);
    // SAFETY: the kernel writes two words.
    ok(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, head, length) })?;
    let mut rseq = [0_u8; 24];
    ptrace_with(GET_RSEQ, tid, 24, &mut rseq)?;
    let [address, size_and_signature, _] = remote::words::<3>(&rseq);
    // Far below the stack pointer and its red zone; put back afterwards.
    let scratch = (held.regs[RSP] - 1024) & !63;
    let mut worker = Worker::new(tid, gadget, memory)?;
    let before: [u8; 32] = worker.read(scratch)?;
    let asked = worker
        .call(libc::SYS_sigaltstack, &[0, scratch])
        .and_then(|_| worker.call(libc::SYS_prctl, &[GET_TID_ADDRESS, scratch + 24]));
    let answer: [u8; 32] = worker.read(scratch)?;
    write_memory(pid, scratch, &before)?;
    asked?;
    let [sp, flags, size, clear_tid] = remote::words(&answer);
    let (nice, affinity) = scheduling(tid);
    let name = fs::read(format!("/proc/{pid}/task/{tid}/comm"))?;
    Ok(Thread {
        tid,
        name: Octets(name.strip_suffix(b"\n").unwrap_or(&name).to_vec()),
        regs: Octets(remote::octets(&stop::elsewhere(held.regs))),
        xstate: Octets(remote::get_xstate(tid)?),
        blocked: held.blocked,
        altstack: [sp, flags & 0xffff_ffff, size],
        clear_tid,
        robust,
        rseq: [
            address,
            size_and_signature & 0xffff_ffff,
            size_and_signature >> 32,
        ],
        nice,
        affinity,
        pending: stop::own_pending(pid, tid),
    })
}

fn write_memory(pid: i32, address: u64, octets: &[u8]) -> io::Result<()> {
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    memory.write_all_at(octets, address)
}

/// `areas` are the program's as they were a moment ago.
fn freeze(
    stopped: &Stopped,
    gadget: u64,
    areas: &[Area],
    memory: &File,
    to: &mut Writer,
) -> Result<Frozen, Error> {
    let pid = stopped.pid;
    let mut objections = preflight::tree(pid);
    let descriptors = files::read(pid, sys::own_pid(), &mut objections)?;
    if !objections.is_empty() {
        return Err(Error::Refused(objections));
    }
    // The copy shares files with the program, so this is for now, not for later.
    contents::save(pid, &descriptors, to)?;
    let mut threads = Vec::new();
    for (tid, held) in &stopped.threads {
        let one = thread(pid, *tid, held, gadget, memory);
        threads.push(one.context(|| format!("cannot read thread {tid}"))?);
    }
    threads.sort_by_key(|t| (t.tid != pid, t.tid));
    let cannot = || format!("process {pid} cannot make a copy of itself");
    let mut worker = Worker::new(pid, gadget, memory).context(cannot)?;
    let scratch = (stopped.threads[&pid].regs[RSP] - 1024) & !63;
    let before: [u8; 512] = worker.read(scratch).context(cannot)?;
    let mut itimers = Vec::new();
    for which in 0..3_i32 {
        let done = worker.call(
            libc::SYS_getitimer,
            &[which.cast_unsigned().into(), scratch],
        );
        done.context(|| "cannot read its timers".into())?;
        let [a, b, c, d] = remote::words::<4>(&worker.read::<32>(scratch).context(cannot)?);
        let [interval, value] = [[a, b], [c, d]].map(|p| p.map(u64::cast_signed));
        if value != [0, 0] {
            itimers.push(Itimer {
                which,
                interval,
                value,
            });
        }
    }
    let apart = memory::Apart::take(pid, areas, &mut worker, scratch);
    write_memory(pid, scratch, &before).context(cannot)?;
    let apart = apart?;
    // Its parent is ours, and so is the copy: the program cannot see it.
    let flags = u64::try_from(libc::CLONE_PARENT).unwrap_or(0);
    let done = worker.call(libc::SYS_clone, &[flags, 0, 0, 0, 0]);
    let born = worker.born.map(Copy);
    done.context(cannot)?;
    let copy = born.ok_or_else(|| Error::refused(cannot()))?;
    Ok(Frozen {
        threads,
        descriptors,
        itimers,
        pending: stop::shared_pending(pid),
        outline: maps::outline(pid)?,
        apart,
        copy,
    })
}

/// The fields of `prctl_mm_map` in /proc/PID/stat, by the numbers of proc(5).
fn layout(pid: i32, brk: u64) -> Result<Layout, Error> {
    let cannot = || format!("cannot read /proc/{pid}/stat");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context(cannot)?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let numbers: Vec<&str> = rest.split_whitespace().collect();
    let at = |n: usize| numbers.get(n - 3).and_then(|t| t.parse().ok()).unwrap_or(0);
    let fields = [
        at(26),
        at(27),
        at(45),
        at(46),
        at(47),
        brk,
        at(28),
        at(48),
        at(49),
        at(50),
        at(51),
    ];
    let auxv = fs::read(format!("/proc/{pid}/auxv")).context(cannot)?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).context(cannot)?;
    Ok(Layout {
        fields,
        auxv: Octets(auxv),
        exe,
    })
}

fn limits(pid: i32) -> Vec<[u64; 2]> {
    let limit = |which: u32| {
        let mut old = [0_u64; 2];
        let at: *mut u64 = old.as_mut_ptr();
        // SAFETY: the kernel writes the two words of the old limit.
        unsafe { libc::syscall(libc::SYS_prlimit64, pid, which, 0, at) };
        old
    };
    (0..16).map(limit).collect()
}

/// What the copy knows as well as the program does.
fn of_copy(
    copy: &Copy,
    frozen: &Frozen,
    gadget: u64,
    memory: &File,
) -> Result<(Vec<[u64; 4]>, u64), Error> {
    let cannot = || "cannot ask the copy of the program".to_owned();
    if remote::next_stop(copy.0, Instant::now() + remote::DEADLINE)
        .context(cannot)?
        .is_none()
    {
        return Err(Error::refused(
            "the copy of the program was killed; is memory short?",
        ));
    }
    let mut worker = Worker::new(copy.0, gadget, memory).context(cannot)?;
    // Nobody shall wait for the end of a pipe or a lock because of the copy.
    worker
        .call(libc::SYS_close_range, &[0, 0xffff_ffff, 0])
        .context(cannot)?;
    let brk = worker.call(libc::SYS_brk, &[0]).context(cannot)?;
    let regs: remote::Regs = remote::words(&frozen.threads[0].regs.0);
    let scratch = (regs[RSP] - 1024) & !63;
    let before: [u8; 32] = worker.read(scratch).context(cannot)?;
    let mut actions = Vec::new();
    for signal in 1..=64 {
        worker
            .call(libc::SYS_rt_sigaction, &[signal, 0, scratch, 8])
            .context(cannot)?;
        actions.push(remote::words(&worker.read::<32>(scratch).context(cannot)?));
    }
    write_memory(copy.0, scratch, &before).context(cannot)?;
    Ok((actions, brk))
}

/// A program of which all is there to be written.
struct Caught {
    /// Of one that is to end: it stands still until then.
    held: Option<Stopped>,
    frozen: Frozen,
    frozen_us: u64,
    /// Of the copy.
    memory: File,
    areas: Vec<Area>,
    vdso_crc: u32,
    actions: Vec<[u64; 4]>,
    brk: u64,
}

/// `None`: its mappings changed while it was looked at.
fn catch(pid: i32, hold: bool, to: &mut Writer) -> Result<Option<Caught>, Error> {
    let memory_of = |pid: i32| File::open(format!("/proc/{pid}/mem"));
    let memory = memory_of(pid).context(|| format!("cannot read the memory of process {pid}"))?;
    let (areas, _) = maps::read(pid)?;
    let (gadget, _) = vdso(&areas, &memory)?;
    let begun = Instant::now();
    let stopped = Stopped::new(pid)?;
    let frozen = freeze(&stopped, gadget, &areas, &memory, to)?;
    let held = hold.then_some(stopped);
    let frozen_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let copy = &frozen.copy;
    let memory = memory_of(copy.0).context(|| "cannot read the copy of the program".into())?;
    let (actions, brk) = of_copy(copy, &frozen, gadget, &memory)?;
    let (copied, objections) = maps::read(copy.0)?;
    if !objections.is_empty() {
        return Err(Error::Refused(objections));
    }
    let (_, vdso_crc) = vdso(&copied, &memory)?;
    let Some(areas) = frozen.apart.with(copied, &frozen.outline) else {
        return Ok(None);
    };
    Ok(Some(Caught {
        held,
        frozen,
        frozen_us,
        memory,
        areas,
        vdso_crc,
        actions,
        brk,
    }))
}

/// Writes a version of the stopped or running program `pid` into `dir`. With
/// `kill` the program ends once the version is durable; nothing it does after
/// the version is lost, for it does nothing.
pub fn take(pid: i32, dir: &Path, version: u64, own_ids: bool, kill: bool) -> Result<Taken, Error> {
    let objections = preflight::objections(pid, sys::own_pid())?;
    if !objections.is_empty() {
        return Err(Error::Refused(objections));
    }
    let mut to = Writer::create(dir, version)?;
    let mut caught = None;
    for _ in 0..3 {
        caught = catch(pid, kill, &mut to)?;
        if caught.is_some() {
            break;
        }
        to.clear()?;
    }
    let Caught {
        held,
        frozen,
        frozen_us,
        memory,
        areas,
        vdso_crc,
        actions,
        brk,
    } = caught.ok_or_else(|| Error::refused("its mappings change all the time; try again"))?;
    let copy = &frozen.copy;
    let guards = memory::write(copy.0, &areas, &memory, &frozen.apart, &mut to)?;
    let of = pid.to_string();
    let word = |name: &str| stop::status(&of, name).unwrap_or_default();
    let capability = |name: &str| u64::from_str_radix(&word(name), 16).unwrap_or(0);
    let umask = u32::from_str_radix(&word("Umask"), 8).unwrap_or(0o22);
    // SAFETY: touch no memory.
    let (session, group) = unsafe { (libc::getsid(pid), libc::getpgid(pid)) };
    let process = Process {
        pid,
        own_ids,
        cwd: cwd(copy.0)?,
        umask,
        no_new_privs: word("NoNewPrivs") == "1",
        own_session: session == pid,
        own_group: group == pid,
        capabilities: ["CapEff", "CapPrm", "CapInh"].map(capability),
        rlimits: limits(copy.0),
        areas,
        guards,
        vdso_crc,
        layout: layout(copy.0, brk)?,
        actions,
        itimers: frozen.itimers,
        pending: frozen.pending,
        threads: frozen.threads,
        descriptors: frozen.descriptors,
    };
    let (octets, pages) = to.finish(&process)?;
    if held.is_some() {
        sys::kill(pid, libc::SIGKILL).context(|| format!("cannot end process {pid}"))?;
    }
    Ok(Taken {
        version,
        frozen_us,
        octets,
        pages,
    })
}

fn cwd(pid: i32) -> Result<PathBuf, Error> {
    fs::read_link(format!("/proc/{pid}/cwd")).context(|| "cannot read its working directory".into())
}
