// SPDX-License-Identifier: MIT OR Apache-2.0
//! Grants and another domain's memory within a tracked range, in a process of
//! Dom0's (root): there before a cycle or mapped within one, written to by the
//! process and by its kernel, and unmapped again.
//!
//! Such an entry is not the hypervisor's to withhold or to give: a grant that it
//! had changed could not be unmapped any more, which the kernel says, and one
//! that may be read only must stay so.
//!
//! One line per check; exit status 1 if one failed, 2 where that cannot be tried.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use clap::Parser;
use hvckpt::abi::{self, cda_register};

use hvckpt_guest_tests::{Area, Checks, PAGE, Session, in_child, may_store, no};

/// Where the frames of the tests are written to: nothing of a console's ring.
const AT: usize = 4032;
/// The page of the area which is replaced.
const SPOT: usize = 5;
/// Of an area; half of them on each side of 2 MiB.
const PAGES: usize = 8;

fn give_up(what: &str) -> ! {
    eprintln!("{what}: {}", std::io::Error::last_os_error());
    std::process::exit(2);
}

fn device(name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/xen/{name}"))
        .unwrap_or_else(|error| {
            eprintln!("/dev/xen/{name}: {error} (as root, in Dom0)");
            std::process::exit(2);
        })
}

/// A request which neither reads nor writes by its number.
const fn request<T>(kind: u8, number: u8) -> u64 {
    (size_of::<T>() as u64) << 16 | (kind as u64) << 8 | number as u64
}

fn ioctl<T>(file: &File, request: u64, argument: &mut T) {
    // SAFETY: the driver's structure for this request.
    if unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) } != 0 {
        give_up(&format!("request {request:#x}"));
    }
}

/// One page of the device; where `start` is not zero, in place of what is there.
fn map(file: &File, start: usize, offset: u64, writable: bool) -> Area {
    let fixed = if start == 0 { 0 } else { libc::MAP_FIXED };
    let write = if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: a fixed address is one of an area of ours.
    let got = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            PAGE,
            libc::PROT_READ | write,
            libc::MAP_SHARED | fixed,
            file.as_raw_fd(),
            offset.cast_signed(),
        )
    };
    if got == libc::MAP_FAILED {
        give_up("mmap of a device");
    }
    Area {
        start: got as usize,
        bytes: PAGE,
    }
}

/// Linux's `xen/gntalloc.h`: a page of ours, granted.
#[repr(C)]
#[derive(Default)]
struct Allocate {
    domain: u16,
    flags: u16,
    count: u32,
    index: u64,
    reference: u32,
}
/// Linux's `xen/gntdev.h`: a grant to us, to be mapped.
#[repr(C)]
#[derive(Default)]
struct MapGrant {
    count: u32,
    pad: u32,
    index: u64,
    domain: u32,
    reference: u32,
}
/// Linux's `xen/privcmd.h`: frames of a domain, by who controls it.
#[repr(C)]
struct MapForeign {
    count: u32,
    domain: u16,
    address: u64,
    frames: *const u64,
    errors: *mut i32,
}
const ALLOCATE: u64 = request::<Allocate>(b'G', 5);
const MAP_GRANT: u64 = request::<MapGrant>(b'G', 0);
const MAP_FOREIGN: u64 = request::<MapForeign>(b'P', 4);
const WRITABLE: u16 = 1;

/// Memory that is not ours to track.
struct Frame {
    name: &'static str,
    writable: bool,
    from: Source,
    /// Another mapping of it, not tracked.
    view: Area,
}

#[derive(Clone, Copy)]
enum Source {
    /// A page granted to this domain, by itself.
    Grant(u32),
    /// A frame of another domain's.
    Domain(u16, u64),
}

