#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Which source build-xen takes, with archives, compiler and patches of straw: the
# newest which arrives, verifies, is patched and compiles; else the pinned one, and
# it says so.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
failed=0

# tarball VERSION LINE…: an archive's file, with a line to be patched.
tarball() {
    local v=$1; shift
    mkdir -p "$work/tree/xen" "$work/archive"
    printf '%s\n' "$@" >"$work/tree/xen/Makefile"
    tar -C "$work" -cJf "$work/archive/xen_$v.orig.tar.xz" tree
}
# index VERSION…: what the archives list from now on.
index() {
    local v
    for v in "$@"; do
        printf '%s %s xen_%s.orig.tar.xz\n' "$v" \
            "$(sha256sum <"$work/archive/xen_$v.orig.tar.xz" | cut -d' ' -f1)" "$v"
    done | sort -k1,1Vr >"$work/index"
}
# build NAME: all of it, in a cache of that name; output in $work/out.
build() {
    cat >"$work/run" <<EOF
. "$root/scripts/lib/common.sh"
. "$root/scripts/lib/apt.sh"
. "$root/scripts/lib/xen-source.sh"
. "$root/scripts/lib/xen-build.sh"
XEN420_PIN=4.20.3
XEN420_SHA256=$(sha256sum <"$work/pin" | cut -d' ' -f1)
host_packages() { :; }
apt_private() { [ -e "$work/index" ] || die "no network"; }
_xen_versions() { cat "$work/index"; }
_xen_uris() { printf '%s\n' "$work/archive/\$1"; }
_xen_fetch() {
    echo "\$1" >>"$work/asked"
    [ -e "\$1" ] || { echo "404 Not Found" >>"\$XEN_FETCH_LOG"; return 1; }
    cp "\$1" "\$3" && [ "\$(sha256sum <"\$3" | cut -d' ' -f1)" = "\$2" ] || { rm -f "\$3"; return 1; }
}
_xen_make() {
    case \$* in *olddefconfig*) return 0 ;; esac
    ! grep -q breaks "\$XEN_TREE/src/xen/Makefile" || { echo "error: no" >&2; return 2; }
    cp "\$XEN_TREE/src/xen/Makefile" "\$XEN_TREE/src/xen/xen"; : >"\$XEN_TREE/src/xen/xen-syms"
}
XEN_PATCH_DIR=$work/patch
xen_copies() { :; }
xen_build 4.20 1 0
xen_told 4.20
cat "\$XEN_IMAGE"
EOF
    : >"$work/asked"
    HVCKPT_CACHE=$work/cache-$1 bash "$work/run" >"$work/out" 2>&1 || echo "status $?" >>"$work/out"
}
wrong() { failed=1; echo "FAIL $1:"; sed 's/^/  /' "$work/out"; }
says() { grep -qF -- "$2" "$work/out" || wrong "$1, no '$2'"; }
silent() { ! grep -qF -- "$2" "$work/out" || wrong "$1, '$2'"; }

mkdir -p "$work/patch"
printf '0001.patch\n' >"$work/patch/series"
printf -- '--- a/xen/Makefile\n+++ b/xen/Makefile\n@@ -1 +1 @@\n-line\n+patched\n' >"$work/patch/0001.patch"
tarball 4.20.3 line; tarball 4.20.4+1 line; tarball 4.20.10 line
cp "$work/archive/xen_4.20.3.orig.tar.xz" "$work/pin"

index 4.20.3 4.20.4+1 4.20.10
build newest
says "the newest is taken" "this is Xen 4.20.10"
says "the newest is taken" "the archives list no newer Xen"
says "the newest is patched" "patched"
build newest
[ ! -s "$work/asked" ] || wrong "what is kept is fetched again"

mv "$work/archive/xen_4.20.10.orig.tar.xz" "$work/kept"
build absent
says "the next is taken" "this is Xen 4.20.4+1"
says "what is missing is said" "4.20.10 is listed by the archives, but its source cannot be had"
says "what is newer is said" "the archives list Xen 4.20.10, which is newer"
build absent
! grep -q 4.20.10 "$work/asked" || wrong "asked again within a day"
says "also from the cache" "the archives list Xen 4.20.10, which is newer"

printf x >"$work/archive/xen_4.20.10.orig.tar.xz"
build forged
says "what does not verify is not taken" "this is Xen 4.20.4+1"

for kind in other breaks; do
    rm -rf "$work"/cache-unfit*
    case $kind in other) tarball 4.20.10 other ;; breaks) tarball 4.20.10 line breaks ;; esac
    index 4.20.3 4.20.4+1 4.20.10
    build "unfit-$kind"
    says "$kind: falls back" "trying an older one"
    says "$kind: the next is built" "this is Xen 4.20.4+1"
    says "$kind: it is said why" "fixes of security faults may be missing here (the patch does not apply"
    build "unfit-$kind"
    silent "$kind: it is not tried again" "unpacking"
    says "$kind: still the next" "this is Xen 4.20.4+1"
    index 4.20.10
    build "unfit-$kind-alone"
    says "$kind: the pin is built" "this is Xen 4.20.3, the version pinned here"
    says "$kind: it is said why" "fixes of security faults may be missing here (the patch does not apply"
done
# If none fits, the last error is told.
cp -r "$work/patch" "$work/kept-patch"
sed -i 's/-line/-nowhere/' "$work/patch/0001.patch"
build unfit
says "none fits" "0001.patch does not apply to Xen 4.20.3"
says "none fits" "status 1"
rm -r "$work/patch"; mv "$work/kept-patch" "$work/patch"

index 4.20.10; rm "$work"/archive/xen_4.20.10*
build pinned
says "the pin is the fallback" "this is Xen 4.20.3, the version pinned here"

rm "$work/index"
build pinned
says "without a network what is kept is taken" "this is Xen 4.20.3"
says "without a network what was known is said" "the archives list Xen 4.20.10, which is newer"
build unknown
says "no index at all" "whether the archives have a newer Xen is not known"
rm "$work"/archive/*
build nothing
says "nothing at all" "no Xen 4.20 source could be fetched"
says "nothing at all" "next: check the network"
[ $failed = 1 ] || echo ok
exit $failed
