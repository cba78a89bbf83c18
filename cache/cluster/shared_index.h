/* What all nodes know in common: where entries lie, and how new repositories are.
 *
 *     entry:<kind>:<key>   a hash with an entry's record: of an answer by its key, of a mirror by
 * its repository's id.  One round trip finds it. repo:<repo_id>       a hash: the newest digest of
 * refs that a node has seen, and the newest generation of the mirror in the shared tier
 *
 * Both run out when nobody uses them for ttl_s.  All of it can be lost: an entry that isn't found
 * is looked for in the shared tier itself, and what is found there is put here again.
 *
 * redis NULL: nothing is known here (ERR_NOT_FOUND), and nothing is kept.
 * Worker threads: each blocks for one round trip. */
#ifndef PANNIER_CACHE_CLUSTER_SHARED_INDEX_H
#define PANNIER_CACHE_CLUSTER_SHARED_INDEX_H

#include <stdint.h>

#include "cache/cluster/redis.h"
#include "cache/entry.h"
#include "protocol/digest.h"

enum { SHARED_INDEX_TEXT_MAX = 4096 };

struct shared_index;

struct shared_index *shared_index_new(struct redis *redis, uint64_t ttl_s);
void shared_index_free(struct shared_index **x);

/* ---- entries ---- */

/* e->node: who has it, for a local one.  One in the shared tier is not put aside for a local one.
 * -1: ERR_LIMIT, a text is longer than SHARED_INDEX_TEXT_MAX; or as redis_ask(). */
int shared_index_put(struct shared_index *x, const struct key *key, const struct entry *e,
                     struct err *err);
/* 0: *out is yours (entry_clear).  -1: ERR_NOT_FOUND; or as redis_ask(). */
int shared_index_find(struct shared_index *x, enum entry_kind kind, const struct key *key,
                      struct entry *out, struct err *err);
/* It was used: one more access, and it stays for longer. */
int shared_index_use(struct shared_index *x, enum entry_kind kind, const struct key *key,
                     int64_t now_s, struct err *err);
int shared_index_remove(struct shared_index *x, enum entry_kind kind, const struct key *key,
                        struct err *err);

/* ---- versions of repositories ---- */

struct shared_version {
    char refs[KEY_HEX_SIZE]; /* digest; "": not known */
    uint64_t generation;     /* 0: not known */
    /* By Redis's clock, milliseconds since 1970: when those refs were asked for, and the time now.
     */
    int64_t refs_ms, now_ms;
};

/* 0, also for a repository that nothing is known of: that has neither refs nor generation.
 * -1: as redis_ask(). */
int shared_version_get(struct shared_index *x, const char *repo_id, struct shared_version *out,
                       struct err *err);
/* Tell what is known.  refs: digest, or "": nothing about them; asked_ms: the now_ms of a
 * shared_version_get() from before upstream was asked (0: just now), so that of two nodes that ask
 * at once the one that asked first does not overwrite what the other saw later.  generation: raises
 * the one that is there, never lowers it; 0: nothing about it.  *out (may be NULL) is what holds
 * now. */
int shared_version_put(struct shared_index *x, const char *repo_id, const char *refs,
                       int64_t asked_ms, uint64_t generation, struct shared_version *out,
                       struct err *err);

#endif
