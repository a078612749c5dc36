// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything the gate must refuse, in a guest of a patched Xen.
//!
//! One line per check; exit status 1 if one failed, 2 without a gate.

use std::arch::asm;
use std::ptr;

use hvckpt::abi::{self, cda_attach, cda_query, cda_register};
use hvckpt::{CycleError, LockPolicy, SessionError, TrackerKind};
use hvckpt_guest_tests::{
    Area, Checks, PAGE, Session, attach_struct, fresh_token, in_child, no, op, op1, op2,
};

const KERNEL: u64 = 0xffff_8880_0000_0000;
const XEN: u64 = 0xffff_82d0_4020_0000;
const NON_CANONICAL: u64 = 0x8000_0000_0000;
const SESSION_OPS: [(&str, u64); 8] = [
    ("detach", abi::CDA_OP_DETACH),
    ("register", abi::CDA_OP_REGISTER),
    ("unregister", abi::CDA_OP_UNREGISTER),
    ("begin", abi::CDA_OP_BEGIN),
    ("end", abi::CDA_OP_END),
    ("commit", abi::CDA_OP_COMMIT),
    ("peek", abi::CDA_OP_PEEK),
    ("query", abi::CDA_OP_QUERY),
];

fn address<T>(of: &mut T) -> u64 {
    ptr::from_mut(of) as u64
}

fn without_session(c: &mut Checks) {
    let version = op1(abi::CDA_OP_VERSION, 0);
    c.equal("version", version & 0xffff, 1);
    for argument in 0..5 {
        let mut args = [0; 5];
        args[argument] = 1;
        c.equal(
            &format!("version: argument {argument} not zero"),
            op(abi::CDA_OP_VERSION, args),
            no(libc::EINVAL),
        );
    }
    for number in [
        10,
        11,
        255,
        1 << 31,
        1 << 32,
        (1 << 32) | abi::CDA_OP_BEGIN,
        u64::MAX,
    ] {
        c.equal(
            &format!("unknown operation {number:#x}"),
            op1(number, 0),
            no(libc::ENOSYS),
        );
    }
    for (name, number) in SESSION_OPS {
        c.equal(
            &format!("{name} without a session"),
            op2(number, 0, 0),
            no(libc::ENOENT),
        );
    }
    prefixed(c, version);
    compat(c);
}

/// The instruction with a prefix which changes nothing.
fn prefixed(c: &mut Checks, version: i64) {
    let mut rax = 0_i64;
    // SAFETY: CDA_OP_version without arguments; there is a gate.
    unsafe {
        asm!(
            ".byte 0x66, 0xcd, 0x84",
            inlateout("rax") rax,
            in("rdi") 0_u64, in("rsi") 0_u64, in("rdx") 0_u64, in("r10") 0_u64, in("r8") 0_u64,
            options(nostack),
        );
    }
    c.equal("int with an operand-size prefix", rax, version);
}

/// The instruction in a 32-bit code segment of this process.
fn compat(c: &mut Checks) {
    let low = Area::map(0, 2 * PAGE, libc::MAP_32BIT, -1);
    let cs: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {0:x}, cs", out(reg) cs, options(nomem, nostack)) };
    let base = u32::try_from(low.start).expect("below 4 GiB");
    // mov eax, 0; xor edi, edi (and the others); int 0x84; jmp far cs:back
    let mut code = vec![
        0xb8, 0, 0, 0, 0, 0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0xcd, 0x84, 0xea,
    ];
    let back = base + u32::try_from(code.len() + 6).expect("small");
    code.extend(back.to_le_bytes());
    code.extend(cs.to_le_bytes());
    // In 64-bit mode again: jmp r15 (kept while in 32-bit mode).
    code.extend([0x41, 0xff, 0xe7]);
    for (offset, byte) in code.iter().enumerate() {
        low.set(offset, *byte);
    }
    low.protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    let stack = low.start + 2 * PAGE - 64;
    let result: u64;
    // SAFETY: far return into the code above, which comes back to the label
    // with the stack pointer in r14 untouched.
    unsafe {
        asm!(
            "mov r14, rsp",
            "lea r15, [rip + 2f]",
            "mov rsp, {stack}",
            "push 0x23",
            "push {code}",
            ".byte 0x48, 0xcb",
            "2:",
            "mov rsp, r14",
            stack = in(reg) stack,
            code = in(reg) low.start,
            out("rax") result,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r14") _, out("r15") _,
        );
    }
    low.unmap();
    // 32-bit code sees the low half.
    let answer = i64::from((result & 0xffff_ffff) as u32 as i32);
    c.equal("from a 32-bit code segment", answer, no(libc::EOPNOTSUPP));
}

