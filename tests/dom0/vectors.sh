#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: the guest "domu" and Dom0 compute in vector registers at the same
# time, on the same processors.
vectors --threads 2 --seconds 4 --seed 1 & own=$!
lab-domu run domu 1000 vectors --threads 2 --seconds 4 --seed 2 || exit 1
wait $own
