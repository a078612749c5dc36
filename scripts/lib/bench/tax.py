# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the patch costs those who do not use it.

usage: tax.py UNPATCHED OFF ON   (directories with mix-1.out, mix-2.out, ...)
Instructions of `mix`, the fewer of its runs.  Prints a table, then "ok TEXT" or
"FAIL TEXT" for each promise.
"""
import glob
import json
import os
import sys

# The promise is for the mix and for the step of a build; the parts of the mix
# tell where a tax comes from.
PARTS = ["fork", "exec", "map", "protect", "mix", "build"]
PROMISED = ["mix", "build"]
VARIANTS = ["unpatched", "off", "on"]
NAMES = {"unpatched": "unpatched", "off": "cda=off", "on": "cda=on"}
# Per cent more than unpatched.
LIMITS = {"off": 0.5, "on": 2.0}
# Far fewer is no promise kept but a measurement gone wrong.
LEAST = -1.0


def load(directory):
    """Instructions of each part."""
    found = {}
    for name in sorted(glob.glob(os.path.join(directory, "mix-*.out"))):
        with open(name, encoding="utf-8") as f:
            run = json.loads(f.read().strip().splitlines()[-1])
        for part in PARTS:
            if part in run:
                found[part] = min(run[part], found.get(part, run[part]))
    return found


def tax(row, variant):
    """Per cent; `row` has the instructions of one part."""
    return 100 * (row[variant] / row["unpatched"] - 1)


def kept(row, variant):
    return LEAST <= tax(row, variant) <= LIMITS[variant]


def rows(directories):
    """One a part: its name and the instructions of each variant."""
    runs = dict(zip(VARIANTS, map(load, directories)))
    return [{"part": part, **{variant: run[part] for variant, run in runs.items()}} for part in PARTS]


def main():
    try:
        table = rows(sys.argv[1:4])
        print(f"{'':8}" + "".join(f"{NAMES[variant]:>22}" for variant in VARIANTS))
        for row in table:
            cells = [f"{row[variant]} {tax(row, variant):+.2f}%" for variant in VARIANTS]
            print(f"{row['part']:8}" + "".join(f"{cell:>22}" for cell in cells))
        for row in table:
            if row["part"] in PROMISED:
                for variant, limit in LIMITS.items():
                    print(f"{'ok' if kept(row, variant) else 'FAIL'} instructions of the {row['part']}, "
                          f"{NAMES[variant]}: {tax(row, variant):+.2f} % (at most {limit} %)")
    except (OSError, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        print(f"FAIL tax: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
