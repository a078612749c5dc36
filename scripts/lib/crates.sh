# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# The workspace's own binaries, built when there is a workspace; not the tests'.

CRATES_DIR=${CARGO_TARGET_DIR:-$HVCKPT_ROOT/target}/release

# crates_build: bring target/release up to date. HVCKPT_NO_BUILD=1 takes what
# is there.
crates_build() {
    local start rc=0 out
    [ -e "$HVCKPT_ROOT/Cargo.toml" ] && [ -z "${HVCKPT_NO_BUILD:-}" ] || return 0
    command -v cargo >/dev/null ||
        die "cargo is not installed" "install Rust, or set HVCKPT_NO_BUILD=1 to go on with the binaries there are"
    cache_init
    mkdir -p "$HVCKPT_CACHE_DIR/logs"
    make_tmpdir out
    start=$(now_ms)
    run_group cargo build --release --workspace --exclude hvckpt-guest-tests --manifest-path "$HVCKPT_ROOT/Cargo.toml" >"$out/cargo-build.log" 2>&1 </dev/null || rc=$?
    if [ $rc -ne 0 ]; then
        tail -n 40 "$out/cargo-build.log" >&2
        die "cargo build failed (log: $(keep_log "$out/cargo-build.log"))" \
            "fix it, or set HVCKPT_NO_BUILD=1 to go on with the binaries there are"
    fi
    # Silent when there was nothing to do.
    grep -q 'Compiling' "$out/cargo-build.log" && log "crates: built in $(secs_since "$start") s"
    return 0
}
