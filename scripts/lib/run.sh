# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Start the emulated machine for one run and clean up after it.

# lab_prepare: everything a boot needs, built or taken from the cache.
# Uses LAB_XEN (path or empty), LAB_DEBUG. Sets XEN_IMAGE, IMAGE, LABAGENT, QEMU…
lab_prepare() {
    qemu_find
    if [ -n "${LAB_XEN:-}" ]; then
        XEN_IMAGE=$(readlink -f "$LAB_XEN")
        [ -f "$XEN_IMAGE" ] || die "no hypervisor image $LAB_XEN" "scripts/build-xen prints the path of one"
        if [ "$(head -c 2 "$XEN_IMAGE" | od -An -tx1 | tr -d ' ')" = 1f8b ]; then
            gzip -dc "$XEN_IMAGE" >"$RUN/xen" || die "cannot unpack $LAB_XEN"
            XEN_IMAGE=$RUN/xen
        fi
    else
        xen_build "$LAB_BASE" 1 "${LAB_DEBUG:-0}"
    fi
    image_build "$(_lab_series)"
    guest_kernel_build "$LAB_GUEST_KERNEL"
    agent_build
    crates_build
}

# The series of the hypervisor, which the toolstack must match.
_lab_series() {
    case $(cat "$(dirname "$XEN_IMAGE")/info" 2>/dev/null) in
    version=4.17*) echo 4.17 ;;
    *) printf '%s\n' "${LAB_SERIES:-4.20}" ;;
    esac
}

# lab_rundir: sets RUN. Directories of runs that were killed hard go first.
lab_rundir() {
    local d pid
    for d in "${TMPDIR:-/tmp}"/hvckpt-run.*; do
        pid=$(cat "$d/pid" 2>/dev/null) || continue
        kill -0 "$pid" 2>/dev/null || rm -rf -- "$d"
    done
    need_space 300 "${TMPDIR:-/tmp}"
    RUN=$(mktemp -d "${TMPDIR:-/tmp}/hvckpt-run.XXXXXXXX") || die "cannot create a run directory"
    printf '%s\n' $$ >"$RUN/pid"
    on_exit "rm -rf -- '$RUN'"
}

# lab_qemu_args: sets QEMU_ARGS. Uses LAB_ICOUNT, LAB_TURNS, LAB_MEM, LAB_XEN_ARGS, LAB_DISK,
# LAB_LINK.
lab_qemu_args() {
    local xen_args mem
    xen_args="console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all dom0_mem=1024M,max:1024M"
    # The first vCPU is enough for Dom0; scrubbing memory is slow when emulated.
    xen_args+=" dom0_max_vcpus=1 bootscrub=0 noreboot cda=on ${LAB_XEN_ARGS:-}"
    mem=$(( 1024 + 2 * LAB_MEM + 640 ))
    QEMU_ARGS=(-nodefaults -no-user-config -display none -machine pc -cpu "$QEMU_CPU" -m "$mem"
        -kernel "$XEN_IMAGE" -append "$xen_args"
        -initrd "$IMAGE/vmlinux console=hvc0 loglevel=5 panic=-1 watchdog_thresh=60,$RUN/dom0.initrd"
        -drive "file=$IMAGE/dom0.img,format=raw,if=virtio,snapshot=on"
        -drive "file=$RUN/job.tar,format=raw,if=virtio,readonly=on")
    # Not a snapshot: it outlives the machine, also when that is killed.
    [ -z "${LAB_DISK:-}" ] || QEMU_ARGS+=(-drive "file=$LAB_DISK,format=raw,if=virtio,cache=writeback")
    if [ -n "${LAB_LINK:-}" ]; then
        QEMU_ARGS+=(-device "virtio-net-pci,netdev=link,romfile=,mac=52:54:00:84:00:0${LAB_LINK##*:}"
            -netdev "dgram,id=link,local.type=unix,local.path=$LAB_LINK,remote.type=unix,remote.path=${LAB_LINK%:*}:$(( 3 - ${LAB_LINK##*:} ))")
    fi
    if [ "${LAB_ICOUNT:-0}" = 1 ]; then
        QEMU_ARGS+=(-accel tcg,thread=single -icount shift=0,sleep=off -smp 1)
    elif [ "${LAB_TURNS:-0}" = 1 ]; then
        QEMU_ARGS+=(-accel tcg,thread=single -smp 2)
    else
        QEMU_ARGS+=(-accel tcg,thread=multi -smp 2)
    fi
}

# lab_start: QEMU in the background, console in $CONSOLE. Sets QEMU_PID.
lab_start() {
    : >"$CONSOLE" || die "cannot write the console log $CONSOLE"
    # Should this shell be killed hard, the emulator goes with it. The disk's
    # temporary changes live beside the run.
    TMPDIR=$RUN setpriv --pdeathsig KILL "$QEMU" "${QEMU_ARGS[@]}" \
        -serial "file:$CONSOLE" \
        -chardev "socket,id=lab,path=$RUN/lab.sock,server=on,wait=off" \
        -device virtio-serial-pci -device virtserialport,chardev=lab,nr=1,name=lab \
        >"$RUN/qemu.log" 2>&1 </dev/null &
    QEMU_PID=$!
    on_exit "kill -KILL $QEMU_PID 2>/dev/null; wait $QEMU_PID 2>/dev/null"
}
