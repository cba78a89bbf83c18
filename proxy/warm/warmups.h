/* Warm-ups: lists of repositories to be made ready before anybody asks (proxy/warm/ahead.h), each a
 * job in the cluster's queue (proxy/chores.h), so whichever nodes are free do them.
 *
 *     warmups_new(proxy)                            after fleet_new()
 *     struct warmup_list list = {NULL, 0};
 *     warmup_list_add(&list, config, typed, &wish, &err)    each; or _configured(), _most_used()
 *     warmups_begin(w, "api", &list, id, &err)
 *     warmup_list_clear(&list)
 *     progress_get(warmups_progress(w), id, ...)    how far it has come, asked on any node
 *
 * A repository that fails doesn't stop the others; what went wrong is kept with it. */
#ifndef PANNIER_PROXY_WARM_WARMUPS_H
#define PANNIER_PROXY_WARM_WARMUPS_H

#include "cache/cluster/progress.h"
#include "cache/cluster/queue.h"
#include "proxy/proxy.h"
#include "proxy/warm/ahead.h"
#include "proxy/warm/name.h"

struct warmups;

struct warmups *warmups_new(struct proxy *p);
void warmups_free(struct warmups **w); /* NULL inside is fine */
struct progress *warmups_progress(struct warmups *w);

/* ---- what is to be made ready ---- */

/* One repository.  Strings are the list's own. */
struct warmup_wish {
    char *repository; /* "<upstream>/<path>" */
    char **branches;
    size_t branch_count;
    uint32_t depth;
    enum queue_priority priority;
};

struct warmup_list {
    struct warmup_wish *wishes;
    size_t count; /* at most PROGRESS_ITEMS_MAX */
};

/* Like wish, whose strings are copied and whose repository is as typed.  One that is there already
 * stays as it is.  -1: as warmup_name(); ERR_LIMIT, there are as many as may. */
int warmup_list_add(struct warmup_list *l, const struct config *config,
                    const struct warmup_wish *wish, struct err *err);
/* warm.repositories. */
void warmup_list_add_configured(struct warmup_list *l, const struct config *config);
/* The n repositories whose answers were used most, as this node's index counts it; fewer, if it
 * has none.  -1: the index can't be read.  Worker threads. */
int warmup_list_add_most_used(struct warmup_list *l, struct proxy *p, const struct config *config,
                              size_t n, struct err *err);
void warmup_list_clear(struct warmup_list *l);

/* ---- doing it ---- */

/* Put its jobs into the queue.  One for which that has no room has failed; the others go on.  by:
 * "api", "schedule" or "command".  The list isn't empty.  -1: as progress_begin(), or as
 * queue_add(): Redis went away in the middle, and all that isn't in the queue has failed; what to
 * do is to begin another one.  Worker threads. */
int warmups_begin(struct warmups *w, const char *by, const struct warmup_list *list,
                  char id[REDIS_TOKEN_SIZE], struct err *err);

/* ---- for chores ---- */

#define WARMUP_JOBS "warmup:" /* what their ids begin with */

struct warmup_job {
    char *id; /* of its warm-up */
    size_t item;
    struct warmup_wish wish;
    struct ahead_made made;
    uint64_t took_us;
};
/* -1: ERR_INPUT, no such payload; nothing to clear. */
int warmup_job_read(const char *payload, struct warmup_job *out, struct err *err);
void warmup_job_clear(struct warmup_job *job);
/* The work. */
int warmups_do(struct warmups *w, const struct config *config, struct warmup_job *job,
               struct err *err);
/* What became of it.  why NULL: it was done; again: it will be tried once more. */
void warmups_done(struct warmups *w, const struct warmup_job *job, const struct err *why,
                  bool again);

#endif