fn attaching(c: &mut Checks) -> Session {
    for (what, at) in [
        ("NULL", 0),
        ("kernel", KERNEL),
        ("Xen", XEN),
        ("far", NON_CANONICAL),
    ] {
        c.equal(
            &format!("attach: structure at {what}"),
            op1(abi::CDA_OP_ATTACH, at),
            no(libc::EFAULT),
        );
    }
    let good = attach_struct([7; 16]);
    let try_with = |mut attach: cda_attach| op1(abi::CDA_OP_ATTACH, address(&mut attach));
    for size in [0, 63, 65, u32::MAX] {
        c.equal(
            &format!("attach: size {size}"),
            try_with(cda_attach { size, ..good }),
            no(libc::EINVAL),
        );
    }
    c.equal(
        "attach: flags",
        try_with(cda_attach { flags: 1, ..good }),
        no(libc::EINVAL),
    );
    for i in 0..3 {
        let mut bad = good;
        bad.reserved[i] = 1;
        c.equal(
            &format!("attach: reserved[{i}]"),
            try_with(bad),
            no(libc::EINVAL),
        );
    }
    c.equal("attach: garbage token", try_with(good), no(libc::EACCES));
    c.equal(
        "attach: zero token",
        try_with(attach_struct([0; 16])),
        no(libc::EACCES),
    );
    let mut good = good;
    c.equal(
        "attach: second argument not zero",
        op2(abi::CDA_OP_ATTACH, address(&mut good), 1),
        no(libc::EINVAL),
    );

    // A structure which cannot be answered into uses the token up.
    let page = Area::new(PAGE);
    let token = fresh_token();
    // SAFETY: the page is large enough and aligned.
    unsafe { ptr::write_volatile(page.start as *mut cda_attach, attach_struct(token)) };
    page.protect(libc::PROT_READ);
    c.equal(
        "attach: read-only structure",
        op1(abi::CDA_OP_ATTACH, page.start as u64),
        no(libc::EFAULT),
    );
    c.equal(
        "attach: its token is used",
        try_with(attach_struct(token)),
        no(libc::EACCES),
    );
    c.equal(
        "attach: no session is left",
        op2(abi::CDA_OP_QUERY, 0, page.start as u64),
        no(libc::ENOENT),
    );

    let token = fresh_token();
    let mut attach = attach_struct(token);
    c.equal(
        "attach: good token",
        op1(abi::CDA_OP_ATTACH, address(&mut attach)),
        0,
    );
    c.equal("attach: token wiped", attach.token, [0; 16]);
    c.check("attach: cookie", attach.cookie != 0, || "is zero".into());
    c.equal(
        "attach: used token",
        try_with(attach_struct(token)),
        no(libc::EACCES),
    );
    let second = fresh_token();
    c.equal(
        "attach: second session",
        try_with(attach_struct(second)),
        no(libc::EEXIST),
    );
    Session {
        cookie: attach.cookie,
        max_pages: attach.max_pages,
    }
}

