/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A ledger which survives: a linked list in a durable region, one entry per
 * transaction.  Kill it whenever you like and start it again.
 *
 * cc -Iinclude examples/c/ledger.c -L... -lhvckpt -o ledger
 * usage: ledger DIRECTORY [TRACKER [KEYFILE]]
 *
 * Prints "recovered N", then each number once it is on stable storage.
 */
#include <hvckpt.h>
#include <stdio.h>

struct entry {
    struct entry *next;             /* addresses stay the same for ever */
    uint64_t number;
    uint64_t sum;                   /* of all numbers up to this one */
    char text[40];
};

struct ledger {
    struct entry *newest;
    uint64_t count;
};

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, hvckpt_last_error());
    return 2;
}

/* Every entry must be there, and be what was written. */
static int check(const struct ledger *ledger)
{
    const struct entry *entry = ledger->newest;
    uint64_t n = ledger->count;

    for ( ; n > 0; n--, entry = entry->next )
    {
        char text[sizeof(entry->text)];

        if ( !entry || entry->number != n || entry->sum != n * (n + 1) / 2 )
            return 0;
        snprintf(text, sizeof(text), "entry number %llu", (unsigned long long)n);
        for ( size_t i = 0; text[i]; i++ )
            if ( text[i] != entry->text[i] )
                return 0;
        /* The list is kept short: older entries are freed. */
        if ( n + 100 == ledger->count )
            return !entry->next;
    }
    return !entry;
}

/* One transaction: adds an entry, frees the one a hundred before. */
static int add(hvckpt_durable *region, struct ledger *ledger)
{
    struct entry *entry = hvckpt_calloc(region, 1, sizeof(*entry));

    if ( !entry )
        return -1;
    entry->next = ledger->newest;
    entry->number = ++ledger->count;
    entry->sum = entry->number + (entry->next ? entry->next->sum : 0);
    snprintf(entry->text, sizeof(entry->text), "entry number %llu",
             (unsigned long long)entry->number);
    ledger->newest = entry;
    for ( int n = 0; entry && n < 100; n++ )
        entry = entry->next;
    if ( entry && entry->next )
    {
        if ( hvckpt_free(region, entry->next) < 0 )
            return -1;
        entry->next = NULL;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct hvckpt_store_options how = HVCKPT_STORE_OPTIONS_INIT;
    struct hvckpt_options options = HVCKPT_OPTIONS_INIT;
    int tracker = hvckpt_tracker_by_name(argc > 2 ? argv[2] : "pt");
    hvckpt_store *store;
    hvckpt_durable *region;
    struct ledger *ledger;

    if ( argc < 2 )
    {
        fprintf(stderr, "usage: ledger DIRECTORY [TRACKER [KEYFILE]]\n");
        return 2;
    }
    if ( tracker < 0 )
        return failed("tracker");
    options.bytes = 64 * HVCKPT_PAGE_SIZE;
    options.trackers = &tracker;
    options.tracker_count = 1;
    options.lock = HVCKPT_LOCK_IF_ALLOWED;
    how.key_file = argc > 3 ? argv[3] : NULL;
    if ( hvckpt_store_open(argv[1], &how, &store) < 0 )
        return failed("open the store");
    if ( hvckpt_durable_open(store, "ledger", &options, &region) < 0 ||
         hvckpt_arena_open(region) < 0 )
        return failed("recover the ledger");

    ledger = hvckpt_root(region);
    if ( !ledger )
    {
        if ( hvckpt_durable_begin(region) < 0 ||
             !(ledger = hvckpt_calloc(region, 1, sizeof(*ledger))) ||
             hvckpt_set_root(region, ledger) < 0 ||
             hvckpt_durable_commit(region, HVCKPT_SYNC, NULL) < 0 )
            return failed("make the ledger");
    }
    if ( !check(ledger) )
    {
        fprintf(stderr, "the ledger is not what was written\n");
        return 1;
    }
    printf("recovered %llu\n", (unsigned long long)ledger->count);
    fflush(stdout);

    for ( ; ; )
    {
        if ( hvckpt_durable_begin(region) < 0 || add(region, ledger) < 0 )
            return failed("add");
        /* Now and then somebody changes his mind. */
        if ( ledger->count % 10 == 0 )
        {
            uint64_t before = ledger->count - 1;

            if ( hvckpt_durable_abort(region) < 0 || ledger->count != before ||
                 hvckpt_durable_begin(region) < 0 || add(region, ledger) < 0 )
                return failed("add again");
        }
        if ( hvckpt_durable_commit(region, HVCKPT_SYNC, NULL) < 0 )
            return failed("commit");
        printf("%llu\n", (unsigned long long)ledger->count);
        fflush(stdout);
    }
}