impl Source {
    /// At `start`, or anywhere.
    fn place(self, start: usize, writable: bool) -> Area {
        match self {
            Self::Grant(reference) => {
                let grants = device("gntdev");
                let mut grant = MapGrant {
                    count: 1,
                    reference,
                    ..MapGrant::default()
                };
                ioctl(&grants, MAP_GRANT, &mut grant);
                map(&grants, start, grant.index, writable)
            }
            Self::Domain(domain, frame) => {
                let control = device("privcmd");
                let area = map(&control, start, 0, writable);
                let mut error = 0;
                let mut batch = MapForeign {
                    count: 1,
                    domain,
                    address: area.start as u64,
                    frames: &raw const frame,
                    errors: &raw mut error,
                };
                ioctl(&control, MAP_FOREIGN, &mut batch);
                assert_eq!(error, 0, "frame {frame:#x} of domain {domain}");
                area
            }
        }
    }
}

/// One for each way to have it.
fn frames(args: &Args) -> Vec<Frame> {
    let allocator = device("gntalloc");
    let granted = |name, writable| {
        let mut page = Allocate {
            flags: WRITABLE,
            count: 1,
            ..Allocate::default()
        };
        ioctl(&allocator, ALLOCATE, &mut page);
        Frame {
            name,
            writable,
            from: Source::Grant(page.reference),
            view: map(&allocator, 0, page.index, true),
        }
    };
    let foreign = |name, writable| {
        let from = Source::Domain(args.domain, args.frame);
        Frame {
            name,
            writable,
            from,
            view: from.place(0, true),
        }
    };
    vec![
        granted("grant", true),
        granted("read-only grant", false),
        foreign("foreign frame", true),
        foreign("read-only foreign frame", false),
    ]
}

/// A byte which the kernel writes; false if it cannot.
fn kernel_stores(address: usize, value: u8) -> bool {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[value]).expect("room in a pipe");
    // SAFETY: one byte of an area of ours, which the kernel may refuse.
    unsafe { libc::read(reader.as_raw_fd(), address as *mut libc::c_void, 1) == 1 }
}

const MODES: [(&str, u32); 4] = [
    ("PTxen", abi::CDA_MODE_PTXEN),
    ("Autoxen", abi::CDA_MODE_AUTOXEN),
    ("Scanxen", abi::CDA_MODE_SCANXEN),
    ("Emulxen", abi::CDA_MODE_EMULXEN),
];

/// Whether all of `pages` are in the log.  Of Emulxen it has stores.
fn lists(log: &Area, mode: u32, pages: &[u64]) -> bool {
    let listed = log.listed();
    mode == abi::CDA_MODE_EMULXEN || pages.iter().all(|page| listed.contains(page))
}

fn tracked(c: &mut Checks, s: &Session, mode: (&str, u32), frame: &Frame) {
    let ((mode_name, mode), w) = (mode, frame.writable);
    // Any hypervisor with assertions complains if a kernel writes to foreign
    // memory that is read-only, and that would pass for a fault of ours.
    let quiet = w || matches!(frame.from, Source::Grant(_));
    let name = |what: &str| format!("{mode_name}, {}: {what}", frame.name);
    let area = Area::across_chunks(PAGES / 2);
    let spot = area.part(SPOT, 1);
    let log = area.private_log();
    let range = s.register(&cda_register {
        mode,
        ..area.registration(&log)
    });
    assert!(range >= 0, "register: {range}");

    frame.from.place(spot.start, w);
    let begun = s.begin(range);
    // What nobody can write needs no tracking.
    c.equal(&name("begin"), begun, if w { no(libc::EPERM) } else { 0 });
    if begun == 0 {
        assert!(s.end(range) >= 0);
    }
    frame.view.set(AT, 1);
    c.equal(&name("store"), may_store(spot.start + AT, 2), w);
    c.equal(&name("content"), frame.view.get(AT), if w { 2 } else { 1 });

    // Away with it, and there again within a cycle.
    Area::map(spot.start, PAGE, 0, -1).set(0, 1);
    c.equal(&name("begin without it"), s.begin(range), 0);
    area.set(PAGE, 3);
    frame.from.place(spot.start, w);
    for round in 0..3 {
        frame.view.set(AT, 0);
        frame.view.set(AT + 1, 0);
        area.set(0, 10 + round);
        area.set((PAGES - 1) * PAGE, 10 + round);
        let stored = (
            may_store(spot.start + AT, 10 + round),
            quiet && kernel_stores(spot.start + AT + 1, 20 + round),
        );
        c.equal(&name("stores within a cycle"), stored, (w, w));
        let arrived = (frame.view.get(AT), frame.view.get(AT + 1));
        let wanted = if w { (10 + round, 20 + round) } else { (0, 0) };
        c.equal(&name("content within a cycle"), arrived, wanted);
        let result = s.commit(range);
        c.check(&name("commit"), result >= 0, || format!("{result}"));
        let mut pages = vec![0, PAGES as u64 - 1];
        if w {
            pages.push(SPOT as u64);
        }
        c.check(&name("listed"), lists(&log, mode, &pages), || {
            format!("{pages:?} not in {:?}", log.listed())
        });
    }
    c.equal(&name("fork"), in_child(|| i32::from(area.get(0) != 12)), 0);

    let left = frame.view.get(AT);
    Area::map(spot.start, PAGE, 0, -1).set(AT, 99);
    let result = s.commit(range);
    let listed = result >= 0 && lists(&log, mode, &[SPOT as u64]);
    c.check(&name("other memory in its place"), listed, || {
        format!("{result}, {:?}", log.listed())
    });
    c.equal(&name("content afterwards"), frame.view.get(AT), left);

    // It stays when tracking ends.
    frame.from.place(spot.start, w);
    c.equal(&name("unregister"), s.unregister(range), 0);
    c.equal(&name("store afterwards"), may_store(spot.start + AT, 4), w);
    c.equal(&name("its content"), frame.view.get(AT) == 4, w);
    area.unmap();
    log.unmap();
}

