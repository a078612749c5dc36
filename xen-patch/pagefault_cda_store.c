/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/pv/pagefault_cda_store.c (included by pagefault_cda.c)
 *
 * Emulxen: performs stores of a process to protected pages, and logs them.
 * What is stored is found out by pagefault_cda_emul.c, which calls back.  In
 * one translation unit with pagefault_cda.c, so that tables are reached inline.
 *
 * Locks: page_lock() of the L1 table, within it words->lock.
 */

struct cda_store {
    struct cda_session *s;
    struct cda_range *r;
    unsigned int chunk;
    unsigned long page;           /* the one that faulted */
};

/* The largest part that one entry can hold. */
static unsigned int part_of(unsigned int bytes)
{
    return bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
}

static void log_words(const struct cda_store *store, unsigned long va,
                      const uint8_t *data, unsigned int bytes)
{
    struct cda_words *words = store->r->words;
    unsigned int part;

    for ( va -= store->r->start; bytes; bytes -= part, va += part, data += part )
    {
        unsigned int nr = words->nr++;
        struct cda_word *w = &words->at[words->which][nr >> WORDS_SHIFT]
                                       [nr & ((1u << WORDS_SHIFT) - 1)];

        part = part_of(bytes);
        w->entry = va | ((uint64_t)CDA_ENTRY_WORD << CDA_ENTRY_KIND_SHIFT) |
                   ((uint64_t)(part - 1) << CDA_ENTRY_SIZE_SHIFT);
        w->value = 0;
        memcpy(&w->value, data, part);
    }
}

/* As the guest's store would be: in one piece up to eight bytes. */
static void put_bytes(void *to, const void *from, unsigned int bytes)
{
    unsigned int part;

    for ( ; bytes; bytes -= part, to += part, from += part )
    {
        part = part_of(bytes);
        switch ( part )
        {
        case 8: *(volatile uint64_t *)to = *(const uint64_t *)from; break;
        case 4: *(volatile uint32_t *)to = *(const uint32_t *)from; break;
        case 2: *(volatile uint16_t *)to = *(const uint16_t *)from; break;
        case 1: *(volatile uint8_t *)to = *(const uint8_t *)from; break;
        }
    }
}

/* False: *@old is what memory holds. */
static bool cda_exchange(void *to, void *old, const void *new,
                         unsigned int bytes)
{
#define EXCHANGE(type) ({                                                   \
    type was_ = *(type *)old, seen_ = cmpxchg((type *)to, was_,             \
                                              *(const type *)new);          \
    *(type *)old = seen_;                                                   \
    seen_ == was_; })

    switch ( bytes )
    {
    case 1: return EXCHANGE(uint8_t);
    case 2: return EXCHANGE(uint16_t);
    case 4: return EXCHANGE(uint32_t);
    case 8: return EXCHANGE(uint64_t);
    case 16:
    {
        __uint128_t was = *(__uint128_t *)old;
        __uint128_t seen = __cmpxchg16b(to, old, (void *)new);

        *(__uint128_t *)old = seen;
        return seen == was;
    }
#undef EXCHANGE
    }

    ASSERT_UNREACHABLE();
    return false;
}

/*
 * Performs a store of the process, as if it had happened just now: where its
 * address leads now, and only while Xen could grant the page RW as well.
 */
static enum cda_stored cda_do_store(struct cda_store *store, unsigned long va,
                                    void *old, const void *new,
                                    unsigned int bytes)
{
    struct domain *d = current->domain;
    struct cda_session *s = store->s;
    struct cda_chunk *c = chunk_at(store->r, store->chunk);
    struct cda_words *words = store->r->words;
    enum cda_stored rc = CDA_REFUSED;
    struct page_info *pg;
    unsigned long l1e, l2e;
    l1_pgentry_t *pl1e;
    uint8_t *to;
    mfn_t l1 = c->l1;

    barrier(); /* one look, until page_lock() allows a second */
    if ( !bytes || bytes > 16 || (va & PAGE_MASK) != store->page ||
         ((va + bytes - 1) & PAGE_MASK) != store->page ||
         mfn_eq(l1, INVALID_MFN) || (pl1e = lock_l1(d, l1)) == NULL )
        return CDA_REFUSED;

    l1e = ACCESS_ONCE(l1e_get_intpte(pl1e[l1_table_offset(va)]));
    if ( !(l1e & _PAGE_PRESENT) || !mfn_eq(c->l1, l1) || s->forward ||
         s->revoked || paging_mode_enabled(d) )
        goto out;

    /* Unlike a grant, the store must reach the page that is mapped there. */
    l2e = live_l2e(va);
    if ( !l2e_leads(l2e) || !mfn_eq(l2e_mfn(l2e), l1) )
        goto out;

    if ( l1e & _PAGE_RW )
        rc = CDA_AGAIN;
    if ( (l1e & (_PAGE_RW | CDA_L1E_RO)) != CDA_L1E_RO )
        goto out;

    /* Not into what has become a page table, nor while it becomes one. */
    pg = mfn_to_page(l2e_mfn(l1e));
    if ( !get_writable(pg) )
        goto out;

    to = (uint8_t *)map_table(l2e_mfn(l1e)) + PAGE_OFFSET(va);
    spin_lock(&words->lock);
    /* 16 bytes are four entries at most: 8 + 4 + 2 + 1. */
    if ( words->nr + 4 <= MAX_WORDS )
    {
        rc = CDA_STORED;
        if ( !old )
            put_bytes(to, new, bytes);
        else if ( !cda_exchange(to, old, new, bytes) )
            rc = CDA_DIFFERS;
        if ( rc == CDA_STORED )
            log_words(store, va, new, bytes);
    }
    spin_unlock(&words->lock);
    unmap_table(to);
    put_writable(pg);

 out:
    unlock_l1(pl1e, l1);

    return rc;
}

enum cda_stored cda_store_write(struct cda_store *st, unsigned long va,
                                const void *data, unsigned int bytes)
{
    return cda_do_store(st, va, NULL, data, bytes);
}

enum cda_stored cda_store_cmpxchg(struct cda_store *st, unsigned long va,
                                  void *old, const void *new,
                                  unsigned int bytes)
{
    if ( (bytes & (bytes - 1)) || (va & (bytes - 1)) )
        return CDA_REFUSED;

    return cda_do_store(st, va, old, new, bytes);
}

/*
 * The process's own store to a protected page.  False: the page is to become
 * writable.
 */
static noinline bool cda_emulate_fault(struct cda_session *s,
                                       struct cda_range *r, unsigned int chunk,
                                       unsigned long addr,
                                       struct cpu_user_regs *regs)
{
    struct cda_store st = {
        .s = s, .r = r, .chunk = chunk, .page = addr & PAGE_MASK,
    };

    /* Instructions cannot be longer than 15 bytes; Xen is out of reach. */
    if ( !guest_kernel_mode(current, regs) && regs->rip < VA_END &&
         caller_is_64bit(regs) && cda_emulate(&st, regs) )
    {
        COUNT(s, emulated);
        return true;
    }
    COUNT(s, degraded);

    return false;
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
