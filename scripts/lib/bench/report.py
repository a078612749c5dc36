# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes figures, summary.json and REPORT.md from the CSV files of a run.

usage: report.py DIRECTORY
Exit status 1 if a tracker missed a page, damaged memory, or did not finish, or
if a figure cannot be right or differs from its like.
"""
import json
import os
import sys

import claims
import figures
import plausible
import processed
import svg
import tax
from results import Results, mean, summary

TITLES = {"figure-6": "Figure 6", "figure-7": "Figure 7", "figure-8a": "Figure 8a", "figure-8b": "Figure 8b",
          "figure-9a": "Figure 9a", "figure-9b": "Figure 9b", "figure-10": "Figure 10", "figure-11": "Figure 11",
          "figure-12": "Figure 12", "figure-13": "Figure 13", "figure-14": "Figure 14"}
# Why counts differ from the paper's by more than a quarter.
ROOT = ("the link to the root lies in the area here, as recovery needs it, and evidently did not there: "
        "one write, and one page where nothing else is written beside it")
REASONS = {("tree", "delete"): "A deletion of the least key changes little else: " + ROOT + ".",
           ("leftheap", "insert"): ROOT[0].upper() + ROOT[1:] + "."}

EMULATOR = """An emulator that counts instructions shows how much software runs for each page and each write, all of it
(hypervisor, kernel, library), and shows it again in the next run; it shows how often the processor is trapped; and it
shows whether a list is complete. It does not show time. A trap costs about a thousand cycles in silicon and one
instruction here, which flatters whoever does little in each trap: PTxen above all. Cache and TLB misses, locked
instructions, shootdowns on other processors and contention cost nothing here, and a mode without traps would gain more
on a processor than these ratios say. Every ratio below is one of instructions."""
TRAP = 1000  # cycles
PT_TRAPS = 10  # entries into Xen for each page: fault, signal, return, two changes of protection


def table(head, rows):
    cells = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells.append("| " + " | ".join("" if c is None else str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |")
    return "\n".join(cells)


def name(tracker):
    return svg.STYLE.get(tracker, (tracker,))[0]


def number(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def state_of_trackers(r):
    rows = []
    for row in r.rows["trackers"]:
        if row["tracker"] == "gate":
            continue
        state = {"ok": "works", "failed": "not available", "unfinished": "DID NOT FINISH"}.get(row["status"], row["status"])
        rows.append((name(row["tracker"]), state, row.get("reason", "")))
    return rows


def exactness(r):
    """Pages written to, missed and listed needlessly, by tracker; and what is wrong."""
    sums = {}
    for row in r.rows["micro"] + r.rows["workload"]:
        if row["tracker"] == "none" or "expected" not in row:
            continue
        total = sums.setdefault(row["tracker"], [0, 0, 0, 0])
        for n, key in enumerate(("expected", "missed", "excess", "damaged")):
            total[n] += row.get(key, 0)
    for row in r.rows["program"]:
        sums.setdefault(row["tracker"], [0, 0, 0, 0])[3] += row.get("damaged", 0)
    return sums


def wrong(r, sums, summary_):
    found = [f"{name(t)}: {v[1]} pages missed, {v[3]} words or values damaged" for t, v in sums.items() if v[1] or v[3]]
    # A tracker may be unfit for the program's memory; its table says so.
    for kind in ("micro", "workload"):
        for row in r.rows[kind]:
            if row.get("status") == "failed":
                what = " ".join(str(row[k]) for k in ("structure", "op", "opt", "ppt", "wpp", "pages") if k in row)
                found.append(f"{name(row['tracker'])}, {kind} {what}: {row.get('reason', 'failed')}")
    found += [f"{row['tracker']}: {row['reason']}" for row in r.rows["trackers"] if row["status"] == "unfinished"]
    found += [f"{tax.NAMES[variant]} costs the {row['part']} {tax.tax(row, variant):+.2f} %" for row in r.rows["tax"]
              for variant in tax.LIMITS if row["part"] in tax.PROMISED and not tax.kept(row, variant)]
    if not r.good("micro"):
        found.append("no tracker could be measured")
    return found + plausible.strange(r, summary_)


def counts(r):
    rows, far = [], []
    for row in r.rows["counts"]:
        cells, off = [f"{row['structure']} {row['op']}"], []
        for key in ("opt1_writes", "opt1_pages", "opt5_writes", "opt5_pages"):
            own, paper = row[key], row[key.replace("opt", "paper")]
            cells.append(f"{own:.1f} ({paper:.1f})")
            if abs(own / paper - 1) > 0.25:
                off.append(f"{key.replace('opt', 'OPT ').replace('_', ', ')}: {own / paper - 1:+.0%}")
        cells.append("yes" if not off else "no")
        rows.append(cells)
        if off:
            reason = REASONS.get((row["structure"], row["op"]), "not explained.")
            far.append(f"- {row['structure']} {row['op']} ({'; '.join(off)}). {reason}")
    return rows, far


def real_program(r):
    rows = []
    for row in r.good("program"):
        rows.append((row["operations"], row["median_ns"], name(row["tracker"])))
    found = [(who, operations, number(cost)) for operations, cost, who in sorted(rows)]
    return found + [(name(row["tracker"]), row["operations"], f"cannot: {row.get('reason', '')}")
                    for row in r.rows["program"] if row["status"] == "failed"]


def taxes(r):
    found = []
    for row in r.rows["tax"]:
        more = [f"{number(row[variant])} ({tax.tax(row, variant):+.2f} %)" for variant in tax.LIMITS]
        promised = " / ".join(f"{limit:g} %" for limit in tax.LIMITS.values()) if row["part"] in tax.PROMISED else ""
        found.append((row["part"], number(row["unpatched"]), *more, promised))
    return found


def in_silicon(r):
    """What would remain of PTxen's lead if traps had their price."""
    pt, ptxen = (r.cost(t, 64, 1) for t in ("pt", "ptxen"))
    if not pt or not ptxen:
        return []
    priced = (pt / 64 + PT_TRAPS * TRAP) / (ptxen / 64 + TRAP)
    return [f"For example: charge {TRAP:,} cycles to each trap and one to every other instruction, and count {PT_TRAPS} entries "
            f"into Xen for each page of PT. Then PTxen's lead over PT at 64 pages, {pt / ptxen:.0f} times by instructions, "
            f"would be about {priced:.0f} times.", ""]


