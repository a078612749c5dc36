# SPDX-License-Identifier: MIT OR Apache-2.0
"""One word, one meaning: the glossary in ARCHITECTURE.md, as far as a tool sees.

Its third column names words that are not to be used for the first. They stand
nowhere, not in names either, but in files that end as MAY_STAND has it, which says
what else they mean there.
"""

import re

GLOSSARY = "ARCHITECTURE.md"
MAY_STAND = {
    "credential": {"docs/policy.md": "what the kernel says of a process"},
    "generation": {"sys/src/signal.rs": "of the table of handlers"},
    "journal": {
        "scripts/lib/image.sh": "a file system's",
        "tests/guest.sh": "a file system's",
        "tests/dom0/refuse.sh": "a file system's",
    },
    "password": {
        "docs/library.md": "there are none",
        "store/src/key.rs": "there are none",
    },
    "snapshot": {
        "docs/spec-image.md": "of a whole machine",
        "scripts/lib/run.sh": "an option of QEMU's",
    },
}
# Words of the glossary which are another thing's there: what to say instead.
TAKEN = [
    ("session", re.compile(r"(^|/)backup/|^docs/spec-backup\.md$"), "connection"),
]
LOOKED_AT = re.compile(r"\.(rs|c|h|S|sh|py|md|toml|steps|service|pml)$|^scripts/")
LEFT_OUT = re.compile(r"^(LICENSES|bench-store)/|^CHANGELOG\.md$|^tests/checks/glossary\.py$")


def rows(text):
    """Line, words and banned words of each row."""
    part = text.split("## Glossary", 1)
    if len(part) < 2:
        return
    first = part[0].count("\n") + 1
    for number, line in enumerate(part[1].split("\n"), first):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 2 and cells[0] != "word" and set(cells[0]) != {"-"}:
            yield number, cells[0], re.findall(r"`([^`]+)`", cells[2]) if len(cells) > 2 else []


def pattern(word):
    """In prose and in names: `a word`, `a_word`, `AWord`, `words`."""
    parts = r"[\s_-]+".join(map(re.escape, word.split()))
    return re.compile(rf"(?<![a-z]){parts}(?:e?s)?(?![a-z])", re.IGNORECASE)


def plain(text):
    """Names of types as their words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)


def check(names, read, complain):
    table = list(rows(read(GLOSSARY)))
    if not any(banned for _, _, banned in table):
        complain(GLOSSARY, "no glossary with words that are not to be used; tests/checks/glossary.py reads it")
        return
    instead = {}
    for number, word, banned in table:
        for other in banned:
            if other in instead:
                complain(f"{GLOSSARY}:{number}", f"`{other}` is banned twice")
            instead[other] = word
    texts = {
        name: plain(read(name)).split("\n")
        for name in names
        if LOOKED_AT.search(name) and not LEFT_OUT.search(name) and name != GLOSSARY
    }
    used = set()
    for other, word in instead.items():
        look = pattern(other)
        for name, lines in texts.items():
            for number, line in enumerate(lines, 1):
                if not look.search(line):
                    continue
                place = next((end for end in MAY_STAND.get(other, {}) if name.endswith(end)), None)
                if place:
                    used.add((other, place))
                else:
                    complain(f"{name}:{number}", f"'{other}' is '{word}' here ({GLOSSARY}, glossary)")
    for word, place, other in TAKEN:
        look = pattern(word)
        for name in filter(place.search, texts):
            for number, line in enumerate(texts[name], 1):
                if look.search(line):
                    complain(f"{name}:{number}", f"'{word}' is another thing's; '{other}' here ({GLOSSARY}, glossary)")
    for other, places in MAY_STAND.items():
        if other not in instead:
            complain("tests/checks/glossary.py", f"'{other}' is not in the glossary; take it off the list")
        for name in places:
            if (other, name) not in used:
                complain("tests/checks/glossary.py", f"'{other}' does not stand in {name}; take it off the list")
