# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Options which guest-run and boot have in common.

LAB_TYPE=pv LAB_VCPUS=1 LAB_MEM=512 LAB_ICOUNT=0 LAB_TURNS=0 LAB_XEN='' LAB_XEN_ARGS='' LAB_DEBUG=0 LAB_BASE=4.20
LAB_GUEST_KERNEL=6.12
LAB_KEY=1 LAB_ADDS=() LAB_DISK='' LAB_LINK=''

# lab_option ARG…: take one common option from the front. Sets TAKEN to the
# number of arguments used, 0 if the first is none of ours.
lab_option() {
    TAKEN=0
    case $1 in
    --type|--vcpus|--mem|--xen|--base|--guest-kernel|--xen-args|--add|--disk|--link) need_value "$@"; TAKEN=2 ;;
    --icount|--turns|--debug-xen|--no-key) TAKEN=1 ;;
    *) return 0 ;;
    esac
    case $1 in
    --type) one_of "$1" "$2" pv pvh; LAB_TYPE=$2 ;;
    --vcpus) need_number "$1" "$2" 1 64; LAB_VCPUS=$2 ;;
    --mem) need_number "$1" "$2" 64 1048576; LAB_MEM=$2 ;;
    --xen) need_file "$1" "$2"; LAB_XEN=$2 ;;
    --base) need_base "$1" "$2"; LAB_BASE=$2 ;;
    --guest-kernel) need_guest_kernel "$1" "$2"; LAB_GUEST_KERNEL=$2 ;;
    --xen-args) LAB_XEN_ARGS+=" $2" ;;
    --add) _lab_add "$2" ;;
    --disk)
        [ -f "$2" ] && [ -w "$2" ] || refuse "--disk: no writable disk image $2" "make one: truncate -s 64M FILE; mke2fs -t ext4 FILE"
        LAB_DISK=$(readlink -f "$2") ;;
    --link)
        case $2 in *?:1|*?:2) ;; *) refuse "--link is FILE:1 or FILE:2, not '$2'" "$HVCKPT_PROG --help" ;; esac
        [ -d "$(dirname "$2")" ] || refuse "--link: no such directory: $(dirname "$2")"
        LAB_LINK=$(readlink -f "$(dirname "$2")")/$(basename "$2")
        # The address of a socket.
        [ ${#LAB_LINK} -le 107 ] || refuse "--link: the name ${LAB_LINK%:*} is too long (105 bytes)" ;;
    --icount) LAB_ICOUNT=1 ;;
    --turns) LAB_TURNS=1 ;;
    --debug-xen) LAB_DEBUG=1 ;;
    --no-key) LAB_KEY=0 ;;
    esac
}

# _lab_add FILE[:DEST]: checks it, and keeps "FILE:DEST" in LAB_ADDS.
_lab_add() {
    local src=${1%%:*} dest='' other
    case $1 in *:*) dest=${1#*:} ;; esac
    [ -n "$src" ] && [ -e "$src" ] || refuse "--add: no such file: '$src'"
    [ -r "$src" ] || refuse "--add: cannot read $src"
    case $1:$dest in
    *::) refuse "--add: '$1' names no place after the colon" ;;
    esac
    [ -n "$dest" ] || dest=/lab/bin/
    # Into a directory, as cp does it.
    case $dest in */) dest=$dest$(basename "$src") ;; esac
    case $dest/ in
    [!/]*) refuse "--add: '$dest' is no absolute name in the guest" "FILE:/lab/bin/NAME, or FILE alone" ;;
    */../*|*/./*|*//*) refuse "--add: '$dest' is no plain absolute name (no '.', '..' or '//')" ;;
    /tmp/*|/proc/*|/sys/*|/dev/*|/run/*)
        refuse "--add: '$dest' would lie below what is mounted there" "a place below /lab" ;;
    esac
    for other in lab lab/bin lab/work lab/conf lab/env usr bin sbin lib lib64 etc init; do
        [ "$dest" != "/$other" ] || refuse "--add: '$dest' is the lab's own" "a name below it: $dest/NAME"
    done
    for other in "${LAB_ADDS[@]}"; do
        [ "${other#*:}" != "$dest" ] || [ "${other%%:*}" = "$src" ] ||
            refuse "--add: both ${other%%:*} and $src would be $dest" "give one a place of its own: FILE:/lab/bin/NAME"
    done
    LAB_ADDS+=("$src:$dest")
}

# lab_check: options against each other and this machine.
lab_check() {
    local mib
    [ -z "$LAB_XEN" ] || [ "$LAB_DEBUG" = 0 ] ||
        refuse "--debug-xen says how to build a hypervisor, --xen names one that is built" "leave one of them out"
    mib=$(awk '/^(MemTotal|SwapTotal):/ {kib += $2} END {print int(kib / 1024)}' /proc/meminfo)
    [ $(( 1664 + 2 * LAB_MEM )) -le "$mib" ] ||
        refuse "--mem $LAB_MEM: the emulated machine would have $(( 1664 + 2 * LAB_MEM )) MiB, this one has $mib"
}

# lab_job TARGET…: the files of this run, with --add for these targets. Call
# job_end when everything else is in place.
lab_job() {
    local t a src dest
    job_begin
    job_ours dom0
    job_ours domu
    for t in "$@"; do
        for a in "${LAB_ADDS[@]}"; do
            src=${a%%:*} dest=${a#*:}
            job_add "$t" "$src" "$dest"
        done
    done
    if [ "$LAB_KEY" = 1 ] && [ ! -e "$JOB/dom0/usr/sbin/hvckpt-policy" ]; then
        LAB_KEY=0
        log "no hvckpt-policy in $CRATES_DIR: running without a key"
    fi
    job_conf LAB_TYPE "$LAB_TYPE"; job_conf LAB_VCPUS "$LAB_VCPUS"
    job_conf LAB_MEM "$LAB_MEM"; job_conf LAB_KEY "$LAB_KEY"
    job_conf LAB_HOST "${LAB_LINK##*:}"
    # A name without its file would be told as a file that cannot be read.
    if [ "$LAB_KEY" = 1 ]; then
        for t in domu dom0; do job_env $t HVCKPT_POLICY=10.84.0.1:4884; done
        job_env domu HVCKPT_KEY=/etc/hvckpt/guest.key
        job_env dom0 HVCKPT_KEY=/tmp/guest.key
    fi
    job_env dom0 HVCKPT_DOMU_CFG=/etc/xen/domu.cfg
}
