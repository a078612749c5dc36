#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: what an administrator does to a guest while one of its
# processes has a transaction open.
#   life.sh pause|hotplug|balloon|offline|swap|restore|migrate|reboot|end
#   life.sh migrate-to ADDRESS     to the host there, on which "arrive" waits
#   life.sh arrive
# Each makes the guest "life" if there is none; "end" destroys it.
MEMORY=256
PORT=4885
fail() { echo "FAIL $*"; lab-domu run life 1000 cat /tmp/out 2>/dev/null; exit 1; }
# wait_for SECONDS COMMAND...: five times as long, should the machine be busy.
wait_for() {
    n=$(($1 * 25)); shift
    until "$@" >/dev/null 2>&1; do
        n=$((n - 1)); [ $n -gt 0 ] || return 1
        sleep 0.2
    done
}
root() { lab-domu run life 0 sh -c "$1"; }
user() {
    lab-domu run life 1000 sh -c "cd /tmp; export HVCKPT_POLICY=10.84.0.1:4884 HVCKPT_KEY=/etc/hvckpt/guest.key; $1"
}
key() {
    hvckpt-policy key revoke life >/dev/null 2>&1
    rm -f /tmp/life.key
    hvckpt-policy key add --domain life --out /tmp/life.key life >/dev/null && lab-key deliver life /tmp/life.key
}
guest() {
    xl domid life >/dev/null 2>&1 && return 0
    lab-domu create life memory=$MEMORY maxmem=$MEMORY vcpus=2 "on_reboot='restart'" >/dev/null || fail "no guest"
    key || { xl destroy life; fail "no key"; }
}
# start ARG...: the program, in the background; finish: its end.
start() {
    guest
    user "rm -f stop stop.ready rc; (life $* --stop /tmp/stop >out 2>&1; echo \$? >rc) </dev/null >/dev/null 2>&1 &" ||
        fail "cannot start"
    # One that ended at once is not waited for.
    wait_for 60 user 'test -e stop.ready -o -s rc' && user 'test -e stop.ready' || fail "the program is not ready"
}
ended() { wait_for "$1" user 'test -s rc' || fail "the program does not end"; }
finish() {
    user 'touch stop' || fail "the guest does not answer"
    ended 60
    user 'cat out; exit $(cat rc)' || fail "the program failed"
}
cpus() { [ "$(root 'grep -c ^processor /proc/cpuinfo')" = "$1" ]; }
total() { root "awk '/MemTotal/ {exit !(\$2 $1)}' /proc/meminfo"; }

case $1 in
pause)
    start steady --seconds 500
    for i in 1 2 3 4 5; do
        xl pause life && sleep 0.3 && xl unpause life && sleep 0.3 || fail "xl pause"
    done
    finish ;;
hotplug)
    start steady --seconds 500
    for i in 1 2 3; do
        xl vcpu-set life 1 && wait_for 20 cpus 1 || fail "a virtual CPU does not go"
        xl vcpu-set life 2
        # Linux leaves it to the guest's administrator to use it.
        wait_for 20 root 'echo 1 >/sys/devices/system/cpu/cpu1/online'
        wait_for 20 cpus 2 || fail "a virtual CPU does not come"
    done
    finish ;;
balloon)
    start steady --pages 4096 --seconds 500
    for i in 1 2; do
        xl mem-set life $((MEMORY - 80)) && wait_for 30 total "<$(((MEMORY - 90) * 1024))" || fail "memory does not go"
        xl mem-set life $MEMORY && wait_for 30 total ">$(((MEMORY - 90) * 1024))" || fail "memory does not come"
    done
    finish ;;
offline)
    start steady --seconds 500
    for i in 1 2 3; do
        xen-hptool cpu-offline 1 >/dev/null && sleep 0.5 && xen-hptool cpu-online 1 >/dev/null && sleep 0.5 ||
            fail "xen-hptool"
    done
    finish ;;
swap)
    guest
    [ -e /tmp/swap.img ] || {
        modprobe -a loop xen-blkback && wait_for 5 test -b /dev/loop0 || fail "no loop device"
        dd if=/dev/zero of=/tmp/swap.img bs=1M count=160 status=none && mkswap -q /tmp/swap.img &&
            losetup /dev/loop0 /tmp/swap.img || fail "no disk to swap on"
        # The stock hotplug script takes longer than libxl waits, under emulation.
        cat >/tmp/block <<'X'
#!/bin/sh
[ "$1" != add ] || xenstore-write "$XENBUS_PATH/physical-device" 7:0 "$XENBUS_PATH/hotplug-status" connected
X
        chmod +x /tmp/block
        xl block-attach life format=raw,vdev=xvdb,access=rw,backendtype=phy,script=/tmp/block,target=/dev/loop0 ||
            fail "xl block-attach"
        wait_for 20 root 'test -b /dev/xvdb' && root 'swapon /dev/xvdb' || fail "swapon"
    }
    lab-domu run life 0 sh -c 'cd /tmp; export HVCKPT_POLICY=10.84.0.1:4884 HVCKPT_KEY=/etc/hvckpt/guest.key
        exec life swap --pages 2048 --transactions 5 --seconds 300' || fail "swapping"
    root 'swapoff /dev/xvdb' && xl block-detach life xvdb && losetup -d /dev/loop0 && rm /tmp/swap.img ;;
restore)
    start ended --seconds 500
    xl save life /tmp/life.save && xl restore /tmp/life.save || fail "save and restore"
    rm -f /tmp/life.save
    ended 100
    user 'cat out; exit $(cat rc)' || fail "the program failed" ;;
migrate)
    start ended --seconds 500
    # To this host: another domain there, and log-dirty mode on the way.
    xl migrate -s '' life 'xl migrate-receive' || fail "xl migrate"
    ended 100
    user 'cat out; exit $(cat rc)' || fail "the program failed" ;;
migrate-to)
    start ended --seconds 500
    # busybox's nc copies by the kilobyte.
    xl migrate -s '' life "exec bash -c 'exec 3<>/dev/tcp/$2/$PORT; cat <&3 & exec cat >&3'" || fail "xl migrate"
    xl domid life 2>/dev/null && fail "the domain is still here" ;;
arrive)
    # Guests have their addresses by name and order: the same on both hosts.
    lab-domu config life >/dev/null
    timeout 2000 busybox nc -l -p $PORT -e xl migrate-receive || fail "nobody came"
    wait_for 20 root true || fail "the guest does not answer"
    # Of this host; the program waits for it.
    key || fail "no key"
    ended 100
    user 'cat out; exit $(cat rc)' || fail "the program failed"
    user 'exact --tracker ptxen --pages 256 --transactions 10' || fail "tracking after the migration" ;;
reboot)
    start steady --seconds 500
    before=$(xl domid life)
    root 'reboot -f' 2>/dev/null
    other() { after=$(xl domid life) && [ "$after" != "$before" ]; }
    wait_for 60 other && wait_for 60 root true || fail "the guest does not come back"
    hvckpt-policy sessions --domain life | grep 1024 && fail "a session outlived its kernel"
    key || fail "no key"
    user 'exact --tracker ptxen --pages 256 --transactions 10' || fail "tracking after the reboot" ;;
end)
    xl destroy life
    hvckpt-policy key revoke life
    rm -f /tmp/life.key ;;
*) sed -n '2,7p' "$0" >&2; exit 2 ;;
esac
echo "ok $1"
