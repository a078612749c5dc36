/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/control.c (included by the backend, see private.h)
 *
 * The control hypercall, for Dom0: tokens, limits, revocation, lists and
 * counters.
 *
 * Locks: cda->lock for tokens, limits and counts; session->lock is tried to end
 * a session, and the hypercall continued if somebody has it.
 */

/* What Dom0 sees of all domains which it has not admitted: nothing. */
static struct cda_domain not_admitted;

static unsigned int drop_tokens(struct cda_domain *cda, uint64_t tag,
                                bool only_expired)
{
    unsigned int i, n = 0;
    s_time_t now = NOW();

    for ( i = 0; i < MAX_TOKENS; ++i )
    {
        struct cda_token *t = &cda->token[i];

        if ( t->used && (only_expired ? now >= t->expires
                                      : !tag || t->tag == tag) )
        {
            memset(t, 0, sizeof(*t));
            n++;
        }
    }

    return n;
}

static unsigned int count_tokens(const struct cda_domain *cda)
{
    unsigned int i, n = 0;

    for ( i = 0; i < MAX_TOKENS; ++i )
        n += cda->token[i].used;

    return n;
}

static int ctl_add_token(struct cda_domain *cda, const struct cda_ctl_token *t)
{
    static const uint8_t none[CDA_TOKEN_BYTES];
    unsigned int i, n;
    int rc = -ENOSPC;

    if ( !t->tag || !t->lifetime_ms || t->lifetime_ms > 3600000 ||
         (t->modes & ~CDA_MODES) ||
         !memcmp(t->token, none, sizeof(none)) )
        return -EINVAL;

    spin_lock(&cda->lock);
    drop_tokens(cda, 0, true);
    n = count_tokens(cda);
    if ( find_token(cda, t->token) )
        rc = -EEXIST;
    else if ( n < cda->max_tokens )
        for ( i = 0; i < MAX_TOKENS; ++i )
        {
            struct cda_token *slot = &cda->token[i];

            if ( slot->used )
                continue;
            memcpy(slot->bytes, t->token, sizeof(slot->bytes));
            slot->tag = t->tag;
            slot->max_pages = t->max_pages;
            slot->max_ranges = t->max_ranges;
            slot->max_sessions = t->max_sessions;
            slot->modes = t->modes;
            slot->expires = NOW() + MILLISECS(t->lifetime_ms);
            slot->used = true;
            rc = 0;
            break;
        }
    spin_unlock(&cda->lock);

    return rc;
}

/*
 * Ends sessions.  Marks first (operations and faults see it at once), then
 * takes back grants; the husk stays until the process notices or dies, so
 * that it is told why.  -ERESTART: call again.
 */
static int ctl_revoke(struct domain *d, struct cda_domain *cda,
                      struct cda_ctl_revoke *rv)
{
    struct cda_session *s;
    unsigned int i;
    int rc = 0;

    spin_lock(&cda->lock);
    if ( !rv->session )
        rv->tokens += drop_tokens(cda, rv->tag, false);
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            if ( (!rv->tag || s->tag == rv->tag) &&
                 (!rv->session || s->id == rv->session) && !s->revoked )
            {
                s->revoked = true;
                rv->sessions++;
            }
    spin_unlock(&cda->lock);

