#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: the key-value server in a guest of its own, a backup in Dom0, a
# client which logs every write that was acknowledged, and redis-benchmark.
#  1. The server is killed under load and recovers in its guest.
#  2. The guest is destroyed under load and the backup takes over in Dom0.
# Each time what is there is compared with the log.
D=/tmp/failover
GUEST=kv
# The store itself is evidence: it fits in the log.
fail() {
    echo "FAIL $1"
    labagent call -t 10 $GUEST 0 sh -c 'ls -l /tmp/kv; hvckpt verify /tmp/kv; tar cz -C /tmp kv | base64' </dev/null 2>&1
    tail -n 5 $D/*.log
    exit 1
}
# wait_for WHAT COMMAND…: ten minutes at most; the step has a limit of its own.
wait_for() {
    what=$1; shift
    n=0
    until "$@" >/dev/null 2>&1; do
        n=$((n + 1)); [ $n -lt 3000 ] || fail "in vain: $what"
        sleep 0.2
    done
}
acknowledged() { [ "$(grep -c '^a ' $D/writes)" -ge "$1" ]; }
serve_kv() {
    lab-domu run $GUEST 1000 kv --dir /tmp/kv --listen 0.0.0.0:6379 --pages 1024 \
        --backup 10.84.0.1:4885 --key /tmp/kv.key >>$D/guest.log 2>&1 &
}
load() {
    kv_load run --server "$ip:6379" --log $D/writes >>$D/load.log 2>&1 &
    load=$!
    wait_for "the server" redis-cli -h "$ip" ping
    redis-benchmark -h "$ip" -t set -r 500 -c 10 -P 4 -n 100000000 >>$D/benchmark.log 2>&1 &
    benchmark=$!
}
# Its keys are "key:NUMBER".
benchmarked() { [ "$(redis-cli -h "$1" dbsize)" -ge 300 ]; }
compare() { kv_load check --server "$1" --log $D/writes --least "$2" --strangers key; }

rm -rf $D; mkdir -p $D; : >$D/writes
hvckpt backup key add --dir $D/backup --out $D/key kv || fail "no key for the backup"
hvckpt backup serve --dir $D/backup --listen 10.84.0.1:4885 >$D/serve.log 2>&1 &
serve=$!
lab-domu create $GUEST memory=384 vcpus=2 || fail "cannot create the guest"
ip=$(awk -v n=$GUEST '$1 == n {print $2}' /lab/domains)
lab-key issue $GUEST $D/policy.key && lab-key deliver $GUEST $D/policy.key || fail "no key of the policy daemon"
labagent call -i $GUEST 0 sh -c 'umask 077; cat >/tmp/kv.key; chown 1000:1000 /tmp/kv.key' <$D/key || fail "cannot deliver the key"

serve_kv
load
wait_for "acknowledged writes" acknowledged 100
wait_for "redis-benchmark" benchmarked "$ip"
lab-domu run $GUEST 0 killall -9 kv || fail "cannot kill the server"
wait $load
kill -9 $benchmark 2>/dev/null
serve_kv
echo "the server is killed in its guest, and recovers there:"
compare "$ip:6379" 100 || fail "acknowledged writes are missing after recovery"

before=$(grep -c '^a ' $D/writes)
load
wait_for "more acknowledged writes" acknowledged $((before + 100))
xl destroy $GUEST || fail "cannot destroy the guest"
# Its connection would only time out; the log is what counts.
kill -9 $load $benchmark 2>/dev/null
wait $load 2>/dev/null
echo "its guest is destroyed, and the backup in Dom0 takes over:"
hvckpt backup promote --dir $D/backup kv || fail "cannot promote"
kv --dir $D/backup/kv/store --listen 127.0.0.1:6379 >$D/heir.log 2>&1 &
heir=$!
compare 127.0.0.1:6379 150 || fail "the backup lacks acknowledged writes"
benchmarked 127.0.0.1 || fail "the backup lacks what redis-benchmark wrote"
grep -h ready $D/guest.log $D/heir.log
kill $heir $serve
echo "ok failover"