fn with_session(c: &mut Checks, s: &Session) {
    for (name, number) in SESSION_OPS {
        for (what, cookie) in [("0", 0), ("+1", s.cookie.wrapping_add(1)), ("~", !s.cookie)] {
            c.equal(
                &format!("{name}: wrong cookie {what}"),
                op2(number, cookie, 0),
                no(libc::EACCES),
            );
        }
        let extra = op(number, [s.cookie, 0, 1, 0, 0]);
        c.equal(
            &format!("{name}: third argument not zero"),
            extra,
            no(libc::EINVAL),
        );
    }
    c.equal(
        "unknown operation with a session",
        s.op(10, 0),
        no(libc::ENOSYS),
    );
    c.equal(
        "detach: second argument",
        s.op(abi::CDA_OP_DETACH, 1),
        no(libc::EINVAL),
    );
    for (what, at) in [
        ("NULL", 0),
        ("kernel", KERNEL),
        ("Xen", XEN),
        ("far", NON_CANONICAL),
    ] {
        c.equal(
            &format!("query: {what}"),
            s.op(abi::CDA_OP_QUERY, at),
            no(libc::EFAULT),
        );
        c.equal(
            &format!("register: {what}"),
            s.op(abi::CDA_OP_REGISTER, at),
            no(libc::EFAULT),
        );
    }
    let mut query = cda_query {
        size: 151,
        ..cda_query::default()
    };
    c.equal(
        "query: size",
        s.op(abi::CDA_OP_QUERY, address(&mut query)),
        no(libc::EINVAL),
    );
    query = cda_query {
        size: 200,
        flags: 1,
        ..cda_query::default()
    };
    c.equal(
        "query: flags",
        s.op(abi::CDA_OP_QUERY, address(&mut query)),
        no(libc::EINVAL),
    );
    query = cda_query {
        size: 200,
        reserved: [0, 1],
        ..cda_query::default()
    };
    c.equal(
        "query: reserved",
        s.op(abi::CDA_OP_QUERY, address(&mut query)),
        no(libc::EINVAL),
    );
}

