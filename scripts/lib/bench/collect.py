# SPDX-License-Identifier: MIT OR Apache-2.0
"""Turns what the guest printed into CSV files.

usage: collect.py WORK OUT

WORK has provenance, plans/steps, NAME.plan, for each step NAME.out as far
as it came, and tax-unpatched, tax-off and tax-on.  Exit status 1 if a step did not finish.
"""
import json
import os
import sys

import tables
import tax


def read_lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()
    except FileNotFoundError:
        return []


def objects(lines):
    """JSON lines; the last may have been cut off by a crash."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "kind" in value:
            yield value


def flat(line):
    row = {key: value for key, value in line.items() if key != "kind" and not isinstance(value, (dict, list))}
    row.update({key: value for key, value in (line.get("traps") or {}).items() if value is not None})
    return row


def count_row(row):
    flat_row = {"structure": row["structure"], "op": row["op"], "footprint_pages": row["footprint"]}
    for key in ("opt1", "paper1", "opt5", "paper5"):
        flat_row[f"{key}_writes"] = row[key]["writes"]
        flat_row[f"{key}_pages"] = row[key]["pages"]
    return flat_row


def main():
    work, out = sys.argv[1:]
    provenance = dict(line.partition("=")[::2] for line in read_lines(os.path.join(work, "provenance")))
    rows = {name: [] for name in tables.FILES}
    state = {}  # of each tracker: works, why not, what did not finish
    broken = []
    for step in read_lines(os.path.join(work, "plans", "steps")):
        name = step.split()[1]
        planned = sum(1 for line in read_lines(os.path.join(work, "plans", f"{name}.plan")) if line.strip())
        got = list(objects(read_lines(os.path.join(work, f"{name}.out"))))
        for line in got:
            kind = line["kind"]
            if kind == "probe":
                known = state.setdefault(line["tracker"], (line["status"], line.get("reason", "")))
                if known[0] == "ok" != line["status"]:
                    broken.append({"tracker": name, "status": "unfinished", "reason": line.get("reason", "")})
            elif kind == "gate":
                gate = {key: line[key] for key in ("gate_ns", "syscall_ns") if key in line}
                rows["trackers"].append({"tracker": "gate", "status": line["status"],
                                         "reason": line.get("reason", ""), **gate})
            elif kind == "counts":
                rows["counts"] += [count_row(row) for row in line.get("rows", [])]
            # A tracker that does not work is named once, not in every row.
            elif state.get(line.get("tracker"), ("ok",))[0] == "ok":
                rows[kind].append(flat(line))
        if len(got) < planned:
            tail = read_lines(os.path.join(work, f"{name}.err"))[-1:] or ["it printed nothing"]
            broken.append({"tracker": name, "status": "unfinished",
                           "reason": f"{len(got)} of {planned} experiments; last words: {tail[0]}"})
    try:
        rows["tax"] = tax.rows([os.path.join(work, f"tax-{variant}") for variant in tax.VARIANTS])
    except (OSError, KeyError, ValueError, IndexError) as error:
        broken.append({"tracker": "tax", "status": "unfinished", "reason": f"{type(error).__name__}: {error}"})
    rows["trackers"] += [{"tracker": t, "status": s, "reason": r} for t, (s, r) in state.items()] + broken
    counts = sorted({row["measured"] for row in rows["micro"] if "measured" in row})
    if counts:
        # What was done, whatever was asked for.
        provenance["transactions"] = " to ".join(f"{n}" for n in dict.fromkeys((counts[0], counts[-1]))) + " of each point"
    for name in tables.FILES:
        tables.write(out, name, provenance, rows[name])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
