# shellcheck shell=bash
# Options which guest-run and boot have in common.

LAB_TYPE=pv LAB_VCPUS=1 LAB_MEM=512 LAB_ICOUNT=0 LAB_XEN='' LAB_XEN_ARGS='' LAB_DEBUG=0 LAB_BASE=4.20
LAB_GUEST_KERNEL=6.12
LAB_KEY=1 LAB_ADDS=() LAB_DISK='' LAB_LINK=''

need_value() { [ "$2" -ge 2 ] || die "$1 needs a value" "$HVCKPT_PROG --help"; }
need_number() { case $2 in ''|*[!0-9]*) die "$1 needs a number, not '$2'" ;; esac; }

# lab_option ARG…: take one common option from the front. Sets TAKEN to the
# number of arguments used, 0 if the first is none of ours.
lab_option() {
    TAKEN=0
    case $1 in
    --type|--vcpus|--mem|--xen|--base|--guest-kernel|--xen-args|--add|--disk|--link) need_value "$1" $#; TAKEN=2 ;;
    --icount|--debug-xen|--no-key) TAKEN=1 ;;
    *) return 0 ;;
    esac
    case $1 in
    --type) case $2 in pv|pvh) LAB_TYPE=$2 ;; *) die "--type is pv or pvh, not '$2'" ;; esac ;;
    --vcpus) need_number "$1" "$2"; LAB_VCPUS=$2 ;;
    --mem) need_number "$1" "$2"; LAB_MEM=$2 ;;
    --xen) LAB_XEN=$2 ;;
    --base) LAB_BASE=$2 ;;
    --guest-kernel) _guest_kernel_suites "$2" >/dev/null; LAB_GUEST_KERNEL=$2 ;;
    --xen-args) LAB_XEN_ARGS+=" $2" ;;
    --add) LAB_ADDS+=("$2") ;;
    --disk)
        [ -f "$2" ] && [ -w "$2" ] || die "no writable disk image $2" "make one: truncate -s 64M FILE; mke2fs -t ext4 FILE"
        LAB_DISK=$(readlink -f "$2") ;;
    --link)
        case $2 in *?:1|*?:2) ;; *) die "--link is FILE:1 or FILE:2, not '$2'" "$HVCKPT_PROG --help" ;; esac
        LAB_LINK=$(readlink -f "$(dirname "$2")")/$(basename "$2") ;;
    --icount) LAB_ICOUNT=1 ;;
    --debug-xen) LAB_DEBUG=1 ;;
    --no-key) LAB_KEY=0 ;;
    esac
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
            src=${a%%:*} dest=${a#"${a%%:*}"}; dest=${dest#:}
            job_add "$t" "$src" "${dest:-/lab/bin/$(basename "$src")}"
        done
    done
    if [ "$LAB_KEY" = 1 ] && [ ! -e "$JOB/dom0/usr/sbin/hvckpt-policy" ]; then
        LAB_KEY=0
        log "no hvckpt-policy in $CRATES_DIR: running without a key"
    fi
    job_conf LAB_TYPE "$LAB_TYPE"; job_conf LAB_VCPUS "$LAB_VCPUS"
    job_conf LAB_MEM "$LAB_MEM"; job_conf LAB_KEY "$LAB_KEY"
    job_conf LAB_HOST "${LAB_LINK##*:}"
    for t in domu dom0; do job_env $t HVCKPT_POLICY=10.84.0.1:4884; done
    job_env domu HVCKPT_KEY=/etc/hvckpt/guest.key
    job_env dom0 HVCKPT_KEY=/tmp/guest.key
    job_env dom0 HVCKPT_DOMU_CFG=/etc/xen/domu.cfg
}
