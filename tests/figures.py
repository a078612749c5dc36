# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares instruction counts of `cost` and of the fuzzers with what is promised.

usage: figures.py DIRECTORY [RIVAL]   (with gate.out, ptxen-64.out, ...)
RIVAL: pagemap-scan, where there is one.
Prints "ok TEXT" or "FAIL TEXT" for each promise.
"""
import json
import sys


def load(name):
    with open(f"{sys.argv[1]}/{name}.out", encoding="utf-8") as f:
        return json.loads(f.read().strip().splitlines()[-1])


# Medians: a timer tick in one transaction of many says nothing of the others.
def per_transaction(run):
    return run["write_median_ns"] + run["commit_median_ns"]


def promise(text, value, limit, at_least=False):
    good = value >= limit if at_least else value <= limit
    print(f"{'ok' if good else 'FAIL'} {text}: {value:.1f} "
          f"({'at least' if at_least else 'at most'} {limit:.1f})")


try:
    promise("gate round trip, instructions", load("gate")["ns_per_call"], 200)
    one, some, many = load("ptxen-1"), load("ptxen-64"), load("ptxen-256")
    promise("fault and regrant a page", many["write_median_ns"] / 256, 430)
    promise("re-protect a page", (many["commit_median_ns"] - some["commit_median_ns"]) / 192, 120)
    spread = load("spread-64")
    promise("pt over ptxen, 64 pages a transaction",
            per_transaction(load("pt-64")) / per_transaction(spread), 60, True)
    if sys.argv[2:]:
        promise("pagemap-scan over ptxen, 64 pages a transaction",
                per_transaction(load("scan-64")) / per_transaction(spread), 12, True)
    hot = load("auto-256")
    promise("autoxen, a page that is always dirty", per_transaction(hot) / 256, 130)
    promise("autoxen, traps in 100 transactions",
            load("auto-64")["counters"]["faults_fixed"], 0)
    # One page dirtied: 256 MiB may cost 5 % more than 4 MiB, and one look at
    # each further 2 MiB (a load, a mask, a comparison, the loop).
    large = load("ptxen-256MiB")
    promise("one dirty page in 256 MiB", per_transaction(large),
            1.05 * per_transaction(one) + 126 * 12)
    for name, kind in ("fuzz", "random operation"), ("fuzz-control", "random control hypercall"):
        promise(f"the longest {kind}, microseconds", load(name)["longest_ns"] / 1000, 10_000)
except (OSError, KeyError, ValueError) as error:
    print(f"FAIL figures: {type(error).__name__}: {error}")
