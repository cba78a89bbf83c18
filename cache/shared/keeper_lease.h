/* Who tidies the shared tier: `keeper.json` in the store, which names a node and until when.
 *
 *     {"node": "pannier-1", "until": 1700000000}
 *
 * It saves work and protects nothing: removing twice is fine, and what two nodes at once remove too
 * much of, by what each knows of its use, is only put again.  So there is no fencing, and no
 * renewal within a round: one that lasts longer than the lease may see a second node begin.
 *
 * `until` is by the clock of who wrote it and compared with the clock of who reads it.  A node
 * whose clock is ahead by d takes over d too early, when the holder may still be at work; one that
 * is behind takes over d too late, and the store grows meanwhile.  One that is ahead of any lease
 * that could have been written, differences of clocks included, is not believed: a node whose clock
 * was wrong for a moment would keep all others from tidying for years. */
#ifndef PANNIER_CACHE_SHARED_KEEPER_LEASE_H
#define PANNIER_CACHE_SHARED_KEEPER_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/shared/object_store.h"

#define KEEPER_LEASE_KEY "keeper.json"

enum {
    /* A holder that misses one round keeps it. */
    KEEPER_LEASE_INTERVALS = 2,
    /* Clocks may differ by so much: S3 itself refuses whose differs more. */
    KEEPER_CLOCKS_DIFFER_S = 15 * 60,
};

/* Take it, or renew it: *held says whether node has it now.  Always so where the store knows no
 * conditions; and where nobody else has it and the store refuses to take it, as one that is full
 * does.  -1: the store fails. */
int keeper_lease_take(struct object_store *store, const char *node, int64_t now_s,
                      int64_t interval_s, bool *held, struct err *err);

#endif
