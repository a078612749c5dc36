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
    on_exit labs_kill
    log "building the crates, examples and test programs (three minutes when new)"
    guest_crates
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

# All at once: cargo would build what they have in common for each anew. The
# suites over all trackers are programs too.
guest_crates() {
    ( cd "$HVCKPT_ROOT" && cargo build --release --workspace --lib --bins --examples \
        --test conformance --test differential --message-format=json ) \
        >"$logs/crates.json" 2>"$logs/build.log" </dev/null ||
        { tail -n 30 "$logs/build.log" >&2; die "cargo build failed (log: $logs/build.log)"; }
    BUILT=${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/release
}

guest_suites() {
    local suite path
    for suite in conformance differential; do
        path=$(sed -n "s|.*\"name\":\"$suite\".*\"executable\":\"\([^\"]*\)\".*|\1|p" "$logs/crates.json" | tail -n 1)
        [ -f "$path" ] || die "no program of the test suite $suite (see $logs/crates.json)"
        cp "$path" "$GUEST_BIN/$suite"
    done
}

# What `suites.steps` needs.  $1: the trackers of the guest, $2: rounds of the
# suites, $3: transactions compared with bytes.
suites() {
    printf '%s\n' "trackers=$1" "rounds=$2" "programs=$(( $2 / 10 ))" "transactions=${HVCKPT_DIFF_TRANSACTIONS:-$3}"
}

# common FORKS CPUS [ALL [LEAKS]]: what `common.steps` needs.
common() {
    printf '%s\n' "forks=$1" "forks-within=$(( $1 / 10 + 10 ))" "two-cpus=${2#1}" "all=${3:-${long#0}}" "leaks=${4:-${long#0}}"
}

# steps_of BOOT: the steps in tests/steps; the variables on standard input, one a
# line.  Not through a pipe: boot counts, and a subshell would forget.
steps_of() {
    local values
    mapfile -t values
    python3 "$HVCKPT_ROOT/tests/steps.py" "$1" "${values[@]}"
}

# boot NAME [GUEST-RUN-OPTION]...: one boot, in the background; the steps come on
# standard input. Every step counts as a test; one that did not run has failed.
boot() { boot_then boot_end "$@"; }
# The same by one thread: not where threads spin, for then each has to wait until
# the other's turn ends.
boot_turns() { boot "$@" --turns; }

# boot_then END NAME [GUEST-RUN-OPTION]...: and END looks at what came out.
boot_then() {
    local end=$1 name=$2; shift 2
    lab "$name" "$end" --mem 1024 "${ON[@]}" "$@" "${GUEST_ADD[@]}"
}

# lab NAME END GUEST-RUN-OPTION...: the same, and nothing but these options. END
# is called with the name and the exit status, at a later call of these. Waits
# while two others run.
# Two threads which emulate processors that wait for each other need both of this
# machine's: one such lab at a time, and what one thread emulates has what is left.
declare -A LAB_PID=() LAB_END=()
LAB_PAIR=
lab() {
    local name=$1 end=$2 dir=$logs/$1 nice=(nice -n 19); shift 2
    mkdir -p "$dir"
    patient >"$dir/steps"
    labs_below 2
    case " $* " in
    *' --turns '*|*' --icount '*) ;;
    *)
        while [ -n "${LAB_PAIR:+${LAB_PID[$LAB_PAIR]:-}}" ]; do labs_below ${#LAB_PID[@]}; done
        LAB_PAIR=$name nice=() ;;
    esac
    log "boot '$name': $(grep -c . "$dir/steps") steps (log: $dir)"
    # In the background, so that a signal to this script is acted upon at once.
    HVCKPT_NO_BUILD=1 "${nice[@]}" "$HVCKPT_ROOT/scripts/guest-run" "$@" \
        --console "$dir/console.log" --logs "$dir" --script "$dir/steps" \
        >"$dir/out" 2>"$dir/err" </dev/null &
    LAB_PID[$name]=$! LAB_END[$name]=$end
}

