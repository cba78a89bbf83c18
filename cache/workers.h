/* A pool of threads for everything that may block, with a bounded queue in front.
 *
 *     workers = workers_new("fills", 64, 1024);
 *     workers_submit(workers, fn, ctx)   false: the queue is full; the caller refuses (503)
 *     workers_free(&workers)             runs what is queued, then joins the threads
 *
 * Threads start on demand, up to the limit, and stay. */
#ifndef PANNIER_CACHE_WORKERS_H
#define PANNIER_CACHE_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

typedef void worker_fn(void *ctx);

struct workers;

/* name: at most 10 bytes, shown as the threads' name.  queue_max: jobs that may wait while all
 * threads are busy; 0: none. */
struct workers *workers_new(const char *name, size_t threads_max, size_t queue_max);

/* Any thread, never blocks.  fn(ctx) runs in a worker exactly once when true is returned.  A job of
 * w's own may submit more, also while w is being freed: that is refused. */
bool workers_submit(struct workers *w, worker_fn *fn, void *ctx);

/* Jobs that wait or run.  A glance, out of date at once. */
size_t workers_load(struct workers *w);

/* As many of them as there may be. */
size_t workers_limit(const struct workers *w);

void workers_free(struct workers **w);

#endif
