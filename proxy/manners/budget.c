#include "proxy/manners/budget.h"

/* An overdraft is forgiven beyond this: a thousand pushes must not close fetches for an hour. */
enum { OVERDRAFT_MAX_MS = 10 * 1000 };

/* Microseconds, as a thousand requests a second are still one each millisecond. */
static uint64_t interval_us(const struct rate *rate)
{
    return rate->per_ms * 1000 / rate->count;
}

uint64_t budget_take(struct budget *b, const struct rate *rate, uint32_t burst, uint32_t reserve,
                     uint64_t now_ms)
{
    uint64_t now = now_ms * 1000, due = b->due_us > now ? b->due_us : now, slack, limit;
    uint32_t free = burst > reserve ? burst - reserve : 1;

    if (rate->count == 0)
        return 0;
    slack = interval_us(rate) * (free - 1);
    limit = now + slack;
    if (due > limit)
        return (due - limit + 999) / 1000;
    b->due_us = due + interval_us(rate);
    return 0;
}

void budget_overdraw(struct budget *b, const struct rate *rate, uint64_t now_ms)
{
    uint64_t now = now_ms * 1000, due = b->due_us > now ? b->due_us : now;
    uint64_t most = now + (uint64_t)OVERDRAFT_MAX_MS * 1000;

    if (rate->count == 0)
        return;
    if (due < most)
        b->due_us = due + interval_us(rate);
}
