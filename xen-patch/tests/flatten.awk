# SPDX-License-Identifier: GPL-2.0-only
# A source with the parts of ours which it includes ("...") in their places, and
# without what it includes of Xen (<...>).  "../cda/" of the Xen tree is cda/
# beside the source.

function put(file,    line, rc) {
    while ((rc = (getline line < file)) > 0)
        if (line ~ /^#include "/) {
            gsub(/^#include "|".*$/, "", line)
            sub(/^\.\.\//, "", line)
            put(dir line)
        } else if (line ~ /^#include/)
            print ""
        else
            print line
    if (rc < 0) {
        print "flatten.awk: cannot read " file > "/dev/stderr"
        exit 1
    }
    close(file)
}

BEGIN {
    dir = ARGV[1]
    sub(/[^\/]*$/, "", dir)
    put(ARGV[1])
    exit
}
