# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the plans of a benchmark run: a file for each tracker, and the lab's steps.

usage: plan.py DIRECTORY TRACKER... [--quick] [--transactions N] [--budget SECONDS]

Each tracker runs in processes of its own, so that one which crashes spoils no
other.  Everything runs in one boot, on the same guest.
"""
import argparse
import json
import os

import svg

# Rows of the paper's Table 2.
CASES = [(s, op) for s, ops in [
    ("aa", "id"), ("avl", "i"), ("bin", "i"), ("dsl", "i"), ("hashquad", "i"), ("hashsepchain", "i"),
    ("leftheap", "id"), ("heap", "id"), ("list", "id"), ("queue", "id"), ("rb", "i"), ("splay", "id"),
    ("tree", "id")] for op in ops]
OPS = {"i": "insert", "d": "delete"}

PAGES = 1024            # 4 MiB, as the baseline
PPTS = [1, 2, 4, 8, 16]
WPPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16]
SIZES = [16, 64, 256, 1024, 4096]
GIB = 262144


class Plan:
    def __init__(self, tracker, args):
        self.tracker, self.args, self.lines, self.seen = tracker, args, [], set()

    def add(self, kind, **parameters):
        line = json.dumps({"kind": kind, **parameters})
        if line not in self.seen:
            self.seen.add(line)
            self.lines.append(line)

    def micro(self, ppt, wpp, pages=PAGES, pattern="spread", warmup=5, transactions=None):
        # A timer's tick spoils one transaction of many: medians need some.
        n = transactions or (24 if ppt <= 16 else 12)
        if self.args.quick and self.tracker == "soft-dirty":
            # Millions of instructions each, whatever is written.
            n, warmup = 4, min(warmup, 5)
        budget = {}
        if not self.args.quick and transactions is None:
            n, budget = self.args.transactions, {"budget_ms": int(self.args.budget * 1000)}
        self.add("micro", tracker=self.tracker, pages=pages, ppt=ppt, wpp=wpp, pattern=pattern,
                 transactions=n, warmup=warmup, **budget)

    def workload(self, structure, op, opt):
        quick = {"windows": 2, "length": 24 if opt == 1 else 8, "warmup": 6 if opt == 1 else 2, "repeats": 2}
        if (structure, op) == ("tree", "i"):
            # Hundreds of writes each: minutes where every one is emulated.
            quick.update(length=6 if opt == 1 else 2, warmup=2 if opt == 1 else 1)
        full = {"windows": 1, "length": 0, "warmup": 0, "repeats": 1}
        self.add("workload", tracker=self.tracker, structure=structure, op=OPS[op], opt=opt,
                 operations=10000, **(quick if self.args.quick else full))


def primitives(plan):
    """Figures 6 to 10, and the targets of the design."""
    t, quick = plan.tracker, plan.args.quick
    for ppt in PPTS:
        for wpp in (4, 8, 16):
            plan.micro(ppt, wpp)
    for ppt in (32, 64):
        plan.micro(ppt, 4)
    for wpp in WPPS:
        plan.micro(4, wpp)
    # A transaction by itself.
    plan.micro(0, 1, transactions=60)
    # Per page: one write each, as the baseline was measured.
    for ppt, n in ((1, 60), (64, 20), (256, 12)):
        plan.micro(ppt, 1, transactions=n)
        plan.micro(ppt, 1, pattern="contiguous", transactions=n)
    # A working set that stays, once a tracker had time to learn it; and one
    # that never stays.
    plan.micro(64, 1, warmup=200, transactions=40)
    plan.micro(16, 1, pattern="rotate", warmup=10, transactions=40)
    for pages in SIZES:
        for ppt in (1, 4, 16):
            if pages == PAGES or t in ("scanxen", "autoxen", "ptxen") or not quick:
                plan.micro(ppt, 1, pages=pages, transactions=20 if quick else 100)


def workloads(plan):
    """Figures 11 to 14."""
    for opt in (1, 5):
        for structure, op in CASES:
            plan.workload(structure, op, opt)


def program(plan):
    for operations in (1, 5):
        plan.add("program", tracker=plan.tracker, pages=512, keys=2000, operations=operations,
                 transactions=100 if plan.args.quick else 2000)


def large(plan):
    """One dirty page, whatever the size of the area."""
    for pages in (PAGES, 16384, GIB):
        plan.micro(1, 1, pages=pages, transactions=20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("trackers", nargs="+", choices=list(svg.STYLE))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--transactions", type=int, default=100000)
    parser.add_argument("--budget", type=float, default=4.0)
    args = parser.parse_args()
    limit = 600 if args.quick else 7200
    steps = []

    def step(name, plan):
        with open(os.path.join(args.directory, f"{name}.plan"), "w", encoding="utf-8") as f:
            f.write("\n".join(plan.lines) + "\n")
        steps.append(f"domu:{limit} {name} hvckpt-bench-guest /lab/bench/{name}.plan")

    # What needs no tracker.
    first = Plan("none", args)
    first.add("gate", calls=10000)
    first.add("counts", operations=10000)
    workloads(first)
    step("none", first)
    for tracker in args.trackers:
        for name, fill in (("micro", primitives), ("work", workloads), ("program", program)):
            if name == "work" and args.quick and tracker in ("scanxen", "uffd-wp", "soft-dirty"):
                # The paper has no Scanxen there; others are the slower of their kind.
                continue
            plan = Plan(tracker, args)
            plan.add("probe", tracker=tracker)
            fill(plan)
            step(f"{tracker}-{name}", plan)
    for tracker in args.trackers:
        if tracker == "ptxen" or not args.quick:
            plan = Plan(tracker, args)
            large(plan)
            step(f"{tracker}-large", plan)
    with open(os.path.join(args.directory, "steps"), "w", encoding="utf-8") as f:
        f.write("\n".join(steps) + "\n")


if __name__ == "__main__":
    main()
