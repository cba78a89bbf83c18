#include "proxy/people.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "protocol/base.h"

void people_size(uint64_t bytes, char out[PEOPLE_TEXT_MAX])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(out, PEOPLE_TEXT_MAX, "%" PRIu64 " B", bytes);
        return;
    }
    while (value >= 1023.95 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(out, PEOPLE_TEXT_MAX, "%.1f %s", value, units[unit]);
}

void people_time(int64_t s, char out[PEOPLE_TEXT_MAX])
{
    time_t t = (time_t)s;
    struct tm local;

    if (s <= 0 || localtime_r(&t, &local) == NULL ||
        strftime(out, PEOPLE_TEXT_MAX, "%Y-%m-%dT%H:%M:%S%z", &local) == 0)
        snprintf(out, PEOPLE_TEXT_MAX, "never");
}

void people_ago(int64_t s, int64_t now_s, char out[PEOPLE_TEXT_MAX])
{
    enum { MINUTE = 60, HOUR = 60 * MINUTE, DAY = 24 * HOUR, LONG_AGO = 90 * DAY };
    int64_t ago = now_s - s;

    if (s <= 0 || ago < 0 || ago >= LONG_AGO)
        people_time(s, out);
    else if (ago < MINUTE)
        snprintf(out, PEOPLE_TEXT_MAX, "just now");
    else if (ago < HOUR)
        snprintf(out, PEOPLE_TEXT_MAX, "%" PRId64 " min ago", ago / MINUTE);
    else if (ago < DAY)
        snprintf(out, PEOPLE_TEXT_MAX, "%" PRId64 " h ago", ago / HOUR);
    else
        snprintf(out, PEOPLE_TEXT_MAX, "%" PRId64 " d ago", ago / DAY);
}
