#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Every test which docs/threat-model.md names must exist.
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
doc=docs/threat-model.md rc=0
missing() { echo "$doc names $1, which is not there"; rc=1; }

# Tests of the daemon: words with underscores in backquotes.
for name in $(grep -oE '`[a-z]+(_[a-z]+)+`' $doc | tr -d '`' | sort -u); do
    grep -rqE "fn $name\(\)" dom0-policy/src dom0-policy/tests || missing "test $name"
done
# Cases of the harness: in quotes, in the tables.
while read -r name; do
    grep -qF "{ \"$name\"," xen-patch/tests/*.c || missing "case \"$name\""
done < <(grep '^|' $doc | grep -v 'What a list promises' | grep -oE '"[^"]+"' | tr -d '"' | sort -u)
# Steps in the lab and runs of the model.
for kind in lab model; do
    for name in $(grep -oE "$kind (\`[a-z*-]+\`(, )?)+" $doc | grep -oE '`[^`]+`' | tr -d '`' | sort -u); do
        name=${name%\*}
        case $kind in
        lab) grep -qE "dom[u0][a-z-]*:[0-9]+ $name|^guest_$name\(\)|^${name}_begin\(\)" tests/guest.sh tests/steps/*.steps || missing "step $name" ;;
        model) grep -qE "^$name +-D" model/check || missing "run $name" ;;
        esac
    done
done
exit $rc
