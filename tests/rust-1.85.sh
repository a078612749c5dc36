#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# The daemon's crates with Debian 13's own compiler, 1.85; cargo is this machine's.
# Exit status 77: the packages cannot be had. Two minutes when new.
. "$(dirname "$(readlink -f "$0")")/../scripts/lib/common.sh"
. "$HVCKPT_LIB/apt.sh"

# Raise it when the way of unpacking changes.
RECIPE=1
RUST=1.85
CRATES=(hvckpt-abi hvckpt-files hvckpt-wire hvckpt-xen-sys hvckpt-policy)

cd "$HVCKPT_ROOT"
# What they promise is what is tried.
for f in xen-patch/abi files wire dom0-policy/xen-sys dom0-policy; do
    grep -qx "rust-version = \"$RUST\"" $f/Cargo.toml || die "$f/Cargo.toml does not say rust-version = \"$RUST\""
done

cache_init
if ! ( apt_private trixie trixie trixie-security ); then exit 77; fi
apt_private trixie trixie trixie-security
# The compiler, its libraries, and theirs; nothing is installed.
mapfile -t packages < <(
    echo rustc
    apt-cache "${APT_OPTS[@]}" depends --recurse --important libstd-rust-dev | grep '^[a-z]' | sort -u
)
uris=$(apt-get "${APT_OPTS[@]}" download --print-uris "${packages[@]}") || exit 77
# With their checksums, but without the archive's name.
key=$({ echo $RECIPE; awk '{print $2, $4}' <<<"$uris" | sort; } | hash_of)
rust=$(cache_path rust "$key")
take_lock rust
if ! cache_valid rust "$key"; then
    need_space 1500 "$HVCKPT_CACHE_DIR"
    cache_tmp tmp rust
    mkdir "$tmp/debs" "$tmp/root"
    log "Debian's rustc: $(wc -l <<<"$uris") packages ..."
    ( cd "$tmp/debs" && apt-get "${APT_OPTS[@]}" download "${packages[@]}" ) >"$tmp/apt.log" 2>&1 ||
        { cat "$tmp/apt.log"; exit 77; }
    for deb in "$tmp/debs"/*.deb; do dpkg-deb -x "$deb" "$tmp/root" || die "cannot unpack $deb"; done
    rm -rf -- "$tmp/debs" "$tmp/root/usr/share" "$tmp/root/usr/lib/x86_64-linux-gnu/gconv"
    # Its C library is another one than this machine's.
    cat >"$tmp/rustc" <<'WRAPPER'
#!/bin/sh
root=${0%/*}/root/usr
lib=$root/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$root/bin/rustc" --sysroot "$root" "$@"
WRAPPER
    chmod +x "$tmp/rustc"
    cache_publish "$tmp" rust "$key"
    cache_prune rust 1
fi
release_lock rust
version=$("$rust/rustc" --version) || die "Debian's rustc does not run here"
case $version in
"rustc $RUST."*) ;;
*) die "Debian 13 has $version, not $RUST" "rust-version of ${CRATES[*]}, docs/policy.md and this test" ;;
esac
log "$version"

# What is meant for this machine's compiler is not for that one.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
RUSTC=$rust/rustc CARGO_TARGET_DIR=$rust/target cargo check --locked "${CRATES[@]/#/--package=}"
echo ok
