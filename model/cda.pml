/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol of xen-patch/pagefault_cda.c on two CPUs: which steps, in which
 * order, under which locks.  README.md says what stands for which code.
 *
 * One process with a thread on either CPU, an address space of two L2 slots
 * (va 0 and 1), two L1 tables of one entry, a session with one range over the
 * first CHUNKS of the addresses.  Nothing counts up, so that every run, also
 * an endless one, is one of finitely many.
 *
 * One atomic or d_step block is one step: an access to a word that others
 * access without our locks, and what of locks and private state goes with it.
 */

#ifndef CHUNKS
#define CHUNKS 1
#endif

/* Who does what: see README.md, "Runs". */
#ifdef THREADS                        /* both in the gate, no kernel */
#define GATE(c)      1
#define KERNEL(c)    0
#else
#define GATE(c)      (c == 1)
#define KERNEL(c)    (c == 0)
#endif
#if defined(WRITER)                   /* one CPU writes */
#define WRITES(c, v) (c == WRITER)
#elif defined(SPLIT)                  /* each CPU writes to one va */
#define WRITES(c, v) ((c ^ v) == SPLIT)
#else
#define WRITES(c, v) (v < VAS)
#endif
#ifndef VAS
#define VAS 2
#endif

#define NONE  2                       /* no table: INVALID_MFN, L2 not present */
#define OTHER 2                       /* no frame */
#define VAGUE 3

#define BEGIN  1
#define END    2
#define COMMIT 3

/* Scanxen and Autoxen: which pages are watched is left open. */
#ifdef WATCH
#define IF_WATCH(what) what
#define WATCHED(t)     pte[t].watch
#else
#define IF_WATCH(what) skip
#define WATCHED(t)     false
#endif
/* Emulxen */
#ifdef EMUL
#define IF_EMUL(what)  what
#else
#define IF_EMUL(what)  skip
#endif
/* Nobody but KSM and who watches looks at D. */
#if defined(KSM) || defined(WATCH)
#define HAS_D 1
#else
#define HAS_D 0
#endif

typedef pte_t { bit p, rw, ro, seen, watch, d };

/* --- the guest's memory ------------------------------------------------- */

pte_t pte[2];                         /* the one entry of table t */
byte l2[2];                           /* table at va, or NONE */
bit valid[2];                         /* t is a validated L1 table */
bit locked[2];                        /* page_lock() of t */
byte shared[2];                       /* frame in the entry of t: 0 only here, 1 a
                                         child that is being made, 2 others
                                         read it */
bit mm;                               /* the kernel's mmap lock */
bit ptl;                              /* a page table lock is held */
bit copied[2];                        /* a fork found an entry at va */
byte moving;                          /* migration entry: 1 read-only, 2 writable */

/*
 * Translations which allow a write without a look at the entry: CPU c, va v at
 * 2c+v.  With WATCH they were cached with D set; without D the CPU looks.
 */
bit tlb[4];
bit tlb_frame[4];

/* --- the session -------------------------------------------------------- */

bit linked;                           /* in cda->session[] */
#ifdef FAILS
bit told;                             /* its cookie can be read */
#define KNOWN        told
#else
#define KNOWN        true
#endif
bit ranges;                           /* s->ranges != NULL */
bit revoked, s_lock;
bit freed = 1;                        /* call_rcu() has run */
bit reading[2];                       /* CPU c holds a pointer under RCU */
byte drop_at;                         /* s->drop.va, in chunks */

bit open;                             /* r->active */
bit lost;
byte cont;                            /* r->cont: 0, or what was interrupted */
byte cursor;
byte ticket = NONE;                   /* CPU whose thread holds the ticket */
bit list[CHUNKS];                     /* what the log names */

byte bound[CHUNKS];                   /* c->l1 */
bit dirty[CHUNKS];                    /* c->dirty */
byte want[CHUNKS];                    /* r->want: table ... */
bit touched[CHUNKS];                  /* ... and WANT_TOUCHED */
bit hot[CHUNKS];                      /* heat->hot: WATCH was set */
bit w_lock;                           /* words->lock */
bit logged[CHUNKS];                   /* words: the buffer which is written */

/* --- what must hold ----------------------------------------------------- */

/*
 * What the application read of va v when it last copied it: the frame (OTHER:
 * none), and whether that frame was written or used anew since.  Kept while a
 * cycle is open.  VAGUE: v was remapped during that call, so what was read is
 * not known.
 */
byte copy_of[CHUNKS];
bit stale[CHUNKS];
/* For the call that is under way: stale when it began; remapped since. */
bit before[CHUNKS];
bit remapped[CHUNKS];
/*
 * Of stores by Xen: in memory, not in the copy; that when the call began; the
 * same since the buffers turned.  `words` is what the log names.
 */
bit stale_w[CHUNKS];
bit before_w[CHUNKS];
bit after_w[CHUNKS];
bit words[CHUNKS];

#define frame_at(v)  ((l2[v] != NONE && pte[l2[v] % 2].p) -> \
                      l2[v] : OTHER)
#define differs(v)   (copy_of[v] != VAGUE && \
                      (copy_of[v] != frame_at(v) || stale[v]))

/* A session's memory is looked at. */
#define USE          assert(!freed)

#if CHUNKS > 1
#define BOTH_CHUNKS(what) what(0); what(1)
#else
#define BOTH_CHUNKS(what) what(0)
#endif

