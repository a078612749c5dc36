# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Another kernel for the guests than Dom0's: its image and its modules.

# Raise it when the way of building changes.
GUEST_KERNEL_RECIPE=1

# _guest_kernel_suites VERSION: the Debian release that has it.
_guest_kernel_suites() {
    case $1 in
    6.12) ;;
    6.1) printf 'bookworm bookworm-security' ;;
    *) refuse "there is no guest kernel $1" "use 6.12 (Dom0's own) or 6.1" ;;
    esac
}

# guest_kernel_build VERSION: sets GUEST_VMLINUX and GUEST_CPIO. Needs IMAGE.
guest_kernel_build() {
    local suites key dir tmp
    GUEST_VMLINUX='' GUEST_CPIO=''
    [ "$1" != 6.12 ] || return 0
    suites=$(_guest_kernel_suites "$1")
    # shellcheck disable=SC2086 # words
    key=$(printf '%s\n' $GUEST_KERNEL_RECIPE "$(basename "$IMAGE")" $suites $DOMU_MODULES | hash_of)
    dir=$(cache_path guest-kernel "$key")
    if ! cache_valid guest-kernel "$key"; then
        take_lock image
        if ! cache_valid guest-kernel "$key"; then
            host_packages cpio kmod xz-utils zstd
            need_space 600 "$HVCKPT_CACHE_DIR"
            cache_tmp tmp guest-kernel
            # shellcheck disable=SC2086 # words
            apt_private "${suites%% *}" $suites
            _image_kernel "$tmp"
            mkdir -p "$tmp/root"
            ( cd "$tmp/root" && cpio -id --quiet usr/bin/busybox <"$IMAGE/domu.cpio" ) ||
                die "cannot unpack $IMAGE/domu.cpio" "remove $HVCKPT_CACHE_DIR/image and run again"
            # shellcheck disable=SC2086 # words
            _image_initrd "$tmp/domu" "$tmp" $DOMU_MODULES
            cpio_of "$tmp/domu" >"$tmp/domu.cpio"
            rm -rf -- "$tmp"/{root,kernel,domu} "$tmp"/*.log
            cache_publish "$tmp" guest-kernel "$key"
            cache_prune guest-kernel 2
        fi
        release_lock image
    fi
    GUEST_VMLINUX=$dir/vmlinux GUEST_CPIO=$dir/domu.cpio
    log "guest kernel: $(sed -n 's/^kernel=//p' "$dir/versions")"
}

# _guest_headers VERSION [NAME]: the distribution's headers, unpacked beside, not
# installed, with a directory for a module. NAME is 6.1.0-9-amd64 or the like; without,
# the newest. Sets GUEST_HEADERS and GUEST_MODULE.
_guest_headers() {
    local tmp suites name=${2:-} deb kver
    suites=$(_guest_kernel_suites "$1")
    [ -n "$suites" ] || die "no module can be built for guest kernel $1 here" \
        "its headers need the programs of a newer Debian; use 6.1"
    host_packages gcc make libelf1
    make_tmpdir tmp
    # shellcheck disable=SC2086 # words
    apt_private "${suites%% *}" $suites
    [ -n "$name" ] || name=$(apt-cache "${APT_OPTS[@]}" depends linux-headers-amd64 |
        sed -n 's/.*Depends: linux-headers-\(.*\)/\1/p' | head -n 1)
    [ -n "$name" ] || die "the package index names no kernel headers" "APT_REFRESH=1 $HVCKPT_PROG"
    kver=${name%-amd64}
    RUN_HINT="check the network, then run again" run_logged "headers of $name" "$tmp/headers.log" \
        _in_dir "$tmp" apt-get "${APT_OPTS[@]}" download "linux-headers-$name" "linux-headers-$kver-common" \
        "linux-kbuild-$1"
    for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$tmp" || die "cannot unpack $deb"; done
    # They expect to lie under /usr.
    sed -i "s|/usr/src/|$tmp/usr/src/|" "$tmp/usr/src/linux-headers-$name/Makefile"
    for deb in scripts tools; do
        ln -sfn "$tmp/usr/lib/linux-kbuild-$1/$deb" "$tmp/usr/src/linux-headers-$kver-common/$deb"
        [ ! -L "$tmp/usr/src/linux-headers-$name/$deb" ] ||
            ln -sfn "$tmp/usr/lib/linux-kbuild-$1/$deb" "$tmp/usr/src/linux-headers-$name/$deb"
    done
    GUEST_HEADERS=$tmp/usr/src/linux-headers-$name GUEST_MODULE=$tmp/module
    mkdir "$GUEST_MODULE"
}

# _guest_make SOURCE TARGET: run the kernel's build for a module of one file.
_guest_make() {
    local name
    name=$(basename "$1" .c)
    cp -- "$1" "$GUEST_MODULE/"
    printf 'obj-m := %s.o\n' "$name" >"$GUEST_MODULE/Makefile"
    RUN_HINT="see the compiler's messages" run_logged "module $name" "$GUEST_MODULE.log" \
        make -C "$GUEST_HEADERS" M="$GUEST_MODULE" "$2"
}

# guest_module_build VERSION SOURCE DEST: compile a module for that kernel. Needs
# GUEST_VMLINUX.
guest_module_build() {
    _guest_headers "$1" "$(sed -n 's/^kernel=linux-image-\(.*\)_.*/\1/p' "$(dirname "$GUEST_VMLINUX")/versions")"
    _guest_make "$2" modules
    cp -- "$GUEST_MODULE/$(basename "$2" .c).ko" "$3"
}

# guest_module_preprocess VERSION SOURCE: what the compiler of such a module gets to
# read. Sets GUEST_SOURCE, a file in the cache.
guest_module_preprocess() {
    local key tmp name
    name=$(basename "$2" .c)
    key=$( { printf '%s\n' $GUEST_KERNEL_RECIPE "$1"; gcc --version | head -n 1; cat -- "$2"; } | hash_of)
    GUEST_SOURCE=$(cache_path guest-source "$key")/$name.i
    cache_valid guest-source "$key" && return 0
    take_lock guest-source
    if ! cache_valid guest-source "$key"; then
        _guest_headers "$1"
        _guest_make "$2" "$name.i"
        cache_tmp tmp guest-source
        # Without line markers: they would hold this machine's paths.
        grep -v '^#' "$GUEST_MODULE/$name.i" >"$tmp/$name.i"
        cache_publish "$tmp" guest-source "$key"
        cache_prune guest-source 2
    fi
    release_lock guest-source
}
