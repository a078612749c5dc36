# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Tests in the emulated machine: few boots, many steps each, which are in
# tests/steps.

# The times of steps and boots are generous for a machine that does nothing
# else; they only end what hangs, so on a busy one they cost nothing to stretch.
PATIENCE=4
export HVCKPT_BOOT_TIMEOUT=${HVCKPT_BOOT_TIMEOUT:-900}
patient() {
    awk -v by=$PATIENCE 'match($0, /^[a-z0-9-]+:[0-9]+/) {
        split(substr($0, 1, RLENGTH), at, ":")
        $0 = at[1] ":" at[2] * by substr($0, RLENGTH + 1) } 1'
}

# What Linux 6.1 says of itself under any Xen, without a tracked page as well
# (docs/lab.md).
LINUX_6_1_SAYS='WARNING: CPU: [0-9]+ PID: [0-9]+ at include/linux/mm_inline.h:[0-9]+ unmap_page_range'

guest_prepare() {
    local src
    # Later options win: a boot may still ask for another.
    ON=(--base "$base" --guest-kernel "$kernel") SCAN=pagemap-scan
    # It has no PAGEMAP_SCAN.
    if [ "$kernel" = 6.1 ]; then ON+=(--allow "$LINUX_6_1_SAYS") SCAN=; fi
    GUEST_RUN=
    on_exit '[ -z "$GUEST_RUN" ] || kill -TERM $GUEST_RUN 2>/dev/null'
    log "building the crates, examples and test programs"
    ( cd "$HVCKPT_ROOT" && cargo build --release --workspace --examples && cargo build --release --workspace ) \
        >"$logs/build.log" 2>&1 </dev/null ||
        { tail -n 30 "$logs/build.log" >&2; die "cargo build failed (log: $logs/build.log)"; }
    BUILT=${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/release
    host_packages gcc libc6-dev python3
    make_tmpdir GUEST_BIN
    guest_suites
    for src in "$HVCKPT_ROOT"/tests/guest/*.c "$HVCKPT_ROOT"/tests/dom0/*.c; do
        gcc -O2 -Wall -Wextra -I"$HVCKPT_ROOT/tests/include" -I"$HVCKPT_ROOT/xen-patch/include" \
            -o "$GUEST_BIN/$(basename "$src" .c)" "$src" -ldl -lpthread ||
            die "cannot compile $src"
    done
    GUEST_ADD=()
    for src in "$HVCKPT_ROOT"/tests/guest/src/bin/*; do GUEST_ADD+=(--add "$BUILT/$(basename "$src" .rs)"); done
    for src in kv kv_load; do GUEST_ADD+=(--add "$BUILT/examples/$src"); done
    for src in "$GUEST_BIN"/* "$HVCKPT_ROOT"/tests/{guest,dom0}/*.sh; do GUEST_ADD+=(--add "$src"); done
}

# The suites over all trackers are programs too.
guest_suites() {
    local suite path
    ( cd "$HVCKPT_ROOT" && cargo test --release --no-run --message-format=json -p hvckpt \
        --test conformance --test differential ) >"$logs/suites.json" 2>>"$logs/build.log" </dev/null ||
        die "the test suites cannot be built (log: $logs/build.log)"
    for suite in conformance differential; do
        path=$(sed -n "s|.*\"name\":\"$suite\".*\"executable\":\"\([^\"]*\)\".*|\1|p" "$logs/suites.json" | tail -n 1)
        [ -f "$path" ] || die "no program of the test suite $suite (see $logs/suites.json)"
        cp "$path" "$GUEST_BIN/$suite"
    done
}

# What `suites.steps` needs.  $1: the trackers of the guest, $2: rounds of the
# suites, $3: transactions compared with bytes.
suites() {
    printf '%s\n' "trackers=$1" "rounds=$2" "programs=$(( $2 / 10 ))" "transactions=${HVCKPT_DIFF_TRANSACTIONS:-$3}"
}

# common FORKS CPUS: what `common.steps` needs.
common() {
    printf '%s\n' "forks=$1" "forks-within=$(( $1 / 5 + 10 ))" "two-cpus=${2#1}"
}

# steps_of BOOT: the steps in tests/steps; the variables on standard input, one a
# line.  Not through a pipe: boot counts, and a subshell would forget.
steps_of() {
    local values
    mapfile -t values
    python3 "$HVCKPT_ROOT/tests/steps.py" "$1" "${values[@]}"
}

# boot NAME [GUEST-RUN-OPTION]...: one boot; the steps come on standard input.
# Every step counts as a test; one that did not run has failed.
boot() { boot_begin "$@"; boot_end "$1"; }

# boot_begin NAME [GUEST-RUN-OPTION]...: in the background.
boot_begin() {
    local name=$1; shift
    lab_begin "$name" --mem 1024 "${ON[@]}" "$@" "${GUEST_ADD[@]}"
}

# lab_begin NAME GUEST-RUN-OPTION...: the same, and nothing but these options.
# Waits while two others run.
declare -A LAB_PID
lab_begin() {
    local name=$1 dir=$logs/$1; shift
    mkdir -p "$dir"
    patient >"$dir/steps"
    labs_below 2
    log "boot '$name': $(grep -c . "$dir/steps") steps (log: $dir)"
    # In the background, so that a signal to this script is acted upon at once.
    HVCKPT_NO_BUILD=1 "$HVCKPT_ROOT/scripts/guest-run" "$@" \
        --console "$dir/console.log" --logs "$dir" --script "$dir/steps" \
        >"$dir/out" 2>"$dir/err" </dev/null &
    LAB_PID[$name]=$!
    GUEST_RUN="$GUEST_RUN $!"
}

# labs_below N: wait until fewer than N run. Sets GUEST_RUN, their processes.
labs_below() {
    local pid left
    while :; do
        left=()
        for pid in $GUEST_RUN; do ! kill -0 "$pid" 2>/dev/null || left+=("$pid"); done
        GUEST_RUN="${left[*]}"
        [ ${#left[@]} -ge "$1" ] || return 0
        sleep 0.3
    done
}

# lab_end NAME: wait for its end. Exit status: its.
lab_end() {
    local rc=0
    wait "${LAB_PID[$1]}" || rc=$?
    labs_below 1000
    return $rc
}

# boot_end NAME: its end, and what came out.
boot_end() {
    local name=$1 dir=$logs/$1 rc=0 step result
    lab_end "$name" || rc=$?
    while read -r _ step _; do
        result=$(sed -n "s/^step $step: //p" "$dir/out" | grep -v '^start$' | tail -n 1 || true)
        case $result in
        ok*) ok "$name: $step ${result#ok }" ;;
        *)
            tail -n 15 "$dir/$step.out" "$dir/$step.err" >&2 2>/dev/null || true
            bad "$name: $step: ${result:-did not run} (see $dir)" ;;
        esac
    done < <(grep . "$dir/steps")
    # Debug builds say so when a count of references is off.
    if grep -E '\(XEN\).*(Bad type|Leaking mfn|Error getting mfn|Could not get page|Type count overflow)' \
        "$dir/console.log" >"$dir/references" 2>/dev/null; then
        head -n 5 "$dir/references" >&2
        bad "$name: page references (see $dir/references)"
    fi
    if [ $rc = 125 ]; then
        tail -n 20 "$dir/err" >&2
        bad "$name: the lab (panic, BUG, assertion, oops or failed boot; see $dir/console.log)"
    fi
}

guest_pv() {
    # What --long does ten times and more: an idle machine has ten minutes for
    # this boot, and a busy one takes three times as long.
    local cases=${HVCKPT_INSN_CASES:-2000} transactions=3000 exact=300
    [ "$long" = 0 ] || cases=${HVCKPT_INSN_CASES:-100000} transactions=10000 exact=1000
    boot pv --vcpus 2 < <({
        printf '%s\n' "scan=$SCAN" "exact=$exact" "insn=$(( (cases + 499) / 500 ))" "insn-half=$(( (cases / 2 + 499) / 500 ))"
        suites "autoxen ptxen scanxen emulxen $SCAN uffd-wp pt emul sim" 100 $transactions
        common "$forks" 2
    } | steps_of pv)
}

guest_debug() { boot debug --debug-xen --vcpus 2 < <(common $(( forks / 3 )) 2 | steps_of debug); }

single_begin() {
    boot_begin single --vcpus 1 < <(common $(( forks / 10 )) 1 | steps_of single)
    boot_begin single-debug --vcpus 1 --debug-xen < <(common $(( forks / 10 )) 1 | steps_of single-debug)
}
single_end() { boot_end single; boot_end single-debug; }

guest_life() {
    local block fuzz='--seconds 45 --calls 20000' controls=10000
    [ "$long" = 0 ] || fuzz='--calls 1000000' controls=1000000
    block=$(refuse_disk "$logs/refuse.img.gz") || { bad "life: no disk for refuse.sh"; return; }
    boot life --debug-xen --vcpus 2 --add "$logs/refuse.img.gz" < <(
        printf '%s\n' "fuzz=$fuzz" "controls=$controls" "block=$block" "long=${long#0}" | steps_of life )
}

# refuse_disk FILE: a file system of which only data can be refused: journal and
# directories come first. Prints the block where data begins.
refuse_disk() {
    local dir
    host_packages e2fsprogs >&2
    dir=$(mktemp -d "$logs/refuse.XXXXXX")
    mkdir -p "$dir/tree/store" "$dir/tree/backup/app/store"
    chmod 700 "$dir/tree/backup" "$dir/tree/backup/app"
    truncate -s 96M "$dir/img"
    mke2fs -q -t ext4 -b 4096 -m 0 -N 512 -J size=4 -E packed_meta_blocks=1,root_owner=0:0 \
        -d "$dir/tree" -F "$dir/img" >&2 || return 1
    dumpe2fs "$dir/img" 2>/dev/null | sed -n 's/.*Free blocks: \([0-9]*\)-.*/\1/p' | grep .
    gzip -9 <"$dir/img" >"$1"
    rm -rf -- "$dir"
}

# Other hypervisors and other guest kernels.
guest_bases() {
    local module own
    if [ "$base" = 4.20 ]; then
        boot xen-4.17 --base 4.17 --vcpus 2 < <(common $(( forks / 10 )) 2 | steps_of xen-4.17)
    fi
    module=$GUEST_BIN/fuzz_kernel.ko own=$GUEST_BIN/own_vector.ko
    if ( HVCKPT_FAIL_CODE=1; . "$HVCKPT_LIB/all.sh"; cache_init; image_build; guest_kernel_build 6.1
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/fuzz_kernel.c" "$module"
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/own_vector.c" "$own" ) >"$logs/module.log" 2>&1; then
        boot linux-6.1 --guest-kernel 6.1 --vcpus 2 --debug-xen --allow "$LINUX_6_1_SAYS" --add "$module" --add "$own" \
            < <(common $(( forks / 10 )) 2 | steps_of linux-6.1)
    else tail -n 20 "$logs/module.log" >&2; bad "linux-6.1: the module (see $logs/module.log)"; fi
}

# Live migration, which needs a hypervisor with shadow paging: to another domain
# of the same host, and to a second host.
guest_hosts() {
    local shadow link
    shadow=$("$HVCKPT_ROOT/scripts/build-xen" --base "$base" --config CONFIG_SHADOW_PAGING=y 2>>"$logs/build.log" | tail -n 1)
    make_tmpdir link
    boot_begin host-2 --xen "$shadow" --vcpus 2 --link "$link/wire:2" < <(steps_of host-2 </dev/null)
    boot_begin host-1 --xen "$shadow" --vcpus 2 --link "$link/wire:1" < <(steps_of host-1 </dev/null)
    boot_end host-1
    boot_end host-2
}

icount_begin() { boot_begin icount --icount < <(echo "scan=$SCAN" | steps_of icount); }
icount_end() {
    local line
    boot_end icount
    while read -r line; do
        case $line in
        ok\ *) ok "icount: ${line#ok }" ;;
        *) bad "icount: ${line#FAIL }" ;;
        esac
    done < <(python3 "$HVCKPT_ROOT/tests/figures.py" "$logs/icount" $SCAN 2>&1)
}

