# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Everything, for scripts that need the whole lab.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for _f in apt xen-source xen-build image guest-kernel qemu crates job run options tax; do . "$HVCKPT_LIB/$_f.sh"; done
unset _f
