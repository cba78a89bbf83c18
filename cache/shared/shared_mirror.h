/* Mirrors in the object store: manifest.h says what lies there, this brings it up and down.
 *
 * Going up only files travel that the manifest there does not have.  Two nodes that put the same
 * mirror converge: a manifest is put only over the one that was read, and only if it says something
 * new: something that no tip there reaches, or a better kept state (a bitmap, fewer packs beside
 * the multi-pack index).  A node that meets packs of another's with tips that its own mirror lacks
 * keeps them in the manifest beside its own, as long as they are at most one and a half times its
 * own.  A file is checked against its own trailing checksum and the list of packs before it goes
 * up, and against the manifest when it comes down.
 *
 * cutoffs, which may be NULL everywhere: what lies there and was put too late is as good as not
 * there.
 *
 * Worker threads: blocks on the network, the disk and git. */
#ifndef PANNIER_CACHE_SHARED_SHARED_MIRROR_H
#define PANNIER_CACHE_SHARED_SHARED_MIRROR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/lease.h"
#include "cache/compress.h"
#include "cache/mirror/mirror.h"
#include "cache/shared/cutoffs.h"
#include "cache/shared/object_store.h"

struct shared_mirror_put_options {
    const char *node; /* who we are, for people */
    /* Under which this is done; NULL: there is none.  Looked at before the manifest is put, as not
     * all stores can refuse who comes late. */
    const struct lease *lease;
    uint64_t fence; /* the lease's; 0: there is none */
    struct cutoffs *cutoffs;
    const char *applied; /* the last event that was applied here when this began; NULL: none */
    enum compression compression;
    const atomic_bool *stop; /* may be NULL */
};
struct shared_mirror_sent {
    unsigned files; /* put */
    uint64_t bytes; /* put, the manifest included; 0: there was nothing to do */
    uint64_t generation;
    struct key repo_id;         /* of what was looked at */
    char needed[EVENT_ID_SIZE]; /* of ERR_BUSY: to be tried when that is applied here; else "" */
};
/* m is ready; serving and fetching go on.  -1: ERR_CONFLICT when others were first again and again,
 * or a newer fence is there; ERR_BUSY: the lease is over, or events were not applied here that who
 * put what is there had applied, or that refuse what is here; ERR_CORRUPT: a file of the mirror is
 * damaged (the caller drops it); ERR_NOT_FOUND: it is gone; ERR_BUSY: it changes all the time;
 * ERR_REFUSED: another version of pannier put what is there; ERR_CANCELLED: *stop; or as
 * object_put(). */
int shared_mirror_put(struct object_store *store, struct mirror *m,
                      const struct shared_mirror_put_options *options,
                      struct shared_mirror_sent *out, struct err *err);

/* Called about each second while bytes come and while what came is read once more, and after each
 * file; -1 gives the restore up. */
typedef int shared_mirror_tick_fn(void *ctx, uint64_t done, uint64_t total, struct err *err);
struct shared_mirror_got {
    unsigned files;
    uint64_t bytes; /* that came down */
    uint64_t generation;
    bool removed; /* the manifest there, as damaged or put too late */
};
/* Make m from what the store has; between mirror_write_begin() and _end() of one that isn't ready.
 * Room is claimed of the local tier first.  tick may be NULL.
 * -1: ERR_NOT_FOUND, the store has none; ERR_CORRUPT: a file there is damaged or missing, and was
 * removed together with the manifest, so that it is put anew; ERR_CONFLICT: another manifest came
 * twice in the middle, or the mirror is there already; ERR_BUSY: it is being removed; ERR_REFUSED:
 * another version of pannier put it; ERR_LIMIT, ERR_STORAGE: no room; or as object_get(), or what
 * tick said. */
int shared_mirror_restore(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                          const struct key *repo_id, shared_mirror_tick_fn *tick, void *ctx,
                          struct shared_mirror_got *out, struct err *err);

/* Bring m, which is ready, forward by what the store has and it lacks; between mirror_write_begin()
 * and _end().  Where all of that is here already, only the manifest travels.  Packs that come stand
 * beside those that are here, and tips are added; serving goes on.
 *
 * *out: files and bytes that came (0: nothing was new there), and generation is the manifest's,
 * also on failure where that was read. -1: ERR_LIMIT: the store has it in so many other bytes that
 * upstream is nearer, or there is no room, as ERR_STORAGE says, too; ERR_CORRUPT: something there
 * is damaged or missing, or is not all that its tips reach (removed as in shared_mirror_restore());
 * ERR_BUSY: m is gone, or being removed; others as in shared_mirror_restore().  The mirror is as it
 * was; only what the disk did in the very end may leave it with packs and without their tips. */
int shared_mirror_catch_up(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                           const struct key *repo_id, shared_mirror_tick_fn *tick, void *ctx,
                           struct shared_mirror_got *out, struct err *err);

/* Does the store have one?  0: *has says so. */
int shared_mirror_has(struct object_store *store, const struct key *repo_id, bool *has,
                      struct err *err);
/* Is m, as it is here, there as well: all that its tips reach, in whatever packs?  For who wants to
 * let m go here. */
int shared_mirror_has_all(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                          bool *has, struct err *err);

#endif
