# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Build the hypervisor: one object tree kept per (source, patches,
# configuration, compiler), one cache entry per finished image.

XEN_PATCH_DIR=$HVCKPT_ROOT/xen-patch
# Part of the key: raise it when the way of building changes.
XEN_RECIPE=1
# Files of ours: which of xen-patch/, and to what directory of the tree.
XEN_OURS='pagefault_cda*.c   xen/arch/x86/pv
          cda/*.[ch]         xen/arch/x86/cda
          include/asm/*.h    xen/arch/x86/include/asm/pv
          include/public/*.h xen/include/public'

# _xen_stage: work on a copy, so that a file edited during the build cannot
# end up under the wrong key.
_xen_stage() {
    local stage files
    [ -d "$XEN_PATCH_DIR" ] || return 0
    make_tmpdir stage
    ( cd "$XEN_PATCH_DIR" && { find . \( -name series -o -name '*.patch' \) -type f -print0
        while read -r files _; do find . -path "./$files" -type f -print0; done <<<"$XEN_OURS"
      } | xargs -0 -r cp -p --parents -t "$stage" )
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
    local files dir f
    while read -r files dir; do
        for f in "$XEN_PATCH_DIR"/$files; do
            [ ! -e "$f" ] || printf '%s\n' "$f $dir/${f##*/}"
        done
    done <<<"$XEN_OURS"
}

# _xen_put SOURCE: copies those which are not there, or differ.
_xen_put() {
    local from to
    while read -r from to; do
        cmp -s -- "$from" "$1/$to" || install -D -m 644 -- "$from" "$1/$to"
    done < <(xen_copies)
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
    local tmp p
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
    [ "$XEN_PATCHED" = 0 ] || _xen_put "$tmp/src"
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
# Of a series the best candidate which can be patched and compiled.
xen_build() {
    local base=$1 v had=
    cache_init
    _xen_stage
    host_packages gcc make bison flex python3 binutils patch xz-utils ccache
    if [ -e "$base" ]; then
        XEN_LISTED=
        xen_source "$base"
        _xen_build_this "$2" "$3"
        return 0
    fi
    xen_candidates "$base"
    for v in "${XEN_CANDIDATES[@]}"; do
        xen_select "$base" $v || continue
        had=$v
        # Nothing to fall back to: its error is the one to be told.
        [ "$v" != "${XEN_CANDIDATES[-1]}" ] || break
        _xen_try "$2" "$3"
        [ "$XEN_TRIED" != 0 ] || return 0
        XEN_WHY="the patch does not apply to it, or it does not compile"
        warn "Xen $XEN_VERSION: $XEN_WHY; trying an older one"
    done
    [ -n "$had" ] ||
        die "no Xen $base source could be fetched (logs: $HVCKPT_CACHE_DIR/xen-src/*.log)" \
            "check the network and 'apt-get update', or give --base a tarball or a directory"
    xen_select "$base" $had
    _xen_build_this "$2" "$3"
}

# _xen_try PATCHED DEBUG: build, but outlive a failure; sets XEN_TRIED to the
# status. A failure which is known is not tried again until source, patches or
# compiler change. Not in a condition, where errors would be ignored inside.
_xen_try() {
    XEN_TRIED=1
    _xen_keys "$1" "$2"
    if [ -e "$XEN_IMAGE.failed" ]; then return 0; fi
    # In a shell of its own, since errors end it; the second call finds it made.
    set +e
    ( set -e
      trap _run_cleanup EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; trap 'exit 129' HUP
      _cleanup=()
      _xen_build_this "$1" "$2" )
    XEN_TRIED=$?
    set -e
    [ $XEN_TRIED -lt 128 ] || exit $XEN_TRIED
    if [ $XEN_TRIED = 0 ]; then
        _xen_build_this "$1" "$2"
    else
        # A full disk is another failure.
        need_space 50 "$HVCKPT_CACHE_DIR"
        mkdir -p "$(dirname "$XEN_IMAGE")"
        : >"$XEN_IMAGE.failed"
    fi
}

# _xen_keys PATCHED DEBUG: sets XEN_TREE and XEN_IMAGE for the selected source.
_xen_keys() {
    local want_patched=$1 key from to
    XEN_DEBUG=$2 XEN_PATCHED=0 XEN_PATCHES=()
    if [ "$want_patched" = 1 ]; then
        # A failed series must not turn into an unpatched build.
        xen_series >/dev/null
        mapfile -t XEN_PATCHES < <(xen_series)
        if [ ${#XEN_PATCHES[@]} -gt 0 ]; then XEN_PATCHED=1
        else warn "no xen-patch/series: building Xen $XEN_VERSION unpatched"; fi
    fi
    XEN_CC=$(gcc --version | head -n 1; ld --version | head -n 1)
    key=$( { printf '%s\n' "$XEN_RECIPE" "$XEN_SRC_ID" "$XEN_CC"; xen_config $XEN_PATCHED "$XEN_DEBUG"
             cat -- /dev/null "${XEN_PATCHES[@]}"; } | hash_of)
    XEN_TREE=$(cache_path xen-tree "$key")
    if [ $XEN_PATCHED = 1 ]; then
        key=$( { printf '%s\n' "$key"; xen_copies | while read -r from to; do
                 printf '%s\n' "$to"; cat -- "$from"; done; } | hash_of)
    fi
    XEN_KEY=$key
    XEN_IMAGE=$(cache_path xen "$key")/xen
}

# _xen_build_this PATCHED DEBUG: build the selected source, or end the script.
_xen_build_this() {
    local key start out
    _xen_keys "$1" "$2"
    key=$XEN_KEY
    cache_valid xen "$key" && return 0

    start=$(now_ms)
    take_lock "xen-tree-$(basename "$XEN_TREE")"
    if ! cache_valid xen "$key"; then
        need_space 600 "$HVCKPT_CACHE_DIR"
        # A build that was cut off may have left half-written objects.
        if [ -e "$XEN_TREE/.building" ]; then rm -rf -- "$XEN_TREE"; fi
        [ -e "$XEN_TREE/.ok" ] || _xen_prepare
        [ $XEN_PATCHED = 0 ] || _xen_put "$XEN_TREE/src"
        cache_tmp out xen
        : >"$XEN_TREE/.building"
        RUN_HINT="fix the source and run again" run_logged \
            "compiling Xen $XEN_VERSION ($( [ $XEN_PATCHED = 1 ] && echo patched || echo unpatched)$( [ "$XEN_DEBUG" = 1 ] && echo ', debug'); a minute when new)" \
            "$XEN_TREE/build.log" _xen_build_clean_fail
        rm -f -- "$XEN_TREE/.building"
        cp -- "$XEN_TREE/src/xen/xen" "$XEN_TREE/src/xen/xen-syms" "$XEN_TREE/src/xen/.config" "$out/"
        { printf 'version=%s\nsource=%s\npatched=%s\ndebug=%s\ncompiler=%s\n' \
            "$XEN_VERSION" "$XEN_SRC_ID" $XEN_PATCHED "$XEN_DEBUG" "${XEN_CC%%$'\n'*}"; } >"$out/info"
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
