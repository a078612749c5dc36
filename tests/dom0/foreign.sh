#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: a process of Dom0's tracks a range with grants in it, and with a
# page of the guest "domu": of its console's ring, whose end is free.
fail() { echo "FAIL $*"; exit 1; }
trap 'hvckpt-policy key revoke dom0 >/dev/null; rm -f /tmp/dom0.key' EXIT
hvckpt-policy key add --domain Domain-0 --out /tmp/dom0.key dom0 >/dev/null || fail "no key"
id=$(xl domid domu) && frame=$(xenstore-read "/local/domain/$id/console/ring-ref") || fail "no guest"
HVCKPT_POLICY=10.84.0.1:4884 HVCKPT_KEY=/tmp/dom0.key foreign --domain "$id" --frame "$frame"
