/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One-time tokens for a domain as fast as it uses them, without the policy
 * daemon.  The nth, from 0, is two words: n + 1 and MARK.
 *
 * usage: tokens DOMID N
 */
#include <gate.h>

#define MARK 0x6874697765636172ULL

int main(int argc, char **argv)
{
    unsigned long domid = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
    unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 0) : 0, i;
    int fd;

    if ( argc != 3 || !n )
    {
        fprintf(stderr, "usage: tokens DOMID N\n");
        return 2;
    }
    fd = privcmd_open();
    for ( i = 0; i < n; ++i )
    {
        uint64_t words[2] = { i + 1, MARK };
        struct cda_ctl_token t = {
            .size = sizeof(t), .domid = domid, .tag = 78,
            .lifetime_ms = 3600000,
        };
        long rc;

        memcpy(t.token, words, sizeof(t.token));
        /* All slots taken: the guest has to use some. */
        while ( (rc = control(fd, CDA_CTL_add_token, &t)) == -ENOSPC )
            usleep(300);
        if ( rc )
        {
            printf("FAIL add_token %lu: %ld\n", i, rc);
            return 1;
        }
    }
    return 0;
}
