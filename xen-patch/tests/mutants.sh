#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds build/source.c, the code under test, with each mutation in mutants/ and
# expects the suite to fail. A mutation is a file NAME.sed; its first line says
# what it removes.
#
# usage: mutants.sh [NAME...]
#   SEEDS=400 random seeds after the cases, JOBS=N at once (default: all CPUs)
cd "$(dirname "$0")" || exit 1
export SEEDS=${SEEDS:-400} CC=${CC:-gcc}

# compile LEVEL: the suite with $dir/source.c.
compile() {
    $CC -std=gnu11 "$1" -w -fno-strict-aliasing -I. \
        -fsanitize=address,undefined -fno-sanitize-recover=all \
        -DCDA_SOURCE="\"$dir/source.c\"" -c -o "$dir/cda_tu.o" cda_tu.c &&
    $CC -fsanitize=address,undefined -o "$dir/cda-test" \
        $(ls build/*.o | grep -v cda_tu.o) "$dir/cda_tu.o"
}

one() {
    local n=$1 out rc named
    dir=build/mutant-$1       # global: the trap needs it later
    mkdir -p "$dir"
    trap 'rm -rf "$dir"' EXIT
    sed -E -z -f "mutants/$n.sed" build/source.c > "$dir/source.c" ||
        { echo "$n: BROKEN: no such mutation, or no sed script"; return; }
    if cmp -s build/source.c "$dir/source.c"; then
        echo "$n: BROKEN: changes nothing"; return
    fi
    # Most are killed by the case which docs/mutants.md names: tried first, alone.
    named=$(sed -nE "s/^\\| \`$n\` \\|.*\\| \"(.*)\" \\|\$/\\1/p" ../../docs/mutants.md)
    compile -O0 || { echo "$n: BROKEN: does not build"; return; }
    rc=0
    if [ -n "$named" ]; then
        out=$(timeout 300 "$dir/cda-test" --only "$named" --seeds 0 </dev/null 2>&1) || rc=$?
    fi
    if [ $rc -eq 0 ]; then
        compile -O1 || { echo "$n: BROKEN: does not build"; return; }
        out=$(timeout 900 "$dir/cda-test" --seeds "$SEEDS" --fail 1 </dev/null 2>&1) || rc=$?
    fi
    # Slow is not dead: only a test that says so kills.
    if [ $rc -eq 0 ]; then
        echo "$n: SURVIVED"
    elif ! grep -q '^FAILED: ' <<<"$out"; then
        echo "$n: BROKEN: no result in time (exit status $rc)"
    else
        echo "$n: killed by $(grep -m1 '^FAILED: ' <<<"$out" | cut -c9-): $(grep -m1 -E '^FAILED [^:]*: |ERROR: AddressSan|runtime error' <<<"$out" | sed -E 's/^FAILED [^:]*: [^ ]* //; s/^==[0-9]*==//' | cut -c1-100)"
    fi
}

if [ "$1" = --one ]; then
    one "$2"
    exit
fi
make -s build/cda-test || exit 1
names=("$@")
[ $# -gt 0 ] || for f in mutants/*.sed; do n=${f##*/}; names+=("${n%.sed}"); done
killed=0 survived=0 broken=0
while read -r line; do
    echo "$line"
    case $line in
        *': killed by '*) killed=$((killed + 1)) ;;
        *': SURVIVED') survived=$((survived + 1)) ;;
        *) broken=$((broken + 1)) ;;
    esac
done < <(printf '%s\n' "${names[@]}" |
         xargs -P "${JOBS:-$(nproc)}" -I{} ./mutants.sh --one {})
echo "$killed killed, $survived survived, $broken broken"
[ $broken -eq 0 ]
