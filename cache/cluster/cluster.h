/* This node among others: all of cache/cluster/, opened, begun and ended in the order that they
 * need.
 *
 *     cluster_open(&config, &c, &err)     checks the configuration; connects to nothing
 *     cluster_start(c)                    from here on events come to the handler
 *     cluster_leases(c), ...              what the rest of the program uses
 *     cluster_stop(c)                     who waits for a lease or a job gives up; this node leaves
 *                                         the others; leases and jobs can still be given back
 *     cluster_free(&c)                    when nobody uses any of it any more
 *
 * Without redis.url all of it works within the process, and this node is the only one.  With it,
 * and Redis away: leases and jobs are refused (ERR_BUSY), nothing is known of others, and
 * cluster_may_serve() is false: see there. */
#ifndef PANNIER_CACHE_CLUSTER_CLUSTER_H
#define PANNIER_CACHE_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/events.h"
#include "cache/cluster/lease.h"
#include "cache/cluster/nodes.h"
#include "cache/cluster/queue.h"
#include "cache/cluster/records.h"
#include "cache/cluster/redis.h"
#include "cache/cluster/shared_index.h"

struct cluster;

struct cluster_config {
    struct redis_config redis; /* url NULL: alone */
    struct nodes_config node;
    struct events_config events;
    struct events_handler handler; /* its position is not called */
    /* A file of the data folder, for where this node is in the stream of events: what it stands for
     * is what that folder holds, so they live and die together.  NULL: nothing outlives this start.
     */
    const char *position_file;
    struct queue_config queue;
    uint64_t lease_ttl_ms; /* 0: 15,000 */
    uint64_t index_ttl_s;  /* 0: 7 days; what lies here is told again in a seventh of it */
    /* As records_config.list. */
    void (*list)(void *ctx, struct records *r);
    void *list_ctx;
};

/* -1: as redis_open() and nodes_new(). */
int cluster_open(const struct cluster_config *config, struct cluster **out, struct err *err);
void cluster_start(struct cluster *c);
void cluster_stop(struct cluster *c);
void cluster_free(struct cluster **c);

/* May what was kept be served, as far as the other nodes are concerned?  False while Redis is away
 * and until all is applied that was missed: an invalidation may be under way that did not reach us.
 * What is asked of upstream then may be served, and is.  Any thread, HTTP's too. */
bool cluster_may_serve(struct cluster *c, uint64_t now_ms);
/* Is there anything for /healthz to say?  True: *why is it (Redis is away, another node has our
 * name).  Any thread, HTTP's too. */
bool cluster_trouble(struct cluster *c, struct err *why);

/* Live as long as c. */
struct redis *cluster_redis(struct cluster *c); /* NULL: alone; filling.h takes it so */
struct leases *cluster_leases(struct cluster *c);
struct nodes *cluster_nodes(struct cluster *c);
struct events *cluster_events(struct cluster *c);
struct queue *cluster_queue(struct cluster *c);
struct shared_index *cluster_index(struct cluster *c);
struct records *cluster_records(struct cluster *c);

#endif
