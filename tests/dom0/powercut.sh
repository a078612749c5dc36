#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: the key-value server on a disk which outlives the machine.
#   powercut.sh check        compare with the log of earlier runs
#   powercut.sh write FROM   compare, then write until the power is cut; the log
#                            goes to standard output
LOG=/lab/bin/writes
fail() { echo "FAIL $1"; cat /tmp/kv.log; exit 1; }
mkdir -p /mnt
mount -t ext4 /dev/vdc /mnt || fail "cannot mount the disk"
kv --dir /mnt/kv --listen 127.0.0.1:6379 --pages 512 >/tmp/kv.log 2>&1 &
if [ -s $LOG ]; then
    kv_load check --server 127.0.0.1:6379 --log $LOG --partial || fail "acknowledged writes are missing"
    hvckpt verify /mnt/kv || fail "the store is damaged"
fi
[ "$1" = write ] || exit 0
exec kv_load run --server 127.0.0.1:6379 --from "$2"
