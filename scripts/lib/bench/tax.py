"""What the patch costs those who do not use it.

usage: tax.py UNPATCHED OFF ON   (directories with mix-1.out, mix-2.out, ...)
Instructions of `mix`, the fewer of its runs.  Prints a table, then "ok TEXT" or
"FAIL TEXT" for each promise.
"""
import glob
import json
import sys

PARTS = ["fork", "exec", "map", "protect", "all"]
NAMES = ["unpatched", "cda=off", "cda=on"]
# Per cent more than unpatched: off, on.
LIMITS = [0.5, 2.0]


def load(directory):
    runs = []
    for name in glob.glob(f"{directory}/mix-*.out"):
        with open(name, encoding="utf-8") as f:
            runs.append(json.loads(f.read().strip().splitlines()[-1]))
    return {part: min(run[part] for run in runs) for part in PARTS}


try:
    runs = [load(name) for name in sys.argv[1:4]]
    base = runs[0]
    print(f"{'':8}" + "".join(f"{name:>22}" for name in NAMES))
    for part in PARTS:
        cells = [f"{run[part]} {100 * (run[part] / base[part] - 1):+.2f}%" for run in runs]
        print(f"{part:8}" + "".join(f"{cell:>22}" for cell in cells))
    # The promise is for the mix; its parts tell where a tax comes from.
    for name, run, limit in zip(NAMES[1:], runs[1:], LIMITS):
        tax = 100 * (run["all"] / base["all"] - 1)
        # Far fewer is no promise kept but a measurement gone wrong.
        good = -1.0 <= tax <= limit
        print(f"{'ok' if good else 'FAIL'} instructions of the mix, {name}: {tax:+.2f} % (at most {limit} %)")
except (OSError, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
    print(f"FAIL tax: {type(error).__name__}: {error}")
