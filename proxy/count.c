#include "proxy/count.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "proxy/metrics.h"
#include "proxy/traffic.h"

enum kind { KIND_PACK, KIND_REFS, KIND_PUSH, KIND_OTHER };

/* What the log's words for a result count as.  hit_or_miss: CELLS_TOTAL for what is neither. */
static const struct outcome {
    const char *result;
    enum cell cell, hit_or_miss, bytes;
    enum kind kind;
    enum traffic_result traffic; /* of packs */
} outcomes[] = {
    {"hit, local", CELL_HIT_LOCAL, CELL_HITS_LOCAL, CELL_BYTES_LOCAL, KIND_PACK, TRAFFIC_HIT},
    {"hit, shared", CELL_HIT_SHARED, CELL_HITS_SHARED, CELL_BYTES_SHARED, KIND_PACK, TRAFFIC_HIT},
    {"hit, coalesced", CELL_HIT_COALESCED, CELL_HITS_COALESCED, CELL_BYTES_COALESCED, KIND_PACK,
     TRAFFIC_HIT},
    {"hit, peer", CELL_HIT_PEER, CELL_HITS_PEER, CELL_BYTES_PEER, KIND_PACK, TRAFFIC_HIT},
    {"miss, mirror", CELL_MISS_MIRROR, CELL_MISSES_MIRROR, CELL_BYTES_MIRROR, KIND_PACK,
     TRAFFIC_MISS},
    {"miss, refresh", CELL_MISS_REFRESH, CELL_MISSES_REFRESH, CELL_BYTES_REFRESH, KIND_PACK,
     TRAFFIC_MISS},
    {"miss, upstream", CELL_MISS_UPSTREAM, CELL_MISSES_UPSTREAM, CELL_BYTES_UPSTREAM, KIND_PACK,
     TRAFFIC_MISS},
    {"pass", CELL_PASS, CELL_MISSES_PASS, CELL_BYTES_PASS, KIND_PACK, TRAFFIC_PASS},
    {"refs", CELL_REFS, CELLS_TOTAL, CELL_BYTES_REFS, KIND_REFS, TRAFFIC_PASS},
    {"push", CELL_PUSH, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_PUSH, TRAFFIC_PASS},
    {"lfs", CELL_LFS, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"dumb", CELL_DUMB, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"probe", CELL_PROBE, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"denied", CELL_DENIED, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"refused", CELL_REFUSED, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"error", CELL_ERROR, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"health", CELL_HEALTH, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"hook", CELL_HOOK, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
    {"aborted", CELL_ABORTED, CELLS_TOTAL, CELL_BYTES_OTHER, KIND_OTHER, TRAFFIC_PASS},
};

static const struct outcome *outcome_of(const char *result)
{
    if (result != NULL)
        for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
            if (strcmp(outcomes[i].result, result) == 0)
                return &outcomes[i];
    return &outcomes[ARRAY_LEN(outcomes) - 1];
}

static void time_request(enum kind kind, const struct exchange_end *end)
{
    static const struct {
        enum timer first_byte, total;
    } timers[] = {
        [KIND_PACK] = {TIMER_FIRST_BYTE_PACK, TIMER_TOTAL_PACK},
        [KIND_REFS] = {TIMER_FIRST_BYTE_REFS, TIMER_TOTAL_REFS},
        [KIND_PUSH] = {TIMER_FIRST_BYTE_PUSH, TIMER_TOTAL_PUSH},
        [KIND_OTHER] = {TIMER_FIRST_BYTE_OTHER, TIMER_TOTAL_OTHER},
    };

    metrics_time(timers[kind].first_byte, end->first_byte_us);
    metrics_time(timers[kind].total, end->total_us);
}

void count_request(const struct exchange *x, const struct exchange_end *end)
{
    const struct outcome *o = outcome_of(x->result);

    server_log_request(x, end);
    metrics_count(o->cell, 1);
    metrics_count(o->bytes, end->bytes);
    if (o->hit_or_miss != CELLS_TOTAL)
        metrics_count(o->hit_or_miss, 1);
    if (!end->whole)
        metrics_count(CELL_CUT, 1);
    time_request(o->kind, end);
    if (o->kind == KIND_PACK && x->upstream != NULL) {
        char *name = xasprintf("%s/%s", x->path.upstream, x->path.repo);

        traffic_note(x->proxy->traffic, name, o->traffic, end->bytes, (int64_t)time(NULL));
        free(name);
    }
}
