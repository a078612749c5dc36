#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# once-more.sh PROGRAM [ARGUMENT]...: in the emulated machine threaded programs
# that fork see their heap corrupted, without the patch as well (docs/lab.md):
# glibc's abort, and only that, may be repeated once, and says so.
rc=0
"$@" || rc=$?
[ $rc = 134 ] || exit $rc
echo "AGAIN: heap abort, see docs/lab.md"
exec "$@"
