/* Work that no client waits for: what lies in the cluster's queue, warm.parallelism jobs at a time,
 * whoever put them there.  Ten nodes take ten times as many.
 *
 *     chores_start(proxy, config)       after fleet_start() and warmups_new()
 *     chores_configure(c, config)       for the jobs to come
 *     chores_stop(&c)                   after fleet_stop(), while the workers are still there: what
 *                                       was not done goes back into the queue, for another node
 *
 * A job's id begins with its kind; each kind has a row of the table in chores.c:
 *
 *     warmup:     a repository is made ready before anybody asks; proxy/warm/warmups.h
 *     refresh:    what there is of its mirror, here or in the shared tier, is brought to where
 *                 upstream is: somebody has pushed, nobody has asked.  Where nodes have no bucket
 *                 in common each does that for its own mirrors, one at a time, whatever else it
 *                 does
 *
 * Upstream is asked with pannier's own credential where it has one, and else without any
 * (proxy/access.h). */
#ifndef PANNIER_PROXY_CHORES_H
#define PANNIER_PROXY_CHORES_H

#include "cache/cluster/queue.h"
#include "proxy/proxy.h"

struct chores;

struct chores *chores_start(struct proxy *p, const struct config *config);
void chores_configure(struct chores *c, const struct config *config);
void chores_stop(struct chores **c); /* *c NULL is fine */

/* What there is of a repository's mirror is to be brought forward: by any node where they have a
 * bucket in common, else by this one if it has it (fleet_own_jobs()).  repo: "<upstream>/<path>".
 * That it can't be is logged: without it the next fetch does.  Worker threads. */
void chores_add_refresh(struct fleet *f, enum queue_priority priority, const struct key *repo_id,
                        const char *repo);

#endif
