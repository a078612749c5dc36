# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Where the hypervisor's source comes from: the newest tarball of the series that
# the distribution has, a pinned one where that cannot be had or patched, or what
# the user points at. Fixes of security faults come with the newest only.

XEN420_PIN=4.20.3+127-gc42374a105
XEN420_SHA256=df0831854a55a8f31cb3cb85036f2edc928e2ef098d77f815f5714bfafac68f3
XEN417_PIN=4.17.5+72-g01140da4e8

# _xen_fetch URI SHA256 DEST: fetch and verify; quiet failure.
_xen_fetch() {
    local part=$3.part.$$ rc=0
    on_exit "rm -f -- '$part'"
    /usr/lib/apt/apt-helper "${APT_OPTS[@]}" download-file "$1" "$part" "SHA256:$2" \
        >>"$XEN_FETCH_LOG" 2>&1 || rc=$?
    if [ $rc -eq 0 ] && [ "$(sha256sum <"$part" | cut -d' ' -f1)" = "$2" ]; then
        mv -- "$part" "$3"
        return 0
    fi
    rm -f -- "$part"
    return 1
}

# _xen_versions SERIES: "UPSTREAM-VERSION SHA256" of each orig tarball which the
# index lists, newest first.
_xen_versions() {
    apt-cache "${APT_OPTS[@]}" showsrc xen 2>/dev/null |
        awk -v s="$1" '/^Checksums-Sha256:/ {on=1; next} /^[^ ]/ {on=0}
            on && $3 ~ "^xen_" s "[.].*[.]orig[.]tar[.]" {
                v=$3; sub(/^xen_/, "", v); sub(/[.]orig[.]tar.*/, "", v); print v, $1, $3 }' |
        sort -u -k1,1Vr
}

# _xen_uris FILE: where the configured archives would keep this file.
_xen_uris() {
    local u f=${1//+/%2b}
    while read -r u; do printf '%s\n' "${u}pool/updates/main/x/xen/$f"; done < <(apt_uris security)
    while read -r u; do printf '%s\n' "${u}pool/main/x/xen/$f"; done < <(apt_uris base)
}

# _xen_listed SERIES SUITES: what the index lists, and the pin. Sets XEN_LISTED to
# the newest of the index, or to nothing where none was ever to be had. The index is
# fetched once a day; where that fails, tried again after an hour.
_xen_listed() {
    local series=$1 suites=$2 dir=$HVCKPT_CACHE_DIR/xen-src pin pinsha=
    XEN_LISTED=
    APT_OPTS=()
    if _xen_recent "$dir/index-$series" 1440 || _xen_recent "$dir/index-$series.failed" 60; then
        :
    elif ( apt_private "${suites%% *}" $suites ); then
        apt_private "${suites%% *}" $suites
        _xen_versions "$series" >"$dir/index-$series.new" || true
        if [ -s "$dir/index-$series.new" ]; then mv -- "$dir/index-$series.new" "$dir/index-$series"; fi
        rm -f -- "$dir/index-$series.failed"
    else
        : >"$dir/index-$series.failed"
        warn "no index of the archives: going by what was known before"
    fi
    [ ! -s "$dir/index-$series" ] || read -r XEN_LISTED _ <"$dir/index-$series"
    pin=$(_xen_pin "$series")
    case $series in 4.20) pinsha=$XEN420_SHA256 ;; esac
    {
        cat -- "$dir/index-$series" 2>/dev/null || true
        [ -z "$pinsha" ] || printf '%s %s xen_%s.orig.tar.xz\n' "$pin" "$pinsha" "$pin"
    }
}

# _xen_recent FILE MINUTES: it is there and not older; APT_REFRESH=1: never.
_xen_recent() { [ -z "${APT_REFRESH:-}" ] && [ -n "$(find "$1" -mmin "-$2" 2>/dev/null)" ]; }

_xen_pin() { case $1 in 4.20) printf %s "$XEN420_PIN" ;; 4.17) printf %s "$XEN417_PIN" ;; esac; }

# _xen_get VERSION SHA256 FILE: have it in the cache, or fail. What the archives
# did not have is not asked for again within a day.
_xen_get() {
    local dir=$HVCKPT_CACHE_DIR/xen-src uri
    _xen_cached "$dir" "$1" "$2" && return 0
    if _xen_recent "$dir/$3.absent" 1440; then return 1; fi
    XEN_FETCH_LOG=$dir/$3.log
    : >"$XEN_FETCH_LOG"
    need_space 50 "$dir"
    while read -r uri; do
        if _xen_fetch "$uri" "$2" "$dir/$3"; then
            printf '%s\n' "$2" >"$dir/$3.sha256"
            rm -f -- "$dir/$3.absent"
            return 0
        fi
    done < <(_xen_uris "$3")
    # A network that is down today may be up in a minute.
    if grep -q 'Not Found' "$XEN_FETCH_LOG"; then : >"$dir/$3.absent"; fi
    warn "Xen $1 is listed by the archives, but its source cannot be had (log: $XEN_FETCH_LOG)"
    return 1
}

