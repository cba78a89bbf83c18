/* Where an answer is that isn't here: one round trip tells whether the shared tier has it, who of
 * all nodes fills it just now, and who has it on its disk; and if nobody makes it, it is ours to
 * make. So one of them asks upstream, and the others follow it.
 *
 *     filling_seek(redis, &us, key, mode, &found)   see enum sought
 *     filling_renew(redis, &f, ttl_ms)              well before ttl_ms is over
 *     filling_clear(redis, &f)                      when it is whole, or has failed
 *
 * In Redis `filling:<key>` holds a token, node, address and since when, for ttl_ms; `entry:answer:
 * <key>` is shared_index.h's.  This is advice and no lock: two nodes that fill one key at once,
 * after a stall or while Redis is away, cost a second transfer and nothing else; each publishes by
 * itself what it has checked.
 *
 * redis NULL: everything is ours.  Worker threads: each blocks for one round trip. */
#ifndef PANNIER_CACHE_CLUSTER_FILLING_H
#define PANNIER_CACHE_CLUSTER_FILLING_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/nodes.h"
#include "cache/cluster/redis.h"
#include "protocol/digest.h"

struct filling {
    struct key key;
    char node[NODE_ID_MAX + 1];
    char address[NODE_TEXT_MAX]; /* host:port; "": it can't be followed */
    int64_t started_ms;          /* since 1970, by Redis's clock */
    uint64_t left_ms;            /* then it counts as given up */
    char token[REDIS_TOKEN_SIZE];
};

/* Who asks; node and address as in nodes_config. */
struct filler {
    const char *node, *address;
    uint64_t ttl_ms; /* of a claim */
};

enum seek_mode {
    SEEK_LOOK,       /* only say where it is */
    SEEK_OR_CLAIM,   /* if nobody makes it, nor has the shared tier it, it is ours to make */
    SEEK_NOT_SHARED, /* likewise, whatever is told of the shared tier: it is not to be had from
                        there */
    SEEK_NOT_THERE,  /* likewise; and what is told of the shared tier is wrong, and forgotten */
};
enum sought {
    SOUGHT_NOTHING, /* with SEEK_LOOK: nobody makes it; *out may name a holder */
    SOUGHT_SHARED,  /* the shared tier has it */
    SOUGHT_THEIRS,  /* a node that is alive makes it, or has just made it: filling says which */
    SOUGHT_OURS,    /* the claim is filling; *out may name a holder */
};
struct seek_found {
    enum sought sought;
    struct filling filling;
    /* A node that is alive and has it on its disk, as far as is known; "": there is none. */
    char holder[NODE_ID_MAX + 1], address[NODE_TEXT_MAX];
};
/* A claim of ours from before is replaced: who asks here hasn't found what it stood for.  So is one
 * of a node that is dead, or stalls: to follow it would only cost time.
 * -1: as redis_ask(), *out is nothing: make it alone. */
int filling_seek(struct redis *redis, const struct filler *us, const struct key *key,
                 enum seek_mode mode, struct seek_found *out, struct err *err);
/* False: it is no longer ours, or that can't be told.  There is no need to stop for that. */
bool filling_renew(struct redis *redis, const struct filling *f, uint64_t ttl_ms);
void filling_clear(struct redis *redis, const struct filling *f);

#endif
