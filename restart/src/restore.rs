// SPDX-License-Identifier: MIT OR Apache-2.0
//! From an image to a running program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::image::{Area, Image, PAGE, Process};
use crate::plan::{self, Plan};
use crate::rebuild::{self, Opened};
use crate::remote::{self, OPTIONS, Worker};
use crate::rewind::{self, Cuts};
use crate::sys::{self, fcntl, ptrace, ptrace_with};
use crate::{Context, Error, files, maps, reopen, stop};

/// Reading the pages of a large image from a slow disk.
const LONG: Duration = Duration::from_secs(600);

/// What of the world is not as the image needs it; looked at before anything
/// is made.
pub fn objections(image: &Image) -> Result<Vec<String>, Error> {
    let process = &image.process;
    let mut all = files::check(&process.descriptors);
    let mut seen = std::collections::HashSet::new();
    for of in process.areas.iter().filter_map(|a| a.file.as_ref()) {
        if seen.insert(&of.path) && maps::mapped(&of.path).as_ref() != Some(of) {
            all.push(format!(
                "{}: not the file that was mapped; put that one back",
                of.path.display()
            ));
        }
    }
    if !process.layout.exe.is_file() {
        all.push(format!(
            "{}: the program is not there",
            process.layout.exe.display()
        ));
    }
    if !process.cwd.is_dir() {
        all.push(format!(
            "{}: the working directory is not there",
            process.cwd.display()
        ));
    }
    let (now, _) = maps::read(sys::own_pid())?;
    let sizes = |areas: &[Area]| -> Vec<(Option<String>, u64)> {
        rebuild::specials(areas)
            .iter()
            .map(|a| (a.special.clone(), a.end - a.start))
            .collect()
    };
    let mut code = Vec::new();
    if let Some(vdso) = now.iter().find(|a| a.special.as_deref() == Some("[vdso]")) {
        let memory =
            File::open("/proc/self/mem").context(|| "cannot read /proc/self/mem".into())?;
        code.resize(usize::try_from(vdso.end - vdso.start).unwrap_or(0), 0);
        let read = std::os::unix::fs::FileExt::read_exact_at(&memory, &mut code, vdso.start);
        read.context(|| "cannot read the vdso".into())?;
    }
    if sizes(&now) != sizes(&process.areas) || crc32c::crc32c(&code) != process.vdso_crc {
        all.push(
            "the image is of another kernel (its vdso differs); restart under that one".into(),
        );
    }
    Ok(all)
}

fn high(file: File, spare: RawFd) -> Result<RawFd, Error> {
    let got = fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, spare);
    got.context(|| "no descriptor is left; raise the limit (ulimit -n)".into())
}

/// Closes what was opened for the new process only.
struct Fds(Vec<RawFd>);

impl Drop for Fds {
    fn drop(&mut self) {
        for fd in &self.0 {
            // SAFETY: opened by this module, used nowhere else.
            unsafe { libc::close(*fd) };
        }
    }
}

struct Hole(u64);

impl Drop for Hole {
    fn drop(&mut self) {
        // SAFETY: made by this module; nothing refers to it any more.
        unsafe {
            libc::munmap(
                self.0 as *mut _,
                usize::try_from(rebuild::HOLE).unwrap_or(0),
            )
        };
    }
}

/// A new process that is not whole yet: it ends when this is dropped.
struct Half(i32);

impl Drop for Half {
    fn drop(&mut self) {
        if self.0 != 0 {
            stop::reap(self.0);
        }
    }
}

