/* What must not be served any more goes from this node.
 *
 * A repository's answers and mirror go by force: who reads them reads on, nobody new gets them.
 * What is being made just now goes to those who follow it already, is found by nobody else, and is
 * not kept: a mirror by its handle, an answer as it is let go of (answers_let_go()).  Whoever makes
 * one notes the epoch before it begins (cache_epoch()), and need not publish it if that is over.
 *
 *     SCOPE_REPOSITORY   all of it
 *     SCOPE_REF          nothing lies here by the name of a ref; what is known of refs is the
 *                        caller's
 *     SCOPE_OBJECT       all of the repository, as it can't be told which answers hold it; but not
 *                        a whole mirror that lacks it
 *     SCOPE_EVERYTHING   everything
 *
 * Worker threads: removes files. */
#ifndef PANNIER_CACHE_INVALIDATE_H
#define PANNIER_CACHE_INVALIDATE_H

#include "cache/cache.h"
#include "cache/cluster/event.h"

struct invalidation {
    enum event_scope scope;
    const char *repo_id; /* hex; "" with SCOPE_EVERYTHING */
    const char *object;  /* SCOPE_OBJECT: its id in hex */
    /* SCOPE_REPOSITORY: its pin goes first, if it was set by then (seconds since 1970): what is
     * told again takes no pin that was set since.  0: it stays. */
    int64_t unpin_s;
    bool dry_run; /* only tell what would go */
};
struct invalidated {
    uint64_t answers, mirrors, bytes; /* bytes on the disk */
    uint64_t size;                    /* as clients get them */
};
/* 0: it is gone.  -1: as local_each() and local_remove(); what could be removed is gone. */
int cache_invalidate(struct cache *c, const struct invalidation *what, struct invalidated *out,
                     struct err *err);

/* Grows with each invalidation, before anything is removed.  Any thread. */
uint64_t cache_epoch(const struct cache *c);

#endif
