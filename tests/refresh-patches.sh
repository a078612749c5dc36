#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# refresh-patches on trees of straw: what it writes, and what it refuses.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
failed=0
name=0001-int84-user-hypercall.patch

mkdir -p "$work/house/xen-patch" "$work/4.20/xen/arch"
cp -r "$root/scripts" "$work/house/"
patches=$work/house/xen-patch
tree=$work/4.20
printf 'export XEN_VERSION       = 4\nexport XEN_SUBVERSION    = 20\n' >"$tree/xen/Makefile"
seq 30 >"$tree/xen/arch/traps.c"
cp -r "$tree" "$work/hooked"
sed -i 's/^7$/&\nhook/' "$work/hooked/xen/arch/traps.c"
printf 'Subject: [PATCH] hooks\n\nWhy.\n---\n' >"$patches/$name"

# refresh STATUS ARGUMENT...: output in $work/out.
refresh() {
    local want=$1 got=0
    shift
    "$work/house/scripts/refresh-patches" "$@" >"$work/out" 2>&1 </dev/null || got=$?
    [ $got = "$want" ] || { echo "FAIL: refresh-patches $*: exit status $got, not $want"; cat "$work/out"; failed=1; }
}
holds() { grep -qF -- "$2" "$1" || { echo "FAIL: '$2' is not in $1:"; cat "$1"; failed=1; }; }

# The head stays, the rest applies; whatever git is told to do elsewhere.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=diff.context GIT_CONFIG_VALUE_0=0
touch "$work/hooked/xen/built.o"
refresh 0 "$tree" "$work/hooked"
holds "$patches/$name" "Why."
holds "$patches/$name" "+hook"
holds "$patches/$name" " 5"
! grep -q 'built\|^index' "$patches/$name" || { echo "FAIL: more than hooks"; failed=1; }
cp -r "$tree" "$work/again"
patch -s -d "$work/again" -p1 <"$patches/$name"
diff -r -x built.o "$work/again" "$work/hooked" || failed=1
refresh 0 "$tree" "$work/hooked"
holds "$work/out" "nothing changed"

# A release which has no patch yet.
for t in "$tree" "$work/hooked"; do
    cp -r "$t" "$t-new"
    sed -i 's/= 20/= 23/' "$t-new/xen/Makefile"
done
refresh 0 "$tree-new" "$work/hooked-new"
holds "$patches/4.23/series" "$name"
holds "$patches/4.23/$name" "+hook"

# What makes no sense changes nothing.
before=$(cat "$patches/$name")
refresh 2 --nosuch "$tree" "$work/hooked"
holds "$work/out" "unknown option '--nosuch'"
refresh 2 "$tree"
refresh 2 "$tree" "$work/nosuch"
refresh 2 "$tree" "$work/hooked-new"
holds "$work/out" "Xen 4.23"
refresh 1 "$tree" "$tree"
rm "$work/hooked/xen/arch/traps.c"
refresh 1 "$tree" "$work/hooked"
holds "$work/out" "lacks xen/arch/traps.c"
[ "$before" = "$(cat "$patches/$name")" ] || { echo "FAIL: an error changed the patch"; failed=1; }

[ $failed = 0 ] && echo ok
