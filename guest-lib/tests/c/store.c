/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Every call of the store's C API, right and wrong. */
#include <hvckpt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHECK(x)                                                        \
    do                                                                  \
        if ( !(x) )                                                     \
        {                                                               \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x,         \
                    hvckpt_last_error());                               \
            exit(1);                                                    \
        }                                                               \
    while ( 0 )

static hvckpt_store *open_store(const char *path, const char *key)
{
    struct hvckpt_store_options how = HVCKPT_STORE_OPTIONS_INIT;
    hvckpt_store *store;

    how.key_file = key;
    how.keep = 4;
    how.compression = HVCKPT_COMPRESS_ZSTD;
    CHECK(hvckpt_store_open(path, &how, &store) == 0);
    return store;
}

static hvckpt_durable *open_region(hvckpt_store *store, int tracker, size_t pages)
{
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    hvckpt_durable *region;

    options.bytes = pages * HVCKPT_PAGE_SIZE;
    options.trackers = &tracker;
    options.tracker_count = 1;
    options.lock = HVCKPT_LOCK_NEVER;
    CHECK(hvckpt_durable_open(store, "main", &options, &region) == 0);
    return region;
}

static void transactions(hvckpt_store *store, hvckpt_durable *region)
{
    volatile uint64_t *words = hvckpt_durable_memory(region);
    unsigned char page[HVCKPT_PAGE_SIZE];
    uint64_t first, version, versions[2];

    CHECK(hvckpt_durable_commit(region, HVCKPT_SYNC, NULL) == HVCKPT_E_NOT_OPEN);
    CHECK(hvckpt_durable_abort(region) == HVCKPT_E_NOT_OPEN);
    CHECK(hvckpt_durable_begin(region) == 0);
    CHECK(hvckpt_durable_begin(region) == HVCKPT_E_ALREADY_OPEN);
    words[3000] = 7;
    CHECK(hvckpt_durable_commit(region, 9, NULL) == HVCKPT_E_INVALID);
    CHECK(hvckpt_durable_commit(region, HVCKPT_SYNC, &first) == 0);
    CHECK(hvckpt_durable_version(region) == first);
    CHECK(hvckpt_store_durable(store) == first);

    CHECK(hvckpt_durable_begin(region) == 0);
    words[3000] = 8;
    CHECK(hvckpt_durable_abort(region) == 0 && words[3000] == 7);

    for ( int level = HVCKPT_SYNC; level <= HVCKPT_MEMORY; level++ )
    {
        CHECK(hvckpt_durable_begin(region) == 0);
        CHECK(hvckpt_durable_prepare_write(region, 3000 * 8, 8) == 0);
        words[3000] = 10 + level;
        CHECK(hvckpt_durable_commit(region, level, &version) == 0);
    }
    CHECK(hvckpt_store_newest(store) == version);
    CHECK(hvckpt_store_wait(store, version) == 0);
    CHECK(hvckpt_store_durable(store) == version);
    CHECK(hvckpt_store_wait(store, version + 1) == HVCKPT_E_NO_VERSION);
    CHECK(hvckpt_store_flush(store) == 0 && hvckpt_store_waiting(store) == 0);
    CHECK(hvckpt_store_versions(store, NULL, 0) >= 4);
    CHECK(hvckpt_store_versions(store, versions, 2) >= 4 && versions[1] == version);
    CHECK(hvckpt_store_read(store, first, "main", 5, page) == 0);
    CHECK(((uint64_t *)page)[3000 % 512] == 7);
    CHECK(hvckpt_store_read(store, 0, "main", 5, page) == 0);
    CHECK(((uint64_t *)page)[3000 % 512] == 10 + HVCKPT_ASYNC);
    CHECK(hvckpt_store_read(store, 0, "other", 5, page) == HVCKPT_E_NO_AREA);
    CHECK(hvckpt_store_read(store, 999, "main", 5, page) == HVCKPT_E_NO_VERSION);
    CHECK(hvckpt_store_read(store, 0, "main", 500, page) == HVCKPT_E_INVALID);
    CHECK(hvckpt_durable_begin(region) == 0);
    memset((void *)words, 0, 8 * HVCKPT_PAGE_SIZE);
    CHECK(hvckpt_durable_commit(region, HVCKPT_GROUP, NULL) == 0);
    CHECK(hvckpt_store_compact(store) == 0);
    CHECK(hvckpt_store_metrics(store, NULL, 0) > 1000);
    CHECK(hvckpt_store_metrics(store, (char *)page, 9) > 1000);
    CHECK(strcmp((char *)page, "# HELP h") == 0);
}

