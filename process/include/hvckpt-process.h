/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Speculation of a whole process: run on, then keep or undo what all threads did. */
#ifndef HVCKPT_PROCESS_H
#define HVCKPT_PROCESS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Takes a pre-image of the process.  0 at first; n >= 1, like setjmp, after n rollbacks: the
 * speculation is open again then.  Negative: minus an errno, nothing has changed (ETIMEDOUT: a
 * thread did not stop; EBUSY: one is open, and was not rolled back yet;
 * EOPNOTSUPP: the main thread has ended). */
long hvckpt_speculate(void);

/* What happened since stays.  0, or -EINVAL: none is open. */
long hvckpt_speculation_commit(void);

/* Undoes it: hvckpt_speculate() returns once more, in the thread that called it.  Returns only
 * if refused, with minus an errno; nothing has changed then. */
long hvckpt_speculation_abort(void);

/* From now on no rollback undoes what is in these pages (their mapping and protection are put
 * back).  For memory that agrees with something outside the process: no stacks, no allocator's.
 * 0; -EINVAL: not whole pages; -ENOSPC: 256 ranges are excluded already. */
long hvckpt_exclude(void *address, size_t length);

#ifdef __cplusplus
}
#endif
#endif