/* Frame fr has other contents now. */
inline changed(fr)
{
    if :: open && copy_of[0] == fr -> stale[0] = 1 :: else fi;
#if CHUNKS > 1
    if :: open && copy_of[1] == fr -> stale[1] = 1 :: else fi;
#endif
}

/* Another frame, or none, is at every va that table t is at. */
inline remaps(t)
{
    if :: cont && l2[0] == t -> remapped[0] = 1 :: else fi;
#if CHUNKS > 1
    if :: cont && l2[1] == t -> remapped[1] = 1 :: else fi;
#endif
}

/* The write itself.  Permission: nobody else may be reading this frame. */
inline store_to(fr)
{
    assert(shared[fr] != 2);
    changed(fr)
}

/* Another frame takes the place of fr, to which no translation may be left. */
inline fresh(fr)
{
    assert(!(tlb[0] && tlb_frame[0] == fr));
    assert(!(tlb[1] && tlb_frame[1] == fr));
    assert(!(tlb[2] && tlb_frame[2] == fr));
    assert(!(tlb[3] && tlb_frame[3] == fr));
    shared[fr] = 0
}

inline flush_all()
{
    tlb[0] = 0; tlb[1] = 0; tlb[2] = 0; tlb[3] = 0;
    tlb_frame[0] = 0; tlb_frame[1] = 0; tlb_frame[2] = 0; tlb_frame[3] = 0
}

/* RW that Xen took is in no TLB any more. */
inline flush_own() { flush_all(); took = 0 }

/* What the kernel reads as read-only, no CPU writes. */
inline uncached(fr)
{
    assert(!(tlb[0] && tlb_frame[0] == fr) && !(tlb[1] && tlb_frame[1] == fr));
    assert(!(tlb[2] && tlb_frame[2] == fr) && !(tlb[3] && tlb_frame[3] == fr))
}

inline start_using(c) { if :: linked -> reading[c] = 1; USE :: else fi }

/* --- Xen: under the guest kernel's feet --------------------------------- */

inline mark_if_bound(k, t)
{
    if :: bound[k] == t -> USE; dirty[k] = 1; touched[k] = 1 :: else fi
}

/* cda_guest_update(): one hash_lock region, under page_lock(). */
inline guest_update(t)
{
#ifndef NO_UPDATE_HOOK
    if
#ifdef UPDATE_NO_WATCH
    :: pte[t].p && (pte[t].ro || pte[t].seen) ->
#else
    :: pte[t].p && (pte[t].ro || pte[t].seen || WATCHED(t)) ->
#endif
        mark_if_bound(0, t);
#if CHUNKS > 1
        mark_if_bound(1, t);
#endif
    :: else
    fi
#else
    skip
#endif
}

inline forget_if_bound(k, t)
{
    if
    :: bound[k] == t -> USE; bound[k] = NONE; want[k] = NONE; touched[k] = 1
    :: else
    fi
}

/* l1_gone(): one hash_lock region; a locked table keeps its type. */
inline l1_gone(t)
{
    valid[t] = 0;
#ifndef NO_L1_GONE
    forget_if_bound(0, t);
#if CHUNKS > 1
    forget_if_bound(1, t);
#endif
#endif
}

/* --- Xen: entries and chunks -------------------------------------------- */

/* What Xen granted or may have granted once. */
#if defined(BACK_ONLY_RO)
#define GRANTED(k, t) (pte[t].ro || WATCHED(t))
#elif defined(BACK_NO_WATCH)
#define GRANTED(k, t) (dirty[k] || pte[t].ro)
#else
#define GRANTED(k, t) (dirty[k] || pte[t].ro || WATCHED(t))
#endif

/* take_back_entry(): one cmpxchg; `mark` is SEEN for a fork, else 0. */
inline take_back_slot(k, t, mark)
{
    if
    :: pte[t].p && pte[t].rw && GRANTED(k, t) ->
#ifndef BACK_FORGETS_D
        if :: WATCHED(t) && pte[t].d -> dirty[k] = 1 :: else fi;
#endif
        pte[t].rw = 0; pte[t].ro = 0; pte[t].seen = mark;
        pte[t].d = HAS_D; took = 1;
        IF_WATCH(pte[t].watch = 0)
    :: pte[t].p && !pte[t].rw && (pte[t].ro || pte[t].seen) ->
#ifdef FORK_KEEPS_RO
        if :: !mark -> pte[t].ro = 0; pte[t].seen = 0 :: else fi
#else
        pte[t].ro = 0; pte[t].seen = mark
#endif
    :: else
    fi
}

/* take_back_chunk() */
inline take_back_chunk(k, mark)
{
    b_t = bound[k];
    if
    :: b_t != NONE ->
        /* lock_l1(), and the second look. */
        atomic {
            !locked[b_t];
            if
            :: valid[b_t] && bound[k] == b_t -> locked[b_t] = 1
            :: else -> b_t = NONE
            fi
        };
        d_step {
            if
            :: b_t != NONE ->
                USE; take_back_slot(k, b_t, mark); locked[b_t] = 0; b_t = NONE
            :: else
            fi
        }
    :: else
    fi
}

/*
 * protect_entry(): one cmpxchg.  ok: PROTECTED or, with `warm` and RW, WATCHED.
 * warm: afterwards, whether it is watched.  b: the table was bound before.
 */