fn registering(c: &mut Checks, s: &Session) {
    let area = Area::new(16 * PAGE);
    let log = area.log();
    let good = area.registration(&log);
    let edge = 1_u64 << 47;
    let shapes: [(&str, cda_register); 21] = [
        ("size", cda_register { size: 60, ..good }),
        ("mode 0", cda_register { mode: 0, ..good }),
        ("mode 99", cda_register { mode: 99, ..good }),
        ("flags", cda_register { flags: 1, ..good }),
        (
            "reserved 0",
            cda_register {
                reserved: [1, 0],
                ..good
            },
        ),
        (
            "reserved 1",
            cda_register {
                reserved: [0, 1],
                ..good
            },
        ),
        (
            "unaligned",
            cda_register {
                start: good.start + 8,
                ..good
            },
        ),
        ("no pages", cda_register { pages: 0, ..good }),
        (
            "2^64-1 pages",
            cda_register {
                pages: u64::MAX,
                ..good
            },
        ),
        (
            "2^52 pages",
            cda_register {
                pages: 1 << 52,
                ..good
            },
        ),
        (
            "pages beyond 2^47",
            cda_register {
                pages: (edge - good.start) / 4096 + 1,
                ..good
            },
        ),
        (
            "start at 2^47",
            cda_register {
                start: edge,
                pages: 1,
                ..good
            },
        ),
        (
            "start in the kernel",
            cda_register {
                start: KERNEL,
                ..good
            },
        ),
        (
            "start near 2^64",
            cda_register {
                start: !0xfff,
                pages: 1,
                ..good
            },
        ),
        (
            "log unaligned",
            cda_register {
                log: good.log + 8,
                ..good
            },
        ),
        (
            "log without room",
            cda_register {
                log_bytes: 63,
                ..good
            },
        ),
        (
            "log in the kernel",
            cda_register {
                log: KERNEL,
                ..good
            },
        ),
        ("log in Xen", cda_register { log: XEN, ..good }),
        (
            "log not canonical",
            cda_register {
                log: NON_CANONICAL,
                ..good
            },
        ),
        (
            "log over 2^47",
            cda_register {
                log: edge - 64,
                log_bytes: 128,
                ..good
            },
        ),
        (
            "log wraps",
            cda_register {
                log_bytes: u64::MAX,
                ..good
            },
        ),
    ];
    for (what, shape) in shapes {
        c.equal(
            &format!("register: {what}"),
            s.register(&shape),
            no(libc::EINVAL),
        );
    }
    for (what, log) in [
        ("start", good.start),
        ("middle", good.start + 8 * 4096),
        ("end", good.start + 16 * 4096 - 64),
    ] {
        let shape = cda_register {
            log,
            log_bytes: 64,
            ..good
        };
        c.equal(
            &format!("register: log at its {what}"),
            s.register(&shape),
            no(libc::EEXIST),
        );
    }
    let too_many = cda_register {
        start: 0x1_0000_0000,
        pages: s.max_pages + 1,
        ..good
    };
    if too_many.pages < (edge - too_many.start) / 4096 {
        c.equal(
            "register: more than max_pages",
            s.register(&too_many),
            no(libc::ENOSPC),
        );
    } else {
        c.skip(
            "register: more than max_pages",
            "the quota is beyond the address space",
        );
    }

    let range = s.register(&good);
    c.check("register: good", range >= 0, || format!("{range}"));
    let other = Area::new(16 * PAGE);
    let other_log = other.log();
    let also = other.registration(&other_log);
    let overlaps: [(&str, cda_register); 5] = [
        (
            "itself",
            cda_register {
                log: also.log,
                ..good
            },
        ),
        (
            "last page",
            cda_register {
                start: good.start + 15 * 4096,
                pages: 1,
                log: also.log,
                ..good
            },
        ),
        (
            "the log",
            cda_register {
                start: good.log,
                pages: 1,
                ..also
            },
        ),
        (
            "its log on the range",
            cda_register {
                log: good.start,
                log_bytes: 128,
                ..also
            },
        ),
        (
            "its log on the log",
            cda_register {
                log: good.log,
                log_bytes: good.log_bytes,
                ..also
            },
        ),
    ];
    for (what, shape) in overlaps {
        c.equal(
            &format!("register: overlap with {what}"),
            s.register(&shape),
            no(libc::EEXIST),
        );
    }
    c.equal(
        "unregister: unknown range",
        s.unregister(range + 1),
        no(libc::EBADF),
    );
    c.equal(
        "unregister: 2^32",
        s.unregister(range + (1 << 32)),
        no(libc::EBADF),
    );
    c.equal("unregister", s.unregister(range), 0);
    c.equal("unregister: twice", s.unregister(range), no(libc::EBADF));
    c.equal("query: nothing is registered", s.query().pages, 0);
    for what in [&area, &log, &other, &other_log] {
        what.unmap();
    }
}

fn cycles(c: &mut Checks, s: &Session) {
    let area = Area::new(16 * PAGE);
    let log = area.log();
    let range = s.register(&area.registration(&log));
    for (name, number) in &SESSION_OPS[3..7] {
        let unknown = s.op(*number, range.cast_unsigned() + 1);
        c.equal(&format!("{name}: unknown range"), unknown, no(libc::EBADF));
    }
    for (name, number) in &SESSION_OPS[4..7] {
        let early = s.op(*number, range.cast_unsigned());
        c.equal(&format!("{name} without begin"), early, no(libc::ENODATA));
    }
    c.equal("begin", s.begin(range), 0);
    c.equal("begin twice", s.begin(range), no(libc::EBUSY));
    area.set(3 * PAGE, 99);
    area.set(7 * PAGE + 4095, 98);
    c.equal("peek", s.peek(range), 2);
    c.equal("peek: list", log.listed(), vec![3, 7]);
    c.equal("commit", s.commit(range), 2);
    c.equal("commit: list", log.listed(), vec![3, 7]);
    area.set(5 * PAGE, 97);
    c.equal("end", s.end(range), 1);
    c.equal("end: list", log.listed(), vec![5]);
    c.equal("end twice", s.end(range), no(libc::ENODATA));
    c.equal(
        "contents",
        [
            area.get(3 * PAGE),
            area.get(7 * PAGE + 4095),
            area.get(5 * PAGE),
        ],
        [99, 98, 97],
    );
    logs(c, s, &area, &log, range);
    c.equal("unregister", s.unregister(range), 0);
    small_logs(c, s, &area);
    area.unmap();
}

