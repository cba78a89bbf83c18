/* What was invalidated, written down in the object store, so that a node that may have missed the
 * event (it was away for too long, Redis came back empty) can tell what it must not serve.
 *
 *     invalidations/<milliseconds since 1970>-<random>-<repo_id>-<event>.json
 *
 * The name tells what all who get something from the store want to know: about which repository
 * ("all": about each) it is, and which event it was.  What is in it is for who has missed that.
 *
 * They are kept for INVALIDATIONS_KEPT_S; whoever notes one removes what is older.  Worker threads.
 */
#ifndef PANNIER_CACHE_SHARED_INVALIDATIONS_H
#define PANNIER_CACHE_SHARED_INVALIDATIONS_H

#include <stdatomic.h>
#include <stdint.h>

#include "cache/cluster/event.h"
#include "cache/shared/object_store.h"

/* A node that was away for longer had better begin with an empty disk. */
enum { INVALIDATIONS_KEPT_S = 30 * 24 * 3600 };

/* id: of the event.  -1: as object_put(); or ERR_INPUT, a name is no UTF-8. */
int invalidations_note(struct object_store *store, const struct event *e, const char *id,
                       int64_t now_ms, struct err *err);

/* The names of all that are there; repo_id NULL: about all repositories.  -1: as object_list(). */
typedef void invalidation_name_fn(void *ctx, const struct key *repo_id, const char *id);
int invalidations_list(struct object_store *store, invalidation_name_fn *fn, void *ctx,
                       struct err *err);

/* Each that is there, in their order; -1 ends it with what fn put into err.  What can't be read is
 * handed out as one of everything. */
typedef int invalidation_fn(void *ctx, const struct event *e, const char *id, struct err *err);
int invalidations_each(struct object_store *store, const atomic_bool *stop, invalidation_fn *fn,
                       void *ctx, struct err *err);

#endif