#ifdef PROTECT_UNBOUND
#define OURS(t, b) (pte[t].ro)
#else
#define OURS(t, b) (b && pte[t].ro)
#endif
inline protect(t, b)
{
    if
    :: !pte[t].p -> ok = 0; warm = 0
    /* cda_entry_read() came before us. */
    :: pte[t].p && !pte[t].rw && OURS(t, b) -> ok = 1; warm = 0
    :: pte[t].p && pte[t].rw && !warm ->
        pte[t].rw = 0; pte[t].seen = 0; pte[t].ro = 1; IF_WATCH(pte[t].watch = 0);
#ifndef NO_D
        pte[t].d = HAS_D;
#endif
        ok = 1
    :: pte[t].p && pte[t].rw && warm ->
        pte[t].seen = 0; pte[t].ro = 0; pte[t].d = 0; IF_WATCH(pte[t].watch = 1);
        ok = 1
    :: pte[t].p && !pte[t].rw && !OURS(t, b) ->
        pte[t].ro = 0; pte[t].seen = 1; IF_WATCH(pte[t].watch = 0);
        ok = 1; warm = 0
    fi
}

/* --- Xen: the fault handler --------------------------------------------- */

/* regrant(): one cmpxchg, which leaves CDA_L1E_RO. */
inline regrant(t) { pte[t].rw = 1; pte[t].d = HAS_D }

#ifdef STORE_NO_AUTHORITY
#define MAY_STORE(v)  (pte[f_t].p && bound[v % CHUNKS] == f_t && !revoked)
#else
#define MAY_STORE(v)  (pte[f_t].p && !pte[f_t].rw && pte[f_t].ro && bound[v % CHUNKS] == f_t && !revoked)
#endif

/* Into memory, by Xen. */
inline xen_stores(v, t)
{
    assert(shared[t] != 2);
    if :: open -> stale_w[v] = 1; after_w[v] = 1 :: else fi
}

/*
 * cda_do_store() for va v, below cda_emulate(): under page_lock(); the way to
 * the table; the store and its entry under the log's lock.  Or nothing is
 * done: an instruction that Xen cannot perform, a full log.  fixed: performed.
 */
inline emulated(v)
{
    if
    :: f_t != NONE ->
        atomic {
            !locked[f_t];
            if
            :: valid[f_t] && MAY_STORE(v) -> locked[f_t] = 1; USE; ok = 1
            :: else
            fi
        };
        d_step { if :: ok && l2[v] != f_t -> ok = 0; locked[f_t] = 0 :: else fi };
        if
        :: ok ->
#ifdef STORE_UNLOCKED
            d_step { xen_stores(v % CHUNKS, f_t) };
            d_step { USE; logged[v % CHUNKS] = 1; locked[f_t] = 0; fixed = 1; ok = 0 }
#elif defined(STORE_UNPAGED)
            locked[f_t] = 0;
            atomic { !w_lock -> w_lock = 1 };
            d_step { xen_stores(v % CHUNKS, f_t) };
            d_step { USE; logged[v % CHUNKS] = 1; w_lock = 0; fixed = 1; ok = 0 }
#else
            atomic { !w_lock -> w_lock = 1 };
            d_step { xen_stores(v % CHUNKS, f_t) };
            d_step {
                USE; logged[v % CHUNKS] = 1; w_lock = 0;
                locked[f_t] = 0; fixed = 1; ok = 0
            }
#endif
        :: ok -> locked[f_t] = 0; ok = 0
        :: else
        fi
    :: else
    fi;
    /* Xen writes, or the page is to become writable. */
    skip
}

/*
 * cda_fixup_fault() for va v on CPU c, which has begun to read the session.
 * fixed: the access is tried again.
 */
inline fixup_fault(c, v)
{
    if
    :: reading[c] && v < CHUNKS ->
        d_step { USE; if :: ranges -> f_t = bound[v % CHUNKS] :: else fi };
#ifdef EMUL
        emulated(v);
#endif
        if
        :: f_t != NONE && !fixed ->
            /* lock_l1() */
            atomic {
                !locked[f_t];
                if
                :: valid[f_t] -> locked[f_t] = 1; USE
                :: else -> f_t = NONE
                fi
            };
            if
            :: f_t == NONE
#ifdef NAIVE
            :: f_t != NONE && pte[f_t].p && !pte[f_t].rw && bound[v % CHUNKS] == f_t && !revoked ->
#elif defined(NO_RECHECK)
            :: f_t != NONE && pte[f_t].p && !pte[f_t].rw && pte[f_t].ro && !revoked ->
#else
            :: f_t != NONE && pte[f_t].p && !pte[f_t].rw && pte[f_t].ro && bound[v % CHUNKS] == f_t && !revoked ->
#endif
#ifdef GRANT_FIRST
                d_step { regrant(f_t) };
                d_step { USE; dirty[v % CHUNKS] = 1 };
                d_step { touched[v % CHUNKS] = 1; locked[f_t] = 0; fixed = 1 }
#else
#ifndef NO_FAULT_DIRTY
                d_step { USE; dirty[v % CHUNKS] = 1 };
#endif
#ifndef NO_FAULT_TOUCH
                touched[v % CHUNKS] = 1;
#endif
                d_step { regrant(f_t); locked[f_t] = 0; fixed = 1 }
#endif
            :: else ->
                d_step {
                    fixed = pte[f_t].p && pte[f_t].rw && l2[v] == f_t;
                    locked[f_t] = 0
                }
            fi
        :: else
        fi
    :: else
    fi;
    d_step { reading[c] = 0; f_t = NONE }
}

/* --- Xen: fork ---------------------------------------------------------- */

/*
 * may_share(): the table of the chunk is elsewhere, or there is something in its
 * place in the new address space, which nobody changes any more.
 */
