/* The stream of events: each node reads all of them, in one order, and none is lost on the way.
 *
 *     events_new(redis or NULL, nodes, &handler, position, &config)   before redis_start()
 *     events_send(e, &event, id, &err)                 tell all nodes, this one included
 *     events_wait_applied(e, id, timeout_ms, &late, &err)
 *     events_caught_up(e, now_ms)                      may the cache be served from
 *     events_free(&e)                                  after redis_stop(), before nodes_free()
 *
 * They lie in the Redis stream `events`, cut to about `keep` of them; a message on the channel
 * `events` wakes the readers.  A thread hands each to the handler, at least once and in order, and
 * tells where it is: that position is the caller's to keep through a restart, beside what it stands
 * for (the data folder), and to give to events_new().  A node that was away goes on from there.
 *
 * Where that can't be done (the stream was cut beyond it, Redis came back empty or with an older
 * past, there is no position) the handler is told that some were *missed*: it must take for
 * invalidated whatever it holds.  The rule: the entry at our position, told by its id and a number
 * by chance, must still be there; what comes behind it then is whole, as a stream is only ever cut
 * at its beginning.
 *
 * What an acknowledgement is worth: when events_wait_applied() says 0, no node serves what the
 * event invalidated, nor one that could not be reached.  For that each keeps two rules:
 *
 *     the sender     waits for all nodes that were alive after the event was in the stream, and
 * after a restart of Redis for one ttl_ms of nodes, so that they are known every node     serves
 * from its cache only while events_caught_up(): by its own clock it is still alive, and since then
 * has read the stream to its end
 *
 * redis NULL: the same within the process, in which nothing is missed. */
#ifndef PANNIER_CACHE_CLUSTER_EVENTS_H
#define PANNIER_CACHE_CLUSTER_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/event.h"
#include "cache/cluster/nodes.h"

struct events;

/* All in the thread of events, one at a time, without a lock; they may block. */
struct events_handler {
    /* 0: applied, and that lasts.  -1: not now (a disk that fails): handed out again a little
     * later, and nothing else before it. */
    int (*apply)(void *ctx, const char *id, const struct event *event, struct err *err);
    int (*missed)(void *ctx, const char *why, struct err *err);
    /* The id of the last one applied: to be remembered.  May be NULL.  What isn't remembered is
     * applied again. */
    void (*position)(void *ctx, const char *position);
    void *ctx;
};

struct events_config {
    uint64_t keep;    /* about so many stay in the stream; 0: 10,000 */
    uint64_t poll_ms; /* look also without a message; 0: 1000 */
};

/* redis and nodes are borrowed, and live longer.  position: as handler->position() was told last;
 * NULL or "": none. */
struct events *events_new(struct redis *redis, struct nodes *nodes,
                          const struct events_handler *handler, const char *position,
                          const struct events_config *config);
void events_free(struct events **e);

/* 0: it is in the stream, as id.  -1: ERR_INPUT, or as redis_ask(): then it may be there or not; to
 * send it again does no harm.  Worker threads. */
int events_send(struct events *e, const struct event *event, char id[EVENT_ID_SIZE],
                struct err *err);

/* 0: all nodes have applied it.  -1: ERR_TIMEOUT, and *late (may be NULL; yours to clear) are the
 * nodes that have not; ERR_NOT_FOUND, Redis has lost it: send it again; or as redis_ask().
 * Worker threads: blocks. */
int events_wait_applied(struct events *e, const char *id, uint64_t timeout_ms,
                        struct node_list *late, struct err *err);

/* Any thread, HTTP's too. */
bool events_caught_up(struct events *e, uint64_t now_ms);

/* Which events this node has begun to apply, as far as they invalidate, and which it has applied;
 * "" where there are none.  Who has noted its epoch before it asks for *begun, and takes things
 * only from a node whose *applied isn't older, takes nothing that those events invalidate: see
 * events_are_seen().  Any thread. */
void events_seen(struct events *e, char begun[EVENT_ID_SIZE], char applied[EVENT_ID_SIZE]);
/* Has this node applied all that another one, whose events_seen() said begun, had begun? */
bool events_are_seen(struct events *e, const char *begun);

/* The last event that this node has applied; "" where there is none.  What it kept before this
 * call, and has still, none of the events up to that one has invalidated.  Any thread. */
void events_applied(struct events *e, char out[EVENT_ID_SIZE]);
/* Without Redis ids are of this node's clock, which may have been set back since it, or an earlier
 * start, gave this one: those to come are newer.  Redis sees to that by itself.  Any thread. */
void events_raise(struct events *e, const char *id);

struct events_counts {
    uint64_t sent, applied;
    uint64_t missed;  /* times */
    uint64_t skipped; /* of kinds that this version doesn't know */
    uint64_t retried; /* that could not be applied at once */
};
void events_count(struct events *e, struct events_counts *out); /* any thread, HTTP's too */

#endif
