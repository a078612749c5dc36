# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is named is there, and what is there is named."""

import os
import re
from collections import Counter

THREATS = "docs/threat-model.md"
# Found by cargo, git, or whoever looks around.
BY_ITSELF = re.compile(
    r"(^|/)(Cargo\.(toml|lock)|build\.rs|\.gitignore|README\.md|LICENSE\.md|rust-toolchain\.toml)$"
    r"|(^|/)(src|benches|examples|tests)/(.*/)?[^/]+\.rs$|^[^/]+\.md$|^\.ci/|^LICENSES/"
)
# Taken as a whole by who names the folder, with what is in it.
AS_A_WHOLE = re.compile(r"(.*/(?:data/[^/]+|mutants|[a-z0-9-]+-mutants|include|results))/")
# Brought along, all of them; who runs one names it.
PROGRAMS = ("tests/guest/", "tests/dom0/")
# Who names these leaves the ending out.
NO_ENDING = (".py", ".patch", ".sed", ".sh", ".steps")
SHELL = re.compile(r"\.(sh|py|rs)$|(^|/)(Makefile|check|bench|demo|test|tidy)$")


def tests(names, read, complain):
    """Every test which docs/threat-model.md names: of the daemon, of the
    harness, steps in the lab, runs of the model."""
    text = read(THREATS)
    daemon = "\n".join(read(n) for n in names if n.startswith("dom0-policy/") and n.endswith(".rs"))
    harness = "\n".join(read(n) for n in names if re.match(r"xen-patch/tests/[^/]+\.c$", n))
    boots = read("tests/guest.sh")
    steps = "\n".join(read(n) for n in names if n.startswith("tests/steps/"))
    model = read("model/check")
    table = [line for line in text.split("\n") if line.startswith("|") and "What a list promises" not in line]

    def need(name, there):
        if not there:
            complain(THREATS, f"names {name}, which is not there")

    for name in sorted(set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))):
        need(f"test {name}", f"fn {name}()" in daemon)
    for name in sorted(set(re.findall(r'"([^"]+)"', "\n".join(table)))):
        need(f'case "{name}"', f'{{ "{name}",' in harness)
    for kind, listed in re.findall(r"\b(lab|model) ((?:`[a-z*-]+`(?:, )?)+)", text):
        for name in re.findall(r"`([a-z-]+)\*?`", listed):
            if kind == "model":
                need(f"run {name}", re.search(rf"(?m)^{name} +-D", model))
            else:
                step = re.search(rf"(?m)dom[u0][a-z-]*:\d+ {name}", steps)
                need(f"step {name}", step or re.search(rf"(?m)^(guest_{name}|{name}_begin)\(\)", boots))


def paths(names, read, complain):
    """Files which the documents name in backquotes."""
    folders = {os.path.dirname(name) for name in names}
    folders |= {folder for name in folders for folder in parents(name)}
    top = {folder for folder in folders if "/" not in folder} - {""}
    there = set(names) | folders
    for name in names:
        if not name.endswith(".md") or name == "CHANGELOG.md":
            continue
        for number, line in enumerate(read(name).split("\n"), 1):
            for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)+)/?`", line):
                if path.split("/")[0] in top and path not in there and f"{path}.rs" not in there:
                    complain(f"{name}:{number}", f"names {path}, which is not there")


def parents(path):
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def dead(names, read, complain):
    """Files which nobody names."""
    own = {name: words(read(name)) for name in names if not name.endswith(".lock")}
    total = Counter()
    for each in own.values():
        total.update(each)
    # tests/host.sh looks at the syntax of all there are, and uses none of them.
    shells = [n for n in names if SHELL.search(n) and n != "tests/host.sh"]
    globs = set(re.findall(r'([\w-]+)["}]?/\*(\.\w+)?', "\n".join(read(n) for n in shells)))
    for name in names:
        if BY_ITSELF.search(name):
            continue
        base = os.path.basename(name)
        stem, ending = os.path.splitext(base)
        called = [base, stem] if ending in NO_ENDING or name.startswith(PROGRAMS) else [base]
        folder = os.path.basename(os.path.dirname(name))
        whole = AS_A_WHOLE.match(name)
        if (
            any(total[word] > own[name][word] for word in called)
            # By a pattern of the shell or of make: FOLDER/*, FOLDER/*.ENDING.
            or not name.startswith(PROGRAMS) and {(folder, ""), (folder, ending)} & globs
            or whole and total[os.path.basename(whole[1])]
        ):
            continue
        complain(name, "nobody names it; use it, or remove it")


def words(text):
    """How often each word stands there that may be the name of a file."""
    return Counter(word.strip(".") for word in re.findall(r"[\w.-]+", text))
