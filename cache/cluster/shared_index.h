/* What all nodes know in common: where entries lie, and how new mirrors are.
 *
 *     entry:<kind>:<key>   a hash with an entry's record: of an answer by its key, of a mirror by
 * its repository's id.  One round trip finds it; filling.h asks with the same one who makes it.
 *     repo:<repo_id>       a hash: the newest generation of the mirror in the shared tier
 *
 * A record says where to look and nothing more: whoever is asked there decides whether it still has
 * it, and whether it may be handed on.  Both run out when nobody uses them for ttl_s.  All of it
 * can be lost: an entry that isn't found is looked for in the shared tier itself, and what is found
 * there is told here again; what lies on disks each node tells again by itself (records.h).
 *
 * redis NULL: nothing is known here (ERR_NOT_FOUND), and nothing is kept.
 * Worker threads: each blocks for one round trip. */
#ifndef PANNIER_CACHE_CLUSTER_SHARED_INDEX_H
#define PANNIER_CACHE_CLUSTER_SHARED_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis.h"
#include "cache/entry.h"
#include "protocol/digest.h"

enum {
    SHARED_INDEX_TEXT_MAX = 4096,
    SHARED_INDEX_NOTES_MAX = 12, /* at once: each has some 30 words of REDIS_WORDS_MAX */
};

struct shared_index;

struct shared_index *shared_index_new(struct redis *redis, uint64_t ttl_s);
void shared_index_free(struct shared_index **x);

/* ---- entries ---- */

enum index_change {
    INDEX_SHARED, /* it lies in the shared tier; entry.node put it there, and has it as a rule */
    INDEX_USED,   /* it was used from there; where Redis has lost it, it is told anew */
    INDEX_LOCAL,  /* it lies on entry.node's disk: that isn't told over one in the shared tier */
    INDEX_STILL,  /* the same, told again: nor over one on another node that is alive */
    INDEX_LEFT,   /* it lies on entry.node's disk no longer */
    INDEX_GONE,   /* it lies nowhere */
};
/* entry: all of it, with tier and path of where it lies; with INDEX_LEFT its kind and node, with
 * INDEX_GONE its kind. */
struct index_note {
    enum index_change change;
    struct key key;
    struct entry entry;
};
/* Up to SHARED_INDEX_NOTES_MAX of them, in their order.  What has a text of over
 * SHARED_INDEX_TEXT_MAX bytes is left out.  -1: as redis_ask(). */
int shared_index_tell(struct shared_index *x, const struct index_note *notes, size_t count,
                      struct err *err);
/* 0: *out is yours (entry_clear).  -1: ERR_NOT_FOUND; or as redis_ask(). */
int shared_index_find(struct shared_index *x, enum entry_kind kind, const struct key *key,
                      struct entry *out, struct err *err);

/* ---- generations of mirrors in the shared tier ---- */

/* 0: *out is the newest that a node has told; 0: none is known.  -1: as redis_ask(). */
int shared_generation_get(struct shared_index *x, const char *repo_id, uint64_t *out,
                          struct err *err);
/* Raises the one that is there, never lowers it. */
int shared_generation_raise(struct shared_index *x, const char *repo_id, uint64_t generation,
                            struct err *err);
/* The mirror was removed; the next one's generations begin anew. */
int shared_generation_forget(struct shared_index *x, const char *repo_id, struct err *err);

#endif
