# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# The parts of the machine which seldom change: the Dom0 disk, the kernel, and
# the module sets for both first initramfs. Everything that changes from run to
# run travels beside them (see job.sh).

# Raise it when the way of building changes.
IMAGE_RECIPE=5
# The toolstack must be of the hypervisor's series, the kernel need not.
IMAGE_KERNEL_SUITES='trixie trixie-security'
IMAGE_PACKAGES=xenstore-utils,iproute2,busybox-static,kmod,mount,procps,redis-tools,dmsetup
# With their dependencies; nothing else of the kernel's modules is kept.
DOM0_MODULES='virtio_pci virtio_blk virtio_console virtio_net ext4 crc32c_generic
    xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc xen-netback xen-blkback bridge loop tun
    dm-mod dm-flakey dm-thin-pool'
FIRST_MODULES='virtio_pci virtio_blk virtio_console crc32c_generic ext4'
DOMU_MODULES='xen-netfront xen-blkfront xen-evtchn xen-gntdev xen-gntalloc xenfs xen-privcmd'

# _image_suites SERIES: the Debian release which has that Xen.
_image_suites() {
    case $1 in
    4.20) printf 'trixie trixie-security' ;;
    4.17) printf 'bookworm bookworm-security' ;;
    *) die "there is no Dom0 for Xen $1" "use Xen 4.20 or 4.17" ;;
    esac
}

# image_build [SERIES]: for Xen 4.20 (default) or 4.17. Sets IMAGE, a directory with dom0.img, vmlinux, first.cpio,
# domu.cpio, versions, and lists of the programs and libraries inside.
image_build() {
    local key tmp start series=${1:-4.20} suites
    suites=$(_image_suites "$series")
    cache_init
    host_packages mmdebstrap e2fsprogs cpio kmod xz-utils zstd
    key=$(printf '%s\n' $IMAGE_RECIPE "$series $suites" "$IMAGE_KERNEL_SUITES" $IMAGE_PACKAGES $DOM0_MODULES / $FIRST_MODULES / $DOMU_MODULES |
        hash_of)
    IMAGE=$(cache_path image "$key")
    cache_valid image "$key" && return 0
    if [ "$(id -u)" -ne 0 ]; then _image_as_root "$series"; return 0; fi
    take_lock image
    if ! cache_valid image "$key"; then
        start=$(now_ms)
        need_space 2500 "$HVCKPT_CACHE_DIR"
        cache_tmp tmp image
        apt_private trixie $IMAGE_KERNEL_SUITES
        _image_kernel "$tmp"
        apt_private "${suites%% *}" $suites
        _image_root "$tmp" "$series" "${suites%% *}"
        _image_initrds "$tmp"
        _image_disk "$tmp"
        rm -rf -- "$tmp/root" "$tmp/kernel" "$tmp"/*.log
        cache_publish "$tmp" image "$key"
        cache_prune image 3
        log "Dom0 image ready in $(secs_since "$start") s: $(tr '\n' ' ' <"$IMAGE/versions")"
    fi
    release_lock image
}

# The tree holds files of root's: all of it is made by root, then handed over.
_image_as_root() {
    local rc=0
    log "the Dom0 image is built as root (sudo)"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_root env HVCKPT_CACHE="$HVCKPT_CACHE_DIR" TMPDIR="${TMPDIR:-/tmp}" PATH="$PATH" \
        bash -c '. "$1/all.sh"; image_build "$2"' "$HVCKPT_PROG" "$HVCKPT_LIB" "$1" || rc=$?
    as_root chown -R "$(id -u):$(id -g)" "$HVCKPT_CACHE_DIR"/{image,locks,apt,logs} 2>/dev/null || true
    [ $rc -eq 0 ] || exit "${HVCKPT_FAIL_CODE:-1}"
}

# The kernel package is unpacked, not installed: no initramfs is generated.
_image_kernel() {
    local tmp=$1 pkg deb k
    pkg=$(apt-cache "${APT_OPTS[@]}" depends linux-image-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
    [ -n "$pkg" ] || die "the package index names no kernel" "APT_REFRESH=1 $HVCKPT_PROG"
    mkdir -p "$tmp/kernel"
    RUN_HINT="check the network, then run again" run_logged "kernel $pkg" "$tmp/kernel.log" \
        _in_dir "$tmp/kernel" apt-get "${APT_OPTS[@]}" download "$pkg"
    deb=$(find "$tmp/kernel" -name '*.deb')
    dpkg-deb -x "$deb" "$tmp/kernel" || die "cannot unpack $pkg" "check the disk's free space"
    # Merged /usr or not.
    [ -d "$tmp/kernel/usr/lib/modules" ] || { mkdir -p "$tmp/kernel/usr/lib"; mv "$tmp/kernel/lib/modules" "$tmp/kernel/usr/lib/"; }
    KVER=$(ls "$tmp/kernel/usr/lib/modules")
    k=$tmp/kernel/boot/vmlinuz-$KVER
    _vmlinux "$k" >"$tmp/vmlinux" || die "cannot decompress $k" "check xz and zstd"
    printf 'kernel=%s\n' "${deb##*/}" | sed 's/_amd64.deb//; s/%3a/:/' >>"$tmp/versions"
    depmod -b "$tmp/kernel/usr" "$KVER" 2>"$tmp/depmod.log" || true
    [ -s "$tmp/kernel/usr/lib/modules/$KVER/modules.dep" ] || depmod -b "$tmp/kernel" "$KVER"
}
_in_dir() { cd "$1" && shift && "$@"; }

