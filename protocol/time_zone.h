/* What the clocks of a place say: an IANA time zone, out of a file of the tz database (TZif, RFC
 * 9636) with the rule at its end for the times to come.
 *
 *     time_zone_read(data, len, &z, &err)     the file's bytes
 *     time_zone_offset(z, t)                  seconds to add to UTC
 *     time_zone_from_local(z, local)          when that is on the clocks there
 *     time_zone_free(&z)
 *
 * Times are seconds since 1970; a local time counts as if it were UTC.  glibc knows one zone a
 * process, which its environment names, so this reads the files itself.  Immutable once read. */
#ifndef PANNIER_PROTOCOL_TIME_ZONE_H
#define PANNIER_PROTOCOL_TIME_ZONE_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

struct time_zone;

/* -1: ERR_INPUT, this is no such file, or one that counts leap seconds. */
int time_zone_read(const void *data, size_t len, struct time_zone **out, struct err *err);
struct time_zone *time_zone_utc(void);
void time_zone_free(struct time_zone **z);

int32_t time_zone_offset(const struct time_zone *z, int64_t t);

/* The first time at which the clocks say so.  What they skip, when they are put forward, is the
 * moment in which they are: all of the hour that there isn't falls together there. */
int64_t time_zone_from_local(const struct time_zone *z, int64_t local);

/* A day as a number, 0 being 1 January 1970, and back.  month 1 to 12, day 1 to 31. */
int64_t days_of_date(int64_t year, int month, int day);
void date_of_days(int64_t days, int64_t *year, int *month, int *day);

#endif
