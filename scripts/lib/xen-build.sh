# shellcheck shell=bash
# Build the hypervisor: one persistent object tree per (source, patches,
# configuration, compiler), one cache entry per finished image.

XEN_PATCH_DIR=$HVCKPT_ROOT/xen-patch
# Part of the key: raise it when the way of building changes.
XEN_RECIPE=1

# _xen_stage: work on a copy, so that a file edited during the build cannot
# end up under the wrong key.
_xen_stage() {
    local stage
    [ -d "$XEN_PATCH_DIR" ] || return 0
    make_tmpdir stage
    ( cd "$XEN_PATCH_DIR" && find . \( -name series -o -name '*.patch' -o -name 'pagefault_cda*.c' -o -name 'cda*.h' \) \
        -type f -print0 | xargs -0 -r cp -p --parents -t "$stage" )
    XEN_PATCH_DIR=$stage
}

# xen_series: absolute names of the patches in order, one per line. A release
# whose own files differ has a series of its own, in a directory of its name.
xen_series() {
    local name dir=$XEN_PATCH_DIR
    [ ! -e "$dir/$XEN_RELEASE/series" ] || dir=$dir/$XEN_RELEASE
    [ -e "$dir/series" ] || return 0
    while read -r name _; do
        case $name in ''|'#'*) continue ;; esac
        [ -e "$dir/$name" ] ||
            die "xen-patch/${dir#"$XEN_PATCH_DIR"}/series names '$name', which does not exist" "fix that file"
        printf '%s\n' "$dir/$name"
    done <"$dir/series"
}

# Files of ours which are copied into the tree: "from to", where they exist.
xen_copies() {
    local from=$XEN_PATCH_DIR
    [ ! -e "$from/pagefault_cda.c" ] || printf '%s\n' "$from/pagefault_cda.c xen/arch/x86/pv/pagefault_cda.c"
    [ ! -e "$from/pagefault_cda_emul.c" ] ||
        printf '%s\n' "$from/pagefault_cda_emul.c xen/arch/x86/pv/pagefault_cda_emul.c"
    [ ! -e "$from/include/asm/cda.h" ] || printf '%s\n' "$from/include/asm/cda.h xen/arch/x86/include/asm/pv/cda.h"
    [ ! -e "$from/include/asm/cda-compat.h" ] ||
        printf '%s\n' "$from/include/asm/cda-compat.h xen/arch/x86/include/asm/pv/cda-compat.h"
    [ ! -e "$from/include/public/cda.h" ] || printf '%s\n' "$from/include/public/cda.h xen/include/public/cda.h"
}

# xen_config PATCHED DEBUG: the part of .config which we decide, and what the
# user adds in XEN_CONFIG.
xen_config() {
    [ -z "${XEN_CONFIG:-}" ] || printf '%s\n' "$XEN_CONFIG"
    printf 'CONFIG_PV=y\nCONFIG_HVM=y\n'
    if [ "$2" = 1 ]; then printf 'CONFIG_DEBUG=y\n'; else printf '# CONFIG_DEBUG is not set\n'; fi
    [ "$1" = 0 ] || printf 'CONFIG_CDA=y\n'
}

# A fixed date and builder: the same input gives the same image, and the same
# instruction counts.
_xen_make() {
    local cc=gcc
    if command -v ccache >/dev/null; then
        cc='ccache gcc'
        export CCACHE_DIR=$HVCKPT_CACHE_DIR/ccache CCACHE_MAXSIZE=1G \
            CCACHE_BASEDIR=$XEN_TREE/src CCACHE_NOHASHDIR=1
    fi
    make -C "$XEN_TREE/src/xen" CC="$cc" XEN_WHOAMI=hvckpt XEN_DOMAIN=lab \
        XEN_BUILD_DATE='Thu Jan  1 00:00:00 UTC 1970' XEN_BUILD_TIME=00:00:00 "$@"
}

