#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: a guest that used sessions in every way gives back all memory,
# when its processes end and when it ends.
set -e
cycle() {
    lab-domu create leak memory=384 vcpus=1 >/dev/null
    hvckpt-policy key add --domain leak --out /tmp/leak.key leak >/dev/null
    lab-key deliver leak /tmp/leak.key
    lab-domu run leak 1000 sh -c 'HVCKPT_POLICY=10.84.0.1:4884; HVCKPT_KEY=/etc/hvckpt/guest.key
        export HVCKPT_POLICY HVCKPT_KEY; cd /tmp
        for i in 1 2 3 4; do exact --tracker ptxen --pages 4096 --transactions 3 >/dev/null || exit 1; done
        # One that is killed in the middle of it, and one that outlives the guest.
        exact --tracker ptxen --pages 4096 --transactions 100000 >/dev/null & p=$!
        exact --tracker ptxen --pages 1024 --transactions 1000000 >/dev/null 2>&1 &
        sleep 1; kill -9 $p; sleep 1'
    hvckpt-policy sessions --domain leak
    xl destroy leak
    n=0
    while xl list | grep -qE 'leak|\(null\)' && [ $n -lt 600 ]; do sleep 0.2; n=$((n + 1)); done
    if xl list | grep -E 'leak|\(null\)'; then echo "a zombie is left"; exit 1; fi
    hvckpt-policy key revoke leak
    rm -f /tmp/leak.key
    sleep 1
}
cycle
before=$(xenfree)
cycle
after=$(xenfree)
echo "free pages: $before before, $after after another guest"
# A session of 1024 pages alone would leave more than this behind.
test $((before - after)) -le 2
