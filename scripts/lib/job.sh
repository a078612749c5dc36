# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# What one run brings along: two trees, for Dom0 and for DomU, packed per run
# and never baked into the cached disk.

# agent_build: sets LABAGENT, the static binary made of scripts/lab/*.c.
agent_build() {
    local key tmp
    cache_init
    host_packages gcc libc6-dev
    key=$( { gcc --version | head -n 1; cat "$HVCKPT_ROOT"/scripts/lab/*.[ch]; } | hash_of)
    LABAGENT=$(cache_path labagent "$key")/labagent
    cache_valid labagent "$key" && return 0
    take_lock labagent
    if ! cache_valid labagent "$key"; then
        cache_tmp tmp labagent
        run_logged "compiling labagent" "$tmp/labagent.log" \
            gcc -O2 -Wall -Wextra -Werror -static -o "$tmp/labagent" "$HVCKPT_ROOT"/scripts/lab/*.c
        cache_publish "$tmp" labagent "$key"
        cache_prune labagent 3
    fi
    release_lock labagent
}

# Merged /usr, as in both trees: an entry must not replace one of the links.
_job_dest() {
    case $1 in
    /bin/*|/sbin/*|/lib/*|/lib64/*) printf '/usr%s' "$1" ;;
    *) printf '%s' "$1" ;;
    esac
}

# _job_copy WHERE SRC DEST
_job_copy() {
    local dest
    dest=$JOB/$1$(_job_dest "$3")
    mkdir -p "$(dirname "$dest")"
    cp -rLT --preserve=mode -- "$2" "$dest" || die "cannot copy $2" "check that it exists and the disk's free space"
    chmod -R a+rX,u+w -- "$dest"
}

# job_libs WHERE FILE: the shared libraries of FILE, with the loader.
job_libs() {
    local where=$1 lib path
    { ldd "$2" 2>/dev/null || true; } | while read -r lib _ path _; do
        case $lib in
        /*) path=$lib ;;             # the loader
        linux-vdso*|statically|not) continue ;;
        esac
        case $path in
        /*) ;;
        # Ours are installed in the guest; Dom0 has the toolstack's.
        *) case $lib in libhvckpt.so*|libxen*) ;; *) warn "$(basename "$2") needs $lib, which is not here" ;; esac
           continue ;;
        esac
        # Dom0 is a newer Debian: its own libraries are used where it has them.
        if [ "$where" = dom0 ] && grep -qxF "$(basename "$path")" "$IMAGE/dom0.libs"; then continue; fi
        case $path in
        /lib/*|/lib64/*|/usr/lib/*) lib=$path ;;
        *) lib=/usr/lib/x86_64-linux-gnu/$(basename "$path") ;;
        esac
        [ -e "$JOB/$where$(_job_dest "$lib")" ] || _job_copy "$where" "$path" "$lib"
    done
}

# job_add WHERE SRC DEST: a file or directory, with what it needs to run. A
# program leaves its symbols behind: they would be unpacked at every boot, and a
# small guest has no room for them. (A kernel module needs its own.)
job_add() {
    local interp
    [ -e "$2" ] || die "no such file: $2"
    _job_copy "$1" "$2" "$3"
    [ -f "$2" ] || return 0
    case $(head -c 4 -- "$2" | tr -d '\0' | tr '\177' E) in
    EELF*)
        case $2 in *.ko) ;; *) strip -- "$JOB/$1$(_job_dest "$3")" 2>/dev/null || true ;; esac
        job_libs "$1" "$2" ;;
    '#!'*)
        interp=$(sed -n '1{s/^#! *//;s/^[^ ]*env  *//;s/ .*//;p}' "$2")
        job_tool "$1" "$(basename "$interp")" ;;
    esac
}

# job_tool WHERE NAME: bring a program of the host's if the guest has none.
job_tool() {
    local path
    grep -qxF "$2" "$IMAGE/$1.programs" && return 0
    path=$(command -v "$2" 2>/dev/null) || return 0
    case $path in /*) ;; *) return 0 ;; esac
    [ -e "$JOB/$1$(_job_dest "$path")" ] || job_add "$1" "$(readlink -f "$path")" "$path"
}

# _job_own WHERE FILE DEST: one of our binaries.
_job_own() { [ ! -e "$2" ] || job_add "$@"; }

# job_ours WHERE: the workspace's binaries, as far as they exist.
job_ours() {
    local d=$CRATES_DIR
    _job_own "$1" "$d/hvckpt" /usr/bin/hvckpt
    _job_own "$1" "$d/libhvckpt.so" /usr/lib/x86_64-linux-gnu/libhvckpt.so
    [ ! -e "$HVCKPT_ROOT/guest-lib/include/hvckpt.h" ] ||
        _job_copy "$1" "$HVCKPT_ROOT/guest-lib/include/hvckpt.h" /usr/include/hvckpt.h
    [ "$1" != dom0 ] || _job_own dom0 "$d/hvckpt-policy" /usr/sbin/hvckpt-policy
}

# job_begin: the lab's own files. Needs RUN, IMAGE, LABAGENT.
job_begin() {
    local f
    JOB=$RUN/job
    mkdir -p "$JOB"/dom0/lab/bin "$JOB"/domu/lab/{bin,work} "$JOB"/domu/etc
    for f in dom0-init teardown vif; do cp "$HVCKPT_ROOT/scripts/lab/$f" "$JOB/dom0/lab/"; done
    for f in lab-domu lab-key poweroff; do cp "$HVCKPT_ROOT/scripts/lab/$f" "$JOB/dom0/lab/bin/"; done
    cp "$LABAGENT" "$JOB/dom0/lab/bin/"
    # Takes the place of the disk's, which is Dom0's own.
    [ -z "${GUEST_VMLINUX:-}" ] || cp "$GUEST_VMLINUX" "$JOB/dom0/lab/vmlinux"
    cp "$LABAGENT" "$JOB/domu/lab/bin/"
    cp "$HVCKPT_ROOT/scripts/lab/domu-init" "$JOB/domu/init"
    sed -i 's/^labagent /\/lab\/bin\/labagent /' "$JOB/domu/init"
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n' >"$JOB/domu/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$JOB/domu/etc/group"
    printf '127.0.0.1 localhost\n10.84.0.1 lab dom0\n' >"$JOB/domu/etc/hosts"
}

# job_conf NAME VALUE: a setting that Dom0's scripts read.
job_conf() { printf "%s='%s'\n" "$1" "$2" >>"$JOB/dom0/lab/conf"; }
# job_env WHERE NAME=VALUE: environment of the commands run there.
job_env() { printf '%s\n' "$2" >>"$JOB/$1/lab/env"; }

# job_end: pack. Makes $RUN/dom0.initrd and $RUN/job.tar.
job_end() {
    mkdir "$JOB/first"
    cp "$HVCKPT_ROOT/scripts/lab/first-init" "$JOB/first/init"
    chmod -R u=rwX,go=rX "$JOB/first" "$JOB"/dom0/lab "$JOB"/domu/lab "$JOB"/domu/etc "$JOB"/domu/init
    { cat "$IMAGE/first.cpio"; cpio_of "$JOB/first"; } >"$RUN/dom0.initrd"
    { cat "${GUEST_CPIO:-$IMAGE/domu.cpio}"; cpio_of "$JOB/domu"; } >"$JOB/dom0/lab/domu.initrd"
    tar -C "$JOB/dom0" --owner=0 --group=0 --sort=name --mtime=@0 -cf "$RUN/job.tar" .
    rm -rf -- "$JOB"
}
