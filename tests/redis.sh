#!/bin/bash
# redis.sh BIN: the key-value server with the tools people know. BIN is the
# directory of hvckpt; the examples are below it. A few seconds.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
pids=()
trap 'kill -9 "${pids[@]}" 2>/dev/null || true; rm -rf "$dir"' EXIT
fail() { echo "FAIL $*"; cat "$dir"/*.log; exit 1; }
# port LOG WORDS: the port which a server says it listens on.
port() {
    local n
    for (( n = 0; n < 2400; n++ )); do
        sed -n "s/.*$2.*:\([0-9]*\)$/\1/p" "$1" | grep . && return 0
        sleep 0.05
    done
    fail "no server: $1"
}
serve() {
    : >"$dir/kv.log"
    "$bin/examples/kv" --dir "$dir/store" --listen 127.0.0.1:0 --pages 4096 "${backup[@]}" >"$dir/kv.log" 2>&1 &
    kv=$!
    pids+=("$kv")
    kv_port=$(port "$dir/kv.log" 'ready on')
}
cli() { redis-cli -p "$kv_port" "$@"; }
# is WANTED COMMAND…
is() {
    local wanted=$1 got; shift
    got=$(cli "$@")
    [ "$got" = "$wanted" ] || fail "$*: '$got', not '$wanted'"
}

"$bin/hvckpt" backup key add --dir "$dir/backup" --out "$dir/key" kv
"$bin/hvckpt" backup serve --dir "$dir/backup" --listen 127.0.0.1:0 >"$dir/backup.log" 2>&1 &
pids+=($!)
backup=(--backup "127.0.0.1:$(port "$dir/backup.log" 'listening on')" --key "$dir/key")
serve

is PONG ping
is OK set a 41
is 42 incr a
is 42 get a
is '' get b
is 1 exists a b
is OK mset x 1 y 2
is $'1\n2' mget x y
is 3 dbsize
is 2 del x y z
is 'ERR value is not an integer or out of range' incrby a nonsense
is save config get save
cli command >/dev/null
cli info | grep -q '^link:Streaming' || fail "not replicated"
printf 'SET p%d v\r\n' $(seq 500) | redis-cli -p "$kv_port" --pipe | grep -q 'errors: 0, replies: 500' || fail "pipelining"
is OK flushall
is 0 dbsize

redis-benchmark -p "$kv_port" -t ping,set,get,incr,mset -n 2000 -r 1000 -c 20 -P 8 --csv
keys=$(cli dbsize)
[ "$keys" -gt 500 ] || fail "only $keys keys"
kill -9 "$kv"
wait "$kv" 2>/dev/null || true
serve
is "$keys" dbsize
"$bin/hvckpt" backup status --dir "$dir/backup"
"$bin/hvckpt" verify "$dir/backup/kv/store"
echo "ok redis"