#if defined(SHARES_NEVER)
#define MAY_SHARE(k) (bound[k] != l2[k])
#elif defined(SHARES_IN_PLACE)
#define MAY_SHARE(k) (copied[k])
#else
#define MAY_SHARE(k) (bound[k] != l2[k] || copied[k])
#endif

/*
 * cda_table_new(): take_back() in pieces, the session looked up anew after
 * each preemption; not under s->lock.
 */
inline table_new(c)
{
#ifndef NO_FORK_HOOK
    d_step { start_using(c); k = 0 };
    do
    :: reading[c] && ranges && k < CHUNKS ->
        if
        :: MAY_SHARE(k) -> take_back_chunk(k, 1)
        :: else
        fi;
        d_step {
            k++;
            if :: k < CHUNKS -> reading[c] = 0; start_using(c) :: else fi
        }
    :: else -> break
    od;
    skip;
    d_step {
        reading[c] = 0;
#ifndef NO_FORK_FLUSH
        if :: k == CHUNKS -> flush_own() :: else fi;
#endif
        took = 0; k = 0
    }
#else
    skip
#endif
}

/* --- Xen: begin, end, commit -------------------------------------------- */

/* To be watched, or not: runs_hot() may say either. */
inline choose()
{
#ifdef WATCH
    if :: warm = 1 :: warm = 0 fi
#else
    skip
#endif
}

/* sync_watched(): one look at the entry; cda_cool(): one cmpxchg. */
inline sync_watched(n, op)
{
#ifdef WATCH
    d_step {
        if
        :: hot[n] && !(pte[y_t].p && pte[y_t].rw && pte[y_t].watch) ->
            if :: op != END -> hot[n] = 0 :: else fi
#ifdef UNREAD_D
        :: 0
#else
        :: hot[n] && pte[y_t].p && pte[y_t].rw && pte[y_t].watch && pte[y_t].d ->
            map = 1
#endif
        :: hot[n] && pte[y_t].p && pte[y_t].rw && pte[y_t].watch && !pte[y_t].d ->
            cold = (op != END)
        :: else
        fi
    };
    if
    :: cold ->
        /* Clean for long. */
        d_step {
            if
#ifdef COOL_BLIND
            :: true ->
#else
            :: !pte[y_t].d ->
#endif
                pte[y_t].rw = 0; pte[y_t].watch = 0; pte[y_t].ro = 1;
#ifndef COOL_NO_D
                pte[y_t].d = 1;
#endif
                hot[n] = 0; moved = 1
#ifndef COOL_BLIND
            :: else
#endif
            fi;
            cold = 0
        }
    :: true -> cold = 0
    fi
#else
    skip
#endif
}

/* y_t: the table in the L2 entry. */
inline sync_touched(n, op)
{
    atomic {
        !locked[y_t];
        if
        :: valid[y_t] && bound[n] == y_t ->
            /* Others change the map under this lock only. */
            locked[y_t] = 1; map = dirty[n]
        :: else -> y_t = NONE; map = 1
        fi
    };
    if
    :: y_t != NONE && op != END ->
        sync_watched(n, op);
        ok = 1;
        if
        :: map ->
            choose();
            d_step {
                protect(y_t, 1); dirty[n] = !ok;
#ifndef WATCH_NO_FLUSH
                moved = 1;
#else
                if :: !warm -> moved = 1 :: else fi;
#endif
                IF_WATCH(hot[n] = warm)
            }
        :: else
        fi;
        d_step {
            want[n] = y_t;
#ifdef HOT_UNTOUCHED
            touched[n] = !ok;
#else
            touched[n] = !ok || hot[n];
#endif
            locked[y_t] = 0
        }
    :: y_t != NONE && op == END -> sync_watched(n, op); locked[y_t] = 0
    :: else
    fi
}

inline unbind(n) { if :: bound[n] != NONE -> moved = 1; bound[n] = NONE :: else fi }

inline sync_replaced(n, op)
{
    map = 1;
    if
    :: op != END ->
        moved = moved || bound[n] != NONE;
#ifdef UNBIND_FIRST_REPLACED
        d_step { unbind(n) };
        take_back_chunk(n, 0);
#elif defined(REPLACED_NO_TAKE_BACK)
        d_step { unbind(n) };
#else
        take_back_chunk(n, 0);
        d_step { unbind(n) };
#endif
        atomic {
            y_t == NONE || !locked[y_t % 2];
            if
            :: y_t != NONE && valid[y_t % 2] ->
                locked[y_t] = 1; dirty[n] = 0; hot[n] = 0
            :: else -> y_t = NONE; want[n] = NONE; touched[n] = 1
            fi
        };
        if
        :: y_t != NONE ->
            moved = 1;
            choose();
#ifdef BIND_LATE
            d_step { protect(y_t, 0) };
            bound[n] = y_t;
#else
            bound[n] = y_t;
#endif
#if CHUNKS > 1 && !defined(NO_EVICT)
            /* cda_evict() */
            if
            :: bound[1 - n] == y_t ->
                d_step { take_back_slot(1 - n, y_t, 0) };
                d_step { if :: bound[1 - n] == y_t -> bound[1 - n] = NONE :: else fi };
                d_step { want[1 - n] = NONE; touched[1 - n] = 1 }
            :: else
            fi;
#endif
#ifndef BIND_LATE
            d_step { protect(y_t, 0) };
#endif
            d_step {
                if :: !ok -> dirty[n] = 1 :: else fi;
                IF_WATCH(hot[n] = warm);
                want[n] = y_t; touched[n] = !ok || hot[n]; locked[y_t] = 0
            }
        :: else
        fi
    :: else
    fi
}

