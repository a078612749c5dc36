#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# redis.sh BIN: the key-value server with the tools people know. BIN is the
# directory of hvckpt; the examples are below it. Half a minute.
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
    "$bin/examples/kv" --dir "$dir/store" --listen 127.0.0.1:0 --pages 16384 "${backup[@]}" >"$dir/kv.log" 2>&1 &
    kv=$!
    pids+=("$kv")
    kv_port=$(port "$dir/kv.log" 'ready on')
}
cli() { timeout 120 redis-cli -p "$kv_port" "$@"; }
# is WANTED COMMAND…
is() {
    local wanted=$1 got; shift
    got=$(cli "$@") || fail "$*: no answer"
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

# What clients may not do to each other. No limit of time decides: a minute is
# for a server that never answers.
open() { exec {fd}<>"/dev/tcp/127.0.0.1/$kv_port"; }
close() { exec {fd}>&-; }
# said WANTED WHAT: all that comes until the server closes.
said() {
    local got
    got=$(timeout 60 cat <&"$fd" | tr -d '\r') || fail "$2: not closed"
    [ "$got" = "$1" ] || fail "$2: '$got', not '$1'"
    close
}
open
printf 'PING\r\nQUIT\r\nSET late 1\r\n' >&"$fd"
said $'+PONG\n+OK' "QUIT closes"
is 0 exists late

# Web pages: a browser sends what they like, with a body of commands.
for method in POST PUT GET; do
    python3 - "$kv_port" $method <<'PYTHON' || fail "a $method is answered"
import http.client, sys
server = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
try:
    server.request(sys.argv[2], "/", b"SET web 1\r\n" * 100)
    sys.exit(f"answered with {server.getresponse().status}")
except TimeoutError:
    sys.exit("neither answered nor closed")
except ConnectionError:
    pass
PYTHON
    is 0 exists web
done

# Who does not take his replies, 4 GiB of them, costs others nothing; who takes
# them gets all.
head -c 8388608 /dev/urandom >"$dir/big"
is OK -x set big <"$dir/big"
open
printf 'GET big\r\n%.0s' $(seq 500) >&"$fd"
for (( i = 0; i < 20; i++ )); do is PONG ping; done
cli get big | cmp - <(cat "$dir/big"; echo) || fail "a large value"
printf 'GET big\r\n%.0s' $(seq 20) | redis-cli -p "$kv_port" --pipe >"$dir/pipe.log" || fail "large replies"
grep -q 'errors: 0, replies: 20' "$dir/pipe.log" || fail "not all large replies"
close
peak=$(awk '/^VmHWM/ {print int($2 / 1024)}' "/proc/$kv/status")
[ "$peak" -lt 600 ] || fail "$peak MiB for replies"
is 1 del big

# A command of 28 MB comes in parts, and between them others are served.
long=$(printf '%0280d' 7)
is OK set "$long" 1
{ printf '*100001\r\n$3\r\nDEL\r\n'; yes $'$280\r\n'"$long"$'\r' | head -n 200000 || true; } >"$dir/del"
open
for (( i = 0; i < 27; i++ )); do
    dd if="$dir/del" bs=1M skip=$i count=1 status=none >&"$fd"
    is $((i + 1)) incr turns
done
is 1 exists "$long"
dd if="$dir/del" bs=1M skip=27 status=none >&"$fd"
read -r -t 60 deleted <&"$fd" || fail "no reply to a large command"
[ "$deleted" = $':1\r' ] || fail "a large DEL: $deleted"
close
is 0 exists "$long"
is OK flushall

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
