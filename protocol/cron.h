/* When something is to be done again and again: cron's five fields, and when they come next.
 *
 *     minute  hour  day of the month  month  day of the week       "0 6 * * 1-5"
 *
 * A field is `*`, numbers, ranges, or a list of these, each with a step: "0,30", "8-18/2".  Months
 * and days of the week also by their first three letters; Sunday is 0 and 7.  Where neither day
 * begins with `*` either of them will do, as cron has it.  For the whole: @hourly, @daily (or
 * @midnight), @weekly, @monthly, @yearly (or @annually).
 *
 * It goes by the clocks of a place.  What they skip when they are put forward is due once, in the
 * moment in which they are; what they say twice is due the first time.  Pure. */
#ifndef PANNIER_PROTOCOL_CRON_H
#define PANNIER_PROTOCOL_CRON_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"
#include "protocol/time_zone.h"

struct cron {
    uint64_t minutes;
    uint32_t hours, days, months, weekdays; /* bit n: it fits n */
    bool either_day;
};

/* -1: ERR_INPUT, which field is wrong; or that there is no such day. */
int cron_parse(const char *text, struct cron *out, struct err *err);

/* The first time behind after, and the last one that is not behind now.  Seconds since 1970; only
 * from there to the year 9999.  False: there is none. */
bool cron_next(const struct cron *c, const struct time_zone *z, int64_t after, int64_t *out);
bool cron_latest(const struct cron *c, const struct time_zone *z, int64_t now, int64_t *out);

#endif
