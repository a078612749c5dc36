# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Options are looked at before anything long begins: what makes no sense is
# refused by name, with what would. All of these end the script if it does not.

# refuse MESSAGE [NEXT-STEP]: the caller is wrong, nothing was begun. Status 2,
# unless the script's own program may have that.
refuse() { fail "${HVCKPT_FAIL_CODE:-2}" "$@"; }

unknown_option() { refuse "unknown option '$1'" "$HVCKPT_PROG --help"; }

# need_value "$@": the option in front has a value.
need_value() {
    [ $# -ge 2 ] && [ -n "$2" ] || refuse "$1 needs a value" "$HVCKPT_PROG --help"
    # Its value was forgotten; a name like this can be written ./--name.
    case $2 in --*) refuse "$1 needs a value, not the option '$2'" "$HVCKPT_PROG --help" ;; esac
}

# no_value OPTION GIVEN: for options which were written --option=value.
no_value() { [ "$2" = 0 ] || refuse "$1 takes no value" "$HVCKPT_PROG --help"; }

# need_number NAME VALUE LEAST MOST
need_number() {
    case $2 in
    ''|*[!0-9]*|0?*|??????????*) ;;
    *) [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ] || return 0 ;;
    esac
    refuse "$1 is a number from $3 to $4, not '$2'"
}

# one_of NAME VALUE CHOICE…
one_of() {
    local name=$1 value=$2 c; shift 2
    for c; do [ "$value" != "$c" ] || return 0; done
    refuse "$name: there is no '$value'" "one of: $*"
}

# need_file NAME PATH: something to read.
need_file() {
    [ -e "$2" ] || refuse "$1: no such file: $2"
    [ ! -d "$2" ] || refuse "$1: $2 is a directory"
    [ -r "$2" ] || refuse "$1: cannot read $2"
}

# need_directory NAME PATH: made if it is missing; prints its full name.
need_directory() {
    local try
    [ ! -e "$2" ] || [ -d "$2" ] || refuse "$1: $2 is not a directory"
    mkdir -p -- "$2" 2>/dev/null || refuse "$1: cannot create the directory $2"
    try=$(mktemp "$2/.hvckpt.XXXXXXXX" 2>/dev/null) || refuse "$1: cannot write to $2"
    rm -f -- "$try"
    readlink -f -- "$2"
}

# need_output NAME FILE: which can be written to.
need_output() {
    [ ! -d "$2" ] || refuse "$1: $2 is a directory"
    # Appending changes nothing.
    { : >>"$2"; } 2>/dev/null || refuse "$1: cannot write $2"
}

# need_base NAME VALUE: a source of the hypervisor, as far as one look tells.
need_base() {
    case $2 in
    4.20|4.17) return 0 ;;
    esac
    if [ -d "$2" ]; then
        [ -e "$2/xen/Makefile" ] || refuse "$1: $2 is not a Xen source tree (no xen/Makefile)"
    elif [ -f "$2" ]; then
        # Listing ends early, and tar minds.
        ( set +o pipefail; tar -tf "$2" 2>/dev/null | grep -q '^[^/]*/xen/Makefile$' ) ||
            refuse "$1: $2 is no tarball of Xen (no xen/Makefile in it)"
    else
        refuse "$1: no such source: $2" "4.20, 4.17, a directory or a tarball"
    fi
}

# need_guest_kernel NAME VALUE
need_guest_kernel() { one_of "$1" "$2" 6.12 6.1; }