/*
 * cycle_pages() from `cursor` on, under s->lock.  done: not -ERESTART.
 */
inline cycle(op)
{
    do
    :: true ->
        y_t = l2[cursor];
        if
        :: y_t == want[cursor] && !touched[cursor]      /* clean */
        :: y_t != NONE && y_t == want[cursor] && touched[cursor] ->
            sync_touched(cursor, op)
        :: else -> sync_replaced(cursor, op)
        fi;
        atomic {
            list[cursor] = list[cursor] | map;
            cursor++; map = 0; ok = 0; warm = 0; y_t = NONE;
            if
#ifndef NO_PREEMPTION
            :: cursor < CHUNKS -> break
#endif
            :: cursor < CHUNKS
            :: cursor == CHUNKS -> done = 1; break
            fi
        }
    od;
    skip
}

/*
 * The promise to the application: what was written before the call is in the
 * list.  (A page that is remapped during the call may be late by one.)  It
 * copies what is listed.
 */
inline deliver_one(v, op)
{
    assert(op == BEGIN || lost || list[v] || !before[v] || remapped[v]);
#ifdef EMUL
    assert(op == BEGIN || lost || list[v] || words[v] || !before_w[v] || remapped[v]);
    if
    :: op != COMMIT || lost || list[v] -> stale_w[v] = 0
    :: op == COMMIT && !lost && !list[v] && words[v] -> stale_w[v] = after_w[v]
    :: else
    fi;
    before_w[v] = 0; after_w[v] = 0; words[v] = 0;
#endif
    if
    :: op == END -> copy_of[v] = OTHER; stale[v] = 0
    :: op == BEGIN || (op != END && (lost || list[v])) ->
        copy_of[v] = (remapped[v] -> VAGUE : frame_at(v)); stale[v] = 0
    :: else
    fi;
    before[v] = 0; remapped[v] = 0; list[v] = 0
}

inline deliver(op)
{
    deliver_one(0, op);
#if CHUNKS > 1
    deliver_one(1, op);
#endif
    if :: op != BEGIN -> lost = 0 :: else fi;
    open = (op != END);
    cursor = 0; cont = 0; ticket = NONE
}

inline forget_list(v) { list[v] = 0 }

/* emit_words(), or begin's end: one region under the log's lock. */
inline turn_one(v)
{
    words[v] = logged[v]; logged[v] = 0; after_w[v] = 0
}

inline begin_one(v)
{
    before[v] = open && differs(v); remapped[v] = 0;
    IF_EMUL(before_w[v] = stale_w[v])
}

/*
 * op_cycle() through the gate; resume: the instruction is executed again, with
 * a ticket.  Calls which are refused change nothing: they are not made.
 */
inline gate_cycle(c, op, resume)
{
    d_step {
        GATE(c) && linked && KNOWN && !s_lock && ranges && !revoked &&
        (resume -> cont == op && ticket == c : (op == BEGIN) != open) ->
        s_lock = 1; reading[c] = 1; USE; drop_at = 0; ticket = NONE;
        if
        :: !resume ->
            /* Nobody came back for this list. */
            if
#ifdef NO_TICKET
            :: cont == op
#endif
            :: cont && cont != op -> lost = 1; cursor = 0
#ifndef NO_TICKET
            :: cont == op -> lost = 1; cursor = 0
#endif
            :: !cont -> cursor = 0
            fi;
            if :: cursor == 0 -> BOTH_CHUNKS(forget_list) :: else fi;
            cont = op;
            BOTH_CHUNKS(begin_one)
        :: else
        fi
    };
    cycle(op);
#ifdef EMUL
    d_step { if :: moved -> flush_own(); moved = 0 :: else fi };
    if
#ifdef UNLOCKED_TURN
    :: done -> d_step { BOTH_CHUNKS(turn_one) }
#else
    :: done -> d_step { !w_lock -> BOTH_CHUNKS(turn_one) }
#endif
    :: else
    fi;
#endif
    d_step {
        if
#ifdef NO_FLUSH
        :: 0
#elif defined(FLUSH_LATE)
        :: moved && done -> flush_own()
#else
        :: moved -> flush_own()
#endif
        :: else
        fi;
#if defined(NO_FLUSH) || defined(FLUSH_LATE)
        took = 0;
#endif
        assert(!took);
        if
        :: done -> deliver(op)
        :: else -> ticket = c
        fi;
        done = 0; moved = 0; s_lock = 0; reading[c] = 0
    }
}

/* --- Xen: ending -------------------------------------------------------- */

/* drop_all(), under s->lock, in pieces; done: not -ERESTART. */
inline drop_all()
{
    if
    :: !ranges -> done = 1
    :: else ->
#ifdef UNBIND_FIRST_DROP
        bound[0] = NONE;
#if CHUNKS > 1
        bound[1] = NONE;
#endif
#endif
        do
        :: drop_at < CHUNKS ->
            take_back_chunk(drop_at, 0);
            atomic {
                want[drop_at] = NONE; touched[drop_at] = 1; drop_at++;
                if
                :: drop_at < CHUNKS -> break            /* preempted */
                :: true
                fi
            }
        :: drop_at == CHUNKS -> done = 1; break
        od;
        if
        :: done ->
            d_step {
#ifndef NO_DROP_FLUSH
                flush_all();
#endif
                took = 0;
                ranges = 0; drop_at = 0
            };
            bound[0] = NONE;
#if CHUNKS > 1
            bound[1] = NONE;
#endif
        :: else ->
#ifndef DROP_FLUSH_LATE
            d_step { flush_own() }
#else
            skip
#endif
        fi
    fi
}

