# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# What the patch costs those who do not use it: programs that know nothing of
# checkpointing (tests/steps/tax.steps), without the patch, with it switched off,
# and switched on.

# tax_build DIR: the programs, made there. Sets TAX_ADD, options of guest-run.
tax_build() {
    local p compiler=/usr/bin/gcc
    host_packages gcc libc6-dev binutils
    # Not one that only passes calls on.
    [ -x $compiler ] || compiler=$(command -v gcc)
    gcc -O2 -Wall -Wextra -o "$1/mix" "$HVCKPT_ROOT/tests/guest/mix.c" || die "cannot compile mix.c"
    # A step of a kernel's build: a module goes through the compiler and the assembler.
    guest_module_preprocess 6.1 "$HVCKPT_ROOT/tests/guest/module/fuzz_kernel.c"
    TAX_ADD=(--add "$1/mix" --add "$GUEST_SOURCE:/lab/bin/kernel.i")
    for p in "$compiler" "$(gcc -print-prog-name=cc1)" "$(command -v "$(gcc -print-prog-name=as)")"; do
        [ -x "$p" ] || die "gcc lacks a part of its own" "apt-get install --reinstall gcc cpp binutils"
        TAX_ADD+=(--add "$(readlink -f "$p"):/lab/bin/$(basename "$p")")
    done
}

# tax_options unpatched|off|on [BASE]: sets TAX_OPTIONS, of guest-run.
tax_options() {
    local base=${2:-4.20}
    case $1 in
    unpatched) TAX_OPTIONS=(--no-key --xen "$("$HVCKPT_ROOT/scripts/build-xen" --unpatched --base "$base" | tail -n 1)") ;;
    off) TAX_OPTIONS=(--no-key --base "$base" --xen-args cda=off) ;;
    # With a key: the guest is admitted, and the programs do not care.
    on) TAX_OPTIONS=(--base "$base") ;;
    esac
}
