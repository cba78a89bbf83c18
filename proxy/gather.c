#include "proxy/gather.h"

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    GATHER_SIZE = 512 * 1024,
    GATHER_MS = 5,
    BULK_AFTER = 1 << 20,
    RECEIVE_MAX = 128 * 1024, /* bytes that upstream.c hands out in one piece, at most */
};

void gather_init(struct gather *g, gather_pass_fn *pass, void *ctx)
{
    *g = (struct gather){.pass = pass, .ctx = ctx};
    bytes_init(&g->held, GATHER_SIZE + RECEIVE_MAX);
}

void gather_clear(struct gather *g)
{
    bytes_clear(&g->held);
}

int gather_flush(struct gather *g, struct err *err)
{
    int rc = 0;

    if (g->held.len > 0)
        rc = g->pass(g->ctx, g->held.data, g->held.len, err);
    g->passed += g->held.len;
    g->passed_ms = now_ms();
    bytes_reset(&g->held);
    return rc;
}

int gather_add(struct gather *g, const void *data, size_t len, struct err *err)
{
    must(bytes_add(&g->held, data, len) == 0);
    return g->held.len >= GATHER_SIZE ? gather_flush(g, err) : 0;
}

int gather_pause(struct gather *g, uint64_t *again_ms, struct err *err)
{
    uint64_t since_ms = now_ms() - g->passed_ms;

    if (g->passed <= BULK_AFTER || since_ms >= GATHER_MS)
        return gather_flush(g, err);
    if (g->held.len > 0)
        *again_ms = GATHER_MS - since_ms;
    return 0;
}
