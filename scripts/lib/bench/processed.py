# SPDX-License-Identifier: MIT OR Apache-2.0
"""Figures 15 to 18: what is processed after a transaction, and time with it.

After each transaction the program copies what it wrote to into a buffer: whole
pages under page tracking, under emulation where each store went and its value.
"""
import os

import svg
from results import mean

OPERATIONS = 10_000
PAGING, EMULATION = ("pt", "ptxen"), ("emul", "emulxen")
TITLES = {"figure-15": "Figure 15", "figure-16": "Figure 16", "figure-17": "Figure 17", "figure-18": "Figure 18"}
# Too long for the scale, in the paper too.
LONG = ("tree", "insert")


def megabytes(row):
    """Of all operations, one a transaction."""
    return row["processed"] * OPERATIONS / 1e6


def rows(results, tracker):
    """Of each case, one operation a transaction, where it was measured."""
    found = {}
    for case in results.cases():
        row = results.workload(tracker, *case, 1)
        if row and "processed" in row:
            found[case] = row
    return found


def together(row):
    """Operation, commit and copy."""
    return row["mean_ns"] + row["copy_ns"]


def net_speedups(results, slow, fast):
    slow, fast = rows(results, slow), rows(results, fast)
    return {case: together(slow[case]) / together(fast[case]) for case in slow if case in fast}


def groups(results, found):
    """found: values of each tracker, by case."""
    return [(" ".join(case), {t: values[case] for t, values in found.items() if case in values})
            for case in results.cases()]


def missing(found):
    names = [svg.STYLE[t][0] for t, values in found.items() if not values]
    return [f"Not measured in this run: {', '.join(names)}."] if names else []


def summary(results):
    """Further figures of summary.json."""
    found = {}
    for tracker in PAGING + EMULATION:
        sizes = {case: megabytes(row) for case, row in rows(results, tracker).items()}
        found[f"processed_mb_mean_{tracker}"] = mean(sizes.values())
        found[f"processed_mb_tree_insert_{tracker}"] = sizes.get(LONG)
    for fast, slow in (("ptxen", "pt"), ("emulxen", "emul")):
        found[f"net_{fast}_speedup_mean_opt1"] = mean(net_speedups(results, slow, fast).values())
    return {key: value and float(f"{value:.5g}") for key, value in found.items()}


def claims(results, judge):
    """Rows for the table of the paper's claims; judge(value, claim) says how they compare."""
    s = summary(results)

    def row(claim, values, unit, verdict, why=""):
        values = [f"{value:.3g}{unit}" for value in values if value is not None]
        return (claim, " and ".join(values) or None, verdict, why)

    pages = [mb for t in PAGING for mb in map(megabytes, rows(results, t).values())]
    words = [mb for t in EMULATION for case, row_ in rows(results, t).items() if case != LONG for mb in [megabytes(row_)]]
    few = sum(mb < 2 for mb in words)
    return [
        row("Page tracking processes hundreds of MB (10,000 operations)", pages and [min(pages), max(pages)], " MB",
            judge(None, 1) if not pages else "agrees" if 100 <= mean(pages) < 1000 else f"differs: {mean(pages):.3g} MB on average",
            "smallest and largest structure" if pages else ""),
        row("Emulation processes less than 2 MB in most cases", words and [min(words), max(words)], " MB",
            judge(None, 1) if not words else f"{'agrees' if 2 * few > len(words) else 'differs'}: {few} of {len(words)}",
            "without insertions into the tree" if words else ""),
        row("Insertions into the tree: 56 MB under emulation", [s["processed_mb_tree_insert_emul"]], " MB",
            judge(s["processed_mb_tree_insert_emul"], 56), "a store is 4 bytes of address and 4 of value"),
        row("Net speedup of PTxen over PT: 8 times", [s["net_ptxen_speedup_mean_opt1"]], "x",
            judge(s["net_ptxen_speedup_mean_opt1"], 8)),
        row("Net speedup of Emulxen over Emul: 4 times", [s["net_emulxen_speedup_mean_opt1"]], "x",
            judge(s["net_emulxen_speedup_mean_opt1"], 4)),
    ]


def draw(results, directory):
    """Writes the figures."""
    sizes = {t: {case: megabytes(row) for case, row in rows(results, t).items()} for t in PAGING + EMULATION}
    pages = {t: sizes[t] for t in PAGING}
    words = {t: {case: mb for case, mb in sizes[t].items() if case != LONG} for t in EMULATION}
    long = [sizes[t][LONG] for t in EMULATION if LONG in sizes[t]]
    times = {t: {case: together(row) * OPERATIONS / 1e9 for case, row in rows(results, t).items()}
             for t in svg.STYLE}
    times = {t: values for t, values in times.items() if values or t in PAGING + EMULATION}
    nets = {"ptxen": net_speedups(results, "pt", "ptxen"), "emulxen": net_speedups(results, "emul", "emulxen")}
    all_operations = "MB of 10,000 operations"
    made = {
        "figure-15": svg.bars("Figure 15: data processed, page tracking, OPT = 1", all_operations, groups(results, pages),
                              list(pages), per_panel=7, notes=missing(pages)),
        "figure-16": svg.bars("Figure 16: data processed, emulation, OPT = 1", all_operations, groups(results, words),
                              list(words), per_panel=7, notes=missing(words)
                              + [f"Too long for the scale: tree insert, {long[0]:.1f} MB." for _ in long[:1]]),
        "figure-17": svg.bars("Figure 17: time with the copy, OPT = 1", "s of 10,000 operations", groups(results, times),
                              list(times), log_y=True, notes=missing(times)
                              + ["One instruction = 1 ns.  Logarithmic: equal distances are equal ratios."]),
        "figure-18": svg.bars("Figure 18: net speedup by the hypervisor, OPT = 1", "times as fast", groups(results, nets),
                              list(nets), per_panel=7, line=1, notes=missing(nets)
                              + ["PTxen over PT, Emulxen over Emul, with the copy."]),
    }
    for name, text in made.items():
        with open(os.path.join(directory, f"{name}.svg"), "w", encoding="utf-8") as f:
            f.write(text)