# xen_candidates SERIES: sets XEN_CANDIDATES to "VERSION SHA256 FILE" of each
# version there may be, newest first: what the archives list, the pin, what was
# kept earlier.
xen_candidates() {
    local suites f v dir=$HVCKPT_CACHE_DIR/xen-src
    case $1 in
    4.20) suites='trixie trixie-security' ;;
    4.17) suites='bookworm bookworm-security' ;;
    *) die "no Xen series '$1'" "use 4.20, 4.17, a directory or a tarball" ;;
    esac
    mkdir -p "$dir"
    take_lock xen-src
    _xen_listed "$1" "$suites" >"$dir/candidates-$1.new"
    for f in "$dir/xen_$1".*.orig.tar.xz; do
        [ -e "$f.sha256" ] || continue
        v=${f##*/xen_}
        printf '%s %s %s\n' "${v%.orig.tar.xz}" "$(cat "$f.sha256")" "${f##*/}"
    done >>"$dir/candidates-$1.new"
    mapfile -t XEN_CANDIDATES < <(sort -s -u -k1,1Vr "$dir/candidates-$1.new")
    rm -f -- "$dir/candidates-$1.new"
    release_lock xen-src
}

# xen_select SERIES VERSION SHA256 FILE: take that candidate, if it can be had.
# Sets XEN_TARBALL, XEN_SRC_ID, XEN_VERSION, XEN_RELEASE.
xen_select() {
    local rc=0
    XEN_DIR=
    take_lock xen-src
    _xen_get "$2" "$3" "$4" || rc=1
    [ $rc != 0 ] || _xen_cached "$HVCKPT_CACHE_DIR/xen-src" "$2" "$3" || rc=1
    release_lock xen-src
    [ $rc = 0 ] || return 1
    XEN_SRC_ID=${XEN_TARBALL_SHA:0:20}
    XEN_RELEASE=$1
}

# xen_told SERIES: what was built, and whether the archives have a newer one.
xen_told() {
    local pinned=
    [ "$XEN_VERSION" != "$(_xen_pin "$1")" ] || pinned=', the version pinned here'
    log "this is Xen $XEN_VERSION$pinned"
    if [ -z "${XEN_LISTED:-}" ]; then
        warn "whether the archives have a newer Xen is not known: there was no index to ask"
    elif [ "$XEN_LISTED" = "$XEN_VERSION" ]; then
        log "the archives list no newer Xen $1"
    elif [ "$(printf '%s\n' "$XEN_LISTED" "$XEN_VERSION" | sort -V | tail -n 1)" = "$XEN_VERSION" ]; then
        log "the archives list Xen $XEN_LISTED, which is older"
    else
        warn "the archives list Xen $XEN_LISTED, which is newer: fixes of security faults may be missing here (${XEN_WHY:-its source cannot be had})"
        warn "next: see docs/admin.md, \"A newer Xen\""
    fi
}

# _xen_cached DIR VERSION [SHA256]: verify a kept tarball and select it.
_xen_cached() {
    local f=$1/xen_$2.orig.tar.xz sha
    [ -e "$f" ] && [ -e "$f.sha256" ] || return 1
    sha=${3:-$(cat "$f.sha256")}
    [ "$2" != "$XEN420_PIN" ] || sha=$XEN420_SHA256
    if [ "$(sha256sum <"$f" | cut -d' ' -f1)" != "$sha" ]; then
        warn "the cached $(basename "$f") is damaged: fetching it again"
        rm -f -- "$f" "$f.sha256"
        return 1
    fi
    XEN_TARBALL=$f XEN_TARBALL_SHA=$sha XEN_VERSION=$2
}

# xen_source BASE: a directory or a tarball of the user's. Sets XEN_SRC_ID
# (content), XEN_VERSION, XEN_RELEASE (as 4.20), and either XEN_TARBALL or XEN_DIR.
xen_source() {
    XEN_TARBALL='' XEN_DIR=''
    if [ -d "$1" ]; then
        XEN_DIR=$(cd "$1" && pwd -P)
        [ -e "$XEN_DIR/xen/Makefile" ] || die "$1 is not a Xen source tree (no xen/Makefile)"
        XEN_SRC_ID=$(cd "$XEN_DIR" && _xen_dir_files | sort -z | xargs -0 sha256sum | hash_of)
        XEN_VERSION=dir-$XEN_SRC_ID
    else
        XEN_TARBALL=$(readlink -f "$1")
        XEN_SRC_ID=$(sha256sum <"$XEN_TARBALL" | cut -c1-20)
        XEN_VERSION=$(basename "$1"); XEN_VERSION=${XEN_VERSION%.tar*}
    fi
    XEN_RELEASE=$(if [ -n "$XEN_DIR" ]; then cat "$XEN_DIR/xen/Makefile"; else
                      tar -xOf "$XEN_TARBALL" --wildcards --no-wildcards-match-slash '*/xen/Makefile'; fi 2>/dev/null |
        awk '/^export XEN_VERSION *=/ {v = $NF} /^export XEN_SUBVERSION *=/ {s = $NF} END {print v "." s}')
    [ "$XEN_RELEASE" != . ] || die "$1 holds no Xen source (no version in xen/Makefile)"
}

# Source files of a directory, without what a build leaves behind.
_xen_dir_files() {
    if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
        git ls-files -z --cached --others --exclude-standard -- . |
            while IFS= read -r -d '' f; do [ ! -f "$f" ] || printf '%s\0' "$f"; done
    else
        find . -type f ! -path './.git/*' ! -name '*.o' ! -name '.*.cmd' ! -name '*.d' -print0
    fi
}

# xen_unpack DEST: the source tree in DEST.
xen_unpack() {
    mkdir -p "$1"
    if [ -n "$XEN_DIR" ]; then
        ( cd "$XEN_DIR" && _xen_dir_files | tar --null -T - -cf - ) | tar -xf - -C "$1"
    else
        tar -xf "$XEN_TARBALL" -C "$1" --strip-components=1
    fi
}
