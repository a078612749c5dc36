# shellcheck shell=bash
# Where the hypervisor's source comes from: a pinned tarball of the
# distribution, another of the same series, or what the user points at.

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

# xen_tarball SERIES: sets XEN_TARBALL, XEN_TARBALL_SHA, XEN_VERSION.
xen_tarball() {
    local series=$1 dir=$HVCKPT_CACHE_DIR/xen-src pin pinsha='' suites v sha file uri done_any
    mkdir -p "$dir"
    case $series in
    4.20) pin=$XEN420_PIN pinsha=$XEN420_SHA256 suites='trixie trixie-security' ;;
    4.17) pin=$XEN417_PIN suites='bookworm bookworm-security' ;;
    *) die "no Xen series '$series'" "use 4.20, 4.17, a directory or a tarball" ;;
    esac
    # Cached and still intact: no network needed. Any 4.20 kept earlier will do
    # only when the pinned one cannot be had.
    _xen_cached "$dir" "$pin" && return 0
    take_lock xen-src
    if ! _xen_cached "$dir" "$pin"; then
        XEN_FETCH_LOG=$dir/fetch.log; : >"$XEN_FETCH_LOG"
        need_space 50 "$dir"
        if ( apt_private "${suites%% *}" $suites ); then
            apt_private "${suites%% *}" $suites
        else
            APT_OPTS=()
        fi
        done_any=
        while read -r v sha file; do
            [ -n "$v" ] || continue
            while read -r uri; do
                if _xen_fetch "$uri" "$sha" "$dir/$file"; then
                    printf '%s\n' "$sha" >"$dir/$file.sha256"
                    done_any=$v; break 2
                fi
            done < <(_xen_uris "$file")
            log "Xen $v: not available from the configured archives, trying the next"
        done < <( [ -z "$pinsha" ] || printf '%s %s xen_%s.orig.tar.xz\n' "$pin" "$pinsha" "$pin"
                  { _xen_versions "$series" | grep -F "$pin " || true
                    _xen_versions "$series" | grep -vF "$pin " || true; } )
        if [ -z "$done_any" ]; then
            local f
            for f in "$dir/xen_$series".*.orig.tar.xz; do
                [ ! -e "$f" ] || { v=${f##*/xen_}; v=${v%.orig.tar.xz}; _xen_cached "$dir" "$v" && done_any=$v; }
            done
        fi
        [ -n "$done_any" ] ||
            die "no Xen $series source could be fetched (log: $XEN_FETCH_LOG)" \
                "check the network and 'apt-get update', or give --base a tarball or a directory"
        _xen_cached "$dir" "$done_any" || die "the tarball just fetched is damaged" "check the disk"
        [ "$done_any" = "$pin" ] || warn "building Xen $done_any instead of the pinned $pin"
    fi
    release_lock xen-src
}

# _xen_cached DIR VERSION: verify a kept tarball and select it.
_xen_cached() {
    local f=$1/xen_$2.orig.tar.xz sha
    [ -e "$f" ] && [ -e "$f.sha256" ] || return 1
    sha=$(cat "$f.sha256")
    [ "$2" != "$XEN420_PIN" ] || sha=$XEN420_SHA256
    if [ "$(sha256sum <"$f" | cut -d' ' -f1)" != "$sha" ]; then
        warn "the cached $(basename "$f") is damaged: fetching it again"
        rm -f -- "$f" "$f.sha256"
        return 1
    fi
    XEN_TARBALL=$f XEN_TARBALL_SHA=$sha XEN_VERSION=$2
}

# xen_source BASE: sets XEN_SRC_ID (content), XEN_VERSION, XEN_RELEASE (as
# 4.20), and either XEN_TARBALL or XEN_DIR.
xen_source() {
    XEN_TARBALL='' XEN_DIR=''
    if [ -d "$1" ]; then
        XEN_DIR=$(cd "$1" && pwd -P)
        [ -e "$XEN_DIR/xen/Makefile" ] || die "$1 is not a Xen source tree (no xen/Makefile)"
        XEN_SRC_ID=$(cd "$XEN_DIR" && _xen_dir_files | sort -z | xargs -0 sha256sum | hash_of)
        XEN_VERSION=dir-$XEN_SRC_ID
    elif [ -f "$1" ]; then
        XEN_TARBALL=$(readlink -f "$1")
        XEN_SRC_ID=$(sha256sum <"$XEN_TARBALL" | cut -c1-20)
        XEN_VERSION=$(basename "$1"); XEN_VERSION=${XEN_VERSION%.tar*}
    else
        xen_tarball "$1"
        XEN_SRC_ID=${XEN_TARBALL_SHA:0:20}
        XEN_RELEASE=$1
        return 0
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
