/* The shared tier in one piece: what all nodes keep together in an object store.
 *
 *     shared_open(cache, options, listener, &s, &err)    asks the store nothing yet
 *     shared_get_answer(), shared_restore()              in workers, where something is missing
 * here what is published in the local tier goes up by itself, behind the clients' backs
 *     shared_stop(s)                                     what is under way ends soon
 *     shared_close(&s)
 *
 * A store that is away costs speed and nothing else: see guard.h.  What it has is served to nobody
 * whom upstream has not let in; that is the caller's business.
 *
 *     shared.c            this: who calls whom, when
 *     guard.h             the circuit breaker
 *     shared_answer.h     answers, up and down
 *     shared_mirror.h     mirrors, up and down
 *     uploads.h           the queue of what is to go up
 *     cutoffs.h           what came up too late, after it was invalidated
 *     keeper.h            bounds, and what lies safe there and takes room here
 *     object_store.h      the store itself, and its drivers */
#ifndef PANNIER_CACHE_SHARED_SHARED_H
#define PANNIER_CACHE_SHARED_SHARED_H

#include "cache/cache.h"
#include "cache/cluster/event.h"
#include "cache/cluster/events.h"
#include "cache/cluster/lease.h"
#include "cache/shared/guard.h"
#include "cache/shared/keeper.h"
#include "cache/shared/shared_answer.h"
#include "cache/shared/shared_mirror.h"
#include "cache/shared/shared_remove.h"
#include "cache/shared/uploads.h"

struct shared;

struct shared_options {
    struct object_store_config store;
    const char *node;
    enum compression compression; /* of files of mirrors */
    struct keeper_limits limits;
    struct leases *leases; /* under which mirrors go up; NULL: this node is alone */
    struct events *events; /* which invalidations this node has applied */
    unsigned uploads;      /* at once */
    size_t upload_queue;   /* that may wait */
};

/* What the owner may want to log.  Called in threads of the tier's and in workers; must not block.
 */
struct shared_listener {
    /* The store can't be used, and why; NULL: it can (again).  Once per change, and once when it
     * was reached for the first time. */
    void (*changed)(void *ctx, const struct err *why);
    void (*uploaded)(void *ctx, const char *path, uint64_t bytes, uint64_t took_us);
    /* The same for other nodes to know: e's path and tier are the store's; generation of a mirror's
     * manifest, else 0. */
    void (*put)(void *ctx, const struct key *key, const struct entry *e, uint64_t generation);
    /* For them, too: it was removed from there by hand, or as invalid. */
    void (*removed)(void *ctx, enum entry_kind kind, const struct key *key);
    void (*not_uploaded)(void *ctx, const char *path, const struct err *why);
    /* An object was not what was put; it has been removed. */
    void (*damage)(void *ctx, const char *what, const struct err *why);
    void (*tidied)(void *ctx, const struct keeper_round *round, uint64_t took_us);
    void (*demoted)(void *ctx, const struct keeper_demoted *what);
    void *ctx;
};

/* Listens to what cache publishes from here on.  -1: ERR_INPUT, as object_store_open(). */
int shared_open(struct cache *cache, const struct shared_options *options,
                const struct shared_listener *listener, struct shared **out, struct err *err);
void shared_stop(struct shared *s);
/* After that: its own threads have ended, and hold no lease; others may still ask, and are refused.
 */
void shared_join(struct shared *s);
void shared_close(struct shared **s); /* NULL inside is fine; nobody may be asking any more */
void shared_configure(struct shared *s, const struct keeper_limits *limits); /* any thread */

/* ---- for workers ---- */

/* As shared_answer_get(); what is damaged is removed, and counted. */
int shared_get_answer(struct shared *s, const char *repo_id, const struct key *key,
                      const struct shared_answer_sink *sink, struct err *err);
/* Is there something that an answer to key could be made of: that, or a mirror?  False when it
 * can't be told. */
bool shared_can_answer(struct shared *s, const char *repo_id, const struct key *key);

/* A glance: the store works, and wasn't found without a mirror of this repository, or with one that
 * is of no use here, just now. */
bool shared_may_restore(struct shared *s, const struct key *repo_id);
/* As shared_mirror_restore(). */
int shared_restore(struct shared *s, struct mirror *m, const struct key *repo_id,
                   shared_mirror_tick_fn *tick, void *ctx, struct shared_mirror_got *out,
                   struct err *err);
/* As shared_mirror_catch_up(), of a store of which that is true; else ERR_NOT_FOUND at once. */
int shared_catch_up(struct shared *s, struct mirror *m, const struct key *repo_id,
                    shared_mirror_tick_fn *tick, void *ctx, struct shared_mirror_got *out,
                    struct err *err);

/* As shared_remove(); what is on its way up meanwhile goes as soon as it is there. */
int shared_remove_repository(struct shared *s, const struct key *repo_id,
                             struct shared_removed *out, struct err *err);

/* As shared_remove_all(). */
int shared_remove_everything(struct shared *s, struct shared_removed *out, struct err *err);

/* This repository ("": any) was invalidated by the event id.  What is on its way up of it goes from
 * there again when it has arrived, and what was put by those who had yet to hear of it is not taken
 * from there any more. */
void shared_refuse_older(struct shared *s, const char *repo_id, const char *id);

/* As invalidations_note() and, what all nodes have noted, cache_invalidate() here; *count of them.
 * Of one that could not be sent id is of the clock, in milliseconds; all nodes are told of it as
 * soon as Redis is back. */
int shared_invalidation_note(struct shared *s, const struct event *e, const char *id,
                             struct err *err);
int shared_invalidations_apply(struct shared *s, uint64_t *count, struct err *err);

/* ---- for people ---- */

/* True while the store can't be used; *why is a copy of why.  Any thread. */
bool shared_troubled(struct shared *s, struct err *why);

struct shared_counts {
    uint64_t hits, misses; /* answers asked for here */
    uint64_t restored;     /* mirrors */
    uint64_t caught_up;    /* times that a mirror got something new */
    uint64_t damaged;      /* objects */
    uint64_t demoted;      /* entries that left the local disk */
    struct uploads_counts uploads;
    struct guard_counts store;
    struct keeper_round round;       /* the latest of this node's */
    uint64_t removed, removed_bytes; /* by all of its rounds */
};
void shared_count(struct shared *s, struct shared_counts *out); /* any thread, HTTP's too */

#endif
