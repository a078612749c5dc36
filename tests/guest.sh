# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Tests in the emulated machine: few boots, many steps each.

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
    EXAMPLES=${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/release/examples
    host_packages gcc libc6-dev python3
    make_tmpdir GUEST_BIN
    guest_suites
    for src in "$HVCKPT_ROOT"/tests/guest/*.c "$HVCKPT_ROOT"/tests/dom0/*.c; do
        gcc -O2 -Wall -Wextra -I"$HVCKPT_ROOT/tests/include" -I"$HVCKPT_ROOT/xen-patch/include" \
            -o "$GUEST_BIN/$(basename "$src" .c)" "$src" -ldl -lpthread ||
            die "cannot compile $src"
    done
    GUEST_ADD=()
    for src in exact cost refusals attach_race fork_isolation foreign remap stores fuzz_gate insn life latency limits spawn kv kv_load; do GUEST_ADD+=(--add "$EXAMPLES/$src"); done
    for src in "$GUEST_BIN"/* "$HVCKPT_ROOT"/tests/dom0/*.sh; do GUEST_ADD+=(--add "$src"); done
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

# Every tracker of the guest must be there: a suite which skips one fails, and
# so does one which finds more.  $1: the trackers, $2: rounds of the suites, $3:
# transactions compared with bytes, of each by one thread and by several.
suite_steps() {
    local transactions=${HVCKPT_DIFF_TRANSACTIONS:-$3} env
    env="HVCKPT_EXPECT_TRACKERS='$1' HVCKPT_RACING_ROUNDS=$2 HVCKPT_RANDOM_PROGRAMS=$(( $2 / 10 )) HVCKPT_DIFF_TRANSACTIONS=$transactions"
    printf 'domu:900 conformance %s\n' "$(once_more "$env conformance --test-threads 1")"
    printf 'domu:3000 differential %s\n' "$(once_more "$env differential --test-threads 1")"
}

# Random storing instructions against native execution, 500 at a time, each
# time others: a process has room for so many copies of instructions.  $1:
# cases, then options.
insn() {
    local cases=$1; shift
    # shellcheck disable=SC2016 # the guest's shell
    printf 'for n in $(seq %d); do insn %s --seed $n --cases 500 || exit; done' $(( (cases + 499) / 500 )) "$*"
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

# In the emulated machine threaded programs that fork see their heap corrupted,
# without the patch as well (docs/lab.md): glibc's abort, and only that, may be
# repeated once, and says so.
once_more() {
    printf '%s || { test $? = 134 && echo "AGAIN: heap abort, see docs/lab.md" && %s; }' "$1" "$1"
}

# What has to hold on every build of the hypervisor.  $1: forks a test.  $2:
# virtual CPUs.
common_steps() {
    cat <<E
domu:60 doctor hvckpt doctor
domu:120 refusals refusals
domu:120 remap remap
domu:120 stores stores
domu:120 spawn spawn
domu:60 limits limits --tracker ptxen
domu:60 limits-emulxen limits --tracker emulxen
domu-root:60 overtaken limits --tracker ptxen --overtaken && limits --tracker emulxen --overtaken
domu:200 racing exact --tracker ptxen --pages 2048 --threads 4 --transactions 200 --racing
domu:200 odd-size exact --tracker ptxen --pages 777 --threads 3 --transactions 100
domu:100 write-read exact --tracker ptxen --pages 1024 --transactions 60 --writer read
domu:100 write-recv exact --tracker ptxen --pages 1024 --transactions 60 --writer recv
domu:100 write-readv exact --tracker ptxen --pages 1024 --transactions 60 --writer readv
domu:200 write-vm_writev exact --tracker ptxen --pages 1024 --transactions 60 --writer vm_writev
domu:200 write-ptrace exact --tracker ptxen --pages 256 --transactions 30 --writer ptrace
domu:200 autoxen exact --tracker autoxen --pages 2048 --threads 4 --transactions 200
domu:200 autoxen-racing exact --tracker autoxen --pages 256 --threads 4 --transactions 300 --racing
domu:100 autoxen-read exact --tracker autoxen --pages 256 --transactions 60 --writer read
domu:200 scanxen exact --tracker scanxen --pages 2048 --threads 4 --transactions 100
domu:200 scanxen-racing exact --tracker scanxen --pages 256 --threads 4 --transactions 200 --racing
domu:200 emulxen exact --tracker emulxen --pages 512 --threads 4 --transactions 100
domu:200 emulxen-racing exact --tracker emulxen --pages 256 --threads 4 --transactions 100 --racing
domu:100 emulxen-read exact --tracker emulxen --pages 256 --transactions 30 --writer read
domu:200 emulxen-vm exact --tracker emulxen --pages 64 --transactions 20 --writer vm_writev
domu:1500 fork $(once_more "fork_isolation --forks $1")
domu-root:1500 fork-ksm $(once_more "fork_isolation --forks $1 --ksm")
E
    # Of this a fifth is worth as much: the moment that matters is met by most.
    [ "${2:-2}" = 1 ] || printf 'domu-root:600 fork-within fork_isolation --within --forks %d\n' $(( $1 / 5 + 10 ))
    # Two threads which never wait: with one virtual CPU each takes turns.
    [ "${2:-2}" = 1 ] || printf 'dom0:200 attach-race attach-race.sh 500\n'
    printf 'dom0:120 foreign foreign.sh\n'
    printf 'dom0:600 leaks leaks.sh\n'
}

# PAGEMAP_SCAN is exact, or is not there.
scan_step() {
    printf 'domu:300 exact-pagemap-scan exact --tracker pagemap-scan --pages 1024 --threads 4 --transactions 60'
    # shellcheck disable=SC2016 # the guest's shell
    [ -n "$SCAN" ] || printf '; test $? = 2'
    echo
}

guest_pv() {
    # What --long does ten times and more: an idle machine has ten minutes for
    # this boot, and a busy one takes three times as long.
    local cases=${HVCKPT_INSN_CASES:-2000} transactions=3000 exact=300
    [ "$long" = 0 ] || cases=${HVCKPT_INSN_CASES:-100000} transactions=10000 exact=1000
    # Not through a pipe: boot counts, and a subshell would forget.
    boot pv --vcpus 2 < <(
        cat <<E
domu:900 exact-64MiB exact --tracker ptxen --pages 16384 --threads 4 --transactions $exact
domu:300 exact-pt exact --tracker pt --pages 1024 --threads 4 --transactions 60
$(scan_step)
domu:100 exact-emul exact --tracker emul --pages 256 --threads 4 --transactions 30
domu:100 exact-uffd-wp exact --tracker uffd-wp --pages 256 --threads 4 --transactions 30
domu:100 autoxen-blind exact --tracker autoxen --pages 256 --transactions 30 --writer vm_writev; test \$? = 77
domu:150 latency-elsewhere latency --mib 256
domu:100 sabotaged ! exact --tracker ptxen --pages 256 --transactions 10 --sabotage
domu:3000 insn-emulxen $(insn "$cases" --tracker emulxen)
domu:3000 insn-emulxen-low $(insn $(( cases / 2 )) --tracker emulxen --low)
domu:3000 insn-mov $(insn $(( cases / 2 )) --tracker emulxen --only mov --draws 60000)
domu:3000 insn-emul $(insn "$cases" --tracker emul)
E
        suite_steps "autoxen ptxen scanxen emulxen $SCAN uffd-wp pt emul sim" 100 $transactions
        common_steps "$forks"
        printf 'dom0:120 keys keys.sh\n'
        printf 'dom0:300 failover failover.sh\n'
    )
}

guest_debug() { boot debug --debug-xen --vcpus 2 < <(common_steps $(( forks / 3 ))); }

# One virtual CPU: other orders of threads, and Dom0 on the other processor.
single_begin() {
    boot_begin single --vcpus 1 < <(common_steps $(( forks / 10 )) 1)
    boot_begin single-debug --vcpus 1 --debug-xen < <(common_steps $(( forks / 10 )) 1)
}
single_end() { boot_end single; boot_end single-debug; }

# What fuzzing has to leave behind: nothing.
fuzz_steps() {
    local calls='--seconds 45 --calls 20000' controls=10000
    [ "$long" = 0 ] || calls='--calls 1000000' controls=1000000
    cat <<E
dom0:30 free-before sleep 1; xenfree | tee /tmp/free
domu:6000 fuzz fuzz_gate --round 5000 $calls
dom0:6000 fuzz-control fuzz55 $controls
dom0:300 cycles crowd cycles 10000
dom0:100 sessions crowd sessions 500
dom0:30 free-after sleep 1; xenfree; test \$(( \$(cat /tmp/free) - \$(xenfree) )) -le 32
E
}

# What kernels, debuggers, applications and administrators do meanwhile.
guest_life() {
    local block
    block=$(refuse_disk "$logs/refuse.img.gz") || { bad "life: no disk for refuse.sh"; return; }
    boot life --debug-xen --vcpus 2 --add "$EXAMPLES/refused" --add "$logs/refuse.img.gz" < <(
        fuzz_steps
        cat <<'E'
domu:60 mprotect life mprotect
domu:60 free life free
domu:60 free-emulxen life free --tracker emulxen
domu:60 userfaultfd life uffd --transactions 20
domu:60 ptrace life ptrace --transactions 3
domu:60 seccomp life seccomp
domu-root:60 compaction life compact --pages 4096
domu-root:60 ksm life ksm
E
        printf 'dom0:120 refuse-store refuse.sh store %s\n' "$block"
        printf 'dom0:200 refuse-backup refuse.sh backup %s\n' "$block"
        cat <<'E'
dom0:120 pause life.sh pause
dom0:90 vcpu-hotplug life.sh hotplug
dom0:120 ballooning life.sh balloon
dom0:60 cpu-offline life.sh offline
dom0:150 save-restore life.sh restore
dom0:150 reboot life.sh reboot
E
        # Thrashing takes minutes under emulation.
        [ "$long" = 0 ] || printf 'dom0:900 swap life.sh swap\n'
        printf 'dom0:30 end life.sh end\n'
    )
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
        boot xen-4.17 --base 4.17 --vcpus 2 < <(
            common_steps $(( forks / 10 ))
            printf 'dom0:120 keys keys.sh\n' )
    fi
    module=$GUEST_BIN/fuzz_kernel.ko own=$GUEST_BIN/own_vector.ko
    if ( HVCKPT_FAIL_CODE=1; . "$HVCKPT_LIB/all.sh"; cache_init; image_build; guest_kernel_build 6.1
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/fuzz_kernel.c" "$module"
         guest_module_build 6.1 "$HVCKPT_ROOT/tests/guest/module/own_vector.c" "$own" ) >"$logs/module.log" 2>&1; then
        boot linux-6.1 --guest-kernel 6.1 --vcpus 2 --debug-xen --allow "$LINUX_6_1_SAYS" --add "$module" --add "$own" < <(
            cat <<'E'
domu-root:200 kernel insmod /lab/bin/fuzz_kernel.ko calls=500000; cd /sys/module/fuzz_kernel/parameters; grep . *; test $(cat wrong) = 0 && test $(cat faults) = 500000 && test $(cat denials) = 500000
domu-root:60 compaction life compact --pages 4096
domu-root:60 ksm life ksm
E
            common_steps $(( forks / 10 ))
            # The last: it cannot be undone.
            cat <<'E'
domu-root:60 own-vector insmod /lab/bin/own_vector.ko && int84 | tee /tmp/int84; grep -q '^int84: returned 0x0*84848484$' /tmp/int84 && ! grep -q 'returned 0x[1-9a-f][0-9a-f]*0001$' /tmp/int84
E
        )
    else tail -n 20 "$logs/module.log" >&2; bad "linux-6.1: the module (see $logs/module.log)"; fi
}

# Live migration, which needs a hypervisor with shadow paging: to another domain
# of the same host, and to a second host.
guest_hosts() {
    local shadow link
    shadow=$("$HVCKPT_ROOT/scripts/build-xen" --base "$base" --config CONFIG_SHADOW_PAGING=y 2>>"$logs/build.log" | tail -n 1)
    make_tmpdir link
    boot_begin host-2 --xen "$shadow" --vcpus 2 --link "$link/wire:2" <<'E'
dom0:600 arrive life.sh arrive
E
    boot_begin host-1 --xen "$shadow" --vcpus 2 --link "$link/wire:1" <<'E'
dom0:200 migrate life.sh migrate
dom0:30 end life.sh end
dom0:300 migrate-away life.sh migrate-to 10.85.0.2
E
    boot_end host-1
    boot_end host-2
}

# Instruction counts repeat, so they may decide.
icount_begin() {
    boot_begin icount --icount <<E
domu:200 gate cost --gate
domu:200 ptxen-1 cost --tracker ptxen --dirty 1 --pages 1024 --transactions 200
domu:200 ptxen-64 cost --tracker ptxen --dirty 64 --pages 1024 --transactions 200
domu:200 ptxen-256 cost --tracker ptxen --dirty 256 --pages 1024 --transactions 100
domu:200 ptxen-256MiB cost --tracker ptxen --dirty 1 --pages 65536 --transactions 200
domu:200 spread-64 cost --tracker ptxen --dirty 64 --pattern spread --pages 1024 --transactions 200
domu:200 pt-64 cost --tracker pt --dirty 64 --pattern spread --pages 1024 --transactions 40
domu:150 latency latency --mib 256 --limit-ms 10
domu-root:150 fuzz fuzz_gate --threads 1 --workers 1 --round 5000 --calls 20000 --limit-ms 10
dom0:150 fuzz-control fuzz55 5000 1 10
domu:200 auto-64 cost --tracker autoxen --dirty 64 --pages 1024 --transactions 200
domu:200 auto-256 cost --tracker autoxen --dirty 256 --pages 1024 --transactions 100
${SCAN:+domu:200 scan-64 cost --tracker pagemap-scan --dirty 64 --pattern spread --pages 1024 --transactions 40}
E
}
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
    local v
    tax_build "$GUEST_BIN"
    GATES=(unpatched off pvh on)
    if no_pvh "int 0x84, pvh"; then GATES=(unpatched off on); fi
    for v in "${GATES[@]}"; do
        if [ "$v" = pvh ]; then TAX_OPTIONS=(--no-key --type pvh)
        else tax_options "$v" "$base" 2>>"$logs/build.log"; fi
        lab_begin "gate-$v" --icount "${ON[@]}" "${TAX_OPTIONS[@]}" --add "$GUEST_BIN/int84" "${TAX_ADD[@]}" < <(
            echo 'domu:60 int84 int84'
            # Its first token admits the domain.
            [ "$v" != on ] || printf 'domu:60 doctor hvckpt doctor\ndomu:60 int84-admitted int84\n'
            [ "$v" = pvh ] || tax_steps )
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
    boot_begin pvh --type pvh --icount < <(
        cat <<'E'
domu:60 doctor hvckpt doctor
domu:60 ptxen-unavailable exact --tracker ptxen --pages 16 --transactions 1; test $? = 2
domu:300 exact-pt exact --tracker pt --pages 1024 --threads 4 --transactions 60
E
        scan_step
        suite_steps "$SCAN uffd-wp pt emul sim" 100 1000
    )
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
        --add "$EXAMPLES/kv" --add "$EXAMPLES/kv_load" --add "$dir/writes:/lab/bin/writes" --timeout 1200 \
        "$HVCKPT_ROOT/tests/dom0/powercut.sh" "$@" >"$dir/out-$n" 2>"$dir/err-$n" </dev/null
}
