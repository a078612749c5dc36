#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds pagefault_cda.c with each mutation in mutants/ and expects the suite
# to fail. A mutation is a file NAME.sed; its first line says what it removes.
#
# usage: mutants.sh [NAME...]
cd "$(dirname "$0")" || exit 1
make -s build/cda-test || exit 1
names=("$@")
[ $# -gt 0 ] || for f in mutants/*.sed; do n=${f##*/}; names+=("${n%.sed}"); done
killed=0 survived=0 broken=0
seeds=${SEEDS:-400}
for n in "${names[@]}"; do
    dir=build/mutant-$n
    mkdir -p "$dir"
    sed -E -z -f "mutants/$n.sed" build/source.c > "$dir/source.c"
    if cmp -s build/source.c "$dir/source.c"; then
        echo "$n: changes nothing"; broken=$((broken + 1)); continue
    fi
    ${CC:-gcc} -std=gnu11 -O1 -g -w -fno-strict-aliasing -I. \
        -fsanitize=address,undefined -fno-sanitize-recover=all \
        -DCDA_SOURCE="\"$dir/source.c\"" -c -o "$dir/cda_tu.o" cda_tu.c &&
    ${CC:-gcc} -fsanitize=address,undefined -o "$dir/cda-test" \
        $(ls build/*.o | grep -v cda_tu.o) "$dir/cda_tu.o" ||
        { echo "$n: does not build"; broken=$((broken + 1)); continue; }
    out=$(timeout 60 "$dir/cda-test" --seeds "$seeds" --fail 1 </dev/null 2>&1)
    if [ $? -ne 0 ]; then
        killed=$((killed + 1))
        echo "$n: killed by $(grep -m1 '^FAILED: ' <<<"$out" | cut -c9-): $(grep -m1 -E '^FAILED [^:]*: |ERROR: AddressSan|runtime error' <<<"$out" | sed -E 's/^FAILED [^:]*: [^ ]* //; s/^==[0-9]*==//' | cut -c1-100)"
    else
        survived=$((survived + 1)); echo "$n: SURVIVED"
    fi
    rm -rf "$dir"
done
echo "$killed killed, $survived survived, $broken broken"
[ $broken -eq 0 ]
