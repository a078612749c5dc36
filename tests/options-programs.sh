# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# The second half of options.sh: programs, in $bin; examples in $bin/examples.

# program TEXT NAME ARGUMENT…: status 2, and says so.
program() { local text=$1 name=$2; shift 2; no 2 "$text" "$bin/$name" "$@"; }

for p in cost exact insn life latency fuzz_gate fork_isolation foreign vectors examples/kv examples/kv_load; do
    [ -x "$bin/$p" ] || { printf 'SKIP %s: not built in %s\n' "$p" "$bin"; continue; }
    program "unexpected argument" $p --nosuch
done
for p in cost exact; do
    program 'no tracker is called "nosuch"' $p --tracker nosuch
    for o in pages transactions writes; do
        for n in 0 x 1.5 4294967296 $huge; do program "expected 1 to" $p --tracker pt --$o "$n"; done
    done
    # A terabyte and more: said, not tried.
    program "more than the" $p --tracker pt --pages 1000000000
done
program "--dirty must be 1 to --pages" cost --tracker pt --dirty 2000
program "--writes 1 to 512" cost --tracker pt --writes 513
program "not in 1.." cost --gate 0
for n in 0 1025 x $huge; do program "expected 1 to 1024" exact --tracker pt --threads "$n"; done
program "no writer is called x" exact --tracker pt --writer x
program "one thread" exact --tracker pt --threads 2 --writer read

program 'no tracker is called "nosuch"' examples/counter nosuch
program "usage:" examples/counter pt x
program "usage:" examples/store_counter
program "usage:" examples/store_counter "$tmp/new" pt x
program 'no tracker is called "nosuch"' examples/store_counter "$tmp/new" nosuch
program "/proc/x" examples/store_counter /proc/x
program "usage:" examples/store_latency
for n in 0 -1 x $huge; do program "COMMITS is a number" examples/store_latency "$tmp/new" "$n"; done
program 'no tracker is called "nosuch"' examples/store_latency "$tmp/new" 3 nosuch
program 'no tracker is called "nosuch"' examples/kv --dir "$tmp/new" --trackers nosuch
[ ! -e "$tmp/new" ] || { failed=$((failed + 1)); echo "FAIL a directory was made for nothing"; }

program "cannot read" hvckpt-bench-guest "$tmp/nosuch"
program "cannot read" hvckpt-bench-guest "$tmp/dir"
printf '%s\n' '{"kind":"gate","calls":1}' '{"kind":"nosuch"}' >"$tmp/plan"
program "line 2" hvckpt-bench-guest "$tmp/plan"

serve=(hvckpt backup serve --dir "$tmp/backup" --listen)
program "cannot listen" "${serve[@]}" nosuch
for o in keep max-connections max-connections-per-peer idle-timeout; do
    for n in 0 x $huge; do program "--$o" "${serve[@]}" 127.0.0.1:0 --$o "$n"; done
done
program "not in 1..=86400" "${serve[@]}" 127.0.0.1:0 --idle-timeout 18446744073709551615
program "/proc/x" hvckpt backup serve --dir /proc/x --listen 127.0.0.1:0
program "cannot name a primary" hvckpt backup key add --dir "$tmp/backup" --out "$tmp/k" ../n
program "cannot write /proc/x" hvckpt backup key add --dir "$tmp/backup" --out /proc/x n
for n in 0 x $huge; do program "--keep" hvckpt compact --keep "$n" "$tmp/dir"; done
program "there is no store" hvckpt restore "$tmp/nosuch" --output "$tmp/o"
program "--output" hvckpt restore "$tmp/nosuch"
program "--version" hvckpt restore --in-place "$tmp/dir"
program "cannot be used with" hvckpt restore --in-place --version 1 --output "$tmp/o" "$tmp/dir"
program "/proc/x" hvckpt keygen /proc/x

policy=(hvckpt-policy --state "$tmp/state")
for o in listen token-lifetime max-connections max-connections-per-peer deadline key-rate key-burst audit-max-bytes; do
    for n in 0 nosuch $huge; do program "--$o" "${policy[@]}" serve --listen 127.0.0.1:0 --$o "$n"; done
done
program "--audit-keep" "${policy[@]}" serve --listen 127.0.0.1:0 --audit-keep 4294967295
for o in sessions pages expires modes; do
    program "--$o" "${policy[@]}" key add --domain d --out "$tmp/k" --$o nosuch n
done
program "1 to 64 of" "${policy[@]}" key add --domain d --out "$tmp/k" ../n
program "--lines" "${policy[@]}" audit --lines $huge
[ ! -e "$tmp/state" ] || { failed=$((failed + 1)); echo "FAIL a state directory was made for nothing"; }