# _xen_prepare: unpack, patch and configure a tree in $XEN_TREE.
_xen_prepare() {
    local tmp p f
    cache_tmp tmp xen-tree
    log "unpacking Xen $XEN_VERSION"
    xen_unpack "$tmp/src" || die "cannot unpack the Xen source" "check the disk's free space and the tarball"
    for p in "${XEN_PATCHES[@]}"; do
        log "patch $(basename "$p")"
        if ! patch -d "$tmp/src" -p1 --no-backup-if-mismatch -f <"$p" >"$tmp/patch.log" 2>&1; then
            cat "$tmp/patch.log" >&2
            die "$(basename "$p") does not apply to Xen $XEN_VERSION (log: $(keep_log "$tmp/patch.log"))" \
                "xen-patch has series for 4.17, 4.20, 4.21 and 4.22; for another release, refresh the nearest"
        fi
    done
    while read -r f p; do cp -- "$f" "$tmp/src/$p"; done < <(if [ "$XEN_PATCHED" = 1 ]; then xen_copies; fi)
    xen_config "$XEN_PATCHED" "$XEN_DEBUG" >"$tmp/src/xen/.config"
    XEN_TREE=$tmp run_logged "configuring" "$tmp/config.log" _xen_make olddefconfig
    [ "$XEN_PATCHED" = 0 ] || [ -z "$(grep -rl 'config CDA' "$tmp/src/xen" --include=Kconfig\*)" ] ||
        grep -q '^CONFIG_CDA=y' "$tmp/src/xen/.config" ||
        die "the configuration lost CONFIG_CDA=y" "see its dependencies in the patch's Kconfig entry"
    rm -rf -- "$XEN_TREE"
    mv -T -- "$tmp" "$XEN_TREE"
    : >"$XEN_TREE/.ok"
}

# xen_build BASE PATCHED DEBUG: sets XEN_IMAGE (…/xen, with xen-syms beside it).
xen_build() {
    local base=$1 want_patched=$2 cc key from to start out
    XEN_DEBUG=$3 XEN_PATCHED=0 XEN_PATCHES=()
    cache_init
    _xen_stage
    host_packages gcc make bison flex python3 binutils patch xz-utils ccache
    xen_source "$base"
    if [ "$want_patched" = 1 ]; then
        # A failed series must not turn into an unpatched build.
        xen_series >/dev/null
        mapfile -t XEN_PATCHES < <(xen_series)
        if [ ${#XEN_PATCHES[@]} -gt 0 ]; then XEN_PATCHED=1
        else warn "no xen-patch/series: building Xen $XEN_VERSION unpatched"; fi
    fi
    cc=$(gcc --version | head -n 1; ld --version | head -n 1)
    key=$( { printf '%s\n' "$XEN_RECIPE" "$XEN_SRC_ID" "$cc"; xen_config $XEN_PATCHED "$XEN_DEBUG"
             cat -- /dev/null "${XEN_PATCHES[@]}"; } | hash_of)
    XEN_TREE=$(cache_path xen-tree "$key")
    if [ $XEN_PATCHED = 1 ]; then
        key=$( { printf '%s\n' "$key"; xen_copies | while read -r from to; do
                 printf '%s\n' "$to"; cat -- "$from"; done; } | hash_of)
    fi
    XEN_IMAGE=$(cache_path xen "$key")/xen
    cache_valid xen "$key" && return 0

    start=$(now_ms)
    take_lock "xen-tree-$(basename "$XEN_TREE")"
    if ! cache_valid xen "$key"; then
        need_space 600 "$HVCKPT_CACHE_DIR"
        # A build that was cut off may have left half-written objects.
        if [ -e "$XEN_TREE/.building" ]; then rm -rf -- "$XEN_TREE"; fi
        [ -e "$XEN_TREE/.ok" ] || _xen_prepare
        [ $XEN_PATCHED = 0 ] || while read -r from to; do
            cmp -s -- "$from" "$XEN_TREE/src/$to" || cp -- "$from" "$XEN_TREE/src/$to"
        done < <(xen_copies)
        cache_tmp out xen
        : >"$XEN_TREE/.building"
        RUN_HINT="fix the source and run again" run_logged \
            "compiling Xen $XEN_VERSION ($( [ $XEN_PATCHED = 1 ] && echo patched || echo unpatched)$( [ "$XEN_DEBUG" = 1 ] && echo ', debug'); a minute when new)" \
            "$XEN_TREE/build.log" _xen_build_clean_fail
        rm -f -- "$XEN_TREE/.building"
        cp -- "$XEN_TREE/src/xen/xen" "$XEN_TREE/src/xen/xen-syms" "$XEN_TREE/src/xen/.config" "$out/"
        { printf 'version=%s\nsource=%s\npatched=%s\ndebug=%s\ncompiler=%s\n' \
            "$XEN_VERSION" "$XEN_SRC_ID" $XEN_PATCHED "$XEN_DEBUG" "${cc%%$'\n'*}"; } >"$out/info"
        cache_publish "$out" xen "$key"
        cache_prune xen 12
        cache_prune xen-tree 5
    fi
    release_lock "xen-tree-$(basename "$XEN_TREE")"
    log "hypervisor ready in $(secs_since "$start") s"
}

# A compile error leaves a sound tree (make removes the target), a kill may not.
_xen_build_clean_fail() {
    local rc=0
    _xen_make -j"$(nproc)" || rc=$?
    [ $rc -eq 0 ] || [ $rc -gt 2 ] || rm -f -- "$XEN_TREE/.building"
    return $rc
}