/// A log which cannot be written.
fn logs(c: &mut Checks, s: &Session, area: &Area, log: &Area, range: i64) {
    let lost = |result: i64| result >= 0 && result.cast_unsigned() & abi::CDA_RESULT_LOST != 0;
    c.equal("begin", s.begin(range), 0);
    area.set(0, 1);
    log.protect(libc::PROT_READ);
    c.equal("end: read-only log", s.end(range), no(libc::EFAULT));
    c.equal("end: the cycle is closed", s.end(range), no(libc::ENODATA));
    log.protect(libc::PROT_READ | libc::PROT_WRITE);
    log.set(0, log.get(0));
    c.equal("begin", s.begin(range), 0);
    area.set(0, 2);
    let result = s.end(range);
    c.check("end: lost after the failure", lost(result), || {
        format!("{result:#x}")
    });
    c.equal(
        "log: flag",
        log.header().flags & abi::CDA_LOG_LOST,
        abi::CDA_LOG_LOST,
    );
    c.equal("begin", s.begin(range), 0);
    area.set(0, 3);
    c.equal("end: not lost any more", s.end(range), 1);

    c.equal("begin", s.begin(range), 0);
    area.set(PAGE, 3);
    log.unmap();
    c.equal("commit: no log", s.commit(range), no(libc::EFAULT));
    c.equal("commit: no log, again", s.commit(range), no(libc::EFAULT));
    let again = Area::map(log.start, log.bytes, 0, -1);
    (0..again.pages()).for_each(|page| again.set(page * PAGE, 0));
    let result = s.commit(range);
    c.check("commit: lost after the failure", lost(result), || {
        format!("{result:#x}")
    });
    area.set(2 * PAGE, 3);
    c.equal("end: not lost any more", s.end(range), 1);
}

fn small_logs(c: &mut Checks, s: &Session, area: &Area) {
    let log = Area::new(2 * PAGE);
    for entries in [0_u64, 1, 2] {
        let shape = cda_register {
            log_bytes: 64 + 8 * entries,
            ..area.registration(&log)
        };
        let range = s.register(&shape);
        s.begin(range);
        (0..3).for_each(|page| area.set(page * PAGE, 1));
        let result = s.commit(range);
        let header = log.header();
        c.equal(
            &format!("log of {entries}: result"),
            result.cast_unsigned() & abi::CDA_RESULT_LOST,
            abi::CDA_RESULT_LOST,
        );
        c.equal(
            &format!("log of {entries}: header"),
            (header.count, header.dirty, header.flags, header.entry_bytes),
            (entries, 3, abi::CDA_LOG_LOST, 8),
        );
        c.equal(&format!("log of {entries}: end, fits"), s.end(range), 0);
        s.unregister(range);
    }
    // The header can be written, the entries cannot.
    let shape = cda_register {
        log: (log.start + PAGE - 64) as u64,
        log_bytes: 64 + 8 * 16,
        ..area.registration(&log)
    };
    let range = s.register(&shape);
    s.begin(range);
    area.set(0, 9);
    log.part(1, 1).protect(libc::PROT_READ);
    let result = s.end(range);
    c.check(
        "log: read-only entries are lost",
        result >= 0 && result.cast_unsigned() & abi::CDA_RESULT_LOST != 0,
        || format!("{result:#x}"),
    );
    s.unregister(range);
    log.unmap();
}