/// Makes the process, and lets it run. The caller has one thread. Returns the
/// pid. With `new_ids` the kernel chooses pid and tids; with `rewind` files are
/// cut back at the last moment, and are as they were if there is an error.
pub fn start(image: &Image, new_ids: bool, rewind: bool) -> Result<i32, Error> {
    let process = &image.process;
    let spare = process.descriptors.last().map_or(0, |d| d.fd) + 64;
    let mut fds = Fds(Vec::new());
    let mut open = |path: &std::path::Path| {
        let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
        let fd = high(file, spare)?;
        fds.0.push(fd);
        Ok::<_, Error>(fd)
    };
    let mut opened = Opened {
        image: open(&image.path)?,
        exe: if new_ids {
            None
        } else {
            Some(open(&process.layout.exe)?)
        },
        files: Vec::new(),
    };
    for of in process.areas.iter().filter_map(|a| a.file.as_ref()) {
        if !opened.files.iter().any(|(path, _)| *path == of.path) {
            opened.files.push((&of.path, open(&of.path)?));
        }
    }
    let (now, _) = maps::read(sys::own_pid())?;
    let at = rebuild::hole(&now, &process.areas)
        .ok_or_else(|| Error::refused("no free address range is large enough"))?;
    sys::map_at(at, rebuild::HOLE).context(|| "cannot map the place for the plan".into())?;
    let hole = Hole(at);
    let parked: u64 = rebuild::specials(&now)
        .iter()
        .map(|a| a.end - a.start)
        .sum();
    let mut plan = Plan::new(at + PAGE + parked);
    rebuild::memory(&mut plan, image, &now, at, &opened)?;
    rebuild::process(&mut plan, process, spare);
    let whole = plan.close();
    let mut clones = Vec::new();
    let mut own = Vec::new();
    for (n, thread) in process.threads.iter().enumerate() {
        clones.push(rebuild::clone_arguments(&mut plan, thread, !new_ids));
        own.push(rebuild::thread(&mut plan, process, thread, n == 0));
    }
    let trap = plan.data(&remote::octets(&process.actions[4]));
    let (code, gadget, _) = plan::code();
    let room = rebuild::HOLE - PAGE - parked;
    if plan.octets().len() as u64 > room {
        return Err(Error::refused("the plan of the address space is too long"));
    }
    // SAFETY: the mapping is new, of HOLE octets, and nobody else knows it.
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len());
        let to = (at + PAGE + parked) as *mut u8;
        std::ptr::copy_nonoverlapping(plan.octets().as_ptr(), to, plan.octets().len());
        libc::mprotect(at as *mut _, 4096, libc::PROT_READ | libc::PROT_EXEC);
    }
    // Dropped after the new process, which may not write into what is put back.
    let mut cuts = if rewind {
        rewind::save(&process.descriptors, &image.path)?
    } else {
        Cuts::default()
    };
    let (mut told, tell) = sys::pipe(libc::O_CLOEXEC)
        .map(|(r, w)| (File::from(r), File::from(w)))
        .context(|| "cannot make a pipe".into())?;
    // SAFETY: one thread; the child makes descriptors and waits.
    let pid = unsafe { sys::fork(0, (!new_ids).then_some(process.pid)) }.context(|| {
        format!(
            "cannot make process {} (is the pid taken? --new-ids)",
            process.pid
        )
    })?;
    if pid == 0 {
        wait_to_be_made(image, spare, tell);
    }
    let mut half = Half(pid);
    drop(tell);
    let mut answer = String::new();
    told.read_to_string(&mut answer)
        .context(|| "no word from the new process".into())?;
    if answer != "ok" {
        return Err(Error::refused(answer));
    }
    let tids = assemble(pid, process, at, at + gadget, whole, &clones, &own, trap)?;
    cuts.cut()?;
    release(pid, process, &tids)?;
    cuts.keep();
    half.0 = 0;
    drop(hole);
    Ok(pid)
}

/// The new process: its descriptors and what else plain calls can give it.
fn wait_to_be_made(image: &Image, spare: RawFd, tell: File) -> ! {
    let process = &image.process;
    let mut tell = match high(tell, spare) {
        // SAFETY: just made, and nobody else's.
        Ok(fd) => unsafe { File::from_raw_fd(fd) },
        // SAFETY: ends this process at once.
        Err(_) => unsafe { libc::_exit(1) },
    };
    let done = sys::set_blocked(!0, libc::SIG_SETMASK)
        .context(|| "cannot block signals".into())
        .and_then(|_| reopen::make(image, spare))
        .and_then(|()| {
            let cwd = &process.cwd;
            std::env::set_current_dir(cwd).context(|| format!("cannot go to {}", cwd.display()))
        });
    // SAFETY: plain calls. A leader of a group stays one; that it is one
    // already, and cannot be made one, is no error.
    unsafe {
        libc::umask(process.umask);
        if process.own_session {
            libc::setsid();
        } else if process.own_group {
            libc::setpgid(0, 0);
        }
    }
    let answer = done.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
    let _ = tell.write_all(answer.as_bytes());
    drop(tell);
    loop {
        // SAFETY: waits for the supervisor, which takes this process over or ends it.
        unsafe { libc::pause() };
    }
}

