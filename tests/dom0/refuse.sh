#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in Dom0: stores on a disk which refuses writes of data for a while, as a
# thin or a failing one does; what the kernel had in memory is gone afterwards.
#  refuse.sh store BLOCK    the program is killed, and starts again
#  refuse.sh backup BLOCK   the backup goes on by itself
# What was acknowledged is there in the end. Before BLOCK, of 4096 bytes, the disk
# has the journal and its directories.
D=/tmp/refuse
M=$D/mnt
LOOP=/dev/loop7
fail() { echo "FAIL $1"; dmesg | tail -n 5; tail -n 5 $D/*.log $D/log; exit 1; }
wait_for() {
    what=$1; shift
    n=0
    until "$@" >/dev/null 2>&1; do
        n=$((n + 1)); [ $n -lt 1000 ] || fail "in vain: $what"
        sleep 0.1
    done
}
full() { [ "$(grep -c 'no space' $D/serve.log)" -ge "$1" ]; }
kept() { ls $M/backup/app $M/backup/app/store; }
lines() { [ "$(grep -c "^$1 " $D/log)" -ge "$2" ]; }
table() {
    echo "0 $DATA linear $LOOP 0"
    if [ "$1" = refuse ]; then echo "$DATA $((SECTORS - DATA)) flakey $LOOP $DATA 0 3600 1 error_writes"
    else echo "$DATA $((SECTORS - DATA)) linear $LOOP $DATA"; fi
}
# The file system hears nothing of it: it would write what it has first.
disk() {
    table "$1" | dmsetup load refuse && dmsetup suspend --nolockfs --noflush refuse &&
        dmsetup resume refuse || fail "the disk does not $1"
}
make_disk() {
    # What a run that failed has left.
    killall -9 refused hvckpt 2>/dev/null; clean_up 2>/dev/null
    mkdir -p $M
    gunzip -c /lab/bin/refuse.img.gz >$D/img || fail "no disk"
    modprobe -a loop dm-mod dm-flakey || fail "no device mapper"
    [ -e $LOOP ] || mknod $LOOP b 7 7
    losetup $LOOP $D/img || fail "no loop device"
    SECTORS=$(($(stat -c %s $D/img) / 512))
    table work | dmsetup create refuse || fail "no mapping"
    dmsetup mknodes
    mount -t ext4 /dev/mapper/refuse $M || fail "cannot mount the disk"
}
# Nothing of it stays in memory, as after a power cut.
forget() {
    umount $M || fail "cannot unmount the disk"
    dmsetup remove refuse
    echo 3 >/proc/sys/vm/drop_caches
    table work | dmsetup create refuse || fail "no mapping"
    dmsetup mknodes
    mount -t ext4 /dev/mapper/refuse $M || fail "cannot mount the disk again"
}
commit() { refused commit "$@" >>$D/commit.log 2>&1 & program=$!; }
end() { kill -9 "$@"; wait "$@" 2>/dev/null; }
clean_up() { umount $M; dmsetup remove refuse; losetup -d $LOOP; rm -rf $D; }

DATA=$((${2:?} * 8))
make_disk
: >$D/log
case $1 in
store)
    commit $M/store $D/log 9
    wait_for "commits" lines a 9
    end $program
    commit $M/store $D/log 1000
    wait_for "more commits" lines a 20
    disk refuse
    wait_for "refusals" lines r 2
    end $program
    disk work
    before=$(grep -c '^a ' $D/log)
    commit $M/store $D/log 5
    wait_for "five more commits" lines a $((before + 5))
    end $program
    grep '^r ' $D/log | cut -d' ' -f3- | sort | uniq -c
    hvckpt verify $M/store || fail "the store is damaged before it is forgotten"
    forget
    refused check $M/store $D/log || fail "what was acknowledged is not there"
    ;;
backup)
    hvckpt backup key add --dir $M/backup --out $D/key app || fail "no key"
    hvckpt backup serve --dir $M/backup --listen 127.0.0.1:4885 >>$D/serve.log 2>&1 &
    serve=$!
    commit $D/store $D/log 1000000 127.0.0.1:4885 $D/key
    wait_for "commits" lines a 20
    for n in 1 2 3; do
        disk refuse
        wait_for "a refusal" grep -c 'disk refused\|cannot sync' $D/serve.log
        sleep 0.$n
        before=$(grep -c '^a ' $D/log)
        : >$D/serve.log
        disk work
        wait_for "more commits" lines a $((before + 20))
    done
    dd if=/dev/zero of=$M/filler bs=64k 2>/dev/null
    dd if=/dev/zero of=$M/crumbs bs=4k 2>/dev/null
    wait_for "a refusal" full 1
    before=$(kept)
    wait_for "more refusals" full 5
    [ "$(kept)" = "$before" ] || { kept; fail "attempts without space leave something"; }
    rm $M/filler $M/crumbs
    before=$(grep -c '^a ' $D/log)
    wait_for "commits on a disk with room" lines a $((before + 20))
    end $program $serve
    forget
    hvckpt backup promote --dir $M/backup app || fail "the backup cannot be promoted"
    refused check $M/backup/app/store $D/log || fail "what was acknowledged is not there"
    ;;
esac
clean_up
