/* How often something may be done: so many times in a period, and a burst at once.
 *
 * A token bucket in the form that needs one number: when the next use would be due if all came
 * evenly.  Pure; who shares one locks it. */
#ifndef PANNIER_PROXY_MANNERS_BUDGET_H
#define PANNIER_PROXY_MANNERS_BUDGET_H

#include <stdint.h>

struct rate {
    uint32_t count; /* 0: as often as one likes */
    uint64_t per_ms;
};

enum { RATE_COUNT_MAX = 1000000 }; /* beyond a thousand a millisecond it means nothing */

/* Zeroed: nothing used. */
struct budget {
    uint64_t due_us;
};

/* Use it once.  0: done; else nothing was used, and it is free again in so many milliseconds.
 * burst (0 counts as 1) times at once are free after a quiet while; reserve of them are left alone,
 * for others. */
uint64_t budget_take(struct budget *b, const struct rate *rate, uint32_t burst, uint32_t reserve,
                     uint64_t now_ms);
/* Use it whatever is left: those who come later wait for it. */
void budget_overdraw(struct budget *b, const struct rate *rate, uint64_t now_ms);

#endif
