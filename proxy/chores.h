/* Work that no client waits for: what lies in the cluster's queue, one job at a time, whoever put
 * it there.  Ten nodes take ten at once.
 *
 *     chores_start(proxy, config)       after fleet_start()
 *     chores_configure(c, config)       for the jobs to come
 *     chores_stop(&c)                   after fleet_stop(), while the workers are still there: what
 *                                       was not done goes back into the queue, for another node
 *
 * What a job is stands before the colon of its id:
 *
 *     warmup    bring a repository's mirror to where upstream is, or make it; out of the shared
 * tier as far as that has it refresh   the same, but only for what has a mirror, here or in the
 * shared tier: somebody has pushed, nobody has asked
 *
 * Upstream is asked without a credential, so what is private stays out: it comes when somebody
 * clones it who may. */
#ifndef PANNIER_PROXY_CHORES_H
#define PANNIER_PROXY_CHORES_H

#include "cache/cluster/queue.h"
#include "proxy/proxy.h"

struct chores;

struct chores *chores_start(struct proxy *p, const struct config *config);
void chores_configure(struct chores *c, const struct config *config);
void chores_stop(struct chores **c); /* *c NULL is fine */

/* Some node is to fetch repo ("<upstream>/<path>") ahead, soon.  -1: ERR_LIMIT, its name is too
 * long; or as queue_add().  Worker threads. */
int chores_add_warmup(struct fleet *f, const struct key *repo_id, const char *repo,
                      struct err *err);
/* Some node is to bring what there is of it forward.  -1: likewise. */
int chores_add_refresh(struct fleet *f, enum queue_priority priority, const struct key *repo_id,
                       const char *repo, struct err *err);

#endif
