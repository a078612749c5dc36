#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: which keys open what, and what happens to a live session when
# its key is revoked.
fail() { echo "FAIL $1"; exit 1; }
guest() { lab-domu run domu 1000 sh -c "cd /tmp; export HVCKPT_POLICY=10.84.0.1:4884; $1"; }
deliver() { labagent call -i domu 0 sh -c "cat >/tmp/$2; chown 1000:1000 /tmp/$2; chmod 600 /tmp/$2" <"$1"; }

# Another domain's key: the token is for that domain, useless in this one.
hvckpt-policy key add --domain Domain-0 --out /tmp/dom0.key other >/dev/null || fail "key for Domain-0"
deliver /tmp/dom0.key dom0.key
guest 'HVCKPT_KEY=/tmp/dom0.key exact --tracker ptxen --pages 16 --transactions 1' 2>/tmp/err &&
    fail "another domain's key worked"
cat /tmp/err
grep -qi 'token' /tmp/err || fail "another domain's key: error does not speak of the token"

# No key.
guest 'HVCKPT_KEY=/nonexistent exact --tracker ptxen --pages 16 --transactions 1' 2>/tmp/err && fail "worked without key"
cat /tmp/err

# A key for one tracker opens no other.
hvckpt-policy key add --domain domu --modes ptxen --out /tmp/one.key one >/dev/null || fail "key for ptxen"
deliver /tmp/one.key one.key
guest 'HVCKPT_KEY=/tmp/one.key exact --tracker ptxen --pages 16 --transactions 1' || fail "the key for ptxen"
guest 'HVCKPT_KEY=/tmp/one.key exact --tracker autoxen --pages 16 --transactions 1' 2>/tmp/err && fail "a key for ptxen opened autoxen"
cat /tmp/err
grep -q 'does not allow this tracker' /tmp/err || fail "a tracker which the key does not allow: error does not say so"

# A live session, then its key is revoked.
hvckpt-policy key add --domain domu --out /tmp/short.key short >/dev/null || fail "key add"
deliver /tmp/short.key short.key
guest 'HVCKPT_KEY=/tmp/short.key exact --tracker ptxen --pages 256 --transactions 10000000; echo "exit $?"' >/tmp/live 2>&1 &
n=0
until hvckpt-policy sessions --domain domu | grep -q 256; do
    n=$((n + 1)); [ $n -lt 1200 ] || fail "no session appeared"
    sleep 0.1
done
hvckpt-policy key revoke short || fail "revoke"
wait
cat /tmp/live
grep -q 'administrator ended the session' /tmp/live || fail "the process was not told that it was revoked"
grep -q 'exit [12]' /tmp/live || fail "the process did not end by itself"
guest 'HVCKPT_KEY=/tmp/short.key exact --tracker ptxen --pages 16 --transactions 1' 2>/tmp/err && fail "revoked key worked"
cat /tmp/err
grep -qi 'revoked' /tmp/err || fail "revoked key: error does not say so"
hvckpt-policy audit >/tmp/audit || fail "audit"
grep -q revoke /tmp/audit || fail "the audit log lacks the revocation"
echo "ok keys"
