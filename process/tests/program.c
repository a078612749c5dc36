/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A C program which uses the header; see c.rs. */
#include "hvckpt-process.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number = 1;
static char kept[2 * 4096] __attribute__((aligned(4096)));

static void *work(void *argument)
{
    number = 2;
    return argument;
}

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); exit(1); } } while (0)

int main(void)
{
    CHECK(hvckpt_speculation_commit() == -EINVAL);
    CHECK(hvckpt_speculation_abort() == -EINVAL);
    CHECK(hvckpt_exclude(kept, sizeof kept) == 0);
    CHECK(hvckpt_exclude(kept + 1, 4096) == -EINVAL);
    char *text = strdup("before");
    long n = hvckpt_speculate();
    CHECK(n >= 0 && n <= 3);
    CHECK(kept[5000] == n && number == 1 && strcmp(text, "before") == 0);
    if (n < 3) {
        pthread_t thread;
        if (n == 0) {
            CHECK(hvckpt_speculate() == -EBUSY);
            CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
            CHECK(pthread_join(thread, NULL) == 0 && number == 2);
            strcpy(text, "after");
        }
        kept[5000]++;
        hvckpt_speculation_abort();
        CHECK(0);
    }
    CHECK(hvckpt_speculation_commit() == 0);
    puts("done");
    return 0;
}
