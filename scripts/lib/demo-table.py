# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints the demo's table from what the programs in the guest printed.

usage: demo-table.py DIRECTORY
Exit status 1 if a comparison was not exact or is missing.
"""
import json
import sys

TRACKERS = [("ptxen", "PTxen (hypervisor)"), ("autoxen", "Autoxen (hypervisor)"),
            ("scanxen", "Scanxen (hypervisor)"), ("emulxen", "Emulxen (hypervisor)"),
            ("pt", "PT (mprotect + SIGSEGV)"), ("emul", "Emul (SIGSEGV, each store)"),
            ("uffd-wp", "userfaultfd (SIGBUS)"), ("pagemap-scan", "WP_ASYNC + PAGEMAP_SCAN")]


def load(name):
    try:
        with open(f"{sys.argv[1]}/{name}.out", encoding="utf-8") as f:
            return json.loads(f.read().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None


def table(head, rows):
    widths = [max(len(str(r[i])) for r in [head] + rows) for i in range(len(head))]
    for row in [head, ["-" * w for w in widths]] + rows:
        print("  " + "  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w)
                               for i, (c, w) in enumerate(zip(row, widths))).rstrip())


def traps(run):
    """Traps per dirtied page: those the tracker itself can count."""
    pages = run["dirty"] * run["transactions"]
    c = run.get("counters")
    if c:
        n = sum(c[what] for what in ("faults_fixed", "faults_forwarded", "faults_spurious", "emulated", "crossings"))
        return f"{n / pages:.2f}"
    if run.get("faults") is not None:
        return f"{run['faults'] / pages:.2f} signals"
    return "-"


good = True
print("\nIs the list of dirty pages complete?  4 threads, 40 transactions, 4 MiB, "
      "compared byte by byte\n")
rows = []
for key, name in TRACKERS:
    r = load(f"exact-{key}")
    if r is None:
        rows.append([name, "-", "-", "-", "-", "did not run"])
        good = False
        continue
    exact = r["ok"] and r["missed"] == 0
    good &= exact
    rows.append([name, r["changed"], r["reported"], r["missed"], r["over"], "exact" if exact else "NOT EXACT"])
table(["tracker", "pages changed", "reported", "missed", "in excess", "verdict"], rows)

print("\nWhat does it cost?  Instructions per dirtied page, all software included "
      "(hypervisor, kernel, application)\n")
rows = []
for n in (1, 64):
    runs = {key: load(f"cost-{key}-{n}") for key, _ in TRACKERS}
    base = runs["ptxen"]
    for key, name in TRACKERS:
        r = runs[key]
        if r is None:
            rows.append([name, n, "-", "-", "-", "-", "-"])
            good = False
            continue
        good &= bool(r.get("exact", True))
        per_page = r["ns_per_transaction"] / n
        ratio = r["ns_per_transaction"] / base["ns_per_transaction"] if base else 0
        rows.append([name, n, f"{r['write_median_ns'] / n:,.0f}", f"{r['commit_median_ns'] / n:,.0f}",
                     f"{per_page:,.0f}", f"{ratio:.1f} x", traps(r)])
table(["tracker", "pages/txn", "first write", "commit", "together", "against PTxen", "traps/page"], rows)
gate = load("gate")
if gate:
    print(f"\nAn empty round trip through int 0x84: {gate['ns_per_call']:.0f} instructions.")
print("\nTraps: with the hypervisor's trackers page faults and gate crossings, all there are;\n"
      "with signals only these, each of which stands for about ten entries into Xen.  An\n"
      "instruction count hides what a trap costs in silicon (about 1,000 cycles).\n")
sys.exit(0 if good else 1)
