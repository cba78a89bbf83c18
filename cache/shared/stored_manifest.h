/* The manifest of a mirror as the object store has it: for those who bring mirrors up and down.
 * Worker threads: blocks on the network. */
#ifndef PANNIER_CACHE_SHARED_STORED_MANIFEST_H
#define PANNIER_CACHE_SHARED_STORED_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/mirror/copy.h"
#include "cache/shared/cutoffs.h"
#include "cache/shared/manifest.h"
#include "cache/shared/object_store.h"

struct stored_manifest {
    bool there;                 /* an object is */
    char etag[OBJECT_ETAG_MAX]; /* of it */
    uint64_t size;
    bool late;                /* it was put too late: see cutoffs.h */
    uint64_t generation;      /* also of one that was; 0: not known */
    bool usable;              /* it is a manifest, and this one: */
    struct manifest manifest; /* {0} where it isn't */
};
void stored_manifest_clear(struct stored_manifest *s); /* one that is {0} is fine */

/* cutoffs may be NULL.  *out is yours to clear, whatever happens.  -1: ERR_NOT_FOUND: there is
 * none, or it was put too late, and out has its etag; ERR_CORRUPT: it is damaged, and out has its
 * etag; ERR_REFUSED: another version of pannier wrote it; or as object_get(). */
int stored_manifest_read(struct object_store *store, struct cutoffs *cutoffs,
                         const struct key *repo_id, struct stored_manifest *out, struct err *err);

/* Over the one that was read (or none), and no other; *size is of the object.  -1: ERR_CONFLICT:
 * another one is there by now; ERR_INPUT, ERR_LIMIT: it can't be told; or as object_put(). */
int stored_manifest_put(struct object_store *store, const struct stored_manifest *read,
                        const struct manifest *next, uint64_t *size, struct err *err);

/* Has it all that the tips of a mirror (m; here is what it consists of) reach, in whatever packs:
 * is each of them a tip there, or reached by one there?  slack_s: and there it was asked for at
 * most so much longer ago.  False also where that would take long to tell. */
bool manifest_covers(const struct manifest *there, struct mirror *m,
                     const struct mirror_content *here, int64_t slack_s);

/* Is the one that was read still there?  False also when that can't be told. */
bool stored_manifest_is_same(struct object_store *store, const struct key *repo_id,
                             const struct stored_manifest *read);

#endif
