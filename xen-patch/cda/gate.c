/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/gate.c (included by the backend, see private.h)
 *
 * The operations of a process: attaching with a token, and what a session may
 * ask for.  The backend carries them here, and has checked that the caller may
 * use the gate.
 *
 * Locks: session->lock is only tried, as a vCPU must not wait for another of
 * its guest; cda->lock for tokens and for the chains of sessions.
 */

/* Looks at every byte of every token, whatever matches. */
static struct cda_token *find_token(struct cda_domain *cda,
                                    const uint8_t *bytes)
{
    struct cda_token *found = NULL;
    s_time_t now = NOW();
    unsigned int i, j;

    for ( i = 0; i < MAX_TOKENS; ++i )
    {
        struct cda_token *t = &cda->token[i];
        uint8_t diff = !t->used | (now >= t->expires);

        for ( j = 0; j < CDA_TOKEN_BYTES; ++j )
            diff |= t->bytes[j] ^ bytes[j];
        if ( !diff )
            found = t;
    }

    return found;
}

static unsigned int sessions_with_tag(const struct cda_domain *cda,
                                      uint64_t tag)
{
    const struct cda_session *s;
    unsigned int i, n = 0;

    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            n += s->tag == tag;

    return n;
}

static long op_attach(struct vcpu *curr, unsigned long uarg)
{
    struct cda_domain *cda = curr->domain->arch.cda;
    unsigned long root = caller_root(curr);
    static const uint8_t wiped[CDA_TOKEN_BYTES];
    struct cda_attach a;
    struct cda_session *s;
    struct cda_token *t;
    long rc = 0;

    if ( copy_in(&a, uarg, sizeof(a)) )
        return -EFAULT;
    if ( a.size != sizeof(a) || a.flags || a.reserved[0] || a.reserved[1] ||
         a.reserved[2] )
        return -EINVAL;

    s = cda_zalloc(sizeof(*s));
    if ( !s )
        return -ENOMEM;

    spin_lock_init(&s->lock);
    spin_lock_init(&s->back_lock);
    atomic_set(&s->refs, 1);
    s->root = root;
    s->born = NOW();
    s->cookie = ((uint64_t)get_random() << 32) | get_random();

    /*
     * Who finds the session from now on finds it locked, until the answer is
     * out or the session gone.
     */
    rcu_read_lock(&cda_rcu);
    if ( !spin_trylock(&s->lock) )
        ASSERT_UNREACHABLE();

    spin_lock(&cda->lock);
    t = find_token(cda, a.token);
    if ( !t )
        rc = -EACCES;
    else if ( find_session(cda, root) )
        rc = -EEXIST;
    else if ( cda->used_sessions >= cda->max_sessions ||
              (t->max_sessions &&
               sessions_with_tag(cda, t->tag) >= t->max_sessions) )
        rc = -ENOSPC;
    else
    {
        struct cda_session **head = &cda->session[hash_of(root)];

        s->cda = cda;
        atomic_inc(&cda->refs);
        s->id = ++cda->next_session;
        s->tag = t->tag;
        s->modes = t->modes ?: CDA_MODES;
        s->forward = cda->flags & CDA_LIMIT_FORWARD;
        s->max_pages = t->max_pages ? min(t->max_pages, cda->max_pages)
                                    : cda->max_pages;
        s->max_ranges = t->max_ranges ? min(t->max_ranges, cda->max_ranges)
                                      : cda->max_ranges;
        memset(t, 0, sizeof(*t));
        cda->used_sessions++;
        s->hnext = *head;
        rcu_assign_pointer(*head, s);
    }
    spin_unlock(&cda->lock);

    if ( rc )
    {
        spin_unlock(&s->lock);
        rcu_read_unlock(&cda_rcu);
        xfree(s);
        return rc;
    }

    /*
     * The cookie goes last, and as a whole or not at all: who reads it there
     * knows that there is a session.
     */
    memcpy(a.token, wiped, sizeof(wiped));
    a.max_pages = s->max_pages;
    if ( copy_out(uarg, &a, sizeof(a)) ||
         put_word(uarg + offsetof(struct cda_attach, cookie), s->cookie) )
    {
        spin_lock(&cda->lock);
        unlink_session(cda, s, false);
        spin_unlock(&cda->lock);
        rc = -EFAULT;
    }
    spin_unlock(&s->lock);
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static long op_query(struct cda_session *s, struct domain *d,
                     unsigned long uarg)
{
    struct cda_query q;

    if ( copy_in(&q, uarg, sizeof(q)) )
        return -EFAULT;
    if ( q.size != sizeof(q) || q.flags || q.reserved[0] || q.reserved[1] )
        return -EINVAL;

    q.session = s->id;
    q.pages = s->pages;
    q.max_pages = s->max_pages;
    q.ranges = s->ranges ? s->ranges->nr : 0;
    q.max_ranges = s->max_ranges;
    q.counters = s->cnt;

    return copy_out(uarg, &q, sizeof(q)) ? -EFAULT : 0;
}

static long session_op(struct vcpu *curr, struct cpu_user_regs *regs,
                       struct cda_session *s)
{
    struct domain *d = curr->domain;
    unsigned int op = array_index_nospec(regs->rax, CDA_OP_query + 1);
    struct cda_range *r;

    if ( unlikely(regs->rdi != s->cookie) )
        return -EACCES;
    if ( unlikely(s->revoked) && op != CDA_OP_detach )
        return -CDA_EKEYREVOKED;
    if ( unlikely(regs->rdx | regs->r10) )
        return -EINVAL;

    COUNT(s, crossings);

    if ( likely(op >= CDA_OP_begin) && likely(op <= CDA_OP_peek) )
    {
        uint64_t ticket = regs->r8;
        long rc = op_cycle(s, d, op, regs->rsi, &ticket);

        if ( rc == -ERESTART )
            regs->r8 = ticket;
        return rc;
    }

    if ( unlikely(regs->r8) )
        return -EINVAL;

    switch ( op )
    {
    case CDA_OP_register:
        return op_register(s, regs->rsi);

    case CDA_OP_unregister:
        r = range_by_id(s, regs->rsi);
        return r ? drop_range(s, d, r) : -EBADF;

    case CDA_OP_query:
        return op_query(s, d, regs->rsi);

    case CDA_OP_detach:
    {
        long rc = regs->rsi ? -EINVAL : drop_all(s, d);

        if ( !rc )
        {
            spin_lock(&d->arch.cda->lock);
            unlink_session(d->arch.cda, s, false);
            spin_unlock(&d->arch.cda->lock);
        }
        return rc;
    }
    }

    return -ENOSYS;
}

static long op_version(const struct cpu_user_regs *regs)
{
    if ( unlikely(!caller_is_64bit(regs)) )
        return -EOPNOTSUPP;

    return (regs->rdi | regs->rsi | regs->rdx | regs->r10 | regs->r8)
           ? -EINVAL : CDA_CAPS;
}

static long do_gate(struct vcpu *curr, struct cpu_user_regs *regs)
{
    struct cda_domain *cda = curr->domain->arch.cda;
    struct cda_session *s;
    long rc;

    if ( regs->rax > CDA_OP_query )
        return -ENOSYS;

    if ( regs->rax == CDA_OP_attach )
    {
        if ( !caller_is_64bit(regs) )
            return -EOPNOTSUPP;
        if ( regs->rsi | regs->rdx | regs->r10 | regs->r8 )
            return -EINVAL;
        return op_attach(curr, regs->rdi);
    }

    /* The session cannot be freed while this address space is loaded ... */
    rcu_read_lock(&cda_rcu);
    s = find_session(cda, caller_root(curr));
    if ( unlikely(!s) )
    {
        rcu_read_unlock(&cda_rcu);
        return caller_is_64bit(regs) ? -ENOENT : -EOPNOTSUPP;
    }
    if ( unlikely(!spin_trylock(&s->lock)) )
    {
        rcu_read_unlock(&cda_rcu);
        /* Who holds a ticket would lose it by starting again. */
        return regs->r8 ? -ERESTART : -EAGAIN;
    }
    /* ... except by another thread's detach, which takes the lock. */
    rc = likely(!s->dead) ? session_op(curr, regs, s) : -ENOENT;
    if ( rc == -ERESTART )
        COUNT(s, restarts);
    spin_unlock(&s->lock);
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static always_inline bool cda_serve(struct vcpu *curr,
                                    struct cpu_user_regs *regs)
{
    bool ticketed = regs->rax >= CDA_OP_begin && regs->rax <= CDA_OP_peek;
    long rc = do_gate(curr, regs);

    if ( unlikely(rc == -ERESTART) )
        return true;

    regs->rax = rc;
    /* However it ends, the caller gets back the zero it passed. */
    if ( ticketed )
        regs->r8 = 0;

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
