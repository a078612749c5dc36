/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Look at the machine's console log while it grows, for signs that Xen, Dom0
 * or a guest kernel broke. */
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

/* A user program's own crash ("traps: …", "segfault at") is not listed: that
 * is the program's affair and shows in its exit status. */
static const char broken_re[] =
    "Panic on CPU|Xen BUG at|Assertion .* failed|FATAL TRAP|FATAL PAGE FAULT|"
    "GENERAL PROTECTION FAULT|DOUBLE FAULT|"
    "\\(XEN\\).*(domain_crash|crashed on cpu)|"
    "Kernel panic|kernel BUG at|BUG: |Oops: |Oops\\[|general protection|"
    "Initramfs unpacking failed|WARNING: CPU: |[Uu]nable to handle (kernel|page fault)|Internal error|"
    "lab: FAILED";
static const char harmless_re[] = "traps: |Command line:";

static regex_t broken, harmless, allowed;
static int have_allowed, log_fd = -1;
static char line[4096];
static size_t used;

int watch_open(const char *path, const char *allow)
{
    log_fd = open(path, O_RDONLY | O_CLOEXEC);
    regcomp(&broken, broken_re, REG_EXTENDED | REG_NOSUB);
    regcomp(&harmless, harmless_re, REG_EXTENDED | REG_NOSUB);
    if (allow && *allow) {
        if (regcomp(&allowed, allow, REG_EXTENDED | REG_NOSUB))
            return -2;
        have_allowed = 1;
    }
    return log_fd < 0 ? -1 : 0;
}

const char *watch_poll(void)
{
    static char hit[sizeof(line)];
    const char *found = NULL;
    char buf[8192];
    ssize_t n;

    while (log_fd >= 0 && (n = read(log_fd, buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] != '\n' && used < sizeof(line) - 1) {
                line[used++] = buf[i] ? buf[i] : ' ';
                continue;
            }
            line[used] = 0;
            used = 0;
            if (!found && !regexec(&broken, line, 0, NULL, 0) &&
                regexec(&harmless, line, 0, NULL, 0) &&
                !(have_allowed && !regexec(&allowed, line, 0, NULL, 0)))
                found = strcpy(hit, line);
        }
    }
    return found;
}
