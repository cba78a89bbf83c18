/* A circuit breaker around an object store, so that one that refuses or hangs costs one request its
 * time, and not every one.
 *
 *     CLOSED    everything goes to the store; the first failure that is the store's opens it
 *     OPEN      everything is refused at once (ERR_BUSY, with the reason); guard_probe() asks the
 *               store whether it works again, ever more rarely: 1 s later, then 2, 4 ... 60
 *     CLOSED    the probe was answered
 *
 * The store's failures are ERR_DENIED, ERR_REFUSED, ERR_BUSY, ERR_TIMEOUT and ERR_UPSTREAM.  That
 * there is no such object, that a condition does not hold, and what source or sink said are
 * answers. A put that is refused or denied may be the only one (a condition that the endpoint can't
 * do, an object that is too large, keys that may only read): the store is asked the probe's
 * question first, and if it answers, it works.  The driver has tried again by itself, for as long
 * as its deadline says, so one failure is enough.
 *
 * What is under way when it opens goes on, and opens nothing if it fails after the store was found
 * to work again.  Any thread that may block. */
#ifndef PANNIER_CACHE_SHARED_GUARD_H
#define PANNIER_CACHE_SHARED_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/shared/object_store.h"
#include "cache/timing.h"

struct guard;

/* Called without a lock, in the thread that found out or in one that is telling the change before;
 * must not block.  why NULL: it works (again).  Once per change, in their order.  That the first
 * probe was answered is one. */
typedef void guard_changed_fn(void *ctx, const struct err *why);

/* Takes *inner over, which becomes NULL.  *guard is what the functions below want; it lives as long
 * as the store that is returned, which is to be used in inner's place. */
struct object_store *guard_new(struct object_store **inner, guard_changed_fn *changed, void *ctx,
                               struct guard **guard);

bool guard_open(struct guard *g, struct err *why); /* is it refused now, and why (may be NULL) */
/* When it is open and a probe is due at now_ms: one cheap question (a list of no keys).  Else
 * nothing.  first: ask whatever the state, as at the start.
 *
 * The first call that finds it open says when that was.  A store that fails again within a minute
 * after a probe was answered (as one whose keys may read but not write) is asked as rarely as
 * before.  One question at a time: who calls while another one asks has nothing to do. */
void guard_probe(struct guard *g, uint64_t now_ms, bool first);

enum guard_operation {
    GUARD_PUT,
    GUARD_GET,
    GUARD_HEAD,
    GUARD_LIST,
    GUARD_REMOVE,
    GUARD_OPERATIONS_COUNT
};
struct guard_counts {
    uint64_t asked[GUARD_OPERATIONS_COUNT];  /* that went to the store */
    uint64_t failed[GUARD_OPERATIONS_COUNT]; /* of them, for a reason of the store's */
    uint64_t refused;                        /* while it was open */
    uint64_t opened;                         /* times */
    uint64_t bytes_up, bytes_down;
    struct timing took[GUARD_OPERATIONS_COUNT]; /* those whose end was the store's doing */
};
void guard_count(struct guard *g, struct guard_counts *out); /* any thread, HTTP's too */

#endif