# INT 0x84 must do what it does without the patch, unless it is asked to; and who
# does not use it must not pay.  $logs/gate-NAME gets what each boot printed.
gate_begin() {
    local v on pvh
    tax_build "$GUEST_BIN"
    GATES=(unpatched off pvh on)
    if no_pvh "int 0x84, pvh"; then GATES=(unpatched off on); fi
    for v in "${GATES[@]}"; do
        on= pvh=
        [ "$v" != on ] || on=1
        if [ "$v" = pvh ]; then pvh=1 TAX_OPTIONS=(--no-key --type pvh)
        else tax_options "$v" "$base" 2>>"$logs/build.log"; fi
        lab_begin "gate-$v" --icount "${ON[@]}" "${TAX_OPTIONS[@]}" --add "$GUEST_BIN/int84" "${TAX_ADD[@]}" < <(
            printf '%s\n' "on=$on" "pvh=$pvh" | steps_of gate )
    done
}
gate_end() {
    local v first= line
    for v in "${GATES[@]}"; do
        lab_end "gate-$v" || true
        cp "$logs/gate-$v/int84.out" "$logs/int84-$v" 2>/dev/null || : >"$logs/int84-$v"
        if [ "$(wc -l <"$logs/int84-$v")" != 6 ]; then
            bad "int 0x84, $v: no complete answer (see $logs/gate-$v/err)"
        elif [ -z "$first" ]; then
            first=$logs/int84-$v
            ok "int 0x84, unpatched: recorded"
        elif [ "$v" = on ]; then
            # Xen cannot know of a prefix in front of the instruction: docs/abi.md.
            sed -i '/^int84-66:/s/ rip+1 / rip+0 /' "$logs/int84-on"
            if cmp -s "$first" "$logs/int84-on"; then ok "int 0x84, on: nothing for a domain which was not admitted"
            else diff "$first" "$logs/int84-on" >&2 || true; bad "int 0x84, on, not admitted: differs from the unpatched hypervisor"; fi
            cp "$logs/gate-on/int84-admitted.out" "$logs/int84-on" 2>/dev/null || : >"$logs/int84-on"
            if grep -qE '^int84: returned 0x[1-9a-f][0-9a-f]*0001$' "$logs/int84-on" &&
               grep -q '^int84-compat: returned 0xffffffffffffffa1$' "$logs/int84-on" &&
               cmp -s <(sed -n '4,6p' "$first") <(sed -n '4,6p' "$logs/int84-on"); then
                ok "int 0x84, on: serves 64-bit processes only"
            else cat "$logs/int84-on" >&2; bad "int 0x84, on"; fi
        elif cmp -s "$first" "$logs/int84-$v"; then ok "int 0x84, $v: as on the unpatched hypervisor"
        else diff "$first" "$logs/int84-$v" >&2 || true; bad "int 0x84, $v: differs from the unpatched hypervisor"; fi
    done
    while read -r line; do
        case $line in
        ok\ *) ok "gate: ${line#ok }" ;;
        FAIL\ *) bad "gate: ${line#FAIL }" ;;
        *) log "$line" ;;
        esac
    done < <(python3 "$HVCKPT_LIB/bench/tax.py" "$logs"/gate-{unpatched,off,on} 2>&1)
}

