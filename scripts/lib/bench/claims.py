# SPDX-License-Identifier: MIT OR Apache-2.0
"""The paper's claims and the design's targets beside what was measured."""
from results import GIB, difference, mean, parts, per_write, ratio, scan_fit

NONE = "not measured"


def span(values, unit="x"):
    values = [value for value in values if value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    return f"{low:.1f}{unit}" if high / low < 1.02 else f"{low:.1f}{unit} to {high:.1f}{unit}"


def verdict(value, claim):
    """Within a quarter of it, or how it differs."""
    if value is None:
        return NONE
    part = value / claim
    return "agrees" if 0.75 <= part <= 1.25 else f"differs: {part:.2g} times that"


def over_ppt(r, slow, fast):
    return [ratio(r.cost(slow, ppt, 4), r.cost(fast, ppt, 4)) for ppt in (1, 2, 4, 8, 16)]


def tsize_only(r, tracker):
    """Emulation: how far transactions of 64 writes differ, by shape."""
    costs = [r.cost(tracker, ppt, wpp) for ppt, wpp in ((16, 4), (8, 8), (4, 16))]
    return None if None in costs else max(costs) / min(costs) - 1


def scan_crossing(r, rival):
    """KiB of an area at which Scanxen costs as much as a rival, by PPT."""
    fit = scan_fit(r)
    costs = {ppt: r.cost(rival, ppt, 1) for ppt in (1, 4, 16)}
    if not fit or fit[1] <= 0:
        return {}
    return {ppt: 4 * max((cost - fit[2] - fit[0] * ppt) / fit[1], 0) for ppt, cost in costs.items() if cost is not None}


def sizes(crossing):
    return "; ".join(f"{kib:,.0f} KiB at PPT {ppt}" for ppt, kib in crossing.items()) or None


def aggregation(r, tracker):
    """Cost of an operation at OPT = 1 over that at OPT = 5."""
    found = []
    for case in r.cases():
        pair = [r.workload(tracker, *case, opt) for opt in (1, 5)]
        if all(pair):
            found.append(pair[0]["mean_ns"] / (pair[1]["mean_ns"] / 5))
    return mean(found)


def claims(r, s):
    """Rows: claim of the paper, ours, verdict, why."""
    def value(key, unit="x"):
        return None if s.get(key) is None else f"{s[key]:.3g}{unit}"

    pt = over_ppt(r, "pt", "ptxen")
    per = s.get("emulxen_vs_emul_per_write")
    fit = scan_fit(r)
    scan = [scan_crossing(r, rival) for rival in ("pt", "ptxen")]
    work = r.speedups("pt", "ptxen", 1).values(), r.speedups("emul", "emulxen", 1).values()
    more = [per_write(r, t) for t in ("pt", "ptxen")]
    shape = [tsize_only(r, t) for t in ("emul", "emulxen")]
    gain = {t: aggregation(r, t) for t in ("pt", "ptxen", "emul", "emulxen")}
    signals = ("A signal, its return and two changes of protection enter the hypervisor about ten times a page in our 64-bit "
               "guest, PTxen once; and what a trap costs in silicon is not counted, which flatters PTxen.")
    return [
        ("Figure 6: PTxen is ten times as fast as PT", span(pt), verdict(mean(pt), 10), signals),
        ("Figure 6: writes per page do not matter to page tracking",
         None if None in more else f"one more write to a page: {more[0]:.0f} instructions with PT, {more[1]:.0f} with PTxen",
         NONE if None in more else "agrees" if max(more) < 30 else "differs", "The store and the loop around it."),
        ("Figure 7: Emulxen is four times as fast as Emul", value("emulxen_vs_emul_per_write"), verdict(per, 4),
         "Per additional write. A signal costs what it costs above; the hypervisor's emulation is one trap."),
        ("Figure 7: emulation depends on WPP x PPT only",
         None if None in shape else f"64 writes in 4, 8 or 16 pages differ by at most {max(shape):.1%}",
         NONE if None in shape else "agrees" if max(shape) < 0.25 else "differs", "What a page adds is small."),
        ("Figure 8a: at user level emulation wins below 5 writes a page", value("breakeven_wpp_user", ""),
         verdict(s.get("breakeven_wpp_user"), 5),
         "The price of a page (a signal, two changes of protection) over that of an emulated write (a signal, the decoding)."),
        ("Figure 8b: in the hypervisor below 1.3", value("breakeven_wpp_xen", ""), verdict(s.get("breakeven_wpp_xen"), 1.3),
         "The cheaper a page's fault and re-protection, the earlier page tracking wins."),
        ("Figure 9: Scanxen costs a PPT + b CDA",
         fit and f"{fit[0]:.0f} PPT + {fit[1]:.2f} pages of the area + {fit[2]:.0f}",
         NONE if fit is None else "agrees" if fit[1] > 0 else "differs", "Least squares over areas of 64 KiB to 16 MiB."),
        ("Figure 9a: Scanxen beats PT for small areas and large PPT", sizes(scan[0]),
         NONE if not scan[0] else "agrees" if list(scan[0].values()) == sorted(scan[0].values()) else "differs",
         "Size of the area up to which Scanxen costs less; the larger, the more pages a transaction has."),
        ("Figure 9b: Scanxen beats PTxen only below tens or hundreds of KiB", sizes(scan[1]),
         NONE if not scan[1] else "agrees" if max(scan[1].values()) < 1024 else "differs",
         "As above. A clean page costs Scanxen so little here that with many dirty ones it wins a little longer."),
        ("Figure 10: with hypervisor assistance 4 to 10 times as fast (WPP 4)",
         span(pt + over_ppt(r, "emul", "emulxen")), verdict(mean(pt), 10), signals),
        ("Figure 12: PTxen speeds up the structures 11.4 times on average (up to 13)",
         None if not work[0] else f"{mean(work[0]):.1f}x, up to {max(work[0]):.1f}x", verdict(mean(work[0]), 11.4), signals),
        ("Figure 12: Emulxen 3.5 times (up to 4)",
         None if not work[1] else f"{mean(work[1]):.1f}x, up to {max(work[1]):.1f}x", verdict(mean(work[1]), 3.5),
         "Nearly all of it is single writes: as in figure 7, and a transaction's own cost besides."),
        ("Figure 13: five operations a transaction make page tracking five times cheaper an operation",
         None if gain["pt"] is None else f"PT {gain['pt']:.1f}x" + (f", PTxen {gain['ptxen']:.1f}x" if gain["ptxen"] else ""),
         verdict(gain["pt"], 5), "As far as the operations share their pages: Table 2 tells, by structure."),
        ("Figure 13: emulation gains nothing",
         None if gain["emul"] is None else f"Emul {gain['emul']:.2f}x" + (f", Emulxen {gain['emulxen']:.2f}x" if gain["emulxen"] else ""),
         NONE if gain["emul"] is None else "agrees" if gain["emul"] < 1.25 else "differs",
         "What it gains is the transaction's own cost, shared."),
        ("Figure 14: speedups at OPT = 5 are those at OPT = 1",
         None if s.get("workload_ptxen_speedup_mean_opt5") is None else
         f"PTxen {s['workload_ptxen_speedup_mean_opt5']:.1f}x instead of {s['workload_ptxen_speedup_mean_opt1']:.1f}x",
         verdict(s.get("workload_ptxen_speedup_mean_opt5"), s.get("workload_ptxen_speedup_mean_opt1") or 1),
         "What both gain by sharing pages is the same; PTxen also shares a transaction's own cost, a large part of its small one."),
    ]


def bounds(r, s):
    """What bounds a figure and what was tried, by its key in the summary."""
    found = {
        "instr_gate": "Xen's own entry from and return to a PV guest; the session is found by comparing page table roots.",
        "instr_ptxen_fault": "Xen's own way to and from the handler of a page fault is in it. Tried: page references and page locks "
                             "inline, no second look at entries which Xen granted, no lock but the page table's.",
        "instr_ptxen_reprotect": "An atomic change of the entry and of the page's references. Tried: one lock and one flush for each page table.",
    }
    a = parts(r, "autoxen")
    if a:
        found["autoxen_vs_pt_steady"] = (
            f"{a['alone']:,.0f} instructions for the transaction, shared by 64 pages, and {a['commit_n']:,.0f} for each neighbouring page: D tested and "
            "cleared by an atomic change, the page logged. Pages at equal distances add a word of bits to look through for each. "
            "Tried: one flush for all, common cases inline.")
    p = parts(r, "ptxen")
    if p:
        text = (f"PTxen: {p['alone']:,.0f} instructions for a transaction which writes nothing (the gate, the library, a header copied to the log), "
                f"{p['write_1']:,.0f} for the write and its fault, {p['commit_1']:,.0f} for the page's part of the commit "
                "(a page table locked, the bits of 512 entries looked through, one flush, a second copy). All of it is paid for a single page; "
                f"one more neighbour costs {p['write_n'] + p['commit_n']:,.0f}.")
        for key, slow in (("ptxen_vs_pt_ppt1", "pt"), ("ptxen_vs_pagemapscan_ppt1", "pagemap-scan")):
            cost = r.cost(slow, 1, 1)
            more = f" 25x would leave {cost / 25:,.0f} for all of it." if cost else ""
            found[key] = (text + more + " Tried: end and begin in one crossing, one look at each 2 MiB, cheaper references and locks; "
                          "not tried: a log page kept mapped, which would save both copies.")
    each, user, fault = per_write(r, "emulxen"), per_write(r, "emul"), s.get("instr_ptxen_fault")
    low, high = r.micro("emulxen", 16, 4), r.micro("emulxen", 16, 16)
    if None not in (each, user, fault, low, high):
        log = difference(high, low, "commit_ns", 192)
        found["emulxen_vs_emul_per_write"] = (
            f"A write takes Emulxen {each:,.0f} instructions and Emul {user:,.0f}. Of Emulxen's, about {fault:,.0f} are what any fault in Xen costs (PTxen's), "
            f"{log:.0f} the entry's copy to the log; the rest decodes the instruction, and performs the store with its locks and references. "
            "Tried: fetching the instruction at once (30 instructions less), a decoder of our own for mov (900 less); "
            "other stores take Xen's emulator, twice as expensive. "
            "Many writes to a page are better served by PTxen or Autoxen.")
    return found


def targets(r, s):
    """Rows: what, target, ours, met or by how much missed, and if so why."""
    why = bounds(r, s)

    def row(what, key, limit, at_least, unit=""):
        value, wanted = s.get(key), f"{'at least' if at_least else 'at most'} {limit:g}{unit}"
        if value is None:
            return what, wanted, NONE, NONE, ""
        met = value >= limit if at_least else value <= limit
        off = f"missed by {abs(value / limit - 1):.0%}"
        return what, wanted, f"{value:,.4g}{unit}", "met" if met else off, "" if met else why.get(key, "")

    small, large = r.micro("ptxen", 1, 1), r.micro("ptxen", 1, 1, pages=GIB)
    flat = ("One dirty page, area of 4 MiB to 1 GiB", "as small, plus O(area / 2 MiB)", NONE, NONE, "")
    if small is not None and large is not None:
        per = difference(large, small, "commit_ns", 510)
        flat = (flat[0], flat[1], f"{small['commit_ns']:,.0f} to {large['commit_ns']:,.0f}",
                f"{'met' if per <= 20 else 'missed'}: {per:.1f} instructions for each further 2 MiB", "")
    traps = r.micro("ptxen", 64, 1)
    traps = traps and traps.get("faults") and traps["faults"] / traps["expected"]
    return [
        row("Gate round trip, instructions", "instr_gate", 180, False),
        row("PTxen, per dirtied page: fault and regrant", "instr_ptxen_fault", 400, False),
        row("PTxen, per dirtied page: re-protect", "instr_ptxen_reprotect", 120, False),
        row("PTxen over PT, 64 pages a transaction", "ptxen_vs_pt_ppt64", 70, True, "x"),
        row("PTxen over PT, 1 page", "ptxen_vs_pt_ppt1", 25, True, "x"),
        row("PTxen over WP_ASYNC + PAGEMAP_SCAN, 64 pages", "ptxen_vs_pagemapscan_ppt64", 14, True, "x"),
        row("PTxen over WP_ASYNC + PAGEMAP_SCAN, 1 page", "ptxen_vs_pagemapscan_ppt1", 25, True, "x"),
        row("Autoxen over PT, steady working set", "autoxen_vs_pt_steady", 300, True, "x"),
        row("Emulxen over Emul, per write", "emulxen_vs_emul_per_write", 10, True, "x"),
        flat,
        ("Traps per first write, PTxen", "1", NONE if not traps else f"{traps:.3f}",
         NONE if not traps else "met" if traps <= 1.001 else "missed", ""),
        row("Traps per page, Autoxen, steady", "autoxen_traps_per_page_steady", 0.01, False),
    ]


def parts_table(r):
    """What a transaction is made of, by tracker."""
    found = [(tracker, parts(r, tracker)) for tracker in r.trackers()]
    keys = ("alone", "write_1", "commit_1", "write_n", "commit_n")
    return [(tracker, [p[key] for key in keys]) for tracker, p in found if p]


def per_page_table(r):
    """Cost per dirtied page of each tracker: 1, 64, 256 spread pages; one more write; 64 steady; rotating."""
    rows = []
    for tracker in r.trackers():
        cells = [ratio(r.cost(tracker, n, 1), n) for n in (1, 64, 256)]
        cells.append(ratio(r.cost(tracker, 64, 1, pattern="contiguous"), 64))
        cells.append(ratio(r.cost(tracker, 64, 1, warmup=200), 64))
        cells.append(ratio(r.cost(tracker, 16, 1, pattern="rotate", warmup=10), 16))
        cells.append(per_write(r, tracker))
        row = r.micro(tracker, 64, 1)
        faults = row.get("faults") if row else None
        cells.append(None if faults is None else faults / row["expected"])
        rows.append((tracker, cells))
    return rows


