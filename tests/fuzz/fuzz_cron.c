/* Any text as a schedule.  What is one comes again and again, each time later, and the latest time
 * is found to be the one before the next. */
#include "protocol/cron.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t now = 1700000000 + (int64_t)fuzz_choice(&data, &size) * 86399, next, latest;
    char *text = xstrndup((const char *)data, size);
    struct time_zone *utc = time_zone_utc();
    struct cron c;
    struct err err;

    if (cron_parse(text, &c, &err) == 0) {
        must(c.minutes != 0 && c.hours != 0 && c.months != 0);
        must(cron_next(&c, utc, now, &next) && next > now && next % 60 == 0);
        must(cron_latest(&c, utc, next, &latest) && latest == next);
        must(!cron_latest(&c, utc, next - 1, &latest) || latest <= now);
    } else {
        must(err.kind == ERR_INPUT);
    }
    time_zone_free(&utc);
    free(text);
    return 0;
}