/// The hypervisor writes lists where the process could, and nowhere else.
fn log_there(c: &mut Checks, s: &Session, frame: &Frame) {
    let area = Area::across_chunks(PAGES / 2);
    let log = frame.from.place(0, frame.writable);
    // Not over a console's ring.
    let first = AT - 64 - 8 * PAGES;
    for at in first..AT {
        frame.view.set(at, 0);
    }
    let before: Vec<u8> = (0..PAGE).map(|at| frame.view.get(at)).collect();
    let range = s.register(&cda_register {
        log: (log.start + first) as u64,
        log_bytes: (AT - first) as u64,
        ..area.registration(&log)
    });
    let mut result = range;
    if range >= 0 {
        result = s.begin(range);
        area.set(0, 1);
        if result == 0 {
            result = s.end(range);
        }
        assert_eq!(s.unregister(range), 0);
    }
    let after: Vec<u8> = (0..PAGE).map(|at| frame.view.get(at)).collect();
    let name = |what: &str| format!("log in a {}: {what}", frame.name);
    let wanted = if frame.writable { 1 } else { no(libc::EFAULT) };
    c.equal(&name("result"), result, wanted);
    c.equal(&name("content"), before != after, frame.writable);
    area.unmap();
    log.unmap();
}

/// A process that ends with all of it mapped, and its cycle open.
fn abandoned(frame: &Frame) -> i32 {
    let s = Session::attach();
    let area = Area::across_chunks(PAGES / 2);
    let log = area.private_log();
    let range = s.register(&area.registration(&log));
    let begun = s.begin(range);
    frame.from.place(area.part(SPOT, 1).start, frame.writable);
    i32::from(begun != 0 || s.commit(range) < 0)
}

/// Grants and foreign frames in tracked ranges.
#[derive(Parser, Debug)]
struct Args {
    /// Another domain.
    #[arg(long)]
    domain: u16,
    /// A frame of its memory whose last 192 bytes it does not use, as of its
    /// console's ring.
    #[arg(long)]
    frame: u64,
}

fn main() {
    let args = Args::parse();
    hvckpt_guest_tests::need_gate();
    hvckpt_guest_tests::catch_faults();
    let mut c = Checks::default();
    let frames = frames(&args);
    for frame in &frames {
        c.equal(
            &format!("{}: a process that ends", frame.name),
            in_child(|| abandoned(frame)),
            0,
        );
    }
    let session = Session::attach();
    for frame in &frames {
        for mode in MODES {
            tracked(&mut c, &session, mode, frame);
        }
        log_there(&mut c, &session, frame);
    }
    assert_eq!(session.detach(), 0);
    c.finish();
}
