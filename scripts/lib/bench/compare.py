# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares the summaries of two runs.

usage: compare.py DIRECTORY DIRECTORY [PERCENT]

Exit status 1 if a figure differs by more than PERCENT (5) or is in one only.
"""
import json
import os
import sys


def load(directory):
    with open(os.path.join(directory, "summary.json"), encoding="utf-8") as f:
        return json.load(f)


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2
    try:
        one, two = load(sys.argv[1]), load(sys.argv[2])
        limit = float(sys.argv[3]) if len(sys.argv) == 4 else 5.0
        if not 0 <= limit <= 1000:
            raise ValueError(f"PERCENT is a number from 0 to 1000, not {sys.argv[3]}")
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    far = 0
    for key in sorted(one.keys() | two.keys()):
        if key not in one or key not in two:
            print(f"{key}: in one run only")
            far += 1
            continue
        # Small counts of traps and the like: a hundredth is no difference.
        off = 100 * abs(two[key] - one[key]) / max(abs(one[key]), 1e-9)
        if abs(two[key] - one[key]) <= 0.01:
            off = 0.0
        far += off > limit
        print(f"{key}: {one[key]:g} and {two[key]:g}, {off:.1f} %{'  FAR' if off > limit else ''}")
    print(f"{far} figures differ by more than {limit:g} %")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