inline forget_copy(v)
{
    list[v] = 0; copy_of[v] = OTHER; stale[v] = 0; before[v] = 0; remapped[v] = 0;
    stale_w[v] = 0; before_w[v] = 0; after_w[v] = 0; words[v] = 0; logged[v] = 0;
    hot[v] = 0
}

/* unlink_session(); its memory goes later. */
inline unlink()
{
    linked = 0;
#ifdef FAILS
    told = 0;
#endif
    open = 0; lost = 0; cont = 0; cursor = 0; ticket = NONE; revoked = 0;
    BOTH_CHUNKS(forget_copy)
}

inline gate_detach(c)
{
    d_step {
        GATE(c) && linked && KNOWN && !s_lock ->
        s_lock = 1; reading[c] = 1; USE
    };
    drop_all();
    d_step {
        /* Also if nobody comes back for the rest. */
        assert(!took);
        if :: done -> unlink() :: else fi;
        done = 0; s_lock = 0; reading[c] = 0
    }
}

inline new_chunk(v)
{
    bound[v] = NONE; dirty[v] = 0; want[v] = NONE; touched[v] = 1;
    forget_copy(v)
}

/* attach and register: a new session where there is none. */
inline attach()
{
    d_step {
        linked = 1; ranges = 1; freed = 0; revoked = 0; drop_at = 0;
        open = 0; lost = 0; cont = 0; cursor = 0; ticket = NONE;
        BOTH_CHUNKS(new_chunk)
    }
}

#ifdef FAILS
inline forget_binding(v) { bound[v] = NONE }

/*
 * op_attach(): found from the first step on, known from the second, if there is
 * one.  Whoever knows the cookie is in no hurry to wait for the return.
 */
inline gate_attach(c)
{
    d_step {
        GATE(c) && !linked && freed && !s_lock ->
        linked = 1; ranges = 1; freed = 0; revoked = 0; drop_at = 0; told = 0;
        open = 0; lost = 0; cont = 0; cursor = 0; ticket = NONE;
        BOTH_CHUNKS(new_chunk);
#ifndef ATTACH_UNLOCKED
        reading[c] = 1; s_lock = 1
#endif
    };
#if defined(ATTACH_UNLOCKED) || defined(ATTACH_TOLD_FIRST)
    told = 1;
#endif
    if
    :: true -> d_step {
        told = 1;
#ifndef ATTACH_UNLOCKED
        s_lock = 0; reading[c] = 0
#endif
    }
    /* The answer cannot be written. */
    :: true -> d_step {
#ifndef ATTACH_UNLOCKED
        assert(!told); s_lock = 0; reading[c] = 0;
#endif
        BOTH_CHUNKS(forget_binding);
        unlink()
    }
    fi
}
#endif

/* --- the guest kernel --------------------------------------------------- */

/* An entry is written: mod_l1_entry() or ptwr, under page_lock(). */
inline set_pte(t, P, RW, D)
{
    atomic { !locked[t] -> locked[t] = 1; guest_update(t) };
    d_step {
        if :: pte[t].p != P -> remaps(t) :: else fi;
        pte[t].p = P; pte[t].rw = RW; pte[t].d = D;
#ifdef NO_STRIP
        if
        :: !P || RW -> pte[t].ro = 0; pte[t].seen = 0; IF_WATCH(pte[t].watch = 0)
        :: else
        fi;
#else
        pte[t].ro = 0; pte[t].seen = 0; IF_WATCH(pte[t].watch = 0);
#endif
        locked[t] = 0
    }
}

/* Its own handler of a write to va v that faulted. */
inline kernel_fault(v)
{
    d_step {
        if
        :: l2[v] == NONE && (!valid[0] || !valid[1]) ->
            /* A fresh table. */
            g_t = (valid[0] -> 1 : 0);
            pte[g_t].p = 0; pte[g_t].rw = 0; pte[g_t].ro = 0;
            pte[g_t].seen = 0; pte[g_t].d = 0; IF_WATCH(pte[g_t].watch = 0);
            valid[g_t] = 1;
            l2[v] = g_t
        :: else -> g_t = l2[v]
        fi;
        if
        :: g_t == NONE
#ifdef MIGRATE
        /* migration_entry_wait(), and once more. */
        :: g_t != NONE && moving -> g_t = NONE
#endif
        :: g_t != NONE && pte[g_t].p && pte[g_t].rw -> g_t = NONE
        :: g_t != NONE && pte[g_t].p && !pte[g_t].rw && !shared[g_t]
        /* A copy of what others read: nobody can write to the old frame. */
        :: g_t != NONE && pte[g_t].p && !pte[g_t].rw && shared[g_t] -> fresh(g_t)
        /* Zeroes. */
        :: g_t != NONE && !pte[g_t].p && !moving -> fresh(g_t); changed(g_t)
        fi;
        ptl = (g_t != NONE)
    };
    if
    :: g_t != NONE -> set_pte(g_t, 1, 1, 0)
    :: else
    fi;
    d_step {
        if :: g_t != NONE -> flush_all() :: else fi;
        g_t = NONE; ptl = 0
    }
}

