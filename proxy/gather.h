/* Pieces as curl hands them out, put together: whoever follows an answer is woken less often.
 *
 *     gather_init(&g, pass, ctx)
 *     gather_add(&g, ...)       each piece
 *     gather_pause(&g)          all that could be read for now has been added
 *     gather_flush(&g)          the end comes without a pause before it; so may a failure
 *     gather_clear(&g)
 *
 * The first bytes go on at once.  Later, while much comes, a few milliseconds' worth is put
 * together; nothing waits for longer than that. */
#ifndef PANNIER_PROXY_GATHER_H
#define PANNIER_PROXY_GATHER_H

#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

typedef int gather_pass_fn(void *ctx, const void *data, size_t len, struct err *err);

struct gather {
    gather_pass_fn *pass;
    void *ctx;
    struct bytes held;
    uint64_t passed;    /* bytes */
    uint64_t passed_ms; /* when */
};

void gather_init(struct gather *g, gather_pass_fn *pass, void *ctx);
void gather_clear(struct gather *g);
/* -1: what pass() said. */
int gather_add(struct gather *g, const void *data, size_t len, struct err *err);
/* *again_ms becomes less where something waits: upstream_perform()'s pause_fn. */
int gather_pause(struct gather *g, uint64_t *again_ms, struct err *err);
int gather_flush(struct gather *g, struct err *err);

#endif
