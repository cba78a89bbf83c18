#include "proxy/admin/history.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/metrics.h"

enum { STEPS_IN_A_MINUTE = HISTORY_MINUTE_S / HISTORY_STEP_S };

struct ring {
    struct history_sample *samples; /* number n lies at n % max */
    size_t max;
    uint64_t next;
};

struct history {
    struct lock lock;
    struct ring rings[HISTORY_GRAINS_COUNT];
    struct history_counts before, minute_before; /* totals at the beginning of each */
    unsigned steps;                              /* of this minute */
    bool begun;

    bool stopping;
    pthread_cond_t stop_now;
    pthread_t thread;
};

struct history *history_new(void)
{
    static const size_t sizes[] = {
        [HISTORY_STEPS] = HISTORY_STEPS_MAX, [HISTORY_MINUTES] = HISTORY_MINUTES_MAX};
    struct history *h = xcalloc(1, sizeof(*h));

    lock_init(&h->lock, LOCK_HISTORY);
    lock_cond_init(&h->stop_now);
    for (size_t i = 0; i < HISTORY_GRAINS_COUNT; i++)
        h->rings[i] = (struct ring){.samples = xcalloc(sizes[i], sizeof(struct history_sample)),
                                    .max = sizes[i]};
    return h;
}

void history_free(struct history **hp)
{
    struct history *h = *hp;

    *hp = NULL;
    if (h == NULL)
        return;
    for (size_t i = 0; i < HISTORY_GRAINS_COUNT; i++)
        free(h->rings[i].samples);
    pthread_cond_destroy(&h->stop_now);
    lock_clear(&h->lock);
    free(h);
}

/* ---- samples ---- */

static struct history_counts difference(const struct history_counts *now,
                                        const struct history_counts *before)
{
    struct history_counts d = {
        .requests = now->requests - before->requests,
        .client_bytes = now->client_bytes - before->client_bytes,
        .upstream_bytes = now->upstream_bytes - before->upstream_bytes,
    };

    for (size_t i = 0; i < HISTORY_HITS_COUNT; i++)
        d.hits[i] = now->hits[i] - before->hits[i];
    for (size_t i = 0; i < HISTORY_MISSES_COUNT; i++)
        d.misses[i] = now->misses[i] - before->misses[i];
    return d;
}

static void put(struct ring *r, int64_t now_s, struct history_counts counts)
{
    r->samples[r->next++ % r->max] = (struct history_sample){now_s, counts};
}

void history_note(struct history *h, const struct history_counts *totals, int64_t now_s)
{
    lock_take(&h->lock);
    if (!h->begun) {
        h->begun = true;
        h->minute_before = *totals;
    } else {
        put(&h->rings[HISTORY_STEPS], now_s, difference(totals, &h->before));
        if (++h->steps == STEPS_IN_A_MINUTE) {
            put(&h->rings[HISTORY_MINUTES], now_s, difference(totals, &h->minute_before));
            h->minute_before = *totals;
            h->steps = 0;
        }
    }
    h->before = *totals;
    lock_drop(&h->lock);
}

void history_read(struct history *h, enum history_grain grain, int64_t since_s,
                  struct history_sample **out, size_t *count)
{
    const struct ring *r = &h->rings[grain];

    *out = xcalloc(r->max, sizeof(**out));
    *count = 0;
    lock_take(&h->lock);
    for (uint64_t n = r->next > r->max ? r->next - r->max : 0; n < r->next; n++)
        if (r->samples[n % r->max].time_s > since_s)
            (*out)[(*count)++] = r->samples[n % r->max];
    lock_drop(&h->lock);
}

/* ---- the thread ---- */

static uint64_t sum(const enum cell *cells, size_t count, uint64_t *each)
{
    uint64_t n = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t counted = metrics_counted(cells[i]);

        n += counted;
        if (each != NULL)
            each[i] = counted;
    }
    return n;
}

static void count_so_far(struct history_counts *out)
{
    static const enum cell hits[HISTORY_HITS_COUNT] = {CELL_HITS_LOCAL, CELL_HITS_SHARED,
                                                       CELL_HITS_COALESCED, CELL_HITS_PEER};
    static const enum cell misses[HISTORY_MISSES_COUNT] = {CELL_MISSES_MIRROR, CELL_MISSES_REFRESH,
                                                           CELL_MISSES_UPSTREAM, CELL_MISSES_PASS};
    static const enum cell rest[] = {CELL_REFS,   CELL_PUSH,    CELL_LFS,   CELL_DUMB,   CELL_PROBE,
                                     CELL_DENIED, CELL_REFUSED, CELL_ERROR, CELL_ABORTED};
    static const enum cell bytes[] = {CELL_BYTES_LOCAL,    CELL_BYTES_SHARED, CELL_BYTES_COALESCED,
                                      CELL_BYTES_PEER,     CELL_BYTES_MIRROR, CELL_BYTES_REFRESH,
                                      CELL_BYTES_UPSTREAM, CELL_BYTES_PASS};

    out->requests = sum(hits, ARRAY_LEN(hits), out->hits) +
                    sum(misses, ARRAY_LEN(misses), out->misses) + sum(rest, ARRAY_LEN(rest), NULL);
    out->client_bytes = sum(bytes, ARRAY_LEN(bytes), NULL);
    out->upstream_bytes = metrics_upstream_bytes_all();
}

/* False: it is over. */
static bool wait_for_step(struct history *h, uint64_t until_ms)
{
    bool going_on;

    lock_take(&h->lock);
    while (!h->stopping && lock_wait_until(&h->lock, &h->stop_now, until_ms))
        ;
    going_on = !h->stopping;
    lock_drop(&h->lock);
    return going_on;
}

static void *keep_counting(void *ctx)
{
    struct history *h = ctx;
    uint64_t due_ms = now_ms();

    do {
        struct history_counts totals;

        count_so_far(&totals);
        history_note(h, &totals, (int64_t)time(NULL));
        due_ms += HISTORY_STEP_S * 1000;
    } while (wait_for_step(h, due_ms));
    return NULL;
}

struct history *history_start(void)
{
    struct history *h = history_new();

    must(pthread_create(&h->thread, NULL, keep_counting, h) == 0);
    return h;
}

void history_stop(struct history **hp)
{
    if (*hp == NULL)
        return;
    lock_take(&(*hp)->lock);
    (*hp)->stopping = true;
    pthread_cond_broadcast(&(*hp)->stop_now);
    lock_drop(&(*hp)->lock);
    pthread_join((*hp)->thread, NULL);
    history_free(hp);
}
