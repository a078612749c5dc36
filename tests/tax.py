"""What the patch costs those who do not use it.

usage: tax.py UNPATCHED UNPATCHED-AGAIN OFF ON   (directories with mix.out)
Instructions of `mix`, which repeat.  Prints a table, then "ok TEXT" or
"FAIL TEXT" for each promise.
"""
import json
import sys

PARTS = ["fork", "exec", "map", "protect", "all"]
NAMES = ["unpatched", "again", "cda=off", "cda=on"]
# Per cent more than unpatched: noise, off, on.
LIMITS = [0.5, 0.5, 2.0]


def load(name):
    with open(name, encoding="utf-8") as f:
        return json.loads(f.read().strip().splitlines()[-1])


try:
    runs = [load(name) for name in sys.argv[1:5]]
    base = runs[0]
    print(f"{'':8}" + "".join(f"{name:>22}" for name in NAMES))
    for part in PARTS:
        cells = [f"{run[part]} {100 * (run[part] / base[part] - 1):+.2f}%" for run in runs]
        print(f"{part:8}" + "".join(f"{cell:>22}" for cell in cells))
    # The promise is for the mix; its parts tell where a tax comes from.
    for name, run, limit in zip(NAMES[1:], runs[1:], LIMITS):
        tax = 100 * (run["all"] / base["all"] - 1)
        # Fewer is no promise kept but a measurement gone wrong.
        good = -limit <= tax <= limit
        print(f"{'ok' if good else 'FAIL'} instructions of the mix, {name}: {tax:+.2f} % (at most {limit} %)")
except (OSError, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
    print(f"FAIL tax: {type(error).__name__}: {error}")
