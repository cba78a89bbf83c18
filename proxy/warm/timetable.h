/* When to fetch ahead by itself: `warm.schedule` by the clocks of `warm.time_zone`.
 *
 *     timetable_open("0 6 * * 1-5", "Europe/Berlin", &t, &err)    reads the zone's file
 *     timetable_due(t, last, now, &when)                          is one due that was not made yet?
 *     timetable_next(t, now, &when)                               and else, when will one be?
 *     timetable_free(&t)
 *
 * However many times were missed, only the latest is due.  Seconds since 1970.  Immutable. */
#ifndef PANNIER_PROXY_WARM_TIMETABLE_H
#define PANNIER_PROXY_WARM_TIMETABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

struct timetable;

/* -1: ERR_INPUT, one sentence about what is wrong with either; *zone_is_wrong says with which. */
int timetable_open(const char *schedule, const char *zone, struct timetable **out,
                   bool *zone_is_wrong, struct err *err);
void timetable_free(struct timetable **t); /* NULL inside is fine */

/* The latest time that isn't behind now, when it is behind last, too. */
bool timetable_due(const struct timetable *t, int64_t last, int64_t now, int64_t *when);
bool timetable_next(const struct timetable *t, int64_t now, int64_t *when);

#endif
