/* Looks after the cache while it serves: writes the index, keeps to the limits, compares with the
 * files once after the start, maintains mirrors, reads again what was written long ago.
 *
 *     janitor_start(cache, options, listener)
 *     janitor_stop(&janitor)     waits for what is under way: end git programs first
 *                                (processes_kill_all)
 *
 * One thread that keeps time, and options->maintenance_threads (at least one) that work. */
#ifndef PANNIER_CACHE_JANITOR_H
#define PANNIER_CACHE_JANITOR_H

#include "cache/cache.h"

struct janitor;

/* What the owner may want to log.  Called in the janitor's threads. */
struct janitor_listener {
    void (*scanned)(void *ctx, const struct local_usage *found, uint64_t took_us);
    void (*maintained)(void *ctx, const char *repo, const struct mirror_upkeep *what,
                       uint64_t took_us);
    void (*failed)(void *ctx, const char *repo, const struct err *why); /* the upkeep of a mirror */
    void *ctx;
};

struct janitor *janitor_start(struct cache *c, const struct cache_options *options,
                              const struct janitor_listener *listener);
void janitor_stop(struct janitor **j); /* NULL inside is fine */

struct janitor_counts {
    uint64_t maintained; /* mirrors */
    uint64_t verified;   /* entries */
    uint64_t failed;     /* upkeeps */
};
void janitor_count(struct janitor *j, struct janitor_counts *out);

#endif
