/* How long something took, in a histogram: counts in buckets that are the same everywhere. */
#ifndef PANNIER_CACHE_TIMING_H
#define PANNIER_CACHE_TIMING_H

#include <stddef.h>
#include <stdint.h>

enum { TIMING_BOUNDS = 17 };

/* Upper bounds, in microseconds; what is longer than the last is counted behind it. */
extern const uint64_t timing_bounds_us[TIMING_BOUNDS];

struct timing {
    uint64_t buckets[TIMING_BOUNDS + 1]; /* each for itself, not what is below it */
    uint64_t sum_us;
};

size_t timing_bucket(uint64_t us);
void timing_add(struct timing *t, uint64_t us); /* the caller keeps others away */

#endif
