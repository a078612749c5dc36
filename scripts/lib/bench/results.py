# SPDX-License-Identifier: MIT OR Apache-2.0
"""Results of a run, and the figures of summary.json derived from them.

Times are nanoseconds of virtual time: instructions.
"""
import math

import tables
import tax

PAGES, MIB, GIB = 1024, 256, 262144
PAPER_TRANSACTIONS = 100_000
EMULATION = ("emul", "emulxen")
# Part of a cost by which it differs between experiments that are the same to it.
REPEATED = 0.005
IDENTITY = ("tracker", "structure", "op", "opt", "pages", "ppt", "wpp", "pattern", "part", "operations")


class Results:
    def __init__(self, directory):
        self.rows = {}
        self.provenance = {}
        # Rows with what is no measurement: named, and left out.
        self.strange = []
        for name in tables.FILES:
            provenance, self.rows[name] = tables.read(directory, name)
            self.provenance.update(provenance)
            for row in list(self.rows[name]):
                odd = [f"{key} is {value:g}" for key, value in row.items()
                       if isinstance(value, (int, float)) and not 0 <= value < math.inf]
                if odd:
                    what = " ".join(str(row[k]) for k in IDENTITY if k in row)
                    self.strange.append(f"{name}.csv, {what}: {', '.join(odd)}")
                    self.rows[name].remove(row)

    def good(self, name):
        return [row for row in self.rows[name] if row.get("status") == "ok"]

    def trackers(self):
        """Those that worked: which have rows."""
        return list(dict.fromkeys(row["tracker"] for row in self.good("micro")))

    def micro(self, tracker, ppt, wpp, pages=PAGES, pattern="spread", warmup=5):
        found = [row for row in self.good("micro") if (
            row["tracker"], row["ppt"], row["wpp"], row["pages"], row["pattern"], row["warmup"])
            == (tracker, ppt, wpp, pages, pattern, warmup)]
        return max(found, key=lambda row: row["measured"], default=None)

    def cost(self, *point, **more):
        """Median of a transaction, or None."""
        row = self.micro(*point, **more)
        return row and row["median_ns"]

    def costs(self, tracker, xs, point):
        """[(x, cost)] of what was measured; point(x) are the parameters."""
        found = [(x, self.cost(tracker, *point(x))) for x in xs]
        return [(x, cost) for x, cost in found if cost is not None]

    def workload(self, tracker, structure, op, opt):
        for row in self.good("workload"):
            if (row["tracker"], row["structure"], row["op"], row["opt"]) == (tracker, structure, op, opt):
                return row
        return None

    def cases(self):
        return list(dict.fromkeys((row["structure"], row["op"]) for row in self.rows["workload"]))

    def gate(self):
        return next((row for row in self.rows["trackers"] if row["tracker"] == "gate"), {})

    def speedups(self, slow, fast, opt):
        """Of each case."""
        found = {}
        for case in self.cases():
            pair = [self.workload(tracker, *case, opt) for tracker in (slow, fast)]
            if all(pair):
                found[case] = pair[0]["mean_ns"] / pair[1]["mean_ns"]
        return found


def ratio(top, bottom):
    return None if top is None or not bottom else top / bottom


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


class Difference(float):
    """Of two measurements; what is not above `noise` says no more than that."""

    def __new__(cls, value, noise):
        made = super().__new__(cls, value)
        made.noise = noise
        return made

    def __format__(self, spec):
        if abs(self) <= self.noise:
            return f"< {max(math.ceil(self.noise), 1):,}"
        return super().__format__(spec)


def difference(more, less, key, among=1):
    """What `more` costs more than `less`, for each of `among`."""
    def unsure(row):
        spread = row.get(key.replace("_ns", "_spread_ns"), 0)
        return spread / math.sqrt(max(row["measured"], 1))
    noise = max(math.hypot(unsure(more), unsure(less)), REPEATED * max(more[key], less[key]))
    return Difference((more[key] - less[key]) / among, noise / among)


def per_write(results, tracker, ppt=4):
    """Cost of one more write to a page which is written to anyway."""
    low, high = results.micro(tracker, ppt, 4), results.micro(tracker, ppt, 16)
    return None if low is None or high is None else difference(high, low, "median_ns", 12 * ppt)


def parts(results, tracker):
    """What a transaction is made of: alone; the first write to a page and its
    share of the commit, for one page and for each of many neighbours."""
    none, one = (results.micro(tracker, n, 1) for n in (0, 1))
    some, many = (results.micro(tracker, n, 1, pattern="contiguous") for n in (64, 256))
    if None in (none, one, some, many):
        return None
    alone = none["write_ns"] + none["commit_ns"]
    return {"alone": alone, "write_1": difference(one, none, "write_ns"),
            "commit_1": difference(one, none, "commit_ns"),
            "write_n": difference(many, some, "write_ns", 192),
            "commit_n": difference(many, some, "commit_ns", 192)}


