/* Who is there: each node says of itself that it lives, how it is reached and how it fares.
 *
 *     nodes_new(redis or NULL, &config)     before redis_start(); its thread says so each
 * heartbeat_ms nodes_describe(n, &load)              what the next heartbeat tells nodes_list(n,
 * &list, &err)            those alive nodes_leave(n)                        before redis_stop():
 * gone at once, not only after the ttl nodes_free(&n)                        after redis_stop()
 *
 * In Redis `node:<id>` is a hash that runs out after ttl_ms, and `nodes` says when each was heard.
 * Joining is starting; nobody else has to be told.
 *
 * To be alive is also a duty: whoever sends an invalidation waits for all that are, and for no
 * others (events.h).  So a node must know when it isn't any more, without being told:
 * nodes_is_alive() goes by our own clock, from when the last heartbeat was sent.
 *
 * Two nodes with one id would take each other's place; the second one, if its address is another,
 * is refused until the first is gone, and nodes_trouble() says so.  redis NULL: we are the only
 * node. */
#ifndef PANNIER_CACHE_CLUSTER_NODES_H
#define PANNIER_CACHE_CLUSTER_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis.h"

enum { NODE_ID_MAX = 64, NODE_TEXT_MAX = 256, NODES_MAX = 256 };

struct nodes;

struct nodes_config {
    const char *id;      /* [A-Za-z0-9._-], at most NODE_ID_MAX */
    const char *address; /* how other nodes reach us, host:port; "": not at all */
    const char *version;
    uint64_t heartbeat_ms; /* 0: 1000 */
    uint64_t ttl_ms;       /* 0: 5000; over heartbeat_ms */
    /* How long one that fell silent without taking its leave is still listed: it may be cut off,
     * and serve what it has.  0: not at all, as nodes that are cut off serve nothing then. */
    uint64_t remember_ms;
};

/* redis is borrowed, and lives longer.  -1: ERR_INPUT, that is no id or address. */
int nodes_new(struct redis *redis, const struct nodes_config *config, struct nodes **out,
              struct err *err);
void nodes_leave(struct nodes *n); /* worker threads */
void nodes_free(struct nodes **n);
const char *nodes_id(const struct nodes *n);

struct node_load {
    uint64_t requests;              /* under way */
    uint64_t disk_used, disk_limit; /* bytes of the local tier */
};
void nodes_describe(struct nodes *n, const struct node_load *load); /* any thread */
/* Which event was applied last; "": none since Redis was lost.  tell: wake those who wait for it
 * (channel `applied`).  -1: as redis_ask().  Worker threads. */
int nodes_applied(struct nodes *n, const char *event_id, bool tell, struct err *err);

/* Do others count us as alive?  *since (may be NULL): by now_ms(), from when on without a break;
 * whoever has looked at the events since then has missed none that somebody waits for.  Any thread.
 */
bool nodes_is_alive(struct nodes *n, uint64_t now_ms, uint64_t *since_ms);
/* True: *why is why the last heartbeat was refused.  Any thread. */
bool nodes_trouble(struct nodes *n, struct err *why);

struct node {
    char id[NODE_ID_MAX + 1];
    char address[NODE_TEXT_MAX], version[NODE_TEXT_MAX];
    char applied[NODE_ID_MAX]; /* the last event it has applied, "": none */
    struct node_load load;
    int64_t started; /* seconds since 1970 */
    uint64_t
        silent_ms; /* over 0: nothing but its id is known, and that it said nothing for so long */
};
struct node_list {
    struct node *nodes; /* by their ids */
    size_t count;
    /* False for ttl_ms after a restart or a failover of Redis: nodes that have not told it yet may
     * still count themselves as alive, and serve. */
    bool complete;
};
/* Is it alive?  False also when that can't be told.  Worker threads. */
bool nodes_has(struct nodes *n, const char *id);
/* Those alive, and those that are silent (remember_ms).  0: *out is yours to clear.  -1: as
 * redis_ask().  Worker threads. */
int nodes_list(struct nodes *n, struct node_list *out, struct err *err);
void node_list_clear(struct node_list *l);
/* A silent one is gone for good: nobody waits for it any more.  -1: ERR_CONFLICT, it is alive;
 * ERR_NOT_FOUND; or as redis_ask().  Worker threads. */
int nodes_forget(struct nodes *n, const char *id, struct err *err);

#endif
