/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The C API from end to end, with the tracker named on the command line. */
#include <hvckpt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;

#define CHECK(what) \
    do { \
        if ( what ) \
            printf("ok %s\n", #what); \
        else \
        { \
            failed = 1; \
            printf("FAIL line %d: %s (%s)\n", __LINE__, #what, hvckpt_last_error()); \
        } \
    } while ( 0 )

#define PAGES 16

static hvckpt_region *region;

static void *writer(void *arg)
{
    volatile unsigned char *memory = hvckpt_memory(region);
    size_t page = (size_t)arg;

    memory[page * HVCKPT_PAGE_SIZE + page]++;

    return NULL;
}

static int has(const struct hvckpt_dirty *dirty, uint64_t page)
{
    for ( size_t i = 0; i < dirty->count; i++ )
        if ( dirty->lost || dirty->pages[i] == page )
            return 1;

    return 0;
}

static void *begin_elsewhere(void *arg)
{
    (void)arg;

    return (void *)(long)hvckpt_begin(region);
}

static void cycles(int tracker)
{
    struct hvckpt_counters counters = { .size = sizeof(counters) };
    volatile unsigned char *memory = hvckpt_memory(region);
    struct hvckpt_dirty dirty;
    pthread_t thread[4];
    void *result;

    CHECK(hvckpt_commit(region, &dirty) == HVCKPT_E_NOT_OPEN);
    CHECK(hvckpt_commit_and_continue(region, &dirty) == HVCKPT_E_NOT_OPEN);
    CHECK(hvckpt_peek(region, &dirty) == HVCKPT_E_NOT_OPEN);
    CHECK(hvckpt_end(region) == HVCKPT_E_NOT_OPEN);
    CHECK(strstr(hvckpt_last_error(), "no transaction"));

    CHECK(hvckpt_begin(region) == 0);
    CHECK(hvckpt_begin(region) == HVCKPT_E_ALREADY_OPEN);
    CHECK(pthread_create(&thread[0], NULL, begin_elsewhere, NULL) == 0);
    CHECK(pthread_join(thread[0], &result) == 0);
    CHECK((long)result == HVCKPT_E_ALREADY_OPEN);

    for ( size_t i = 0; i < 4; i++ )
        CHECK(pthread_create(&thread[i], NULL, writer, (void *)(i * 3)) == 0);
    for ( size_t i = 0; i < 4; i++ )
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(hvckpt_peek(region, &dirty) == 0);
    CHECK(dirty.count == 4 && has(&dirty, 0) && has(&dirty, 9));
    CHECK(hvckpt_commit_and_continue(region, &dirty) == 0);
    CHECK(dirty.count == 4 && !dirty.lost && has(&dirty, 3) && has(&dirty, 6));
    memory[5 * HVCKPT_PAGE_SIZE]++;
    CHECK(hvckpt_commit(region, &dirty) == 0);
    CHECK(dirty.count == 1 && has(&dirty, 5));

    CHECK(hvckpt_begin(region) == 0);
    CHECK(hvckpt_prepare_write(region, 2 * HVCKPT_PAGE_SIZE, 1) == 0);
    CHECK(hvckpt_prepare_write(region, PAGES * HVCKPT_PAGE_SIZE, 1) == HVCKPT_E_INVALID);
    CHECK(hvckpt_prepare_write(region, (size_t)-1, 2) == HVCKPT_E_INVALID);
    CHECK(hvckpt_commit(region, &dirty) == 0);
    CHECK(tracker == HVCKPT_SIM ? dirty.count == 0 : dirty.count == 1);
    CHECK(hvckpt_begin(region) == 0);
    memory[0]++;
    CHECK(hvckpt_end(region) == 0);
    CHECK(hvckpt_begin(region) == 0);
    CHECK(hvckpt_commit(region, NULL) == 0);

    CHECK(hvckpt_get_counters(region, &counters) == 0);
    CHECK(tracker != HVCKPT_PT || counters.known == HVCKPT_KNOWN_FAULTS);
    CHECK(tracker != HVCKPT_PT || counters.faults > 4);
    CHECK(tracker != HVCKPT_PTXEN || counters.hypervisor.cycles > 4);
    counters.size--;
    CHECK(hvckpt_get_counters(region, &counters) == HVCKPT_E_INVALID);
}

static void in_fork_child(void)
{
    int status;
    pid_t pid = fork();

    if ( pid == 0 )
    {
        int told = hvckpt_begin(region) == HVCKPT_E_FORK_CHILD;

        _exit(told && hvckpt_unregister(region) == 0 ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
    CHECK(hvckpt_begin(region) == 0);
    CHECK(hvckpt_end(region) == 0);
}

static void refused(void)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    int unknown = 99, pt = HVCKPT_PT;
    hvckpt_region *none = (void *)1;

    CHECK(hvckpt_register_cda(NULL, &none) == HVCKPT_E_INVALID && !none);
    CHECK(hvckpt_register_cda(&options, NULL) == HVCKPT_E_INVALID);
    {
        struct hvckpt_options wrong = options;

        wrong.trackers = &pt;
        wrong.tracker_count = SIZE_MAX;
        CHECK(hvckpt_register_cda(&wrong, &none) == HVCKPT_E_INVALID && !none);
        wrong.tracker_count = 1;
        wrong.trackers = NULL;
        CHECK(hvckpt_register_cda(&wrong, &none) == HVCKPT_E_INVALID && !none);
    }
    options.trackers = &pt;
    options.tracker_count = 1;
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_EMPTY);
    options.bytes = (size_t)-1;
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_TOO_LARGE);
    options.bytes = HVCKPT_PAGE_SIZE;
    options.memory = (void *)(3 * HVCKPT_PAGE_SIZE + 1);
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_UNALIGNED);
    options.memory = NULL;
    options.lock = 7;
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_INVALID);
    options.lock = 0;
    options.size = 8;
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_INVALID);
    options.size = sizeof(options);
    options.trackers = &unknown;
    CHECK(hvckpt_register_cda(&options, &none) == HVCKPT_E_INVALID);
    CHECK(strstr(hvckpt_last_error(), "tracker"));
    CHECK(hvckpt_begin(NULL) == HVCKPT_E_INVALID);
    CHECK(hvckpt_memory(NULL) == NULL && hvckpt_pages(NULL) == 0);
    CHECK(hvckpt_tracker(NULL) == HVCKPT_E_INVALID);
    CHECK(hvckpt_attempt(NULL, 0, NULL) == NULL);
    CHECK(hvckpt_unregister(NULL) == 0);
    CHECK(hvckpt_tracker_by_name("nothing") == HVCKPT_E_INVALID);
    CHECK(hvckpt_tracker_by_name(NULL) == HVCKPT_E_INVALID);
    CHECK(hvckpt_tracker_name(99) == NULL);
    for ( int code = -70; code <= 1; code++ )
        if ( !hvckpt_strerror(code) )
            CHECK(!"hvckpt_strerror");
    CHECK(!strcmp(hvckpt_strerror(-999), "unknown error code"));
    CHECK(strcmp(hvckpt_strerror(HVCKPT_E_LOG_FAULT), "unknown error code"));
}

