/* Any bytes as a file of the tz database.  What is read has offsets that a clock can have, and a
 * daily schedule finds its way through it. */
#include "protocol/cron.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t times[] = {0, 954032400, 1700000000, 1774746000, 4102444800, 253402300799}, when;
    char *copy = fuzz_copy(data, size);
    struct time_zone *z;
    struct cron c;
    struct err err;

    must(cron_parse("30 2 * * *", &c, &err) == 0);
    if (time_zone_read(copy, size, &z, &err) == 0) {
        for (size_t i = 0; i < ARRAY_LEN(times); i++) {
            int32_t offset = time_zone_offset(z, times[i]);

            must(offset > -8 * 86400 && offset < 8 * 86400);
            time_zone_from_local(z, times[i]);
            if (cron_next(&c, z, times[i], &when))
                must(when > times[i]);
            if (cron_latest(&c, z, times[i], &when))
                must(when <= times[i]);
        }
        time_zone_free(&z);
    } else {
        must(err.kind == ERR_INPUT);
    }
    free(copy);
    return 0;
}
