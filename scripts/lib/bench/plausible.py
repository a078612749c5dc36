# SPDX-License-Identifier: MIT OR Apache-2.0
"""Whether results can be what they say: finds cells which no measurement gives, and rows that differ from their like.

An emulated machine repeats itself, so rows of a kind follow a line closely:
what is far from it was disturbed (a buffer that was cold, a machine that ran
something else), or the program is wrong.
"""
import math
from statistics import median

import svg
from results import EMULATION, PAGES, difference

# Parts by which what must not fall may fall, and a sum may differ from its parts.
FALL, SUM = 0.03, 0.25
# How often a row may cost what others of its kind would.
COPY, TRANSACTION = 1.5, 2.0
LEAST = 8  # rows, to know what is usual
# May be nothing.
ZERO = {"autoxen_traps_per_page_steady"}


def named(tracker, words):
    return f"{svg.STYLE.get(tracker, (tracker,))[0]}, {words}"


def line(points):
    """Intercept and slope of the line which most points are on (Theil and Sen)."""
    slopes = [(y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points) for x2, y2 in points[i + 1:] if x1 != x2]
    slope = median(slopes) if slopes else 0.0
    return median(y - slope * x for x, y in points), slope


def unlike(points, limit):
    """points: (name, x, y).  Those which are not where others would be there."""
    if len(points) < LEAST:
        return
    base, slope = line([(x, y) for _, x, y in points])
    for name, x, y in points:
        usual = base + slope * x
        if usual > 0 and not usual / limit <= y <= usual * limit:
            yield f"{name}: {y:,.0f}, where its like take {usual:,.0f}"


def falls(name, points):
    """points: (x, cost), by x; more of it cannot cost less."""
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if y1 < y0 * (1 - FALL):
            yield f"{name} {x1}: {y1:,.0f}, less than {y0:,.0f} at {x0}"


def micro(r):
    for row in r.good("micro"):
        name = named(row["tracker"], f"PPT {row['ppt']}, WPP {row['wpp']}, {row['pages']} pages, {row['pattern']}")
        both, one = row["median_ns"], row["write_ns"] + row["commit_ns"]
        if both < (row["ppt"] > 0) or abs(one - both) > SUM * both:
            yield f"{name}: {both:,.0f} together, but {row['write_ns']:,.0f} and {row['commit_ns']:,.0f}"
        if row["expected"] != row["ppt"] * row["measured"]:
            yield f"{name}: {row['expected']} pages in {row['measured']} transactions"
    for t in r.trackers():
        for wpp in (4, 8, 16):
            yield from falls(named(t, f"WPP {wpp}, PPT"), r.costs(t, (1, 2, 4, 8, 16, 32, 64), lambda ppt, w=wpp: (ppt, w)))
        yield from falls(named(t, "PPT 4, WPP"), r.costs(t, range(1, 17), lambda wpp: (4, wpp)))
        if t == "scanxen":
            for ppt in (1, 4, 16):
                yield from falls(named(t, f"PPT {ppt}, pages"), r.costs(t, (16, 64, 256, PAGES, 4096), lambda n, p=ppt: (p, 1, n)))
        for key in ("write_ns", "commit_ns"):
            some, none = r.micro(t, 1, 1), r.micro(t, 0, 1)
            if some and none and difference(some, none, key) < -difference(some, none, key).noise:
                yield f"{named(t, key)}: less with one page than with none"


def workload(r):
    """Writes, pages and bytes are the operation's; times follow from them."""
    rows = [row for row in r.good("workload") if "writes" in row]
    first, points = {}, {}
    for row in rows:
        t, case = row["tracker"], (row["structure"], row["op"], row["opt"])
        name = named(t, " ".join(map(str, (*case[:2], "OPT", case[2]))))
        # A quick run and a full one time different operations, but all trackers the same.
        known = first.setdefault((*case, row["measured"]), (t, row["writes"], row["pages"]))
        if (row["writes"], row["pages"]) != known[1:]:
            yield f"{name}: {row['writes']:.2f} writes and {row['pages']:.2f} pages, not {known[1]:.2f} and {known[2]:.2f} as {known[0]}"
        if t == "none":
            continue
        words = t in EMULATION
        whole = row["writes"] * 8 if words else row["pages"] * 4096
        if not words and row["excess"] == 0 and abs(row["processed"] - whole) > 0.01:
            yield f"{name}: {row['processed']:,.0f} bytes of {row['pages']:.2f} pages"
        if words and abs(row["processed"] - whole) > 0.01:
            # Some transactions did not fit the log: pages and words, mixed.
            continue
        plain = r.workload("none", *case)
        x = row["writes"] if words else row["pages"]
        points.setdefault((t, "copy", COPY), []).append((f"{name}, copy", x, row["copy_ns"]))
        if plain:
            points.setdefault((t, "transaction", TRANSACTION), []).append((f"{name}, transaction", x, row["mean_ns"] - plain["mean_ns"]))
    for (_, _, limit), found in points.items():
        yield from unlike(found, limit)
    for t in dict.fromkeys(row["tracker"] for row in rows):
        for structure, op in r.cases():
            pair = [(opt, row["mean_ns"]) for opt in (1, 5) if (row := r.workload(t, structure, op, opt))]
            yield from falls(named(t, f"{structure} {op}, OPT"), pair)


def others(r):
    for row in r.rows["counts"]:
        name = f"{row['structure']} {row['op']}"
        if abs(row["opt5_writes"] / row["opt1_writes"] - 5) > 0.1:
            yield f"Table 2, {name}: {row['opt1_writes']} and {row['opt5_writes']} writes"
        if not row["opt1_pages"] <= row["opt1_writes"] or row["opt5_pages"] < row["opt1_pages"]:
            yield f"Table 2, {name}: {row['opt1_pages']} and {row['opt5_pages']} pages"
    for t in dict.fromkeys(row["tracker"] for row in r.good("program")):
        costs = sorted((row["operations"], row["median_ns"]) for row in r.good("program") if row["tracker"] == t)
        yield from falls(named(t, "program, values set"), costs)
    tax = {row["part"]: row for row in r.rows["tax"]}
    for variant in ("unpatched", "off", "on"):
        parts = [tax[part][variant] for part in ("fork", "exec", "map", "protect") if part in tax]
        if parts and "mix" in tax and abs(sum(parts) / tax["mix"][variant] - 1) > SUM:
            yield f"who does not use it, {variant}: the mix takes {tax['mix'][variant]:,}, its parts {sum(parts):,}"


def strange(r, summary):
    """What cannot be, or is unlike its like; one sentence each."""
    found = r.strange + [line for part in (micro, workload, others) for line in part(r)]
    for key, value in summary.items():
        if value is not None and not (0 < value < math.inf or value == 0 and key in ZERO):
            found.append(f"summary.json: {key} is {value:g}")
    return found
