/* Leases: of all nodes one at a time does what a name stands for.
 *
 *     leases_new(redis or NULL, node, ttl_ms)          before redis_start()
 *     leases_take(all, "repo:<repo_id>", wait_ms, &l)  wait for it, then it is ours
 *     lease_held(l, now_ms())                          before anything that others would see
 *     lease_fence(l)                                   goes with what is written
 *     lease_release(&l)
 *     leases_stop(all)                                 who waits gives up (ERR_CANCELLED)
 *     leases_free(&all)                                after redis_stop(); none may be held
 *
 * In Redis `lock:<name>` holds the node and a token, for ttl_ms; a thread renews it each third of
 * that.  Renewing and releasing compare the token first, so nobody touches what has become
 * another's.  A holder that dies leaves it to the others when the time is over.
 *
 * A holder that stalls (SIGSTOP, a machine that sleeps) can't be told that it has lost the lease,
 * so it is the clock that tells: lease_held() is false from nine tenths of ttl_ms after the last
 * renewal was *sent*, whatever the thread got to do.  Between that look and the write that follows
 * a holder may stall again; therefore the fence: a number that is larger for each later holder, by
 * which whoever keeps the thing refuses late writes.  It counts up from the time of Redis's clock
 * in milliseconds, so it goes on growing when Redis comes back empty.
 *
 * redis NULL: the same within the process; a lease lasts until it is released.  While Redis is away
 * leases_take() says ERR_BUSY: what to do alone is the caller's decision. */
#ifndef PANNIER_CACHE_CLUSTER_LEASE_H
#define PANNIER_CACHE_CLUSTER_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/redis.h"

enum { LEASE_NAME_MAX = 160, LEASE_TTL_MIN_MS = 100 };

struct leases;
struct lease;

/* redis is borrowed, and lives longer.  node: names us in the lock, for people. */
struct leases *leases_new(struct redis *redis, const char *node, uint64_t ttl_ms);
void leases_stop(struct leases *all);
void leases_free(struct leases **all);

/* Waits up to wait_ms (0: not at all) while somebody else, of this node or another, holds it.
 * 0: *out is yours until lease_release().  -1: ERR_TIMEOUT, it is another's, and *err names the
 * node; ERR_BUSY, ERR_UPSTREAM and others of redis_ask(); ERR_CANCELLED.  Worker threads: blocks.
 */
int leases_take(struct leases *all, const char *name, uint64_t wait_ms, struct lease **out,
                struct err *err);

/* Any thread; never blocks. */
bool lease_held(const struct lease *l, uint64_t now_ms);
uint64_t lease_fence(const struct lease *l);
/* Consumes *l.  What can't be released (Redis is away) runs out by itself.  Worker threads. */
void lease_release(struct lease **l);

struct leases_counts {
    uint64_t held, waiting; /* now */
    uint64_t taken, lost;
};
void leases_count(struct leases *all, struct leases_counts *out); /* any thread, HTTP's too */

#endif
