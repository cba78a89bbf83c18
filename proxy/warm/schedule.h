/* Warm-ups by themselves, when `warm.schedule` says so.
 *
 *     schedule_start(proxy, config)       after chores_start()
 *     schedule_configure(s, config)       on reload
 *     schedule_stop(&s)                   before the queue stops
 *
 * Which time was the last one lies in <data>/warmed, so that one that came while this node was down
 * is made up for at the start: once, however many there were.  It does not count for that when the
 * schedule is another one since.
 *
 * Of nodes that share a Redis one makes each time: who has the lease `schedule`, and finds that
 * none has noted it as made.  The note is made when its jobs are in the queue, so where a node dies
 * in between another one makes it, some jobs perhaps a second time. */
#ifndef PANNIER_PROXY_WARM_SCHEDULE_H
#define PANNIER_PROXY_WARM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/proxy.h"

struct schedule;

struct schedule *schedule_start(struct proxy *p, const struct config *config);
void schedule_configure(struct schedule *s, const struct config *config);
void schedule_stop(struct schedule **s); /* NULL inside is fine */

/* Seconds since 1970.  False: there is no schedule. */
bool schedule_next(struct schedule *s, int64_t now, int64_t *when);

#endif