# _vmlinux BZIMAGE: the ELF image inside. Xen and the domain builder would
# decompress it themselves, under emulation: seconds at every boot.
_vmlinux() {
    local sects off len magic unpack
    sects=$(od -An -tu1 -j $((0x1f1)) -N1 "$1"); off=$(od -An -tu4 -j $((0x248)) -N4 "$1")
    len=$(od -An -tu4 -j $((0x24c)) -N4 "$1")
    off=$(( (sects + 1) * 512 + off ))
    magic=$(od -An -tx1 -j $off -N4 "$1" | tr -d ' ')
    case $magic in
    fd377a58) unpack='xz -dc' ;; 28b52ffd) unpack='zstd -dcq' ;; 1f8b*) unpack='gzip -dc' ;;
    *) return 1 ;;
    esac
    # The last four bytes are the unpacked size, not compressed data.
    dd if="$1" bs=64k iflag=skip_bytes,count_bytes skip=$off count=$((len - 4)) status=none | $unpack
}

# _modules DEST NAME…: copy modules and what they need, in loading order, decompressed;
# print the paths inside DEST in that order.
_modules() {
    local dest=$1 base=$2 m f name; shift 2
    mkdir -p "$dest"
    for m in "$@"; do
        # Built in, or absent in this kernel: nothing to copy.
        { modprobe -d "$base" -S "$KVER" --show-depends "$m" 2>/dev/null || true; } |
            awk '$1 == "insmod" {print $2}'
    done | awk '!seen[$0]++' | while read -r f; do
        name=$(basename "$f"); name=${name%.xz}; name=${name%.zst}
        case $f in
        *.xz) xz -dc "$f" ;; *.zst) zstd -dcq "$f" ;; *) cat "$f" ;;
        esac >"$dest/$name"
        printf '%s\n' "$name"
    done
}

