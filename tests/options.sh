#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What makes no sense is refused at once, by name, before anything is built,
# installed, downloaded or booted.
#
# usage: tests/options.sh [DIRECTORY]   (with the programs, as target/debug)
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
root=$PWD bin=$(readlink -f "${1:-target/debug}")
tmp=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT

# Whoever begins something long leaves a mark.
mkdir "$tmp/path"
for p in cargo apt-get apt-cache sudo make qemu-system-x86_64 gcc cc xen-build; do
    printf '#!/bin/sh\necho "%s $*" >>"%s"\nexit 9\n' $p "$tmp/begun" >"$tmp/path/$p"
done
chmod +x "$tmp/path"/*
export HVCKPT_CACHE=$tmp/cache HVCKPT_QEMU=qemu-system-x86_64 PATH=$tmp/path:$PATH
unset HVCKPT_KEY HVCKPT_POLICY HVCKPT_KILLS HVCKPT_CRASHES HVCKPT_POWERCUTS HVCKPT_FUZZ_SECONDS

tried=0 failed=0
bad() { printf 'FAIL %s\n' "$*"; sed 's/^/    /' "$tmp/err"; failed=$((failed + 1)); }
# run COMMAND…: sets rc; standard error is in $tmp/err.
run() {
    tried=$((tried + 1)) rc=0
    rm -f "$tmp/begun"
    timeout 60 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || rc=$?
}
# no STATUS TEXT COMMAND…: refused with that status, and says so.
no() {
    local want=$1 text=$2; shift 2
    run "$@"
    if [ $rc != "$want" ]; then bad "status $rc, not $want: $*"
    elif ! grep -qiF -e "$text" "$tmp/err"; then bad "no '$text': $*"
    elif grep -q -e 'panicked' -e 'scripts/.*: line [0-9]' "$tmp/err"; then bad "not a message of its own: $*"
    elif [ -e "$tmp/begun" ]; then bad "began with $(head -n 1 "$tmp/begun"): $*"
    fi
}
# Of the scripts.
script() { local text=$1 name=$2; shift 2; no 2 "$text" "scripts/$name" "$@"; }
lab() { local text=$1 name=$2; shift 2; no 125 "$text" "scripts/$name" "$@"; }

touch "$tmp/file" "$tmp/other"
mkdir "$tmp/dir" "$tmp/tree" "$tmp/results"
printf '#!/bin/sh\n' >"$tmp/program"; chmod +x "$tmp/program"
printf 'domu a true\n' >"$tmp/steps"
tar -C "$tmp" -cf "$tmp/nothing.tar" dir
ln -s /proc "$tmp/closed"   # nobody may make a file there
huge=99999999999999999999

# --- each script ------------------------------------------------------------------
for s in bench boot build-xen demo guest-run test; do
    run scripts/$s --help
    [ $rc = 0 ] && grep -q "^usage: $s\|^$s:" "$tmp/out" || bad "scripts/$s --help"
    case $s in boot|guest-run) refused=lab ;; *) refused=script ;; esac
    $refused "unknown option '--nosuch'" $s --nosuch
    case $s in bench) o=--out ;; boot|guest-run) o=--add ;; build-xen) o=--base ;; demo) o=--keep ;; test) o=--only ;; esac
    $refused "$o needs a value" $s $o
    $refused "$o needs a value" $s $o=
    $refused "$o needs a value, not the option '--x'" $s $o --x
done

script "no 'nosuch'" bench --trackers nosuch
script "pagemap-scan" bench --quick --trackers "ptxen nosuch" --out "$tmp/new"
script "names none" bench --trackers " "
script "pt twice" bench --trackers "pt pt"
for n in 0 9 -1 x 1.5 $huge; do script "--transactions is a number" bench --transactions "$n"; done
for n in 0 -1 x 1e9 $huge; do script "--budget is a number" bench --budget "$n"; done
script "--quick decides" bench --quick --transactions 100
script "--quick decides" bench --budget 3 --quick
script "not a directory" bench --quick --out "$tmp/file"
script "cannot" bench --quick --out "$tmp/closed/x"
script "not a directory" bench --quick --keep "$tmp/file"
script "cannot write" bench --quick --out "$tmp/closed"
script "--out lies in" bench --quick --keep "$tmp/dir" --out "$tmp/dir/results"
script "no such file" bench --xen "$tmp/nosuch"
script "is a directory" bench --xen "$tmp/dir"
script "no such directory" bench --report "$tmp/nosuch"
script "micro.csv is missing" bench --report "$tmp/results"
script "takes no other option" bench --report "$tmp/results" --quick

no 2 "PERCENT is a number" python3 scripts/lib/bench/compare.py bench/results bench/results -1
no 2 "could not convert" python3 scripts/lib/bench/compare.py bench/results bench/results x
no 2 "No such file" python3 scripts/lib/bench/compare.py "$tmp/dir" "$tmp/dir"
no 2 "no such directory" python3 scripts/lib/bench/report.py "$tmp/nosuch"

script "no group's name contains 'nosuch'" test --only nosuch
script "one of: host patch" test --only host,nosuch
script "next: one of: host" test --only nosuch
no 2 "no group's name contains 'nosuch'" .ci/run --only nosuch
script "names no group" test --only ,
script "leaves all of it out" test --fast --only pv
script "--fast leaves out" test --fast --base 4.17
script "--fast leaves out" test --forks 3 --fast
for n in 0 -3 many $huge; do
    script "--forks is a number" test --forks "$n"
    script "--minutes is a number" test --minutes "$n"
done
script "no such source" test --base 4.99
script "no xen/Makefile" test --base "$tmp/dir"
script "no '5.4'" test --guest-kernel 5.4
script "not a directory" test --only host --logs "$tmp/file"
script "cannot" test --only host --logs "$tmp/closed/x"
for v in POWERCUTS KILLS CRASHES FUZZ_SECONDS; do
    no 2 "HVCKPT_$v is a number" env "HVCKPT_$v=many" scripts/test --only host
done

script "not a directory" demo --keep "$tmp/file"
script "cannot" demo --keep "$tmp/closed/x"
script "unknown option" demo now

script "no such source" build-xen --base 4.99
script "no xen/Makefile" build-xen --base "$tmp/tree"
script "no tarball of Xen" build-xen --base "$tmp/file"
script "no tarball of Xen" build-xen --base "$tmp/nothing.tar"
script "not a directory" build-xen --out "$tmp/file"
script "cannot" build-xen --out "$tmp/closed/x"
script "no line of a configuration" build-xen --config "rm -rf"
script "no line of a configuration" build-xen --config $'CONFIG_A=y\nrm'
script "unknown option" build-xen 4.20

script "unknown option" refresh-bindings --nosuch
script "no xencall.h" refresh-bindings "$tmp/dir"
script "one directory" refresh-bindings "$tmp/dir" "$tmp/tree"

for s in guest-run boot; do
    program=; [ $s = boot ] || program=true
    lab "no 'hvm'" $s --type hvm
    for n in 0 -1 x 1000 $huge; do lab "--vcpus is a number" $s --vcpus "$n"; done
    for n in 0 1 -512 x $huge; do lab "--mem is a number" $s --mem "$n"; done
    lab "this one has" $s --mem 1048576 $program
    lab "no such file" $s --xen "$tmp/nosuch"
    lab "is a directory" $s --xen "$tmp/dir"
    lab "leave one of them out" $s --xen "$tmp/file" --debug-xen $program
    lab "no such source" $s --base 4.99
    lab "no '5.4'" $s --guest-kernel 5.4
    lab "no such file" $s --add "$tmp/nosuch"
    lab "no such file" $s --add ":/x"
    lab "no absolute name" $s --add "$tmp/file:relative"
    lab "no absolute name" $s --add "$tmp/file:lab/bin/x"
    lab "no place" $s --add "$tmp/file:"
    lab "no plain absolute name" $s --add "$tmp/file:/lab/../../x"
    lab "no plain absolute name" $s --add "$tmp/file:/lab/bin/.."
    lab "mounted there" $s --add "$tmp/file:/tmp/x"
    lab "the lab's own" $s --add "$tmp/file:/lab/bin"
    lab "would be /lab/bin/x" $s --add "$tmp/file:/lab/bin/x" --add "$tmp/other:/lab/bin/x"
    lab "would be /lab/bin/file" $s --add "$tmp/file" --add "$tmp/other:/lab/bin/file"
    lab "no writable disk image" $s --disk "$tmp/nosuch"
    lab "FILE:1 or FILE:2" $s --link "$tmp/wire:3"
    lab "no such directory" $s --link "$tmp/nosuch/wire:1"
    lab "too long" $s --link "$tmp/$(printf '%0100d' 0):1"
done
lab "no program given" guest-run --vcpus 1
lab "no such file" guest-run "$tmp/nosuch"
lab "is a directory" guest-run "$tmp/dir"
lab "not executable" guest-run "$tmp/file"
lab "no 'domX'" guest-run --in domX true
for n in -1 x $huge; do lab "--timeout is a number" guest-run --timeout "$n" true; done
lab "not a regular expression" guest-run --allow '(' true
lab "is a directory" guest-run --console "$tmp/dir" true
lab "cannot write" guest-run --console "$tmp/closed/x" true
lab "not a directory" guest-run --logs "$tmp/file" true
lab "no such file" guest-run --script "$tmp/nosuch"
lab "takes no program" guest-run --script "$tmp/steps" true
lab "lines say where" guest-run --script "$tmp/steps" --in dom0
lab "lines say where" guest-run --script "$tmp/steps" --root
lab "no steps" guest-run --script "$tmp/file"
steps() { printf '%b\n' "$2" >"$tmp/wrong"; lab "$1" guest-run --script "$tmp/wrong"; }
steps "line 2: domX is no target" 'domu a true\ndomX b true'
steps "line 1: domu:x is no target" 'domu:x a true'
steps "line 1: TARGET" 'domu a'
steps "line 1: ../a is no name" 'domu ../a true'
steps "line 3: a second step a" 'domu a true\n\ndom0 a true'

no 2 "no boot nosuch" tests/steps.py nosuch
no 2 "needs a value for scan" tests/steps.py icount
no 2 "has no sca" tests/steps.py icount scan= sca=
no 2 "not NAME=VALUE" tests/steps.py icount scan
# What --check complains of: TEXT, then the lines of a.steps.
data() {
    mkdir -p "$tmp/data"
    printf '%b\n' "$2" >"$tmp/data/a.steps"
    run tests/steps.py --check "$tmp/data"
    [ $rc = 1 ] && grep -qF -e "$1" "$tmp/out" || bad "steps.py --check: no '$1' in $(cat "$tmp/out")"
}
data "a.steps:2: there is no program nosuch" '# one\ndomu:9 x true || ! nosuch --y; exit 1'
data "there is no program nosuch" 'dom0 y true\n[on] dom0 x for n in $(seq 3); do nosuch $n; done'
data "there is no program nosuch" 'dom0 x A={n} once-more.sh nosuch'
data "a.steps:2: a second step x, after a.steps:1" 'domu x true\n[on] domu-root:9 x true'
data "a.steps:1: neither TARGET" 'domx x true'
data "a.steps:1: neither TARGET" 'domu x'
data "no boot b" 'include b'
data "a.steps includes itself" 'include a'
data "has no steps" '[on] domu x true'

# What is right goes on, and is seen to.
run tests/steps.py --check
[ $rc = 0 ] || bad "steps.py --check: $(cat "$tmp/out")"
# begins COMMAND…: all of it is killed then, or a test of all tests would run here,
# this one among them.
begins() {
    local group i
    tried=$((tried + 1))
    rm -f "$tmp/begun"
    setsid "$@" >"$tmp/out" 2>"$tmp/err" </dev/null &
    group=$!
    for (( i = 0; i < 600; i++ )); do
        if [ -e "$tmp/begun" ] || ! kill -0 $group 2>/dev/null; then break; fi
        sleep 0.1
    done
    kill -KILL -- -$group 2>/dev/null
    wait $group 2>/dev/null
    [ -e "$tmp/begun" ] || bad "with right options it begins: $*"
}
begins scripts/guest-run --add "$tmp/file:/lab/x" --add "$tmp/dir:/lab/y/" --timeout 0 --logs "$tmp/logs" --script "$tmp/steps"
begins scripts/test --only host --logs "$tmp/logs"
# job [--no-key]: the environments which a run brings along.
job() {
    run bash -c '. scripts/lib/all.sh; RUN=$0 IMAGE=$0 LABAGENT=$0/program CRATES_DIR=$0/bin
        job_ours() { mkdir -p "$JOB/$1/usr/sbin"; : >"$JOB/$1/usr/sbin/hvckpt-policy"; }
        [ $# = 0 ] || lab_option "$@"; lab_job domu; cat "$JOB"/*/lab/env' "$tmp" "$@"
    [ $rc = 0 ] || bad "environment of a run: $*"
    rm -rf "$tmp/job"
}
job
[ "$(grep -c -e '^HVCKPT_KEY=/' -e '^HVCKPT_POLICY=.*:' "$tmp/out")" = 4 ] || bad "guest-run names a key and its daemon"
job --no-key
grep -q '^HVCKPT_DOMU_CFG=/' "$tmp/out" || bad "guest-run --no-key names a configuration"
grep -q -e HVCKPT_KEY -e HVCKPT_POLICY "$tmp/out" && bad "guest-run --no-key names a key"

. "$root/tests/options-programs.sh"

printf '%d tried, %d wrong\n' $tried $failed
[ $failed = 0 ]
