# SPDX-License-Identifier: MIT OR Apache-2.0
"""The paper's figures 6 to 14, from the results."""
import os

import svg
from results import PAGES, PAPER_TRANSACTIONS

SECONDS = "time of 100,000 transactions (s, 1 instruction = 1 ns)"
ALL = list(svg.STYLE)
# Shades of one colour, by size of the area.
SHADES = ["#f4cfe3", "#e3a3c8", "#cc79a7", "#a14f7d", "#6d2a52"]


def seconds(ns):
    return ns * PAPER_TRANSACTIONS / 1e9


def sweep(results, tracker, xs, point):
    """[(x, seconds)] of what was measured; point(x) are the parameters."""
    found = []
    for x in xs:
        cost = results.cost(tracker, *point(x))
        if cost is not None:
            found.append((x, seconds(cost)))
    return found


def values(results, key, **fixed):
    return sorted({row[key] for row in results.good("micro")
                   if all(row[k] == v for k, v in fixed.items())})


def absent(results, *trackers):
    missing = [svg.STYLE[t][0] for t in trackers if t not in results.trackers()]
    return [f"Not available in this run: {', '.join(missing)}."] if missing else []


def by_wpp(results, trackers, against):
    """One line for each tracker and number of writes per page."""
    series = []
    for tracker in trackers:
        name, color, _, _ = svg.STYLE[tracker]
        for wpp, shape, dashes in ((4, "circle", ""), (8, "square", "6 3"), (16, "triangle", "2 3")):
            points = [(x if against == "ppt" else x * wpp, y) for x, y in
                      sweep(results, tracker, (1, 2, 4, 8, 16), lambda ppt, w=wpp: (ppt, w))]
            series.append((f"{name}, WPP={wpp}", color, shape, dashes, points))
    return series


def one_each(results, trackers, xs, point):
    return [svg.STYLE[t] + (sweep(results, t, xs, point),) for t in trackers]


def figure_8(results, title, trackers, even):
    wpps = values(results, "wpp", ppt=4, pages=PAGES, pattern="spread")
    marks = [(even, f"break-even {even:.1f}")] if even and even >= 1 else []
    notes = absent(results, *trackers)
    if even is not None and even < 1:
        notes.append(f"The lines would meet at {even:.2f} writes per page: emulation never wins.")
    return svg.lines(title, "writes per page (WPP), 4 pages a transaction", SECONDS,
                     one_each(results, trackers, wpps, lambda wpp: (4, wpp)), marks=marks, notes=notes)


def figure_9(results, title, rivals):
    series = []
    sizes = [p for p in (16, 64, 256, 1024, 4096) if results.cost("scanxen", 1, 1, p) is not None]
    for pages, shade in zip(sizes, SHADES):
        points = [(ppt, seconds(c)) for ppt in (1, 4, 16)
                  if (c := results.cost("scanxen", ppt, 1, pages)) is not None]
        size = f"{pages * 4} KiB" if pages < 256 else f"{pages // 256} MiB"
        series.append((f"Scanxen, {size}", shade, "circle", "", points))
    series += one_each(results, rivals, (1, 4, 16), lambda ppt: (ppt, 1))
    return svg.lines(title, "pages per transaction (PPT)", SECONDS, series, log_y=True,
                     notes=absent(results, "scanxen", *rivals))


def figure_work(results, title, opt):
    groups = []
    for structure, op in results.cases():
        costs = {t: row["mean_ns"] * 10_000 / opt / 1e9 for t in ALL
                 if (row := results.workload(t, structure, op, opt))}
        groups.append((f"{structure} {op}", costs))
    return svg.bars(title, "s of 10,000 operations", groups, ALL, log_y=True,
                    notes=absent(results, *ALL) + ["One instruction = 1 ns.  Logarithmic: equal distances are equal ratios."])


def figure_speedup(results, title, opt):
    pairs = {"ptxen": results.speedups("pt", "ptxen", opt), "emulxen": results.speedups("emul", "emulxen", opt)}
    groups = [(f"{s} {op}", {t: found[s, op] for t, found in pairs.items() if (s, op) in found})
              for s, op in results.cases()]
    return svg.bars(title, "times as fast", groups, list(pairs), per_panel=7, line=1,
                    notes=absent(results, "pt", "emul", *pairs) + ["PTxen over PT, Emulxen over Emul."])


def draw(results, directory, evens):
    """Writes all of them; evens: break-even WPP of users and of Xen."""
    ppts = (1, 2, 4, 8, 16, 32, 64)
    made = {
        "figure-6": svg.lines("Figure 6: PT and PTxen with varying PPT", "pages per transaction (PPT)", SECONDS,
                              by_wpp(results, ("pt", "ptxen"), "ppt"), log_y=True, notes=absent(results, "pt", "ptxen")),
        "figure-7": svg.lines("Figure 7: Emul and Emulxen with varying Tsize", "writes per transaction (Tsize = WPP x PPT)",
                              SECONDS, by_wpp(results, ("emul", "emulxen"), "tsize"), log_y=True,
                              notes=absent(results, "emul", "emulxen")),
        "figure-8a": figure_8(results, "Figure 8a: emulation and page tracking, user level", ("pt", "emul"), evens[0]),
        "figure-8b": figure_8(results, "Figure 8b: emulation and page tracking, in the hypervisor", ("ptxen", "emulxen"), evens[1]),
        "figure-9a": figure_9(results, "Figure 9a: Scanxen and PT", ["pt"]),
        "figure-9b": figure_9(results, "Figure 9b: Scanxen and PTxen", ["ptxen"]),
        "figure-10": svg.lines("Figure 10: all approaches, WPP = 4", "pages per transaction (PPT)", SECONDS,
                               one_each(results, ALL, ppts, lambda ppt: (ppt, 4)), log_x=True, log_y=True,
                               x_ticks=list(ppts), notes=absent(results, *ALL)),
        "figure-11": figure_work(results, "Figure 11: data structures, one operation a transaction", 1),
        "figure-12": figure_speedup(results, "Figure 12: speedup by the hypervisor, OPT = 1", 1),
        "figure-13": figure_work(results, "Figure 13: data structures, five operations a transaction", 5),
        "figure-14": figure_speedup(results, "Figure 14: speedup by the hypervisor, OPT = 5", 5),
    }
    for name, text in made.items():
        with open(os.path.join(directory, f"{name}.svg"), "w", encoding="utf-8") as f:
            f.write(text)
    return list(made)