/* dup_mmap(): entries that look writable are rewritten, no others. */
inline fork_one(v)
{
    d_step {
        g_t = l2[v];
        if
        :: g_t != NONE && pte[g_t % 2].p ->
            if :: !shared[g_t] -> shared[g_t] = 1 :: else fi;
            copied[v] = 1;
            if :: !pte[g_t].rw -> g_t = NONE :: else fi
#ifdef MIGRATE
        /* Becomes a read-only one, in the child as well. */
        :: g_t != NONE && !pte[g_t % 2].p && moving ->
            if :: !shared[g_t] -> shared[g_t] = 1 :: else fi;
            copied[v] = 1;
            moving = 1; g_t = NONE
#endif
        :: else -> g_t = NONE
        fi;
        ptl = (g_t != NONE)
    };
    if
    :: g_t != NONE -> g_any = 1; set_pte(g_t, 1, 0, pte[g_t].d)
    :: else
    fi;
    d_step { g_t = NONE; ptl = 0 }
}

inline others_read(fr) { if :: shared[fr] == 1 -> shared[fr] = 2 :: else fi }

inline fork(c)
{
#ifdef LEAVE_OUT
    /* Kept out of forks, or an exec: nothing is copied. */
    if :: fork_one(0) :: true fi;
    if :: fork_one(1) :: true fi;
#else
    fork_one(0);
    fork_one(1);
#endif
    table_new(c);
    d_step {
        copied[0] = 0; copied[1] = 0;
        if :: g_any -> flush_all() :: else fi;
        g_any = 0;
        /* The child runs. */
        others_read(0); others_read(1)
    }
}

/*
 * KSM before Linux 5.19: makes the page stable, and others share it.  An
 * entry that is read-only and clean is left alone.
 */
inline ksm(v)
{
    d_step {
        g_t = l2[v];
        if :: g_t != NONE && !pte[g_t % 2].p -> g_t = NONE :: else fi
    };
    if
    :: g_t != NONE && (pte[g_t % 2].rw || pte[g_t % 2].d) ->
        set_pte(g_t, 1, 0, 0);
        d_step { flush_all(); shared[g_t] = 2 }
    :: g_t != NONE && !pte[g_t % 2].rw && !pte[g_t % 2].d ->
        shared[g_t] = 2
    :: else
    fi;
    g_t = NONE
}

/* munmap() of all that a table maps; the table is freed. */
inline unmap(v)
{
    g_t = l2[v];
    if
    :: g_t != NONE ->
        set_pte(g_t, 0, 0, 0);
        d_step { remaps(g_t); l2[v] = NONE };
        d_step { flush_all(); shared[g_t] = 0 };
        atomic { !locked[g_t] -> l1_gone(g_t); g_t = NONE }
    :: else
    fi
}

/*
 * The table stops being one, is written to like any page, and is put back,
 * which strips our bits.
 */
inline rewrite(v)
{
    g_t = l2[v];
    if
    :: g_t != NONE ->
        d_step { remaps(g_t); l2[v] = NONE };
        d_step { flush_all() };
        atomic { !locked[g_t] -> l1_gone(g_t) };
        d_step {
            fresh(g_t); changed(g_t);
            pte[g_t].p = 1; pte[g_t].rw = 1; pte[g_t].d = 0;
            pte[g_t].ro = 0; pte[g_t].seen = 0; IF_WATCH(pte[g_t].watch = 0);
            valid[g_t] = 1
        };
        d_step { l2[v] = g_t; remaps(g_t); g_t = NONE }
    :: else
    fi
}

/* mremap() of 2 MiB: the table moves, entries and all. */
inline move(v)
{
    if
    :: l2[v] != NONE && l2[1 - v] == NONE ->
        d_step { g_t = l2[v]; remaps(g_t); l2[v] = NONE };
        d_step { l2[1 - v] = g_t; remaps(g_t) };
        d_step { flush_all(); g_t = NONE }
    :: else
    fi
}

/* --- a CPU -------------------------------------------------------------- */

#define walk_ok(v) (l2[v] != NONE && pte[l2[v] % 2].p && pte[l2[v] % 2].rw)

#ifdef WATCH
#define CACHED_D(v) pte[l2[v]].d
#else
#define CACHED_D(v) true
#endif

/* A translation is cached, with or without a write. */
inline fill(c, v)
{
    tlb[2 * c + v] = 1; tlb_frame[2 * c + v] = l2[v]
}

inline user_write(c, v)
{
    if
    :: d_step { WRITES(c, v) && tlb[2 * c + v] -> store_to(tlb_frame[2 * c + v]) }
    :: d_step { WRITES(c, v) && !tlb[2 * c + v] && walk_ok(v) ->
                fill(c, v); pte[l2[v]].d = HAS_D; store_to(tlb_frame[2 * c + v]) }
#ifndef NO_SPECULATION
    :: d_step { WRITES(c, v) && !tlb[2 * c + v] && walk_ok(v) && CACHED_D(v) -> fill(c, v) }
#endif
    /* No translation, or one that is older than the entry. */
    :: d_step { WRITES(c, v) && !tlb[2 * c + v] -> start_using(c) };
        fixup_fault(c, v);
        if
        :: !fixed && !mm ->
            atomic { !mm -> mm = 1 };
            kernel_fault(v);
            mm = 0
        :: else
        fi;
        fixed = 0
    fi
}