fn children(c: &mut Checks, s: &Session) {
    let cookie = s.cookie;
    let status = in_child(|| {
        let ops = SESSION_OPS
            .iter()
            .map(|(_, number)| op2(*number, cookie, 0));
        i32::from(!ops.into_iter().all(|result| result == no(libc::ENOENT)))
    });
    c.equal("fork child: no session", status, 0);
    let status = in_child(|| {
        let own = Session::attach();
        let stranger = op2(abi::CDA_OP_BEGIN, cookie, abi::CDA_ALL_RANGES);
        let fine = own.cookie != cookie && stranger == no(libc::EACCES);
        let path = std::ffi::CString::new("/proc/self/exe").expect("no zero");
        let flag = std::ffi::CString::new("--exec-child").expect("no zero");
        let number = std::ffi::CString::new(own.cookie.to_string()).expect("no zero");
        let args = [path.as_ptr(), flag.as_ptr(), number.as_ptr(), ptr::null()];
        if fine {
            // SAFETY: arguments end with NULL.
            unsafe { libc::execv(path.as_ptr(), args.as_ptr()) };
        }
        50
    });
    c.equal("exec: the session is gone", status, 0);
    c.equal("the parent's session still works", s.query().ranges, 0);
    let thread = std::thread::scope(|scope| {
        scope
            .spawn(|| s.begin(abi::CDA_ALL_RANGES.cast_signed()))
            .join()
            .expect("no panic")
    });
    c.equal("another thread of the process", thread, 0);
}

fn exec_child(cookie: u64) -> i32 {
    let results = SESSION_OPS.map(|(_, number)| op2(number, cookie, 0));
    i32::from(results.iter().any(|&result| result != no(libc::ENOENT)))
}

/// The library in a fork child.
fn library(c: &mut Checks) {
    let build = || hvckpt::register_cda().pages(8).lock(LockPolicy::IfAllowed);
    let region = match build().tracker(TrackerKind::PtXen).register() {
        Ok(region) => region,
        Err(error) => {
            c.check("library: region", false, || hvckpt::explain(&error));
            return;
        }
    };
    let transaction = region.begin().expect("begins");
    let second = region.begin().err();
    c.check(
        "library: nested begin",
        matches!(second, Some(CycleError::AlreadyOpen)),
        || format!("{second:?}"),
    );
    let status = in_child(|| {
        let begun = region.begin();
        let forked = matches!(begun, Err(CycleError::Session(SessionError::ForkChild)));
        let refused = build().register().is_err();
        i32::from(!forked) + 2 * i32::from(!refused)
    });
    c.equal("library: fork child is told", status, 0);
    drop(transaction);
    let mut kept = Some(region);
    let status = in_child(|| {
        drop(kept.take());
        0
    });
    c.equal("library: fork child drops the region", status, 0);
    let region = kept.take().expect("the parent's is untouched");
    let transaction = region.begin().expect("the session lives");
    region.atomics_u64()[512].store(1, std::sync::atomic::Ordering::Relaxed);
    let list = transaction.commit().map(|dirty| dirty.to_vec());
    c.check(
        "library: the parent goes on",
        matches!(&list, Ok(l) if l == &[1]),
        || format!("{list:?}"),
    );
    drop(region);
    c.equal(
        "library: detached at the end",
        op2(abi::CDA_OP_QUERY, 0, 0),
        no(libc::ENOENT),
    );
}

fn main() {
    hvckpt_guest_tests::need_gate();
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--exec-child") {
        let cookie = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        std::process::exit(exec_child(cookie));
    }
    let mut c = Checks::default();
    // Xen knows a domain from its first token on.
    fresh_token();
    without_session(&mut c);
    let session = attaching(&mut c);
    with_session(&mut c, &session);
    registering(&mut c, &session);
    cycles(&mut c, &session);
    children(&mut c, &session);
    c.equal("detach", session.detach(), 0);
    for (name, number) in SESSION_OPS {
        c.equal(
            &format!("{name} after detach"),
            session.op(number, 0),
            no(libc::ENOENT),
        );
    }
    library(&mut c);
    c.finish();
}