static void arena(hvckpt_durable *region)
{
    char *block, *other;
    uint64_t used;

    CHECK(hvckpt_malloc(region, 10) == NULL && hvckpt_root(region) == NULL);
    CHECK(hvckpt_free(region, NULL) == HVCKPT_E_NO_ARENA);
    CHECK(hvckpt_arena_open(region) == 1 && hvckpt_arena_open(region) == 0);
    used = hvckpt_arena_used(region);

    CHECK(hvckpt_durable_begin(region) == 0);
    CHECK((block = hvckpt_malloc(region, 100)) != NULL);
    CHECK((uintptr_t)block % 16 == 0);
    strcpy(block, "the root");
    CHECK((block = hvckpt_realloc(region, block, 5000)) != NULL);
    CHECK((block = hvckpt_realloc(region, block, 20)) != NULL);
    CHECK(strcmp(block, "the root") == 0);
    CHECK((other = hvckpt_calloc(region, 3, 7)) != NULL && other[20] == 0);
    CHECK(hvckpt_malloc(region, 1 << 30) == NULL);
    CHECK(hvckpt_calloc(region, SIZE_MAX / 2, 3) == NULL);
    CHECK(hvckpt_realloc(region, other, SIZE_MAX) == NULL);
    CHECK(hvckpt_free(region, other) == 0);
    CHECK(hvckpt_free(region, other) == HVCKPT_E_INVALID);
    CHECK(hvckpt_free(region, block + 1) == HVCKPT_E_INVALID);
    CHECK(hvckpt_free(region, &used) == HVCKPT_E_INVALID);
    CHECK(hvckpt_realloc(region, &used, 3) == NULL);
    CHECK(hvckpt_set_root(region, &used) == HVCKPT_E_INVALID);
    CHECK(hvckpt_set_root(region, block) == 0 && hvckpt_root(region) == block);
    CHECK(hvckpt_durable_abort(region) == 0);
    CHECK(hvckpt_root(region) == NULL && hvckpt_arena_used(region) == used);

    CHECK(hvckpt_durable_begin(region) == 0);
    CHECK((block = hvckpt_malloc(region, 64)) != NULL);
    strcpy(block, "kept");
    CHECK(hvckpt_set_root(region, block) == 0);
    CHECK(hvckpt_durable_commit(region, HVCKPT_SYNC, NULL) == 0);
}

int main(int argc, char **argv)
{
    struct hvckpt_store_options how = HVCKPT_STORE_OPTIONS_INIT;
    struct hvckpt_recovery found;
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    char path[4096], key[4096], other[4096];
    hvckpt_store *store, *second;
    hvckpt_durable *region;
    uint64_t version;
    int tracker;

    if ( argc != 3 || (tracker = hvckpt_tracker_by_name(argv[2])) < 0 )
        return 2;
    snprintf(path, sizeof(path), "%s/store", argv[1]);
    snprintf(key, sizeof(key), "%s/key", argv[1]);
    snprintf(other, sizeof(other), "%s/other", argv[1]);

    CHECK(hvckpt_store_keygen(key) == 0 && hvckpt_store_keygen(other) == 0);
    CHECK(hvckpt_store_keygen(key) == HVCKPT_E_STORE_KEY_FILE);
    how.no_create = 1;
    CHECK(hvckpt_store_open(path, &how, &store) == HVCKPT_E_NOT_A_STORE && !store);
    how.size = 1;
    CHECK(hvckpt_store_open(path, &how, &store) == HVCKPT_E_INVALID);
    CHECK(hvckpt_store_open(NULL, NULL, &store) == HVCKPT_E_INVALID);
    CHECK(hvckpt_store_close(NULL) == 0 && hvckpt_durable_close(NULL) == 0);

    store = open_store(path, key);
    CHECK(hvckpt_store_recovery(store, &found) == 0);
    CHECK(found.created == 1 && found.version == 0 && found.problems == 0);
    CHECK(hvckpt_store_open(path, NULL, &second) == HVCKPT_E_STORE_LOCKED);
    options.lock = HVCKPT_LOCK_NEVER;
    CHECK(hvckpt_durable_open(store, "main", &options, &region) == HVCKPT_E_EMPTY);
    region = open_region(store, tracker, 8);
    CHECK(hvckpt_durable_pages(region) == 8);
    CHECK(hvckpt_durable_tracker(region) == tracker);
    CHECK(hvckpt_durable_open(store, "main", &options, &region) == HVCKPT_E_AREA_IN_USE);
    CHECK(hvckpt_store_close(store) == 0);

    /* The region above is lost to us, the store not: it is still locked. */
    CHECK(hvckpt_store_open(path, NULL, &second) == HVCKPT_E_STORE_LOCKED);

    snprintf(path, sizeof(path), "%s/again", argv[1]);
    store = open_store(path, key);
    region = open_region(store, tracker, 8);
    transactions(store, region);
    arena(region);
    version = hvckpt_durable_version(region);
    CHECK(hvckpt_durable_close(region) == 0);
    CHECK(hvckpt_store_close(store) == 0);

    memset(&how, 0, sizeof(how));
    how.size = sizeof(how);
    CHECK(hvckpt_store_open(path, &how, &store) == HVCKPT_E_STORE_KEY_NEEDED);
    how.key_file = other;
    CHECK(hvckpt_store_open(path, &how, &store) == HVCKPT_E_STORE_WRONG_KEY);
    CHECK(chmod(other, 0644) == 0);
    CHECK(hvckpt_store_open(path, &how, &store) == HVCKPT_E_STORE_KEY_FILE);
    store = open_store(path, key);
    CHECK(hvckpt_store_recovery(store, &found) == 0);
    CHECK(found.created == 0 && found.version == version);
    region = open_region(store, tracker, 16);
    CHECK(hvckpt_durable_pages(region) == 16);
    CHECK(hvckpt_arena_open(region) == 0);
    CHECK(hvckpt_root(region) && strcmp(hvckpt_root(region), "kept") == 0);
    CHECK(hvckpt_durable_close(region) == 0);
    CHECK(hvckpt_store_close(store) == 0);
    puts("ok");
    return 0;
}
