/* Keeps the shared tier within its bounds, and lets large things go here that lie safe there.
 *
 *     keeper_tidy()     one round over all that the store has: files of mirrors that no manifest
 *                       has had for an hour, be they of an upload that broke off or replaced since;
 *                       then what is over its ttl goes, then as much as max_size wants, by the same
 *                       policies as locally.  An answer is one item; so is a mirror with its files
 *     keeper_demote()   entries over a tenth of cache.local_size that nobody asked for since hot_s:
 *                       gone here, if the store has all of them
 *
 * One node at a time tidies: whoever holds `keeper.json` in the store, which names the node and
 * until when; it is taken over when that is past (keeper_lease.h; where the store knows no
 * conditions, every node tidies).  Who uses what: as far as this node knows (keeper_used(), the
 * local index), else the time when it was put.
 *
 * What lies in the store under names that are neither an answer's nor a mirror's is left alone.
 *
 * now_s is an argument; worker threads, one call at a time, but keeper_used(): any thread. */
#ifndef PANNIER_CACHE_SHARED_KEEPER_H
#define PANNIER_CACHE_SHARED_KEEPER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cache/local/local.h"
#include "cache/local/policy.h"
#include "cache/shared/cutoffs.h"
#include "cache/shared/object_store.h"

struct keeper;

struct keeper_limits {
    uint64_t max_size; /* bytes that all objects may have; 0: no limit */
    int64_t ttl_s;     /* unused for so long: gone; 0: never */
    enum policy_kind policy;
    int64_t max_age_s; /* for POLICY_SIZE */
    int64_t hot_s;     /* a large entry stays here for so long after its last use */
    /* Between two rounds: keeper.json says for how long nobody else need begin, so who calls
     * keeper_tidy() does it about so often.  What goes up meanwhile is how far max_size is passed.
     */
    int64_t interval_s;
};

/* Is the mirror at an entry's path, as it is here, in the store with all it has?
 * (shared_mirror_has_all().)  Called without a lock; holds no reference to it afterwards, or it
 * can't go. */
struct keeper_mirrors {
    int (*has_all)(void *ctx, const char *path, bool *has, struct err *err);
    void *ctx;
};

/* cutoffs (may be NULL): an answer that was put too late doesn't let the one here go. */
struct keeper *keeper_new(struct object_store *store, struct local *local,
                          const struct keeper_mirrors *mirrors, struct cutoffs *cutoffs,
                          const char *node, const struct keeper_limits *limits);
void keeper_free(struct keeper **k);
void keeper_configure(struct keeper *k, const struct keeper_limits *limits); /* any thread */

/* An object (its key, without the store's prefix) was read by this node.  Remembered of the
 * KEEPER_NOTES_MAX things that were used last, some 150 bytes each. */
enum { KEEPER_NOTES_MAX = 64 * 1024 };
void keeper_used(struct keeper *k, const char *object_key, int64_t now_s);

struct keeper_round {
    bool held;                       /* false: another node tidies; nothing was done */
    uint64_t objects, bytes;         /* there now */
    uint64_t removed, removed_bytes; /* objects that went for age or room */
    uint64_t orphans, orphans_bytes; /* files of mirrors that no manifest had */
};
/* *out says what was done in any case.  -1: ERR_CANCELLED, *stop (may be NULL) has become true; or
 * the store failed, and the next round goes on with what this one left. */
int keeper_tidy(struct keeper *k, int64_t now_s, const atomic_bool *stop, struct keeper_round *out,
                struct err *err);

struct keeper_demoted {
    unsigned entries;
    uint64_t bytes;
};
/* missing(ctx, kind, path), if not NULL, is called for what should go and isn't in the store.
 * What somebody reads just now, or has asked for meanwhile, stays.  -1: as keeper_tidy(), or the
 * local index fails. */
int keeper_demote(struct keeper *k, int64_t now_s, const atomic_bool *stop,
                  void (*missing)(void *ctx, enum entry_kind kind, const char *path), void *ctx,
                  struct keeper_demoted *out, struct err *err);

#endif
