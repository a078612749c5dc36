#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What docs/admin.md says of grub, tried with Debian 13's own script and a /boot of
# straw. Exit status 77: the package cannot be had.
. "$(dirname "$(readlink -f "$0")")/../scripts/lib/common.sh"
. "$HVCKPT_LIB/apt.sh"

cache_init
make_tmpdir work
if ! ( apt_private trixie trixie trixie-security ); then exit 77; fi
apt_private trixie trixie trixie-security
( cd "$work" && apt-get "${APT_OPTS[@]}" download grub-common ) >"$work/log" 2>&1 || { cat "$work/log"; exit 77; }
dpkg-deb -x "$work"/grub-common_*.deb "$work/grub"
script=$work/grub/etc/grub.d/20_linux_xen boot=$work/boot
[ -f "$script" ] || die "grub-common has no 20_linux_xen any more"
mkdir "$boot" "$work/lib"
sed "s,/boot/,$boot/,g" "$script" >"$work/20_linux_xen"
# Its library, but without looking at this machine's disks.
cp "$work/grub/usr/share/grub/grub-mkconfig_lib" "$work/lib/"
cat >>"$work/lib/grub-mkconfig_lib" <<'EOF'
make_system_path_relative_to_its_root() { echo /boot; }
grub_get_device_id() { echo ID; }
prepare_grub_to_access_device() { :; }
uses_abstraction() { return 1; }
grub_file=is_multiboot2
is_multiboot2() { [ "$1" = --is-x86-multiboot2 ]; }
EOF

touch "$boot/vmlinuz-6.12.1-amd64" "$boot/initrd.img-6.12.1-amd64" "$boot/xen-4.20-amd64.gz" "$boot/xen-4.20-amd64.config"
echo CONFIG_XEN_DOM0=y >"$boot/config-6.12.1-amd64"
# menu [VAR=VALUE…]: the menu which grub would get.
menu() {
    env pkgdatadir="$work/lib" GRUB_DISTRIBUTOR=Debian GRUB_DEVICE=/dev/null \
        GRUB_CMDLINE_XEN_DEFAULT='dom0_mem=4G cda=on' GRUB_CMDLINE_XEN='loglvl=all' "$@" \
        sh "$work/20_linux_xen" 2>>"$work/log"
}
rc=0
is() { [ "$2" = "$3" ] || { rc=1; printf 'FAIL %s: %s, not %s\n' "$1" "$2" "$3"; }; }
# first MENU: the hypervisor of the first entry, which is the default.
first() { grep -m 1 multiboot2 <<<"$1" | awk '{print $2}'; }
listed() { grep multiboot2 <<<"$1" | awk '{print $2}' | sort -u | tr '\n' ' '; }

m=$(menu)
is "packaged alone" "$(listed "$m")" "/boot/xen-4.20-amd64.gz "
# As the guide installs it.
touch "$boot/xen-4.20-hvckpt.gz"
m=$(menu)
is "both are offered" "$(listed "$m")" "/boot/xen-4.20-amd64.gz /boot/xen-4.20-hvckpt.gz "
is "the own one comes first" "$(first "$m")" /boot/xen-4.20-hvckpt.gz
m=$(menu GRUB_TOP_LEVEL_XEN="$boot/xen-4.20-amd64.gz")
is "unless the packaged one is named" "$(first "$m")" /boot/xen-4.20-amd64.gz
# The command of the guide, and the titles which it gives to grub-reboot.
titles=$(grep -E "(submenu|menuentry) '.*Xen" <<<"$m" | cut -d"'" -f2)
for title in "Debian GNU/Linux, with Xen hypervisor" "Xen hypervisor, version 4.20-hvckpt" \
    "Advanced options for Debian GNU/Linux (with Xen hypervisor)" \
    "Debian GNU/Linux, with Xen 4.20-hvckpt and Linux 6.12.1-amd64"; do
    is "one entry called $title" "$(grep -cxF "$title" <<<"$titles")" 1
    grep -qF "${title/6.12.1-amd64/KERNEL}" "$HVCKPT_ROOT/docs/admin.md" || is "the guide has" no "$title"
done
is "options of ordinary entries" "$(grep -c 'xen-4.20-hvckpt.gz placeholder loglvl=all dom0_mem=4G cda=on' <<<"$m")" 1
is "recovery has only GRUB_CMDLINE_XEN" "$(grep 'xen-4.20-hvckpt.gz' <<<"$m" | grep -vc 'cda=on')" 1
# Names which the guide warns of.
touch "$boot/xen-syms-4.20-hvckpt" "$boot/xen-4.20-hvckpt.config" "$boot/hvckpt-xen"
is "files not offered" "$(listed "$(menu)")" "/boot/xen-4.20-amd64.gz /boot/xen-4.20-hvckpt.gz "
touch "$boot/xen-syms" "$boot/xen-4.20-hvckpt.gz.bak"
is "files offered though they should not be" "$(listed "$(menu)")" \
    "/boot/xen-4.20-amd64.gz /boot/xen-4.20-hvckpt.gz /boot/xen-4.20-hvckpt.gz.bak /boot/xen-syms "
[ $rc != 0 ] || echo ok
exit $rc
