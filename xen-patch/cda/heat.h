/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/heat.h
 *
 * Autoxen's policy: which pages fault when they are written, and which are left
 * writable and looked at in each cycle.  Owns what is remembered for that of
 * each page of a chunk, which the backend's lock of the chunk protects.
 */
#ifndef __X86_CDA_HEAT_H__
#define __X86_CDA_HEAT_H__

/*
 * Autoxen.  Instructions, of Xen alone: a first write costs about 500 (fault,
 * protecting it again), looking at a watched page 10, at a dirty one 60.  So
 * two dirty cycles in a row pay for a third, and a page which stays clean may
 * be watched for about 500 / 10 cycles before a fault would have been cheaper:
 * whatever the page does later, twice the best choice is the worst case.
 */
#define HOT_AFTER         2    /* dirty cycles in a row */
#define COLD_AFTER        48   /* clean ones */

/* Of one chunk, where pages may be left writable. */
struct cda_heat {
    unsigned long hot[BITS_TO_LONGS(CHUNK_PAGES)]; /* writable, and watched */
    uint8_t pass[CHUNK_PAGES];    /* when the page was dirty last, mod 256 */
    uint8_t streak[CHUNK_PAGES];  /* cycles: cold and dirty, or hot and clean */
};

/* Does @mode leave pages writable at all? */
static bool mode_heats(unsigned int mode)
{
    return mode == CDA_MODE_SCANXEN || mode == CDA_MODE_AUTOXEN;
}

/* Shall the page in @slot, dirty in this cycle, be watched from now on? */
static bool runs_hot(const struct cda_range *r, struct cda_heat *h,
                     unsigned int slot)
{
    if ( r->mode == CDA_MODE_SCANXEN )
        return true;

    if ( test_bit(slot, h->hot) )
    {
        h->streak[slot] = 0;
        return true;
    }

    h->streak[slot] = h->pass[slot] == (uint8_t)(r->pass - 1)
                      ? h->streak[slot] + 1 : 1;
    h->pass[slot] = r->pass;
    if ( h->streak[slot] < HOT_AFTER )
        return false;
    h->streak[slot] = 0;

    return true;
}

#endif /* __X86_CDA_HEAT_H__ */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
