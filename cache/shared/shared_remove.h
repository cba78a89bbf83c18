/* Takes everything of one repository out of the object store, or only its mirror.
 *
 * A mirror's manifest goes first, so that nobody begins to restore what is half gone, and once more
 * at the end: one that another node has put meanwhile may name files that went.  Who is restoring
 * just then finds a file missing, and asks upstream.
 *
 * Worker threads: blocks on the network, for as long as the store's deadline says for each object.
 */
#ifndef PANNIER_CACHE_SHARED_SHARED_REMOVE_H
#define PANNIER_CACHE_SHARED_SHARED_REMOVE_H

#include <stdatomic.h>
#include <stdint.h>

#include "cache/entry.h"
#include "cache/shared/object_store.h"
#include "protocol/digest.h"
#include "protocol/err.h"

struct shared_removed {
    uint64_t objects, bytes;
    /* Told of each answer by its key, and of each mirror by its repository, as it goes.  May be
     * NULL.
     */
    void (*gone)(void *ctx, enum entry_kind kind, const struct key *key);
    void *ctx;
};

/* The mirror with all its files, then all answers.  What went is added to *out, also when the rest
 * could not: -1 as object_list() and object_remove(), or ERR_CANCELLED when *stop (may be NULL) has
 * become true.  That there is nothing is fine. */
int shared_remove(struct object_store *store, const struct key *repo_id, const atomic_bool *stop,
                  struct shared_removed *out, struct err *err);
/* All answers and mirrors, manifests first. */
int shared_remove_all(struct object_store *store, const atomic_bool *stop,
                      struct shared_removed *out, struct err *err);
int shared_remove_mirror(struct object_store *store, const struct key *repo_id,
                         const atomic_bool *stop, struct shared_removed *out, struct err *err);

#endif
