/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* labagent: see agent.h. */
#include <stdio.h>
#include <string.h>

#include "agent.h"

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";

    if (!strcmp(mode, "serve"))
        return serve_guest();
    if (!strcmp(mode, "serve-host") && argc == 3)
        return serve_host(argv[2]);
    if (!strcmp(mode, "call"))
        return call(argc - 1, argv + 1);
    if (!strcmp(mode, "consoles") && argc == 4)
        return consoles(argv[2], argv[3]);
    if (!strcmp(mode, "drive"))
        return drive(argc - 1, argv + 1);
    fprintf(stderr, "usage: labagent serve | serve-host DEV | call ... | "
            "consoles DIR OUT | drive ...\n");
    return 125;
}
