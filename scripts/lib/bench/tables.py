# SPDX-License-Identifier: MIT OR Apache-2.0
"""Results as CSV files with their provenance, and back.

Lines that begin with "# " are KEY=VALUE of how the file came about.
"""
import csv
import os

FILES = ("micro", "workload", "program", "counts", "trackers", "tax")


def number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def write(directory, name, provenance, rows):
    """Columns are all keys there are, in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(os.path.join(directory, f"{name}.csv"), "w", encoding="utf-8", newline="") as f:
        for key, value in provenance.items():
            f.write(f"# {key}={value}\n")
        out = csv.DictWriter(f, columns, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def read(directory, name):
    """Provenance and rows; numbers are numbers, what is empty is left out."""
    provenance, lines = {}, []
    try:
        with open(os.path.join(directory, f"{name}.csv"), encoding="utf-8", newline="") as f:
            for line in f:
                if line.startswith("# "):
                    key, _, value = line[2:].rstrip("\n").partition("=")
                    provenance[key] = value
                else:
                    lines.append(line)
    except FileNotFoundError:
        return {}, []
    rows = [{k: number(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(lines)]
    return provenance, rows
