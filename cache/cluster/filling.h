/* Who of all nodes fills which key: so that one of them asks upstream, and the others follow it.
 *
 *     filling_claim(redis, key, node, address, ttl_ms, &f)   0: we fill it; else f says who does
 *     filling_renew(redis, &f, ttl_ms)                       well before ttl_ms is over
 *     filling_clear(redis, &f)                               when it is whole, or has failed
 *
 * In Redis `filling:<key>` holds a token, node, address and since when, for ttl_ms.  This is advice
 * and no lock: two nodes that fill one key at once, after a stall or while Redis is away, cost a
 * second transfer and nothing else; each publishes by itself what it has checked.
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

/* node and address: as in nodes_config.  0: *out is ours.  -1: ERR_CONFLICT, *out is another's; or
 * as redis_ask(), *out is nobody's: fill it alone. */
int filling_claim(struct redis *redis, const struct key *key, const char *node, const char *address,
                  uint64_t ttl_ms, struct filling *out, struct err *err);
/* -1: ERR_NOT_FOUND, nobody does; or as redis_ask(). */
int filling_find(struct redis *redis, const struct key *key, struct filling *out, struct err *err);
/* False: it is no longer ours, or that can't be told.  There is no need to stop for that. */
bool filling_renew(struct redis *redis, const struct filling *f, uint64_t ttl_ms);
void filling_clear(struct redis *redis, const struct filling *f);

#endif