proctype Cpu(byte c)
{
    byte b_t = NONE, f_t = NONE, y_t = NONE, g_t = NONE, k;
    bit ok, map, warm, moved, took, done, fixed, g_any;
#ifdef WATCH
    bit cold;
#endif

    do
    :: user_write(c, 0)
    :: user_write(c, 1)

    :: gate_cycle(c, BEGIN, 0)
    :: gate_cycle(c, COMMIT, 0)
#ifdef ENDS
    :: gate_cycle(c, END, 0)
#endif
#if CHUNKS > 1 && !defined(NO_PREEMPTION)
    :: gate_cycle(c, BEGIN, 1)
    :: gate_cycle(c, COMMIT, 1)
#endif
#ifdef DETACH
    :: gate_detach(c)
#ifdef FAILS
    :: gate_attach(c)
#else
    :: d_step { GATE(c) && !linked && freed -> attach() }
#endif
#endif

    :: atomic { KERNEL(c) && !mm -> mm = 1 };
        if
#ifdef FORK
        :: fork(c)
#endif
#ifdef KSM
        :: ksm(0)
#endif
#ifdef REMAP
        :: true -> move(0)
        :: true -> move(1)
#if CHUNKS > 1
        :: unmap(1)
#else
        :: unmap(0)
        :: rewrite(0)
#endif
#endif
        :: true
        fi;
        mm = 0
    od
}

/* RCU: memory goes when nobody holds a pointer from before. */
proctype Rcu()
{
end:
    do
#ifdef FREE_AT_ONCE
    :: d_step { !linked && !freed -> freed = 1 }
#else
    :: d_step { !linked && !freed && !reading[0] && !reading[1] -> freed = 1 }
#endif
    od
}

#ifdef READ_NO_WATCH
#define READ_TAKES(t) (pte[t].ro)
#elif defined(WATCH)
#define READ_TAKES(t) (pte[t].ro || pte[t].watch)
#else
#define READ_TAKES(t) (pte[t].ro)
#endif

#if defined(AGE) || defined(MIGRATE)
/*
 * The kernel on a third CPU, through the reverse mapping, without the mmap
 * lock: rewrites the entry at va 0 with what it read there.
 */
proctype Reclaim()
{
    byte r_t = NONE;

end:
    do
#ifdef AGE
    :: d_step {
        !ptl && l2[0] != NONE && !locked[l2[0] % 2] && pte[l2[0] % 2].p ->
        r_t = l2[0]; guest_update(r_t);
        pte[r_t].ro = 0; pte[r_t].seen = 0; IF_WATCH(pte[r_t].watch = 0);
        r_t = NONE
    }
#endif
#ifdef MIGRATE
    :: d_step {
        !ptl && l2[0] != NONE && !locked[l2[0] % 2] && pte[l2[0] % 2].p && !moving ->
        r_t = l2[0]; guest_update(r_t); remaps(r_t);
#ifndef NO_READ_HOOK
        /* cda_entry_read(): what xchg reads has no RW of Xen's. */
        if
        :: READ_TAKES(r_t) && pte[r_t].rw ->
            pte[r_t].rw = 0;
#ifndef READ_NO_FLUSH
            flush_all();
#endif
            uncached(r_t)
        :: else
        fi;
#endif
        moving = 1 + pte[r_t].rw;
        pte[r_t].p = 0; pte[r_t].rw = 0; pte[r_t].ro = 0; pte[r_t].seen = 0;
        IF_WATCH(pte[r_t].watch = 0);
        flush_all(); r_t = NONE
    }
    /* Another entry of the table is read: withhold(). */
    :: d_step {
        l2[0] != NONE && !locked[l2[0] % 2] && pte[l2[0] % 2].p && pte[l2[0] % 2].rw &&
        READ_TAKES(l2[0] % 2) ->
        r_t = l2[0];
        if
        :: pte[r_t].ro || pte[r_t].d ->
#ifndef WITHHOLD_UNLISTED
            guest_update(r_t)
#else
            skip
#endif
        :: else
        fi;
        pte[r_t].rw = 0; pte[r_t].ro = 1; pte[r_t].d = HAS_D;
        IF_WATCH(pte[r_t].watch = 0);
        flush_all(); r_t = NONE
    }
    :: d_step {
        !ptl && moving && l2[0] != NONE && !locked[l2[0] % 2] ->
        r_t = l2[0]; remaps(r_t);
        pte[r_t].p = 1; pte[r_t].rw = moving - 1; pte[r_t].d = HAS_D;
        moving = 0; r_t = NONE
    }
#endif
    od
}
#endif

/* Dom0: ctl_revoke(). */
proctype Revoke()
{
    byte b_t = NONE;
    bit done, took;

end:
    do
    :: d_step { linked && !revoked -> revoked = 1 }
    :: d_step { linked && revoked && ranges && !s_lock -> s_lock = 1 };
        drop_all();
        d_step { assert(!took); done = 0; s_lock = 0 }
    od
}

init
{
    atomic {
        l2[0] = 0; l2[1] = NONE;
        valid[0] = 1;
        pte[0].p = 1; pte[0].rw = 1; pte[0].d = HAS_D;
#if CHUNKS > 1
        l2[1] = 1; valid[1] = 1;
        pte[1].p = 1; pte[1].rw = 1; pte[1].d = HAS_D;
#endif
        attach();
#ifdef FAILS
        told = 1;
#endif
        run Cpu(0);
        run Cpu(1);
#ifdef DETACH
        run Rcu();
#endif
#if defined(AGE) || defined(MIGRATE)
        run Reclaim();
#endif
#ifdef REVOKE
        run Revoke()
#endif
    }
}
