# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Tests which need no emulated machine.

host_tests() {
    local out=$logs/host
    mkdir -p "$out"
    cd "$HVCKPT_ROOT"
    command -v cargo >/dev/null || die "cargo is not installed" "install Rust (rust-toolchain.toml names the version)"
    host_packages gcc libc6-dev python3

    if cargo fmt --version >/dev/null 2>&1; then
        check "format" "$out/fmt.log" cargo fmt --all --check
    else skip "format" "no rustfmt here"; fi
    if cargo clippy --version >/dev/null 2>&1; then
        log "clippy (a minute when new)"
        check "clippy" "$out/clippy.log" cargo clippy --workspace --all-targets -- -D warnings
    else skip "clippy" "no clippy here"; fi

    log "cargo test (two minutes when new)"
    if cargo test --workspace --no-fail-fast >"$out/cargo.log" 2>&1 </dev/null; then :; else
        grep -m 20 -E '^test .* FAILED|panicked|^error' "$out/cargo.log" >&2 || true
        tail -n 20 "$out/cargo.log" >&2
    fi
    cargo_results "$out/cargo.log"
    check "trackers without a way to the policy daemon" "$out/track.log" \
        cargo test -p hvckpt-track --no-default-features
    # Under load, as that test prints it; the test itself has run above.
    log "policy daemon: $(cargo test -p hvckpt-policy --test load -- --nocapture 2>/dev/null </dev/null |
        grep -o '^.*tokens/s' || true)"
    host_packages redis-tools
    check "redis-cli and redis-benchmark" "$out/redis.log" \
        "$HVCKPT_ROOT/tests/redis.sh" "${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/debug"

    check "what makes no sense is refused at once" "$out/options.log" \
        "$HVCKPT_ROOT/tests/options.sh" "${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/debug"

    if [ "$long" = 1 ]; then
        # Not a part of the workspace: its peers take minutes.
        log "the store's benchmark (three minutes when new)"
        check "benchmark of the store" "$out/bench-store.log" tests/bench-store.sh
    fi

    check "steps of the emulated machine" "$out/steps.log" tests/steps.py --check
    check "layers, sizes, licences, links, words, names" "$out/tidy.log" tests/tidy
    check "which source of Xen is built" "$out/xen-source.log" tests/xen-source.sh
    may_skip "bindings of Xen's libraries are what the headers declare" "$out/bindings.log" scripts/refresh-bindings --check
    check "patches are written anew" "$out/refresh-patches.log" tests/refresh-patches.sh
    may_skip "what the administrators' guide says of grub" "$out/grub.log" tests/grub.sh
    log "Debian 13's rustc (two minutes when new)"
    may_skip "the daemon's crates with Rust 1.85" "$out/rust-1.85.log" tests/rust-1.85.sh
    if command -v systemd-analyze >/dev/null; then
        # The program is not installed here; everything else is looked at.
        sed 's|^ExecStart=/usr/sbin/hvckpt-policy|ExecStart=/bin/true|' dom0-policy/hvckpt-policy.service \
            >"$out/hvckpt-policy.service"
        check "unit file of the daemon" "$out/unit.log" \
            systemd-analyze verify --man=no "$out/hvckpt-policy.service"
    else skip "unit file of the daemon" "no systemd-analyze here"; fi

    for f in scripts/* scripts/lib/*.sh scripts/lab/* tests/*.sh tests/*/*.sh model/check .ci/run; do
        case $(head -c 20 "$f" 2>/dev/null) in
        '#!/bin/bash'*|'# SPDX'*|'# shellcheck'*) check "syntax of $f" "$out/syntax.log" bash -n "$f" ;;
        '#!/bin/sh'*) check "syntax of $f" "$out/syntax.log" sh -n "$f" ;;
        esac
    done
}

# may_skip NAME LOG CMD...: as check; status 77 says that packages cannot be had.
may_skip() {
    local name=$1 to=$2 rc=0; shift 2
    "$@" >"$to" 2>&1 </dev/null || rc=$?
    case $rc in
    0) ok "$name" ;;
    77) skip "$name" "the packages cannot be had (see $to)" ;;
    *) tail -n 40 "$to" >&2; bad "$name (see $to)" ;;
    esac
}

# Adds up what cargo test printed; a crate which did not build is a failure.
cargo_results() {
    local p f i
    read -r p f i < <(awk '/^test result:/ {p += $4; f += $6; i += $8} END {print p+0, f+0, i+0}' "$1")
    passed=$((passed + p)) failed=$((failed + f))
    [ "$f" = 0 ] || failures+=("$f cargo tests (see $1)")
    if [ "$i" != 0 ]; then
        skipped=$((skipped + i))
        log "SKIPPED: $i cargo tests:"
        grep -E '^test .* ignored' "$1" >&2
    fi
    if grep -q '^error' "$1"; then bad "cargo test (see $1)"; fi
    log "cargo test: $p passed, $f failed, $i ignored"
}

patch_tests() {
    local p=$HVCKPT_ROOT/xen-patch/0001-int84-user-hypercall.patch n fuzz=30
    n=$(grep '^+' "$p" | grep -cv '^+++ ')
    if [ "$n" -le 150 ]; then ok "hooks are small ($n lines)"; else bad "hooks: $n added lines, 150 allowed"; fi
    mkdir -p "$logs/patch"
    # The hypervisor's code against a model of a guest, with sanitizers.
    host_packages gcc libc6-dev make
    log "model of a guest (a minute)"
    check "hypervisor code below a model of a guest" "$logs/patch/model.log" \
        make -C "$HVCKPT_ROOT/xen-patch/tests" check
    host_packages clang
    host_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
    [ "$long" = 0 ] || fuzz=600
    log "coverage-guided fuzzing of it ($fuzz s)"
    check "hypervisor code under a coverage-guided fuzzer" "$logs/patch/fuzz.log" \
        make -C "$HVCKPT_ROOT/xen-patch/tests" fuzz SECONDS="$fuzz"
    # Its last words: calls made, and how much of the code they reached.
    log "$(grep -E '^#[0-9]+.*DONE' "$logs/patch/fuzz.log" | tr -s '[:space:]' ' ' || true)"
    # The order of its steps on two CPUs, exhaustively.
    host_packages gcc libc6-dev spin
    log "model of the protocol (two minutes)"
    check "model of the protocol, and its mutants" "$logs/patch/protocol.log" "$HVCKPT_ROOT/model/check"
    # The public header must do for strict C as well as for C++.
    check "public header is C90" "$logs/patch/c90.log" \
        gcc -ansi -Wall -Wextra -Werror -include stdint.h -fsyntax-only -x c "$HVCKPT_ROOT/xen-patch/include/public/cda.h"
    if command -v g++ >/dev/null; then
        check "public header is C++" "$logs/patch/cxx.log" \
            g++ -Wall -Wextra -Werror -include stdint.h -fsyntax-only -x c++ "$HVCKPT_ROOT/xen-patch/include/public/cda.h"
    else skip "public header is C++" "no g++ here"; fi
}
