#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: a process of the guest "domu" attaches $1 times and races with its
# own cookie; nothing of Xen's memory stays behind.
id=$(xl domid domu) || { echo "FAIL no guest"; exit 1; }
tokens "$id" "$1" &
feeder=$!
trap 'kill $feeder 2>/dev/null' EXIT
before=$(xenfree)
lab-domu run domu 1000 attach_race --attaches "$1" || exit 1
wait $feeder || exit 1
sleep 1
after=$(xenfree)
echo "free pages: $before before, $after after"
test $((before - after)) -le 32