# Unpatched as well (docs/lab.md).
no_pvh() {
    [ "$base" = 4.17 ] || return 1
    skip "$1" "Xen 4.17 boots no PVH guest in this emulator"
}

pvh_begin() {
    if no_pvh "tests in a PVH guest"; then return 0; fi
    # One thread: QEMU's SVM with several sometimes runs a guest into host code.
    boot_begin pvh --type pvh --icount < <({
        echo "scan=$SCAN"
        suites "$SCAN uffd-wp pt emul sim" 100 1000
    } | steps_of pvh)
}
pvh_end() { [ "$base" = 4.17 ] || boot_end pvh; }

# Emulated machines which keep one processor of ours busy each: side by side.
guest_narrow() {
    local g
    for g; do "${g}_begin"; done
    for g; do "${g}_end"; done
}

# The emulator is killed under load, HVCKPT_POWERCUTS times (once); the state
# is on a disk which stays. What was acknowledged before the cut is there after
# it: every boot but the first begins with that comparison.
guest_powercut() {
    local dir=$logs/powercut cuts=${HVCKPT_POWERCUTS:-1} n run rc waited enough
    mkdir -p "$dir"
    host_packages e2fsprogs
    rm -f "$dir/disk"
    truncate -s 96M "$dir/disk"
    mke2fs -q -t ext4 -F "$dir/disk" || { bad "powercut: no disk"; return; }
    : >"$dir/writes"
    for (( n = 1; n <= cuts; n++ )); do
        : >"$dir/out-$n"
        powercut_boot "$n" write "$(( n * 1000000 ))" &
        GUEST_RUN=$!
        enough=0 waited=0
        # guest-run gives up by itself.
        while kill -0 $GUEST_RUN 2>/dev/null && [ $waited -lt 7500 ]; do
            [ "$(grep -c '^a ' "$dir/out-$n" || true)" -lt 100 ] || { enough=1; break; }
            sleep 0.2; waited=$((waited + 1))
        done
        sleep "$(( RANDOM % 2 )).$(( RANDOM % 10 ))"
        # guest-run kills the emulator when it is asked to end.
        kill -TERM $GUEST_RUN 2>/dev/null || true
        rc=0
        wait $GUEST_RUN || rc=$?
        GUEST_RUN=
        if [ $enough = 0 ] || grep -q ^FAIL "$dir/out-$n"; then
            tail -n 15 "$dir/out-$n" "$dir/err-$n" >&2
            bad "powercut $n: status $rc (see $dir)"
            return
        fi
        cat "$dir/out-$n" >>"$dir/writes"
        log "power cut $n of $cuts: $(grep -c '^a ' "$dir/writes") writes acknowledged so far"
    done
    if ( powercut_boot last check ) && grep -q ^exact "$dir/out-last"; then
        ok "powercut: $cuts cuts, $(grep ^exact "$dir/out-last")"
    else
        tail -n 15 "$dir/out-last" "$dir/err-last" >&2
        bad "powercut (see $dir)"
    fi
    rm -f "$dir/disk"
}

# powercut_boot N ARGUMENT…: one boot with the disk; in a subshell, which becomes
# guest-run, so that signals reach that.
powercut_boot() {
    local n=$1; shift
    HVCKPT_NO_BUILD=1 exec "$HVCKPT_ROOT/scripts/guest-run" --in dom0 --no-key "${ON[@]}" --disk "$dir/disk" \
        --add "$BUILT/examples/kv" --add "$BUILT/examples/kv_load" --add "$dir/writes:/lab/bin/writes" --timeout 1200 \
        "$HVCKPT_ROOT/tests/dom0/powercut.sh" "$@" >"$dir/out-$n" 2>"$dir/err-$n" </dev/null
}