    rcu_read_lock(&cda_rcu);
    for ( i = 0; i < ARRAY_SIZE(cda->session) && !rc; ++i )
        for ( s = rcu_dereference(cda->session[i]); s && !rc;
              s = rcu_dereference(s->hnext) )
        {
            if ( !s->revoked || !s->ranges )
                continue;
            /* The guest gives the lock up at its next preemption point. */
            if ( !spin_trylock(&s->lock) )
                rc = -ERESTART;
            else
            {
                if ( !s->dead )
                    rc = drop_all(s, d);
                spin_unlock(&s->lock);
            }
        }
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static int ctl_limits(struct cda_domain *cda, struct cda_ctl_limits *l,
                      bool set)
{
    int rc = 0;

    spin_lock(&cda->lock);
    if ( set )
    {
        if ( (l->flags & ~CDA_LIMIT_FORWARD) || l->max_tokens > MAX_TOKENS ||
             l->max_ranges > MAX_RANGES )
            rc = -EINVAL;
        else
        {
            cda->flags = l->flags;
            cda->max_sessions = l->max_sessions;
            cda->max_pages = l->max_pages;
            cda->max_ranges = l->max_ranges;
            cda->max_tokens = l->max_tokens;
        }
    }
    drop_tokens(cda, 0, true);
    l->flags = cda->flags;
    l->max_sessions = cda->max_sessions;
    l->max_pages = cda->max_pages;
    l->max_ranges = cda->max_ranges;
    l->max_tokens = cda->max_tokens;
    l->used_pages = cda->used_pages;
    l->used_sessions = cda->used_sessions;
    l->used_tokens = count_tokens(cda);
    spin_unlock(&cda->lock);

    return rc;
}

static int ctl_list(struct cda_domain *cda, struct cda_ctl_list *l)
{
    XEN_GUEST_HANDLE_PARAM(uint8) out;
    const struct cda_session *s;
    unsigned int i;
    int rc = 0;

    if ( l->reserved )
        return -EINVAL;

    set_xen_guest_handle(out, (void *)l->buffer);
    l->count = l->total = 0;

    rcu_read_lock(&cda_rcu);
    for ( i = 0; i < ARRAY_SIZE(cda->session) && !rc; ++i )
        for ( s = rcu_dereference(cda->session[i]); s;
              s = rcu_dereference(s->hnext) )
        {
            const struct cda_ranges *tab = rcu_dereference(s->ranges);
            struct cda_ctl_session e = {
                .session = s->id,
                .tag = s->tag,
                .pages = s->pages,
                .age_ms = (NOW() - s->born) / MILLISECS(1),
                .ranges = tab ? tab->nr : 0,
                .flags = s->revoked ? CDA_SESSION_ENDED : 0,
                .counters = s->cnt,
            };

            l->total++;
            if ( l->count >= l->capacity )
                continue;
            if ( copy_to_guest_offset(out, l->count * sizeof(e),
                                      (const uint8_t *)&e, sizeof(e)) )
            {
                rc = -EFAULT;
                break;
            }
            l->count++;
        }
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static int ctl_counters(struct cda_domain *cda, struct cda_ctl_counters *c)
{
    const struct cda_session *s;
    uint64_t *to = (uint64_t *)&c->counters;
    unsigned int i, j;

    spin_lock(&cda->lock);
    c->counters = cda->gone;
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            for ( j = 0; j < sizeof(s->cnt) / sizeof(*to); ++j )
                to[j] += ((const uint64_t *)&s->cnt)[j];
    spin_unlock(&cda->lock);

    return 0;
}

/* What @cmd works on: admits @d if it has to.  0 or an error. */
static int ctl_domain(struct domain *d, unsigned int cmd,
                      struct cda_domain **cda)
{
    if ( !track_possible(d) )
        return -EOPNOTSUPP;

    *cda = d->arch.cda;
    if ( *cda )
        return 0;

    /* Looking at a domain that was never admitted allocates nothing. */
    if ( cmd != CDA_CTL_add_token && cmd != CDA_CTL_set_limits )
    {
        *cda = &not_admitted;
        return 0;
    }
    if ( d->is_dying )
        return -ESRCH;
    *cda = cda_admit(d);

    return *cda ? 0 : -ENOMEM;
}

long do_cda_op(unsigned int cmd, XEN_GUEST_HANDLE_PARAM(void) uarg)
{
    static const uint8_t sizes[] = {
        [CDA_CTL_add_token]  = sizeof(struct cda_ctl_token),
        [CDA_CTL_revoke]     = sizeof(struct cda_ctl_revoke),
        [CDA_CTL_set_limits] = sizeof(struct cda_ctl_limits),
        [CDA_CTL_get_limits] = sizeof(struct cda_ctl_limits),
        [CDA_CTL_list]       = sizeof(struct cda_ctl_list),
        [CDA_CTL_counters]   = sizeof(struct cda_ctl_counters),
    };
    union {
        struct { uint32_t size, domid; } h;
        struct cda_ctl_token token;
        struct cda_ctl_revoke revoke;
        struct cda_ctl_limits limits;
        struct cda_ctl_list list;
        struct cda_ctl_counters counters;
    } u;
    struct cda_domain *cda;
    struct domain *d;
    unsigned int size;
    long rc;

    if ( !opt_cda )
        return -ENOSYS;

    rc = xsm_cda_op(XSM_PRIV);
    if ( rc )
        return rc;

    if ( cmd == CDA_CTL_version )
        return guest_handle_is_null(uarg) ? CDA_CAPS : -EINVAL;
    if ( cmd >= ARRAY_SIZE(sizes) )
        return -ENOSYS;

    size = sizes[cmd];
    if ( raw_copy_from_guest(&u, uarg.p, size) )
        return -EFAULT;
    if ( u.h.size != size )
        return -EINVAL;

    d = rcu_lock_domain_by_any_id(u.h.domid == (domid_t)u.h.domid
                                  ? u.h.domid : DOMID_INVALID);
    if ( !d )
        return -ESRCH;

    rc = ctl_domain(d, cmd, &cda);
    if ( rc )
        goto out;

    switch ( cmd )
    {
    case CDA_CTL_add_token:
        rc = ctl_add_token(cda, &u.token);
        size = 0;
        break;
    case CDA_CTL_revoke:
        rc = ctl_revoke(d, cda, &u.revoke);
        break;
    case CDA_CTL_set_limits:
        rc = ctl_limits(cda, &u.limits, true);
        break;
    case CDA_CTL_get_limits:
        rc = ctl_limits(cda, &u.limits, false);
        break;
    case CDA_CTL_list:
        rc = ctl_list(cda, &u.list);
        break;
    case CDA_CTL_counters:
        rc = ctl_counters(cda, &u.counters);
        break;
    }

    if ( (!rc || rc == -ERESTART) && raw_copy_to_guest(uarg.p, &u, size) )
        rc = -EFAULT;
    if ( rc == -ERESTART )
        rc = hypercall_create_continuation(__HYPERVISOR_cda_op, "ih", cmd,
                                           uarg);

 out:
    rcu_unlock_domain(d);

    return rc;
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
