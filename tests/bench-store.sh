#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# bench-store.sh: whether the store's benchmark compiles and
# runs to its end; what it measures counts for nothing here.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../bench-store"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$CARGO_TARGET_DIR/release/hvckpt-bench-store" "$work/store" 20 8