#[expect(clippy::too_many_arguments, reason = "addresses in one plan")]
fn assemble(
    pid: i32,
    process: &Process,
    code: u64,
    gadget: u64,
    whole: u64,
    clones: &[u64],
    own: &[u64],
    trap: u64,
) -> Result<Vec<i32>, Error> {
    let cannot = || "cannot take the new process over".to_owned();
    ptrace(
        libc::PTRACE_SEIZE,
        pid,
        0,
        OPTIONS | u64::from(libc::PTRACE_O_EXITKILL.cast_unsigned()),
    )
    .context(cannot)?;
    ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0).context(cannot)?;
    let soon = || Instant::now() + remote::DEADLINE;
    remote::next_stop(pid, soon()).context(cannot)?;
    let memory = File::open(format!("/proc/{pid}/mem")).context(cannot)?;
    let mut leader = Worker::new(pid, gadget, &memory).context(cannot)?;
    let mut rseq = [0_u8; 24];
    ptrace_with(0x420f, pid, 24, &mut rseq).context(cannot)?;
    let [address, size, _] = remote::words::<3>(&rseq);
    if address != 0 {
        let arguments = [address, size & 0xffff_ffff, 1, size >> 32];
        leader.call(libc::SYS_rseq, &arguments).context(cannot)?;
    }
    plan::run(&mut leader, code, whole, Instant::now() + LONG)
        .context(|| "cannot make the address space".into())?;
    let mut tids = vec![pid];
    for (thread, clone) in process.threads.iter().zip(clones).skip(1) {
        let what = || format!("cannot make thread {}", thread.tid);
        leader.call(libc::SYS_clone3, &[*clone, 88]).context(what)?;
        let tid = leader.born.take().ok_or_else(|| Error::refused(what()))?;
        remote::next_stop(tid, soon()).context(what)?;
        tids.push(tid);
    }
    for ((tid, thread), plan) in tids.iter().zip(&process.threads).zip(own) {
        let what = || format!("cannot set up thread {}", thread.tid);
        let mut worker = Worker::new(*tid, gadget, &memory).context(what)?;
        plan::run(&mut worker, code, *plan, soon()).context(what)?;
        schedule(*tid, thread);
    }
    for (which, limit) in (0_u32..).zip(&process.rlimits) {
        let at: *const u64 = limit.as_ptr();
        // SAFETY: the kernel reads two words. What an ordinary user may not
        // set stays as the restarter has it.
        unsafe { libc::syscall(libc::SYS_prlimit64, pid, which, at, 0) };
    }
    let mut leader = Worker::new(pid, gadget, &memory).context(cannot)?;
    leader
        .call(libc::SYS_rt_sigaction, &[5, trap, 0, 8])
        .context(cannot)?;
    leader
        .call(libc::SYS_munmap, &[code, rebuild::HOLE])
        .context(cannot)?;
    for (tid, thread) in tids.iter().zip(&process.threads) {
        let what = || format!("cannot set the registers of thread {}", thread.tid);
        remote::set_xstate(*tid, &thread.xstate.0).context(what)?;
        remote::set_regs(*tid, &remote::words(&thread.regs.0)).context(what)?;
    }
    Ok(tids)
}

/// Gives the threads the signals that waited, and lets them run.
fn release(pid: i32, process: &Process, tids: &[i32]) -> Result<(), Error> {
    let cannot = || format!("cannot let process {pid} run");
    for (tid, thread) in tids.iter().zip(&process.threads) {
        for signal in rebuild::signals(thread.pending) {
            sys::tgkill(pid, *tid, signal).context(cannot)?;
        }
    }
    for signal in rebuild::signals(process.pending) {
        sys::kill(pid, signal).context(cannot)?;
    }
    for (tid, thread) in tids.iter().zip(&process.threads) {
        remote::set_blocked(*tid, thread.blocked).context(cannot)?;
    }
    for tid in tids {
        ptrace(libc::PTRACE_DETACH, *tid, 0, 0).context(cannot)?;
    }
    Ok(())
}

fn schedule(tid: i32, thread: &crate::image::Thread) {
    let cpus = &thread.affinity.0;
    // SAFETY: the kernel reads the slice. A machine with fewer processors, and
    // a user who may not be nicer, keep what they have.
    unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, cpus.len(), cpus.as_ptr());
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, thread.nice);
    }
}