static void list_of_trackers(int tracker)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    int list[] = { HVCKPT_PTXEN, tracker }, which = 0;
    hvckpt_region *r;

    options.bytes = 1;
    options.trackers = list;
    options.tracker_count = 2;
    CHECK(hvckpt_register_cda(&options, &r) == 0);
    if ( hvckpt_tracker(r) == HVCKPT_PTXEN )
        CHECK(hvckpt_attempt(r, 0, NULL) == NULL);
    else
    {
        CHECK(hvckpt_tracker(r) == tracker);
        CHECK(strlen(hvckpt_attempt(r, 0, &which)) > 3 && which == HVCKPT_PTXEN);
        CHECK(hvckpt_attempt(r, 1, NULL) == NULL);
        CHECK(hvckpt_gate(NULL) < 0);
    }
    CHECK(hvckpt_unregister(r) == 0);
}

static void adopted(int tracker)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    size_t bytes = 4 * HVCKPT_PAGE_SIZE;
    unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct hvckpt_dirty dirty;
    hvckpt_region *r;

    memory[7] = 7;
    options.memory = memory;
    options.bytes = bytes;
    options.trackers = &tracker;
    options.tracker_count = 1;
    if ( tracker == HVCKPT_EMUL )
    {
        CHECK(hvckpt_register_cda(&options, &r) == HVCKPT_E_NO_ALIAS);
        CHECK(munmap(memory, bytes) == 0);
        return;
    }
    CHECK(hvckpt_register_cda(&options, &r) == 0);
    CHECK(hvckpt_memory(r) == memory && memory[7] == 7);
    CHECK(hvckpt_begin(r) == 0);
    memory[bytes - 1] = 1;
    CHECK(hvckpt_commit(r, &dirty) == 0);
    CHECK(dirty.count == 1 && dirty.pages[0] == 3);
    CHECK(hvckpt_unregister(r) == 0);
    memset(memory, 1, bytes);
    CHECK(munmap(memory, bytes) == 0);
}

int main(int argc, char **argv)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    struct hvckpt_limits limits;
    int tracker = hvckpt_tracker_by_name(argc > 1 ? argv[1] : "pt");
    int refuses;

    CHECK(hvckpt_version() > 0);
    CHECK(tracker > 0 && !strcmp(hvckpt_tracker_name(tracker), argv[1]));
    CHECK(hvckpt_get_limits(tracker, &limits) == 0);
    refuses = tracker == HVCKPT_PT || tracker == HVCKPT_EMUL || tracker == HVCKPT_UFFD_WP;
    CHECK(limits.kernel_writes == (refuses ? HVCKPT_REFUSED : HVCKPT_REPORTED));
    refused();
    options.bytes = PAGES * HVCKPT_PAGE_SIZE;
    options.trackers = &tracker;
    options.tracker_count = 1;
    CHECK(hvckpt_register_cda(&options, &region) == 0);
    if ( failed )
        return 1;
    CHECK(hvckpt_pages(region) == PAGES && hvckpt_tracker(region) == tracker);
    CHECK(hvckpt_locked(region) == 1);
    cycles(tracker);
    in_fork_child();
    CHECK(hvckpt_unregister(region) == 0);
    list_of_trackers(tracker);
    adopted(tracker);

    return failed;
}
