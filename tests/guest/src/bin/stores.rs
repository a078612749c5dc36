// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores of every kind to a page whose stores the hypervisor performs: they
//! must do what the CPU does, and be in the list.

use std::arch::asm;
use std::arch::x86_64::__cpuid;

use hvckpt::abi;
use hvckpt_guest_tests::{Area, Checks, PAGE, Session};

const KIND: u64 = 15 << abi::CDA_ENTRY_KIND_SHIFT;
const WORD: u64 = abi::CDA_ENTRY_WORD << abi::CDA_ENTRY_KIND_SHIFT;

/// Declares a function which runs instructions with the page's address in rdi.
/// What a function may change is theirs.
macro_rules! on_page {
    ($name:ident, $($code:literal),+ $(,)?) => {
        fn $name(page: usize) {
            // SAFETY: the instructions write to that page only (and to the next,
            // which belongs to the area), or they move the stack there and back.
            unsafe {
                asm!(
                    "push rbx",
                    "push rbp",
                    "xor eax, eax",
                    $($code,)+
                    "cld",
                    "emms",
                    "pop rbp",
                    "pop rbx",
                    inout("rdi") page => _, out("r12") _, clobber_abi("C"),
                );
            }
        }
    };
}

on_page!(byte, "mov byte ptr [rdi + 3], 0x5a");
on_page!(short, "mov word ptr [rdi + 9], 0x5a5b");
on_page!(int, "mov dword ptr [rdi + 17], 0x5a5b5c5d");
on_page!(long, "mov rax, -77", "mov [rdi + 32], rax");
on_page!(unaligned, "mov rax, -78", "mov [rdi + 43], rax");
on_page!(last, "mov rax, -79", "mov [rdi + 4088], rax");
on_page!(nontemporal, "mov rax, -80", "movnti [rdi + 64], rax");
on_page!(add, "add qword ptr [rdi], 1000");
on_page!(neg, "neg dword ptr [rdi + 4]");
on_page!(bts, "mov eax, 101", "bts [rdi + 16], rax");
on_page!(bts_three, "lock bts dword ptr [rdi + 20], 3");
// bts dword ptr [rdi + 24], 0x81: the second bit, as CPUs see it.
on_page!(bts_beyond, ".byte 0x0f, 0xba, 0x6f, 0x18, 0x81");
on_page!(
    shld_whole,
    "mov ecx, 16",
    "mov eax, 0x4a4b",
    "shld [rdi + 26], ax, cl"
);
on_page!(shrd_whole, "mov eax, 0x4a4c", "shrd [rdi + 28], ax, 16");
on_page!(setcc, "cmp eax, 0", "setz byte ptr [rdi + 99]");
on_page!(locked_inc, "lock inc qword ptr [rdi + 8]");
on_page!(xadd, "mov eax, 5", "lock xadd [rdi + 8], rax");
on_page!(xchg, "mov eax, 6", "xchg [rdi + 24], eax");
on_page!(
    cmpxchg,
    "mov rax, [rdi + 40]",
    "mov ecx, 9",
    "lock cmpxchg [rdi + 40], rcx"
);
on_page!(
    cmpxchg_unlocked,
    "mov rax, [rdi + 40]",
    "mov ecx, 9",
    "cmpxchg [rdi + 40], rcx"
);
on_page!(
    cmpxchg16b,
    "mov r12, rbx",
    "mov rax, [rdi + 48]",
    "mov rdx, [rdi + 56]",
    "mov ebx, 1",
    "mov ecx, 2",
    "lock cmpxchg16b [rdi + 48]",
    "mov rbx, r12",
);
on_page!(
    push,
    "mov r12, rsp",
    "lea rsp, [rdi + 128]",
    "push 0x1234",
    "mov rsp, r12"
);
on_page!(
    push_flags,
    "mov r12, rsp",
    "lea rsp, [rdi + 128]",
    "xor eax, eax",
    "pushfq",
    "mov rsp, r12",
);
on_page!(
    push_fs,
    "mov r12, rsp",
    "lea rsp, [rdi + 128]",
    "push fs",
    "mov rsp, r12"
);
on_page!(
    call,
    "mov r12, rsp",
    "lea rsp, [rdi + 128]",
    "call 2f",
    "2:",
    "mov rsp, r12",
);
on_page!(
    enter,
    "mov r12, rsp",
    "lea rsp, [rdi + 256]",
    "mov ebp, 0x5678",
    "enter 16, 0",
    "mov rsp, r12",
);
on_page!(store_cs, "mov word ptr [rdi + 200], cs");
on_page!(store_ss, "mov word ptr [rdi + 202], ss");
// Zero is what a 64-bit process has there, and what nobody would notice.
on_page!(
    store_ds,
    "mov r12d, ds",
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov word ptr [rdi + 204], ds",
    "mov ds, r12d",
);
on_page!(
    store_es,
    "mov r12d, es",
    "mov eax, 0x2b",
    "mov es, eax",
    "mov word ptr [rdi + 206], es",
    "mov es, r12d",
);
on_page!(pop, "push 0x4321", "pop qword ptr [rdi + 216]");
on_page!(
    by_fs,
    "mov rax, fs:[0]",
    "mov rcx, rdi",
    "sub rcx, rax",
    "mov byte ptr fs:[rcx + 77], 7",
);
on_page!(
    from_fs,
    "mov rax, fs:[0]",
    "lea rsi, [rdi + 16]",
    "sub rsi, rax",
    "add rdi, 900",
    "mov ecx, 4",
    // movsb with the segment of its source
    ".byte 0xf3, 0x64, 0xa4"
);
on_page!(
    push_from_fs,
    "mov rax, fs:[0]",
    "lea rcx, [rdi + 24]",
    "sub rcx, rax",
    "mov r12, rsp",
    "lea rsp, [rdi + 960]",
    "push qword ptr fs:[rcx]",
    "mov rsp, r12"
);
on_page!(
    stosb,
    "add rdi, 300",
    "mov al, 0x77",
    "mov ecx, 20",
    "rep stosb"
);
on_page!(
    stosq_down,
    "add rdi, 500",
    "mov eax, 0x7788",
    "mov ecx, 5",
    "std",
    "rep stosq",
);
on_page!(
    movsb,
    "lea rsi, [rip + 3f]",
    "add rdi, 600",
    "mov ecx, 11",
    "rep movsb",
    "jmp 4f",
    "3: .ascii \"eleven byte\"",
    "4:",
);
on_page!(
    movs_within,
    "lea rsi, [rdi + 8]",
    "add rdi, 700",
    "mov ecx, 3",
    "rep movsd"
);
on_page!(
    movups,
    "mov eax, 88",
    "movq xmm0, rax",
    "movups [rdi + 801], xmm0"
);
on_page!(
    movss,
    "mov eax, 89",
    "movq xmm0, rax",
    "movss [rdi + 832], xmm0"
);
on_page!(mmx, "mov eax, 90", "movq mm0, rax", "movq [rdi + 840], mm0");
// Bytes masked out stay whoever else's they are: the CPU writes only the others.
on_page!(
    masked,
    "mov eax, 0x80",
    "movd xmm1, eax",
    "mov eax, 92",
    "movd xmm0, eax",
    "add rdi, 872",
    "maskmovdqu xmm0, xmm1",
);
on_page!(
    masked_mmx,
    "mov eax, 0x8000",
    "movd mm1, eax",
    "mov eax, 0x5d5e",
    "movd mm0, eax",
    "add rdi, 888",
    "maskmovq mm0, mm1",
);
on_page!(x87, "fld1", "fstp qword ptr [rdi + 856]");
on_page!(across_pages, "mov rax, -81", "mov [rdi + 4092], rax");
on_page!(
    avx,
    "mov eax, 91",
    "vmovq xmm0, rax",
    "vmovups [rdi + 864], ymm0",
    "vzeroupper"
);

