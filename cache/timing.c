#include "cache/timing.h"

const uint64_t timing_bounds_us[TIMING_BOUNDS] = {
    1000,    5000,    10000,    25000,    50000,    100000,    250000,    500000,    1000000,
    2500000, 5000000, 10000000, 30000000, 60000000, 120000000, 300000000, 600000000,
};

size_t timing_bucket(uint64_t us)
{
    size_t i = 0;

    while (i < TIMING_BOUNDS && us > timing_bounds_us[i])
        i++;
    return i;
}

void timing_add(struct timing *t, uint64_t us)
{
    t->buckets[timing_bucket(us)]++;
    t->sum_us += us;
}
