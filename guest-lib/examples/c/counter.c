/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The shortest use from C: a counter in a critical data area.
 *
 * cc -Iinclude examples/c/counter.c -L... -lhvckpt -o counter
 * usage: counter [TRACKER]
 */
#include <hvckpt.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    struct hvckpt_dirty dirty;
    hvckpt_region *region;
    int tracker = hvckpt_tracker_by_name(argc > 1 ? argv[1] : "ptxen");
    volatile uint64_t *words;

    if ( tracker < 0 )
        goto failed;
    options.bytes = 4 * HVCKPT_PAGE_SIZE;
    options.trackers = &tracker;
    options.tracker_count = 1;
    if ( hvckpt_register_cda(&options, &region) < 0 )
        goto failed;
    words = hvckpt_memory(region);

    for ( size_t page = 0; page < hvckpt_pages(region); page++ )
    {
        if ( hvckpt_begin(region) < 0 )
            goto failed;
        words[page * (HVCKPT_PAGE_SIZE / sizeof(*words))]++;
        if ( hvckpt_commit(region, &dirty) < 0 )
            goto failed;
        printf("%s: dirty pages:", hvckpt_tracker_name(hvckpt_tracker(region)));
        for ( size_t i = 0; !dirty.lost && i < dirty.count; i++ )
            printf(" %llu", (unsigned long long)dirty.pages[i]);
        puts(dirty.lost ? " all" : "");
    }

    return hvckpt_unregister(region) < 0;

 failed:
    fprintf(stderr, "%s\n", hvckpt_last_error());
    return 2;
}
