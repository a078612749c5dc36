# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# The emulator: QEMU 9.1 or newer, from the release's backports where needed.

# qemu_find: sets QEMU, QEMU_VERSION and QEMU_CPU.
qemu_find() {
    local code tmp
    QEMU=${HVCKPT_QEMU:-qemu-system-x86_64}
    if ! _qemu_new; then
        code=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
        take_lock apt
        if ! _qemu_new; then
            log "QEMU 9.1 or newer is needed: installing it from $code-backports"
            make_tmpdir tmp
            # In a subshell: a failure here leaves the fallback below.
            ( apt_private backports "$code" "$code-security" "$code-backports"
              HVCKPT_FAIL_CODE=1 run_logged "installing QEMU" "$tmp/qemu-install.log" \
                as_root env DEBIAN_FRONTEND=noninteractive apt-get "${APT_OPTS[@]}" -oDPkg::Lock::Timeout=600 \
                install -y --no-install-recommends -t "$code-backports" qemu-system-x86 ) || true
            hash -r
        fi
        release_lock apt
    fi
    if _qemu_new; then
        # What each part is for: see docs on the lab's emulated processor.
        QEMU_CPU=EPYC,-monitor,-rdtscp,-xsave,-sha-ni,-sse4a
    else
        host_packages qemu-system-x86
        _qemu_new || true
        QEMU_CPU=max,-smap,-sha-ni,-sse4a
        warn "QEMU $QEMU_VERSION mis-executes IRET under SMAP: running WITHOUT SMAP (install QEMU 9.1 or newer)"
    fi
}

_qemu_new() {
    command -v "$QEMU" >/dev/null || return 1
    QEMU_VERSION=$("$QEMU" --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
    [ "$(printf '%s\n' 9.1 "$QEMU_VERSION" | sort -V | head -n 1)" = 9.1 ]
}
