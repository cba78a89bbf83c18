#include "tests/bench/replay.h"

#include <inttypes.h>
#include <stdlib.h>

#include "protocol/base.h"

/* ---- the trace ---- */

enum { FIRST_ROOM = 1024 };
static const size_t NEVER = SIZE_MAX;

/* Room for one more; rooms are powers of two, so that count tells when the next one is needed. */
static void *grown(void *items, size_t count, size_t size)
{
    if (count == 0)
        return xrealloc(items, FIRST_ROOM * size);
    if (count < FIRST_ROOM || (count & (count - 1)) != 0)
        return items;
    return xrealloc(items, 2 * count * size);
}

static bool add_request(struct trace *t, int64_t time_s, uint64_t key, uint64_t size)
{
    if (key > t->keys || (t->count > 0 && t->requests[t->count - 1].time_s > time_s))
        return false;
    if (key == t->keys) {
        t->sizes = grown(t->sizes, t->keys, sizeof(t->sizes[0]));
        t->sizes[t->keys++] = size;
        t->unique_bytes += size;
    }
    if (t->sizes[key] != size)
        return false;
    t->requests = grown(t->requests, t->count, sizeof(t->requests[0]));
    t->requests[t->count++] = (struct request){time_s, (size_t)key};
    t->bytes += size;
    return true;
}

int trace_read(FILE *in, struct trace *out, size_t *line)
{
    uint64_t key, size;
    int64_t time_s;
    int fields;

    *out = (struct trace){0};
    *line = 1;
    while ((fields = fscanf(in, "%" SCNd64 " %" SCNu64 " %" SCNu64, &time_s, &key, &size)) == 3) {
        if (!add_request(out, time_s, key, size))
            break;
        ++*line;
    }
    if (fields == EOF && !ferror(in))
        return 0;
    trace_clear(out);
    return -1;
}

void trace_clear(struct trace *trace)
{
    free(trace->requests);
    free(trace->sizes);
    *trace = (struct trace){0};
}

/* For each request the next one for the same key, or NEVER; yours to free. */
static size_t *find_next(const struct trace *t)
{
    size_t *next = xcalloc(t->count + 1, sizeof(*next));
    size_t *soonest = xcalloc(t->keys + 1, sizeof(*soonest));

    for (size_t key = 0; key < t->keys; key++)
        soonest[key] = NEVER;
    for (size_t i = t->count; i-- > 0;) {
        next[i] = soonest[t->requests[i].key];
        soonest[t->requests[i].key] = i;
    }
    free(soonest);
    return next;
}

/* ---- the policies ---- */

struct cache {
    struct policy *policy;
    uint64_t capacity;
    struct policy_item *items; /* by key */
    bool *in;
};

static void keep(struct cache *c, size_t key, uint64_t size, int64_t now_s)
{
    if (size > c->capacity)
        return;
    while (policy_bytes(c->policy) > c->capacity - size)
        c->in[policy_evict(c->policy, now_s).item->id] = false;
    c->items[key] = (struct policy_item){.id = key, .size = size, .accessed = now_s};
    policy_insert(c->policy, &c->items[key]);
    c->in[key] = true;
}

struct score replay_policy(const struct trace *trace, enum policy_kind kind, uint64_t capacity,
                           int64_t max_age_s)
{
    struct cache cache = {.policy = policy_new(kind, capacity, max_age_s),
                          .capacity = capacity,
                          .items = xcalloc(trace->keys + 1, sizeof(cache.items[0])),
                          .in = xcalloc(trace->keys + 1, sizeof(cache.in[0]))};
    struct score score = {0};

    for (size_t i = 0; i < trace->count; i++) {
        const struct request *r = &trace->requests[i];

        if (cache.in[r->key]) {
            score.hits++;
            score.hit_bytes += (double)trace->sizes[r->key];
            policy_touch(cache.policy, &cache.items[r->key], r->time_s);
        } else {
            keep(&cache, r->key, trace->sizes[r->key], r->time_s);
        }
    }
    policy_free(&cache.policy);
    free(cache.items);
    free(cache.in);
    return score;
}

/* ---- who knows the future ---- */

/* A heap with the latest on top.  What has passed sinks to the bottom, and may stay there. */
struct future {
    size_t *at;
    size_t count;
};

static void future_add(struct future *f, size_t at)
{
    size_t i = f->count++;

    for (; i > 0 && f->at[(i - 1) / 2] < at; i = (i - 1) / 2)
        f->at[i] = f->at[(i - 1) / 2];
    f->at[i] = at;
}

static void future_drop_latest(struct future *f)
{
    size_t last = f->at[--f->count], i = 0, child;

    while ((child = 2 * i + 1) < f->count) {
        if (child + 1 < f->count && f->at[child + 1] > f->at[child])
            child++;
        if (f->at[child] <= last)
            break;
        f->at[i] = f->at[child];
        i = child;
    }
    f->at[i] = last;
}

/* held[i]: bytes that request i will find. */
static struct score belady(const struct trace *t, uint64_t capacity, bool in_parts)
{
    size_t *next = find_next(t);
    uint64_t *held = xcalloc(t->count + 1, sizeof(*held));
    struct future future = {.at = xcalloc(t->count + 1, sizeof(future.at[0]))};
    struct score score = {0};
    uint64_t total = 0;

    for (size_t i = 0; i < t->count; i++) {
        uint64_t size = t->sizes[t->requests[i].key];

        score.hit_bytes += (double)held[i];
        score.hits += held[i] > 0 ? (double)held[i] / (double)size : 0;
        total -= held[i];
        if (next[i] == NEVER || size > capacity)
            continue;
        held[next[i]] = size;
        total += size;
        future_add(&future, next[i]);
        while (total > capacity) {
            uint64_t *latest = &held[future.at[0]];
            uint64_t cut = in_parts && total - capacity < *latest ? total - capacity : *latest;

            total -= cut;
            *latest -= cut;
            if (*latest == 0)
                future_drop_latest(&future);
        }
    }
    free(next);
    free(held);
    free(future.at);
    return score;
}

struct score replay_belady(const struct trace *trace, uint64_t capacity)
{
    return belady(trace, capacity, false);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Time is counted in requests: the capacity holds at each of them. */
static double most_hits(const struct trace *t, uint64_t capacity)
{
    size_t *next = find_next(t);
    double *costs = xcalloc(t->count + 1, sizeof(*costs));
    double left = (double)capacity * (double)t->count, hits = 0;
    size_t n = 0;

    for (size_t i = 0; i < t->count; i++) {
        uint64_t size = t->sizes[t->requests[i].key];

        if (next[i] != NEVER && size <= capacity)
            costs[n++] = (double)size * (double)(next[i] - i);
    }
    qsort(costs, n, sizeof(*costs), compare_doubles);
    for (size_t i = 0; i < n && left > 0; i++) {
        hits += costs[i] <= left ? 1 : left / costs[i];
        left -= costs[i];
    }
    free(next);
    free(costs);
    return hits;
}

struct score replay_bound(const struct trace *trace, uint64_t capacity)
{
    struct score score = belady(trace, capacity, true);

    score.hits = most_hits(trace, capacity);
    return score;
}