_image_root() {
    local tmp=$1 series=$2 suite=$3 mods opt
    # Documentation and translations are of no use here.
    opt='path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*'
    RUN_HINT="check the network, then run again" run_logged "Dom0 root file system (a minute)" "$tmp/mmdebstrap.log" \
        as_root mmdebstrap --mode="$( [ "$(id -u)" -eq 0 ] && echo root || echo sudo)" --variant=apt \
        --aptopt='Acquire::Retries "3"' --dpkgopt="$opt" --include="xen-utils-$series,$IMAGE_PACKAGES" \
        --skip=cleanup/reproducible "$suite" "$tmp/root" "$HVCKPT_CACHE_DIR/apt/$suite/sources.list"
    ln -s "xen-$series/bin" "$tmp/root/usr/lib/xen-tools"
    [ -x "$tmp/root/usr/lib/xen-tools/xl" ] || die "the Dom0 tree lacks xl" "remove $HVCKPT_CACHE_DIR/apt and run again"
    dpkg-query --admindir="$tmp/root/var/lib/dpkg" -W -f 'tools=${source:Package} ${Version}\n' "xen-utils-$series" |
        tr ' ' _ >>"$tmp/versions"
    # Flat module tree with its own index.
    mods=$tmp/root/usr/lib/modules/$KVER
    mkdir -p "$mods"
    _modules "$mods" "$tmp/kernel/usr" $DOM0_MODULES >/dev/null
    cp "$tmp/kernel/usr/lib/modules/$KVER"/modules.{order,builtin,builtin.modinfo} "$mods/" 2>/dev/null || true
    depmod -b "$tmp/root/usr" "$KVER" 2>/dev/null || depmod -b "$tmp/root" "$KVER" || die "depmod failed"
    rm -rf "$tmp/root/var/cache/apt" "$tmp/root/var/lib/apt/lists" "$tmp/root/usr/share/qemu" "$tmp/root/boot"
    # Shared libraries that a program brought in need not bring along.
    ( cd "$tmp/root" && find usr/lib usr/lib64 -name '*.so*' -printf '%f\n' | sort -u ) >"$tmp/dom0.libs"
    ( cd "$tmp/root" && find usr/bin usr/sbin usr/lib/xen-tools/ ! -type d -printf '%f\n' | sort -u ) >"$tmp/dom0.programs"
    mkdir -p "$tmp/root/lab" "$tmp/root/boot" "$tmp/root/var/lib/hvckpt"
    cp "$tmp/vmlinux" "$tmp/root/lab/vmlinux"
    printf 'dom0\n' >"$tmp/root/etc/hostname"
    printf '127.0.0.1 localhost dom0\n10.84.0.1 lab\n' >"$tmp/root/etc/hosts"
}

# cpio_of DIR: newc archive on stdout, owned by root, with fixed times.
cpio_of() {
    ( cd "$1" && find . -mindepth 1 -exec touch -h -d @0 {} + && find . -mindepth 1 | sort |
        cpio -o -H newc -R 0:0 --reproducible --quiet )
}

# A busybox tree laid out like Debian's, with the modules and their loading
# order in /modules.
_image_initrd() {
    local d=$1 tmp=$2 a; shift 2
    mkdir -p "$d"/{dev,proc,sys,etc,tmp,run,root,home,modules,usr/bin,usr/sbin,usr/lib/x86_64-linux-gnu,usr/lib64}
    for a in bin sbin lib lib64; do ln -s usr/$a "$d/$a"; done
    cp "$tmp/root/usr/bin/busybox" "$d/usr/bin/busybox"
    _modules "$d/modules" "$tmp/kernel/usr" "$@" >"$d/modules/order"
    "$d/usr/bin/busybox" --list | while read -r a; do
        [ "$a" = busybox ] || ln -s busybox "$d/usr/bin/$a"
    done
}

_image_initrds() {
    local tmp=$1
    _image_initrd "$tmp/first" "$tmp" $FIRST_MODULES
    mkdir "$tmp/first/newroot"
    cpio_of "$tmp/first" >"$tmp/first.cpio"
    _image_initrd "$tmp/domu" "$tmp" $DOMU_MODULES
    "$tmp/domu/usr/bin/busybox" --list >"$tmp/domu.programs"
    cpio_of "$tmp/domu" >"$tmp/domu.cpio"
    rm -rf "$tmp/first" "$tmp/domu"
}

_image_disk() {
    local tmp=$1 mib
    mib=$(( $(du -sm "$tmp/root" | cut -f1) * 5 / 4 + 200 ))
    RUN_HINT="check the disk's free space" run_logged "Dom0 disk of $mib MiB" "$tmp/mke2fs.log" \
        mke2fs -q -t ext4 -O ^has_journal -m 0 -F -d "$tmp/root" "$tmp/dom0.img" "${mib}M"
}
