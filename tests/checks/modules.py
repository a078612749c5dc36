# SPDX-License-Identifier: MIT OR Apache-2.0
"""Import circles between the modules of a crate, other than parent and child.

Modules of one parent are looked at together, each with all that is below it: an
arrow leads from one to another if anything in the one imports from the other.
What a parent passes on (`use super::Thing`) is the parent's.
"""

import os
import re
from collections import defaultdict

# Arrows which close circles still, by the names of the two modules, to be turned
# one by one; nothing may join them. What does not close one any more must go.
KNOWN = {
    # Store: the encodings know their ciphers, errors name what they are of, and
    # what writes calls what ships.
    ("error", "follow"),
    ("format", "error"),
    ("format", "seal"),
    ("lineage", "scan"),
    ("options", "follow"),
    ("pipeline", "compact"),
    ("pipeline", "follow"),
    ("scan", "images"),
    ("scan", "judge"),
    ("scan", "view"),
    ("writer", "secure"),
    ("writer", "ship"),
    # Backup: one state, seen from all sides.
    ("control", "vault"),
    ("server", "connection"),
    ("server", "control"),
    ("server", "vault"),
    ("sender", "replica"),
    # A simulated gate is attached like a real one; a transaction is of a region.
    ("tracker", "attach"),
    ("region", "txn"),
}


def code(text):
    """Without comments, and without the unit tests at the end."""
    text = re.split(r"(?m)^#\[cfg\(test\)\]\n(?:#\[.*\n)*mod \w+ \{", text)[0]
    text = re.sub(r"(?s)/\*.*?\*/", "", text)
    return re.sub(r"//[^\n]*", "", text)


def pieces(tree):
    """The paths of `a::{b, c::{d, e}}`, as lists of names."""
    depth, parts, start = 0, [], 0
    for at, letter in enumerate(tree):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and not depth:
            parts.append(tree[start:at])
            start = at + 1
    for part in [*parts, tree[start:]]:
        head, brace, rest = part.strip().partition("{")
        names = [name.strip() for name in head.split(" as ")[0].split("::") if name.strip()]
        if brace:
            for inner in pieces(rest.rpartition("}")[0]):
                yield names + inner
        elif names:
            yield names


def modules(names, source, read):
    """Name, as a tuple, and text of each module below a folder."""
    found = {}
    for name in names:
        if not name.startswith(source + "/") or not name.endswith(".rs"):
            continue
        path = name[len(source) + 1 : -len(".rs")].split("/")
        if path[0] == "bin" or "tests" in path:
            continue
        if path[-1] == "mod" or path in (["lib"], ["main"]):
            path.pop()
        found[tuple(path)] = code(read(name))
    return found


def imports(found):
    """The modules which each module names."""
    arrows = defaultdict(set)
    for own, text in found.items():
        paths = [p for tree in re.findall(r"(?m)^\s*(?:pub(?:\(.*?\))? +)?use ([^;]+);", text) for p in pieces(tree)]
        text = re.sub(r"(?m)^\s*(?:pub(?:\(.*?\))? +)?use [^;]+;", "", text)
        paths += [p.split("::") for p in re.findall(r"(?<![\w:])\w+(?:::\w+)+", text)]
        for path in paths:
            if path[0] == "crate":
                full = path[1:]
            elif path[0] in ("self", "super"):
                up = sum(1 for name in path if name == "super")
                full = [*own[: len(own) - up], *(n for n in path if n not in ("self", "super"))]
            elif (*own, path[0]) in found:
                full = [*own, *path]
            else:
                continue
            while tuple(full) not in found:
                full.pop()
            arrows[own].add(tuple(full))
    return arrows


def closing(found, arrows, known):
    """Groups of siblings in a circle, and the arrows of KNOWN that close one."""
    groups, used = [], set()
    for parent in found:
        deep = len(parent)
        below = [m for m in found if len(m) > deep and m[:deep] == parent]
        every = {
            (one[deep], other[deep])
            for one in below
            for other in arrows[one]
            if len(other) > deep and other[:deep] == parent and one[deep] != other[deep]
        }
        left = every - known
        reach = {pair[0]: spread(pair[0], left) for pair in left}
        circle = {one for one in reach if one in reach[one]}
        while circle:
            one = min(circle)
            group = {other for other in circle if other in reach[one] and one in reach[other]}
            groups.append((parent, group, sorted(p for p in left if set(p) <= group)))
            circle -= group
        for pair in every & known:
            # Needed where the others lead back.
            if pair[0] in spread(pair[1], every - {pair}):
                used.add(pair)
    return groups, used


def spread(start, pairs):
    """All that can be reached from one, following the arrows."""
    seen, new = set(), {start}
    while new:
        new = {other for one, other in pairs if one in new} - seen
        seen |= new
    return seen


def check(names, read, complain):
    used = set()
    for manifest in names:
        if os.path.basename(manifest) != "Cargo.toml":
            continue
        source = os.path.join(os.path.dirname(manifest), "src").lstrip("/")
        found = modules(names, source, read)
        groups, needed = closing(found, imports(found), KNOWN)
        used |= needed
        for parent, group, pairs in groups:
            where = "::".join(parent) or "the crate"
            told = ", ".join(f"{one} -> {other}" for one, other in pairs)
            complain(source, f"a circle of imports in {where}: {', '.join(sorted(group))} ({told}); turn an arrow")
    for one, other in sorted(KNOWN - used):
        complain("tests/checks/modules.py", f"{one} -> {other} closes no circle any more; take it off the list")
