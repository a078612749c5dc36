#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The steps of a boot, from tests/steps, for guest-run --script.

usage: steps.py BOOT [NAME=VALUE]...   prints them
       steps.py --check [DIRECTORY]    whether all of them can be run

A file is one boot.  Its lines are
  TARGET[:SECONDS] NAME COMMAND   as guest-run takes them; {NAME} is a variable
  [NAME] ... or [!NAME] ...       a line for when it has, or has not, a value
  include FILE                    the steps of another one
  # ...                           a comment
All variables are given, also those without a value, and no others.
Exit status: 0, 1 for complaints of --check, 2 for what makes no sense.
"""
import itertools
import os
import re
import shlex
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
STEPS = os.path.join(TESTS, "steps")
LINE = re.compile(r"(?:\[(!?)([a-z0-9-]+)\] +)?(.*)")
STEP = re.compile(r"(?:domu|domu-root|dom0)(?::[0-9]+)? ([A-Za-z0-9_][A-Za-z0-9._+=@-]*) +\S")
VARIABLE = re.compile(r"\{([a-z][a-z0-9-]*)\}")

# Where programs of the lab come from; NAME.rs, NAME/main.rs, NAME.c or NAME.sh.
SOURCES = ("guest/src/bin", "guest", "dom0")
# What tests/guest.sh brings along besides.
SUITES = {"conformance", "differential", "kv", "kv_load"}
INSTALLED = {"hvckpt"}
# What guests and Dom0 have themselves, and words of their shell.
SYSTEM = set("cat cd echo exit grep insmod seq sleep tee test true".split())
# What follows these is a command again.
BEFORE = {"!", "do", "then", "else", "if", "while", "{", "once-more.sh"}
ENDS = {"}", "done", "fi"}


class Wrong(Exception):
    """What a line, or who called, has got wrong."""


def lines(boot, directory, above=()):
    """(where, flag wanted, flag, text) of each line, with what it includes."""
    if boot in above:
        raise Wrong(f"{boot}.steps includes itself")
    path = os.path.join(directory, boot + ".steps")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().split("\n")
    except OSError as error:
        raise Wrong(f"no boot {boot}: {error.strerror}: {path}") from None
    for number, line in enumerate(text, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{boot}.steps:{number}"
        but, flag, rest = LINE.fullmatch(line).groups()
        if rest.startswith("include "):
            for inner, conditions, step in lines(rest.split()[1], directory, (*above, boot)):
                yield inner, conditions | ({(flag, not but)} if flag else set()), step
        elif STEP.match(rest):
            yield where, {(flag, not but)} if flag else set(), rest
        else:
            raise Wrong(f"{where}: neither TARGET[:SECONDS] NAME COMMAND nor include FILE: {rest}")


def names(boot, directory):
    """The variables of a boot: those that say whether, and all."""
    flags, every = set(), set()
    for _, conditions, step in lines(boot, directory):
        flags |= {flag for flag, _ in conditions}
        every |= set(VARIABLE.findall(step))
    return flags, every | flags


def render(boot, values, directory=STEPS):
    """(where, step) of each, with the values in it."""
    _, wanted = names(boot, directory)
    if missing := wanted - values.keys():
        raise Wrong(f"{boot} needs a value for {', '.join(sorted(missing))}")
    if strange := values.keys() - wanted:
        raise Wrong(f"{boot} has no {', '.join(sorted(strange))}")
    steps, seen = [], {}
    for where, conditions, step in lines(boot, directory):
        if any(bool(values[flag]) != there for flag, there in conditions):
            continue
        name = STEP.match(step)[1]
        if name in seen:
            raise Wrong(f"{where}: a second step {name}, after {seen[name]}")
        seen[name] = where
        steps.append((where, VARIABLE.sub(lambda match: values[match[1]], step)))
    if not steps:
        raise Wrong(f"{boot} has no steps")
    return steps


def programs():
    """Everything that a step may run."""
    found = SUITES | INSTALLED | SYSTEM
    for source in SOURCES:
        for name in os.listdir(os.path.join(TESTS, source)):
            stem, ending = os.path.splitext(name)
            if ending == ".sh":
                found.add(name)
            elif ending in (".rs", ".c"):
                found.add(stem)
            elif os.path.exists(os.path.join(TESTS, source, name, "main.rs")):
                found.add(name)
    return found


def called(command):
    """The programs that a command of the shell runs, as far as one can see."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    begins, header = True, False
    for word in lexer:
        if set(word) <= set("();<>|&"):
            # Runs of them come as one; ">" and "((" begin nothing.
            header = header and ";" not in word
            begins = not header and word != "((" and word[-1] in ";&|("
        elif begins and word == "for":
            begins, header = False, True
        elif begins and word not in BEFORE and not re.match(r"\w+=", word):
            if word not in ENDS:
                yield word
            begins = False


def check(directory):
    """Complaints about the files there."""
    known, included = programs(), set()
    boots = sorted(n[: -len(".steps")] for n in os.listdir(directory) if n.endswith(".steps"))
    for boot in boots:
        try:
            flags, every = names(boot, directory)
            # Whatever they are: the names must not be double, the programs there.
            for chosen in itertools.product(("", "1"), repeat=len(flags)):
                values = dict.fromkeys(every, "1") | dict(zip(sorted(flags), chosen))
                for where, step in render(boot, values, directory):
                    for program in called(step.split(maxsplit=2)[2]):
                        if program not in known:
                            included.add(f"{where}: there is no program {program}")
        except Wrong as wrong:
            included.add(str(wrong))
    return boots, sorted(included)


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments[0] == "--check":
        boots, complaints = check(*(arguments[1:2] or [STEPS]))
        print("".join(complaint + "\n" for complaint in complaints), end="")
        print(f"steps: {len(boots)} files, {len(complaints)} complaints", file=sys.stderr)
        return 1 if complaints else 0
    try:
        if bad := [word for word in arguments[1:] if "=" not in word]:
            raise Wrong(f"{bad[0]} is not NAME=VALUE")
        values = dict(word.split("=", 1) for word in arguments[1:])
        for _, step in render(arguments[0], values):
            print(step)
    except Wrong as wrong:
        print(f"steps.py: {wrong}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
