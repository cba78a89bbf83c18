/* Work for later, by whichever node is free: fetching a repository ahead, say (proxy/chores.h).
 *
 *     queue_new(redis or NULL, &config)                      before redis_start()
 *     queue_add(q, QUEUE_HIGH, "refresh:<repo_id>", payload) any worker of any node
 *     queue_take(q, wait_ms, &job)                           a worker that is free; high goes first
 *     queue_done(&job)                                       or queue_give_up(&job): not by us, not
 * now queue_stop(q), queue_free(&q)
 *
 * A job is taken at least once: who has taken it and says nothing for visibility_ms (it died, it
 * hangs) loses it to the next who asks, and so a job must be such that doing it twice does no harm.
 * After QUEUE_TRIES_MAX times it is dropped and counted.
 *
 * Its id says what it is, and there is one of an id at a time: adding one that waits changes
 * nothing. Of one that is being done a second may wait, as what it looks at may have changed since;
 * it is put into the queue, with the newer payload, when the first is done.
 *
 * Within Redis these are lists, a hash and a sorted set, moved by scripts, and not a stream with a
 * consumer group: three priorities, one of an id, and a bound all have to hold in one step, which
 * takes scripts in any case; XAUTOCLAIM needs Redis 6.2; and a group keeps a list of each consumer
 * that somebody has to clean up when nodes come and go.
 *
 *     queue:high, :normal, :low   ids, in the order in which they came
 *     queue:jobs                  id -> priority, tries, state, payload
 *     queue:taken                 id -> until when it is somebody's, by Redis's clock
 *
 * redis NULL: the same within the process. */
#ifndef PANNIER_CACHE_CLUSTER_QUEUE_H
#define PANNIER_CACHE_CLUSTER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis.h"

enum {
    QUEUE_ID_MAX = 256,
    QUEUE_PAYLOAD_MAX = 8 * 1024,
    QUEUE_TRIES_MAX = 5,
};

enum queue_priority { QUEUE_HIGH, QUEUE_NORMAL, QUEUE_LOW };
enum { QUEUE_PRIORITIES_COUNT = QUEUE_LOW + 1 };

struct queue;

struct queue_config {
    uint64_t max;           /* jobs that wait, of each priority; 0: 10,000 */
    uint64_t visibility_ms; /* 0: 60,000 */
};

/* redis is borrowed, and lives longer. */
struct queue *queue_new(struct redis *redis, const struct queue_config *config);
void queue_stop(struct queue *q);  /* who waits in queue_take() gets ERR_CANCELLED */
void queue_free(struct queue **q); /* after redis_stop() */

/* 0: it waits, or did already.  -1: ERR_LIMIT, so many wait already, or id or payload are too long;
 * or as redis_ask(): it may wait or not, and to add it again does no harm.  Worker threads. */
int queue_add(struct queue *q, enum queue_priority priority, const char *id, const char *payload,
              struct err *err);

struct queue_job {
    enum queue_priority priority;
    unsigned tries; /* this one included */
    char *id, *payload;
    /* Of the queue: */
    struct queue *queue;
    char token[REDIS_TOKEN_SIZE];
};

/* 0: *out is yours until queue_done() or queue_give_up().  -1: ERR_TIMEOUT, there is none;
 * ERR_CANCELLED; or as redis_ask().  Worker threads: blocks. */
int queue_take(struct queue *q, uint64_t wait_ms, struct queue_job **out, struct err *err);
/* It takes longer: another visibility_ms from now.  False: it is another's by now, or may be. */
bool queue_extend(struct queue_job *job);
/* Both consume *job.  When Redis is away, it will be done again by somebody. */
void queue_done(struct queue_job **job);
/* Back into the queue, at its end; or dropped, if it was tried QUEUE_TRIES_MAX times. */
void queue_give_up(struct queue_job **job);

struct queue_counts {
    uint64_t waiting[QUEUE_PRIORITIES_COUNT]; /* now, of all nodes */
    uint64_t taken;                           /* now, of all nodes */
    uint64_t dropped;                         /* by this node, after too many tries */
};
/* -1: as redis_ask(); then only `dropped` is known.  Worker threads. */
int queue_count(struct queue *q, struct queue_counts *out, struct err *err);

#endif