# labs_below N: wait until fewer than N run.
labs_below() {
    local name rc
    while :; do
        for name in "${!LAB_PID[@]}"; do
            kill -0 "${LAB_PID[$name]}" 2>/dev/null && continue
            rc=0
            wait "${LAB_PID[$name]}" || rc=$?
            unset "LAB_PID[$name]"
            "${LAB_END[$name]}" "$name" $rc
        done
        [ ${#LAB_PID[@]} -ge "$1" ] || return 0
        sleep 0.3
    done
}

POWERCUT=
# shellcheck disable=SC2086 # none, or one
labs_kill() { kill -TERM "${LAB_PID[@]}" $POWERCUT 2>/dev/null || true; }

# boot_end NAME STATUS: what came out.
boot_end() {
    local name=$1 rc=$2 dir=$logs/$1 step result
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
    # --long does several times as much.
    local cases=${HVCKPT_INSN_CASES:-1000} transactions=1000 exact=150 rounds=50
    [ "$long" = 0 ] || cases=${HVCKPT_INSN_CASES:-100000} transactions=10000 exact=1000 rounds=100
    boot pv --vcpus 2 < <({
        printf '%s\n' "scan=$SCAN" "exact=$exact" "insn=$(( (cases + 499) / 500 ))" "insn-half=$(( (cases / 2 + 499) / 500 ))"
        suites "autoxen ptxen scanxen emulxen $SCAN uffd-wp pt emul sim" $rounds $transactions
        common "$forks" 2 1
    } | steps_of pv)
}

guest_debug() { boot debug --debug-xen --vcpus 2 < <(common $(( forks / 10 )) 2 1 1 | steps_of debug); }

guest_single() {
    boot single-debug --vcpus 1 --debug-xen < <(common $(( forks / 10 )) 1 | steps_of single-debug)
    if [ "$long" = 0 ]; then skip "single: one virtual CPU, no assertions" "--long"; return; fi
    boot single --vcpus 1 < <(common $(( forks / 10 )) 1 | steps_of single)
}

guest_life() {
    local block fuzz='--seconds 45 --calls 20000' controls=10000
    [ "$long" = 0 ] || fuzz='--calls 1000000' controls=1000000
    block=$(refuse_disk "$logs/refuse.img.gz") || { bad "life: no disk for refuse.sh"; return; }
    boot_turns life --debug-xen --vcpus 2 --add "$logs/refuse.img.gz" < <(
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
        boot xen-4.17 --base 4.17 --vcpus 2 < <(common $(( forks / 20 )) 2 | steps_of xen-4.17)
    fi
    module=$GUEST_BIN/fuzz_kernel.ko own=$GUEST_BIN/own_vector.ko
    if ( HVCKPT_FAIL_CODE=1; . "$HVCKPT_LIB/all.sh"; cache_init; image_build; guest_kernel_build 6.1
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/fuzz_kernel.c" "$module"
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/own_vector.c" "$own" ) >"$logs/module.log" 2>&1; then
        boot linux-6.1 --guest-kernel 6.1 --vcpus 2 --debug-xen --allow "$LINUX_6_1_SAYS" --add "$module" --add "$own" \
            < <(common $(( forks / 20 )) 2 | steps_of linux-6.1)
    else tail -n 20 "$logs/module.log" >&2; bad "linux-6.1: the module (see $logs/module.log)"; fi
}

# Live migration, which needs a hypervisor with shadow paging: to another domain
# of the same host, and to a second host.
guest_hosts() {
    local shadow link
    shadow=$("$HVCKPT_ROOT/scripts/build-xen" --base "$base" --config CONFIG_SHADOW_PAGING=y 2>>"$logs/build.log" | tail -n 1)
    make_tmpdir link
    labs_below 1
    boot_turns host-2 --xen "$shadow" --vcpus 2 --link "$link/wire:2" < <(steps_of host-2 </dev/null)
    boot_turns host-1 --xen "$shadow" --vcpus 2 --link "$link/wire:1" < <(steps_of host-1 </dev/null)
}

guest_icount() { boot_then icount_end icount --icount < <(echo "scan=$SCAN" | steps_of icount); }
icount_end() {
    local line
    boot_end "$@"
    while read -r line; do
        case $line in
        ok\ *) ok "icount: ${line#ok }" ;;
        *) bad "icount: ${line#FAIL }" ;;
        esac
    done < <(python3 "$HVCKPT_ROOT/tests/figures.py" "$logs/icount" $SCAN 2>&1)
}

# INT 0x84 must do what it does without the patch, unless it is asked to; and who
# does not use it must not pay.  $logs/gate-NAME gets what each boot printed.
guest_gate() {
    local v on pvh
    tax_build "$GUEST_BIN"
    GATES=(unpatched off pvh on)
    if no_pvh "int 0x84, pvh"; then GATES=(unpatched off on); fi
    GATES_LEFT=${#GATES[@]}
    for v in "${GATES[@]}"; do
        on= pvh=
        [ "$v" != on ] || on=1
        if [ "$v" = pvh ]; then pvh=1 TAX_OPTIONS=(--no-key --type pvh)
        else tax_options "$v" "$base" 2>>"$logs/build.log"; fi
        lab "gate-$v" gate_end --icount "${ON[@]}" "${TAX_OPTIONS[@]}" --add "$GUEST_BIN/int84" "${TAX_ADD[@]}" < <(
            printf '%s\n' "on=$on" "pvh=$pvh" | steps_of gate )
    done
}
# The answers are compared when all are there.
gate_end() {
    local v first= line
    GATES_LEFT=$((GATES_LEFT - 1))
    [ $GATES_LEFT = 0 ] || return 0
    for v in "${GATES[@]}"; do
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

guest_pvh() {
    if no_pvh "tests in a PVH guest"; then return 0; fi
    # One thread: QEMU's SVM with several sometimes runs a guest into host code.
    boot pvh --type pvh --icount < <({
        echo "scan=$SCAN"
        suites "$SCAN uffd-wp pt emul sim" 50 1000
    } | steps_of pvh)
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
    labs_below 2
    for (( n = 1; n <= cuts; n++ )); do
        : >"$dir/out-$n"
        powercut_boot "$n" write "$(( n * 1000000 ))" &
        POWERCUT=$!
        enough=0 waited=0
        # guest-run gives up by itself.
        while kill -0 $POWERCUT 2>/dev/null && [ $waited -lt 7500 ]; do
            [ "$(grep -c '^a ' "$dir/out-$n" || true)" -lt 100 ] || { enough=1; break; }
            sleep 0.2; waited=$((waited + 1))
        done
        sleep "$(( RANDOM % 2 )).$(( RANDOM % 10 ))"
        # guest-run kills the emulator when it is asked to end.
        kill -TERM $POWERCUT 2>/dev/null || true
        rc=0
        wait $POWERCUT || rc=$?
        POWERCUT=
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
    HVCKPT_NO_BUILD=1 exec "$HVCKPT_ROOT/scripts/guest-run" --in dom0 --no-key --turns "${ON[@]}" --disk "$dir/disk" \
        --add "$BUILT/examples/kv" --add "$BUILT/examples/kv_load" --add "$dir/writes:/lab/bin/writes" --timeout 1200 \
        "$HVCKPT_ROOT/tests/dom0/powercut.sh" "$@" >"$dir/out-$n" 2>"$dir/err-$n" </dev/null
}