def base(r):
    plain = [row["mean_ns"] for row in r.good("workload") if row["tracker"] == "none" and row["opt"] == 1]
    return mean(plain)


def write(directory):
    r = Results(directory)
    found = {**summary(r), **processed.summary(r)}
    figures.draw(r, directory, (found.get("breakeven_wpp_user"), found.get("breakeven_wpp_xen")))
    processed.draw(r, directory)
    known = {key: value for key, value in found.items() if value is not None}
    with open(os.path.join(directory, "summary.json"), "w", encoding="utf-8") as f:
        json.dump(known, f, indent=1)
        f.write("\n")
    sums = exactness(r)
    bad = wrong(r, sums, found)
    rows, far = counts(r)
    mode = "a sample (`--quick`)" if r.provenance.get("mode") == "quick" else "a full run"
    part = ["# The evaluation, run again", "",
            f"Results of `scripts/bench`, {mode}. All trackers in the same guest and the same boot. Figures are instructions "
            "(virtual nanoseconds), all software included; medians of transactions in the microbenchmark, means in the workloads. "
            "How it is done, and what the parameters are: [docs/bench.md](../../docs/bench.md).", ""]
    part += [f"- {key}: {value}" for key, value in r.provenance.items() if value] + [""]
    if bad:
        part += ["## Something is missing or wrong", ""] + [f"- {line}" for line in bad] + [""]
    part += ["## What this can and cannot show", "", EMULATOR, "",
             *in_silicon(r), "## Trackers", "", table(("tracker", "here", "why not"), state_of_trackers(r)), "",
             "Every transaction's list was compared with the pages written to, and after each workload the memory with what it must be:", "",
             table(("tracker", "pages written to", "missed", "listed needlessly", "words damaged"),
                   [(name(t), *(number(n) for n in v)) for t, v in sums.items()]), "",
             "## The paper's claims", "",
             table(("claim", "here", "verdict", "remark"), [(c, v or claims.NONE, j, w)
                    for c, v, j, w in claims.claims(r, found) + processed.claims(r, claims.verdict)]), "",
             "Agrees: within 25 %.", "",
             "## Targets of the design", "", table(("what", "target", "here", "", "what bounds it"), claims.targets(r, found)), ""]
    missing = [key for key, value in found.items() if value is None]
    if missing:
        part += ["Not measured in this run, and so not in summary.json: " + ", ".join(f"`{key}`" for key in missing) + ".", ""]
    head = ("tracker", "1 page", "64 spread", "256 spread", "64 neighbours", "64, after 200 transactions", "16, others every time",
            "one more write", "traps a page")
    part += ["## Cost of a dirtied page", "",
             "Area of 4 MiB, one write a page, transaction and commit together, per page.", "",
             table(head, [(name(t), *(number(c) for c in cells[:-1]), number(cells[-1], 2)) for t, cells in claims.per_page_table(r)]), "",
             "Traps are those which the tracker counts: faults taken by Xen for the hypervisor's, signals for PT, each of which stands for many entries into Xen.", ""]
    head = ("tracker", "writing nothing", "one page: writing to it", "committing it", "one more neighbour: writing to it", "committing it")
    part += ["## What a transaction is made of", "",
             "Instructions: of a transaction by itself, of its first page, and of each of many pages (256 against 64). "
             "A difference of two costs which is beneath what such costs differ by from one experiment to the next "
             "is shown as less (<) than that.", "",
             table(head, [(name(t), *(number(c) for c in cells)) for t, cells in claims.parts_table(r)]), ""]
    part += ["## Figures", ""] + [f"![{title}]({file}.svg)" for file, title in {**TITLES, **processed.TITLES}.items()] + [""]
    plain = base(r)
    part += ["## Table 2: writes and unique pages a transaction", "",
             "Ours, and the paper's in brackets; counted over all 10,000 operations.", "",
             table(("operation", "OPT 1: writes", "pages", "OPT 5: writes", "pages", "within 25 %"), rows), ""]
    part += far + ["" if far else "No row differs by more than 25 %.", ""]
    if plain:
        part += [f"Without any tracker an operation takes {plain:,.0f} instructions on average.", ""]
    part += ["## Who does not use it", "",
             "Instructions of programs that know nothing of checkpointing, without the patch, with it switched off, and in a guest which "
             "may use it: forks, programs started, areas mapped and written to, areas protected and written to, the mix of these four, "
             "and one step of a kernel's build (a module goes through gcc and the assembler). Runs of the same differ by some 0.02 %.", "",
             table(("what", *tax.NAMES.values(), "may be more by"), taxes(r)), ""]
    part += ["## A real program", "",
             "An unmodified `hashbrown` map of 2,000 byte strings in an arena; instructions an update (a transaction which can be aborted, "
             "kept in memory), by values set in it.", "",
             table(("tracker", "values set", "instructions"), real_program(r)), ""]
    with open(os.path.join(directory, "REPORT.md"), "w", encoding="utf-8") as f:
        f.write("\n".join(part))
    for line in bad:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if "-h" in sys.argv or "--help" in sys.argv else 2)
    if not os.path.isdir(sys.argv[1]):
        print(f"bench: no such directory: {sys.argv[1]}", file=sys.stderr)
        sys.exit(2)
    sys.exit(write(sys.argv[1]))