def break_even(results, emulation, paging, ppt=4):
    """Writes per page at which both cost the same.

    Between measured points if the lines cross there, else where the line
    through the first two would; below 1 emulation never wins.
    """
    wpps = sorted({row["wpp"] for row in results.good("micro") if row["ppt"] == ppt and row["pages"] == PAGES})
    points = []
    for wpp in wpps:
        pair = [results.cost(tracker, ppt, wpp) for tracker in (emulation, paging)]
        if None not in pair:
            points.append((wpp, pair[0] - pair[1]))
    if len(points) < 2:
        return None
    crossing = next(((a, b) for a, b in zip(points, points[1:]) if a[1] <= 0 < b[1]),
                    (points[0], points[1]) if points[0][1] > 0 else (points[-2], points[-1]))
    (x0, y0), (x1, y1) = crossing
    return None if y1 <= y0 else x0 - y0 * (x1 - x0) / (y1 - y0)


def linear(rows):
    """Least squares of cost = a PPT + b pages + c over (ppt, pages, cost)."""
    if len(rows) < 4:
        return None
    base = [(ppt, pages, 1.0) for ppt, pages, _ in rows]
    matrix = [[sum(r[i] * r[j] for r in base) for j in range(3)] + [sum(r[i] * row[2] for r, row in zip(base, rows))]
              for i in range(3)]
    for i in range(3):
        pivot = max(range(i, 3), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if abs(matrix[i][i]) < 1e-9:
            return None
        for k in range(3):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i])]
    return [matrix[i][3] / matrix[i][i] for i in range(3)]


def scan_fit(results, tracker="scanxen"):
    return linear([(row["ppt"], row["pages"], row["median_ns"]) for row in results.good("micro")
                   if row["tracker"] == tracker and row["wpp"] == 1 and row["pattern"] == "spread"
                   and row["warmup"] == 5 and row["pages"] <= 4096])


def summary(results):
    """The figures of summary.json; None where something is missing."""
    r = results
    many, some = (r.micro("ptxen", n, 1, pattern="contiguous") for n in (256, 64))
    steady = r.micro("autoxen", 64, 1, warmup=200)
    found = {
        "instr_gate": r.gate().get("gate_ns"),
        "instr_ptxen_fault": many and many["write_ns"] / 256,
        "instr_ptxen_reprotect": many and some and (many["commit_ns"] - some["commit_ns"]) / 192,
        "ptxen_vs_pt_ppt1": ratio(r.cost("pt", 1, 1), r.cost("ptxen", 1, 1)),
        "ptxen_vs_pt_ppt64": ratio(r.cost("pt", 64, 1), r.cost("ptxen", 64, 1)),
        "ptxen_vs_pagemapscan_ppt1": ratio(r.cost("pagemap-scan", 1, 1), r.cost("ptxen", 1, 1)),
        "ptxen_vs_pagemapscan_ppt64": ratio(r.cost("pagemap-scan", 64, 1), r.cost("ptxen", 64, 1)),
        "autoxen_vs_pt_steady": ratio(r.cost("pt", 64, 1, warmup=200), steady and steady["median_ns"]),
        "autoxen_traps_per_page_steady": steady and "faults" in steady and steady["faults"] / steady["expected"],
        "emulxen_vs_emul_per_write": ratio(per_write(r, "emul"), per_write(r, "emulxen")),
        "breakeven_wpp_user": break_even(r, "emul", "pt"),
        "breakeven_wpp_xen": break_even(r, "emulxen", "ptxen"),
    }
    for name, pages in (("4mib", PAGES), ("1gib", GIB)):
        row = r.micro("ptxen", 1, 1, pages=pages)
        found[f"commit_1page_instr_{name}"] = row and row["commit_ns"]
    for opt in (1, 5):
        for fast, slow in (("ptxen", "pt"), ("emulxen", "emul")):
            found[f"workload_{fast}_speedup_mean_opt{opt}"] = mean(r.speedups(slow, fast, opt).values())
    # Beyond what is fixed.
    found["ptxen_vs_pt_ppt64_contiguous"] = ratio(r.cost("pt", 64, 1, pattern="contiguous"),
                                                  r.cost("ptxen", 64, 1, pattern="contiguous"))
    found["ptxen_vs_pagemapscan_ppt64_contiguous"] = ratio(r.cost("pagemap-scan", 64, 1, pattern="contiguous"),
                                                           r.cost("ptxen", 64, 1, pattern="contiguous"))
    for tracker in r.trackers():
        row = r.micro(tracker, 64, 1)
        if row:
            found[f"instr_per_page_ppt64_{tracker.replace('-', '_')}"] = row["median_ns"] / 64
    for row in r.rows["tax"]:
        if row["part"] in tax.PROMISED:
            for variant in tax.LIMITS:
                found[f"tax_{row['part']}_{variant}"] = ratio(row[variant], row["unpatched"])
    found["workload_ptxen_vs_pagemapscan_mean_opt1"] = mean(r.speedups("pagemap-scan", "ptxen", 1).values())
    return {key: None if value is None or value is False else float(f"{value:.5g}") for key, value in found.items()}
