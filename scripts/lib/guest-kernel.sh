# shellcheck shell=bash
# Another kernel for the guests than Dom0's: its image and its modules.

# Raise it when the way of building changes.
GUEST_KERNEL_RECIPE=1

# _guest_kernel_suites VERSION: the Debian release that has it.
_guest_kernel_suites() {
    case $1 in
    6.12) ;;
    6.1) printf 'bookworm bookworm-security' ;;
    *) die "there is no guest kernel $1" "use 6.12 (Dom0's own) or 6.1" ;;
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

# guest_module_build VERSION SOURCE DEST: compile a module for that kernel, with
# the distribution's headers, which are unpacked beside, not installed.
guest_module_build() {
    local tmp suites name deb kver
    suites=$(_guest_kernel_suites "$1")
    [ -n "$suites" ] || die "no module can be built for guest kernel $1 here" \
        "its headers need the programs of a newer Debian; use 6.1"
    host_packages gcc make libelf1
    make_tmpdir tmp
    # shellcheck disable=SC2086 # words
    apt_private "${suites%% *}" $suites
    name=$(sed -n 's/^kernel=linux-image-\(.*\)_.*/\1/p' "$(dirname "$GUEST_VMLINUX")/versions")
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
    mkdir "$tmp/module"
    cp -- "$2" "$tmp/module/"
    deb=$(basename "$2" .c)
    printf 'obj-m := %s.o\n' "$deb" >"$tmp/module/Makefile"
    RUN_HINT="see the compiler's messages" run_logged "module $deb" "$tmp/module.log" \
        make -C "$tmp/usr/src/linux-headers-$name" M="$tmp/module" modules
    cp -- "$tmp/module/$deb.ko" "$3"
}