fn filled(offset: usize) -> u8 {
    u8::try_from(offset % 251).unwrap_or(0)
}

fn contents(area: &Area) -> Vec<u8> {
    (0..area.bytes).map(|offset| area.get(offset)).collect()
}

/// `bytes` after the stores that the list has; the pages that it has.
fn replay(log: &Area, bytes: &mut [u8]) -> (usize, Vec<usize>) {
    let count = usize::try_from(log.header().count).unwrap_or(usize::MAX);
    let unit = |i: usize| log.word(8 + i).load(std::sync::atomic::Ordering::Relaxed);
    let (mut i, mut stores, mut pages) = (0, 0, Vec::new());
    while i < count {
        let entry = unit(i);
        let at = usize::try_from(entry & abi::CDA_ENTRY_INDEX).unwrap_or(usize::MAX);
        if entry & KIND == WORD {
            let size = usize::try_from(entry >> abi::CDA_ENTRY_SIZE_SHIFT & 7).unwrap_or(0) + 1;
            bytes[at..at + size].copy_from_slice(&unit(i + 1).to_le_bytes()[..size]);
            stores += 1;
            i += 2;
        } else {
            pages.push(at);
            i += 1;
        }
    }
    (stores, pages)
}

/// Name, what executes the store at an address, how many stores it is.
type Case = (&'static str, fn(usize), usize);

struct Tried<'a> {
    session: &'a Session,
    id: i64,
    tracked: &'a Area,
    plain: &'a Area,
    log: &'a Area,
}

