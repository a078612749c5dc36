# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Common ground of all lab scripts: paths, messages, timing, clean-up, locks,
# and the content-addressed cache. Source it, do not run it.

set -euo pipefail
export LC_ALL=C

HVCKPT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
HVCKPT_LIB=$HVCKPT_ROOT/scripts/lib
HVCKPT_CACHE_DIR=${HVCKPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hvckpt}
HVCKPT_PROG=$(basename "$0")
# HVCKPT_QUIET=1 hides progress, never errors.
HVCKPT_QUIET=${HVCKPT_QUIET:-0}

# --- messages: all on stderr, no colours, no terminal needed ---------------

log()  { [ "$HVCKPT_QUIET" = 1 ] || printf '%s: %s\n' "$HVCKPT_PROG" "$*" >&2; }
warn() { printf '%s: warning: %s\n' "$HVCKPT_PROG" "$*" >&2; }

# fail CODE MESSAGE [NEXT-STEP]: say why, say what to do, leave with CODE.
fail() {
    local code=$1; shift
    printf '%s: error: %s\n' "$HVCKPT_PROG" "$1" >&2
    [ $# -lt 2 ] || printf '%s: next: %s\n' "$HVCKPT_PROG" "$2" >&2
    exit "$code"
}
die() { fail "${HVCKPT_FAIL_CODE:-1}" "$@"; }

. "$HVCKPT_LIB/check.sh"

# usage: print the leading comment block of the calling script.
usage() { awk 'NR>1 && !/^#/ {exit} NR>1 && !/^# SPDX-/ {sub(/^# ?/,""); print}' "$0"; }

# --- timing -----------------------------------------------------------------

now_ms() { local t=${EPOCHREALTIME/./}; printf '%s' "${t%???}"; }
# secs_since START_MS: "12.3"
secs_since() { local d=$(( $(now_ms) - $1 )); printf '%d.%d' $((d / 1000)) $((d % 1000 / 100)); }

# run_group CMD…: run in a process group of its own and wait; a signal to this
# script ends the whole group at once instead of waiting for it.
_running=
run_group() {
    local rc=0
    set -m
    "$@" &
    _running=$!
    set +m
    wait "$_running" || rc=$?
    _running=
    return $rc
}

# run_logged NAME LOGFILE CMD…: run with output to LOGFILE; on failure show its
# end and keep it; on success one line with the time taken.
run_logged() {
    local name=$1 logfile=$2 start rc=0; shift 2
    start=$(now_ms)
    log "$name ..."
    run_group "$@" >"$logfile" 2>&1 </dev/null || rc=$?
    if [ "$rc" -ne 0 ]; then
        # Compilers name the cause long before the end.
        grep -nE -m 8 '(error|Error|ERROR|^E):' "$logfile" >&2 || true
        tail -n 15 "$logfile" >&2 || true
        local kept
        kept=$(keep_log "$logfile")
        if grep -qs 'No space left on device' "$logfile"; then
            die "$name failed: the disk is full (log: $kept)" "free space, or set HVCKPT_CACHE to a larger disk"
        fi
        die "$name failed with status $rc (log: $kept)" "${RUN_HINT:-read the log, then run the same command again}"
    fi
    log "$name: done in $(secs_since "$start") s"
}

# keep_log FILE: copy to the cache's log directory, print where it is.
keep_log() {
    local dir=$HVCKPT_CACHE_DIR/logs dest
    mkdir -p "$dir" 2>/dev/null || { printf '%s' "$1"; return 0; }
    dest=$dir/$(date +%Y%m%d-%H%M%S)-$$-$(basename "$1")
    if cp -- "$1" "$dest" 2>/dev/null; then printf '%s' "$dest"; else printf '%s' "$1"; fi
    # The newest 40 logs are enough.
    find "$dir" -type f -printf '%T@ %p\n' 2>/dev/null | sort -rn | tail -n +41 | cut -d' ' -f2- |
        xargs -r -d '\n' rm -f --
}

# --- clean-up: commands run in reverse order at exit, also on signals -----

_cleanup=()
on_exit() { _cleanup+=("$*"); }
_run_cleanup() {
    local rc=$? i
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$_running" ]; then
        kill -TERM -- "-$_running" 2>/dev/null || true
        for (( i = 0; i < 50; i++ )); do kill -0 -- "-$_running" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$_running" 2>/dev/null || true
    fi
    for (( i = ${#_cleanup[@]} - 1; i >= 0; i-- )); do eval "${_cleanup[i]}" || true; done
    exit "$rc"
}
trap _run_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# make_tmpdir VAR [PARENT]: private directory, removed at exit.
make_tmpdir() {
    local parent=${2:-${TMPDIR:-/tmp}} d
    mkdir -p "$parent" || die "cannot create $parent"
    d=$(mktemp -d "$parent/hvckpt.XXXXXXXX") || die "cannot create a directory under $parent" "check its free space and permissions"
    on_exit "rm -rf -- '$d'"
    printf -v "$1" '%s' "$d"
}

# --- privileges and tools --------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -n -- "$@"
    else die "this step needs root: $*" "run as root or install sudo"; fi
}

# --- content-addressed cache -----------------------------------------------
# An entry is a directory KIND/KEY with a marker .ok, written last. Entries are
# built in a sibling temporary directory and renamed, so readers never see half.

hash_of() { sha256sum | cut -c1-20; }
# hash_files FILE…: names do not matter, order and content do.
hash_files() { cat -- "$@" | hash_of; }

cache_init() {
    mkdir -p "$HVCKPT_CACHE_DIR/locks" 2>/dev/null ||
        die "cannot write the cache $HVCKPT_CACHE_DIR" "set HVCKPT_CACHE to a writable directory"
}
cache_path()  { printf '%s/%s/%s' "$HVCKPT_CACHE_DIR" "$1" "$2"; }
cache_valid() { [ -e "$(cache_path "$1" "$2")/.ok" ]; }
# cache_publish TMPDIR KIND KEY
cache_publish() {
    local dest; dest=$(cache_path "$2" "$3")
    mkdir -p "$(dirname "$dest")"
    # A half-written or stale entry of an older version goes first.
    rm -rf -- "$dest"
    sync -f "$1" 2>/dev/null || true
    : >"$1/.ok"
    mv -T -- "$1" "$dest"
}
# cache_tmp VAR KIND: a directory beside the entries of KIND.
cache_tmp() { make_tmpdir "$1" "$HVCKPT_CACHE_DIR/$2/tmp"; }
# cache_prune KIND KEEP: keep the newest KEEP entries which nobody uses.
cache_prune() {
    local d
    find "$HVCKPT_CACHE_DIR/$1" -mindepth 2 -maxdepth 2 -name .ok -printf '%T@ %h\n' 2>/dev/null |
        sort -rn | tail -n +"$(( $2 + 1 ))" | cut -d' ' -f2- |
        while read -r d; do
            # Not younger than a day: another lab may be running from it.
            [ -z "$(find "$d/.ok" -mmin -1440)" ] || continue
            rm -f -- "$d/.ok"; rm -rf -- "$d"
        done
}

# take_lock NAME: wait for an exclusive lock, held until release_lock or exit.
declare -A _lock_fd=()
take_lock() {
    local fd
    cache_init
    exec {fd}>"$HVCKPT_CACHE_DIR/locks/$1"
    if ! flock -n "$fd"; then
        log "waiting: another run holds the lock '$1'"
        flock -w "${HVCKPT_LOCK_TIMEOUT:-3600}" "$fd" ||
            die "gave up waiting for the lock '$1'" "see who runs it: fuser $HVCKPT_CACHE_DIR/locks/$1"
    fi
    _lock_fd[$1]=$fd
}
release_lock() { local fd=${_lock_fd[$1]}; exec {fd}>&-; unset "_lock_fd[$1]"; }

# need_space MIB DIR: refuse early rather than half-way.
need_space() {
    local avail
    mkdir -p "$2"
    avail=$(df -Pm "$2" | awk 'NR==2 {print $4}')
    [ "$avail" -ge "$1" ] ||
        die "the disk of $2 is full: $avail MiB free, $1 MiB needed" "free space, or set HVCKPT_CACHE to a larger disk"
}
