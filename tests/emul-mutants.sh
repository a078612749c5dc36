#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# emul-mutants.sh: takes each check of pagefault_cda_emul.c away, one at a time,
# and expects the guest's programs to notice.
#
# usage: emul-mutants.sh [NAME...]
#
# A mutation is xen-patch/tests/emul-mutants/NAME.sed; its first line says what
# it removes. Builds a hypervisor and boots it for each (a minute); needs what
# `cargo build --release --workspace` makes. Exit status 0 if every mutant was
# tried; docs/mutants.md explains those that survive.
. "$(dirname "$(readlink -f "$0")")/../scripts/lib/common.sh"

case ${1:-} in -h|--help) usage; exit 0 ;; esac
cd "$HVCKPT_ROOT"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target} HVCKPT_NO_BUILD=1
built=$CARGO_TARGET_DIR/release
[ -x "$built/insn" ] && [ -x "$built/stores" ] ||
    die "no $built/insn" "cargo build --release --workspace"
make_tmpdir work
names=("$@")
[ $# -gt 0 ] || for f in xen-patch/tests/emul-mutants/*.sed; do f=${f##*/}; names+=("${f%.sed}"); done
python3 tests/steps.py emul-mutants >"$work/steps"
killed=0 survived=0 broken=0
for name in "${names[@]}"; do
    # Its own tree: scripts take the patch from beside them.
    tree=$work/tree
    rm -rf "$tree"
    mkdir "$tree"
    cp -a scripts tests xen-patch guest-lib dom0-policy Cargo.toml Cargo.lock "$tree"
    source=$tree/xen-patch/pagefault_cda_emul.c
    sed -E -z -i -f "xen-patch/tests/emul-mutants/$name.sed" "$source" 2>"$work/sed" ||
        { cat "$work/sed"; die "$name: no such mutation, or no sed script"; }
    result= rc=0
    if cmp -s "$source" xen-patch/pagefault_cda_emul.c; then result="BROKEN: changes nothing"
    elif ! "$tree/scripts/build-xen" >"$work/build" 2>&1; then result="BROKEN: does not build"
    else
        "$tree/scripts/guest-run" --vcpus 2 --mem 1024 --add "$built/insn" --add "$built/stores" \
            --logs "$work/logs" --console "$work/console" --script "$work/steps" \
            >"$work/out" 2>"$work/err" </dev/null || rc=$?
        step=$(sed -n 's/^step \([a-z-]*\): exit.*/\1/p' "$work/out" | head -n 1)
        if [ $rc = 0 ]; then result=SURVIVED
        elif grep -q 'Panic on CPU' "$work/console"; then result="killed by a crash of the hypervisor"
        elif [ -n "$step" ]; then
            result="killed by $step: $(cat "$work/logs/$step".{out,err} | grep -m1 -E '^FAIL|^case' | cut -c1-110 || true)"
        else
            tail -n 3 "$work/err" >&2
            result="BROKEN: no result (exit status $rc)"
        fi
    fi
    case $result in
    killed*) killed=$((killed + 1)) ;;
    SURVIVED) survived=$((survived + 1)) ;;
    *) broken=$((broken + 1)) ;;
    esac
    echo "$name: $result"
done
echo "$killed killed, $survived survived, $broken broken"
[ $broken = 0 ]