impl Tried<'_> {
    /// The same on a page which the hypervisor watches and on one which it
    /// does not.  `stores`: entries that are expected, none if it is a page.
    fn same(&self, c: &mut Checks, name: &str, run: fn(usize), stores: usize) {
        // Both pages become writable: filling them needs no performed stores.
        across_pages(self.tracked.start);
        for offset in 0..self.tracked.bytes {
            self.tracked.set(offset, filled(offset));
            self.plain.set(offset, filled(offset));
        }
        let mut replayed = contents(self.plain);
        assert_eq!(self.session.begin(self.id), 0);
        run(self.tracked.start);
        let result = self.session.end(self.id);
        assert!(result >= 0, "{name}: end: {result}");
        run(self.plain.start);
        let (tracked, plain) = (contents(self.tracked), contents(self.plain));
        let differ = tracked.iter().zip(&plain).position(|(a, b)| a != b);
        c.equal(&format!("{name}: as the CPU does it"), differ, None);
        let (got, pages) = replay(self.log, &mut replayed);
        c.equal(&format!("{name}: stores listed"), got, stores);
        if stores == 0 {
            c.check(&format!("{name}: page listed"), pages.contains(&0), || {
                format!("{pages:?}")
            });
        } else {
            let differ = replayed.iter().zip(&tracked).position(|(a, b)| a != b);
            c.equal(&format!("{name}: the list says it all"), differ, None);
        }
    }
}

/// A cmpxchg which fails stores nothing.
fn refused(page: usize) {
    // SAFETY: compares with a word of that page.
    unsafe {
        asm!(
            "mov eax, 1",
            "mov ecx, 2",
            "lock cmpxchg [rdi + 40], rcx",
            in("rdi") page, out("rax") _, out("rcx") _, options(nostack),
        );
    }
}

fn main() {
    hvckpt_guest_tests::need_gate();
    let mut c = Checks::default();
    let session = Session::attach();
    let (tracked, plain) = (Area::new(2 * PAGE), Area::new(2 * PAGE));
    let log = Area::new(16 * PAGE);
    let id = session.register(&abi::cda_register {
        mode: abi::CDA_MODE_EMULXEN,
        ..tracked.registration(&log)
    });
    assert!(id >= 0, "register: {id}");
    let tried = Tried {
        session: &session,
        id,
        tracked: &tracked,
        plain: &plain,
        log: &log,
    };
    let performed: [Case; 38] = [
        ("mov of a byte", byte, 1),
        ("mov of 2", short, 1),
        ("mov of 4", int, 1),
        ("mov of 8", long, 1),
        ("mov of 8, unaligned", unaligned, 1),
        ("mov at the end", last, 1),
        ("movnti", nontemporal, 1),
        ("add", add, 1),
        ("neg", neg, 1),
        ("bts", bts, 1),
        ("lock bts of an immediate", bts_three, 1),
        ("setz", setcc, 1),
        ("lock inc", locked_inc, 1),
        ("lock xadd", xadd, 1),
        ("xchg", xchg, 1),
        ("lock cmpxchg", cmpxchg, 1),
        ("cmpxchg", cmpxchg_unlocked, 1),
        ("lock cmpxchg16b", cmpxchg16b, 2),
        ("push", push, 1),
        ("pushfq", push_flags, 1),
        ("push fs", push_fs, 1),
        ("call", call, 1),
        ("enter", enter, 1),
        ("mov from cs", store_cs, 1),
        ("mov from ss", store_ss, 1),
        ("mov from ds", store_ds, 1),
        ("mov from es", store_es, 1),
        ("pop to memory", pop, 1),
        ("mov by fs", by_fs, 1),
        ("rep movsb by fs", from_fs, 4),
        ("push by fs", push_from_fs, 1),
        ("rep stosb", stosb, 20),
        ("rep stosq downwards", stosq_down, 5),
        ("rep movsb", movsb, 11),
        ("rep movsd within the page", movs_within, 3),
        ("movups", movups, 2),
        ("movss", movss, 1),
        ("movq of mmx", mmx, 1),
    ];
    for (name, run, stores) in performed {
        tried.same(&mut c, name, run, stores);
    }
    tried.same(&mut c, "x87", x87, 0);
    tried.same(&mut c, "maskmovdqu", masked, 0);
    tried.same(&mut c, "maskmovq", masked_mmx, 0);
    tried.same(&mut c, "bts beyond the operand", bts_beyond, 0);
    tried.same(&mut c, "shld of 16 by 16", shld_whole, 0);
    tried.same(&mut c, "shrd of 16 by 16", shrd_whole, 0);
    tried.same(&mut c, "mov across pages", across_pages, 0);
    if __cpuid(1).ecx >> 27 & 3 == 3 {
        tried.same(&mut c, "vmovups of 32", avx, 0);
    } else {
        c.skip("vmovups of 32", "no AVX");
    }

    assert_eq!(session.begin(id), 0);
    refused(tracked.start);
    c.equal("cmpxchg which fails: listed", session.end(id), 0);
    assert_eq!(session.detach(), 0);
    c.finish();
}
