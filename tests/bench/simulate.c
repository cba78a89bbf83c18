/* Replays a trace (stdin, see replay.h) over each policy and prints tables in Markdown:
 * hit ratios by requests and by bytes, for caches of some parts of all the different bytes.
 *
 *     simulate [MAX_AGE_S] < trace        MAX_AGE_S is for the policy "size" */
#include <stdio.h>
#include <stdlib.h>

#include "protocol/base.h"
#include "tests/bench/replay.h"

static const double percents[] = {0.5, 1, 2, 5, 10, 25};
enum { SIZES = ARRAY_LEN(percents), DEFAULT_MAX_AGE_S = 7 * 86400 };

static const char *const rows[] = {"lru", "size", "s3fifo", "Belady, whole entries", "bound"};
enum { LRU, SIZE, S3FIFO, BELADY, BOUND, ROWS };

static struct score replay(const struct trace *t, size_t row, uint64_t capacity, int64_t max_age_s)
{
    switch (row) {
    case LRU: return replay_policy(t, POLICY_LRU, capacity, max_age_s);
    case SIZE: return replay_policy(t, POLICY_SIZE, capacity, max_age_s);
    case S3FIFO: return replay_policy(t, POLICY_S3FIFO, capacity, max_age_s);
    case BELADY: return replay_belady(t, capacity);
    default: return replay_bound(t, capacity);
    }
}

static double percent(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

/* How soon bytes are asked for again. */
static void print_reuse(const struct trace *t)
{
    static const struct {
        int64_t within_s;
        const char *name;
    } spans[] = {{120, "2 minutes"}, {300, "5 minutes"}, {600, "10 minutes"},
                 {3600, "an hour"},  {86400, "a day"},   {INT64_MAX, "any time"}};
    int64_t *last = xcalloc(t->keys + 1, sizeof(*last));
    double bytes[ARRAY_LEN(spans)] = {0};
    bool *seen = xcalloc(t->keys + 1, sizeof(*seen));

    for (size_t i = 0; i < t->count; i++) {
        const struct request *r = &t->requests[i];

        for (size_t s = 0; seen[r->key] && s < ARRAY_LEN(spans); s++)
            if (r->time_s - last[r->key] <= spans[s].within_s)
                bytes[s] += (double)t->sizes[r->key];
        last[r->key] = r->time_s;
        seen[r->key] = true;
    }
    printf("- bytes that had been asked for before, within");
    for (size_t s = 0; s < ARRAY_LEN(spans); s++)
        printf("%s %s: %.0f %%", s > 0 ? ";" : "", spans[s].name,
               percent(bytes[s], (double)t->bytes));
    printf("\n");
    free(last);
    free(seen);
}

static void print_trace(const struct trace *t)
{
    size_t *asked = xcalloc(t->keys + 1, sizeof(*asked));
    double once = 0, once_bytes = 0;

    for (size_t i = 0; i < t->count; i++)
        asked[t->requests[i].key]++;
    for (size_t key = 0; key < t->keys; key++) {
        once += asked[key] == 1;
        once_bytes += asked[key] == 1 ? (double)t->sizes[key] : 0;
    }
    printf("- %zu requests for %zu keys in %.1f days; %.1f TB, of which %.2f TB are different\n",
           t->count, t->keys,
           (double)(t->requests[t->count - 1].time_s - t->requests[0].time_s) / 86400,
           (double)t->bytes / 1e12, (double)t->unique_bytes / 1e12);
    printf("- asked for once: %.0f %% of the keys, with %.0f %% of the different bytes\n",
           percent(once, (double)t->keys), percent(once_bytes, (double)t->unique_bytes));
    print_reuse(t);
    free(asked);
}

static void print_head(const char *what, const struct trace *t)
{
    printf("\n| hits by %s, in %%; cache of |", what);
    for (size_t i = 0; i < SIZES; i++)
        printf(" %g %%: %.0f GB |", percents[i], (double)t->unique_bytes * percents[i] / 100 / 1e9);
    printf("\n| --- |");
    for (size_t i = 0; i < SIZES; i++)
        printf(" ---: |");
    printf("\n");
}

static void print_tables(const struct trace *t, int64_t max_age_s)
{
    struct score scores[ROWS][SIZES];

    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < SIZES; i++)
            scores[row][i] =
                replay(t, row, (uint64_t)((double)t->unique_bytes * percents[i] / 100), max_age_s);
    print_head("requests", t);
    for (size_t row = 0; row < ROWS; row++) {
        printf("| %s |", rows[row]);
        for (size_t i = 0; i < SIZES; i++)
            printf(" %.1f |", percent(scores[row][i].hits, (double)t->count));
        printf("\n");
    }
    print_head("bytes", t);
    for (size_t row = 0; row < ROWS; row++) {
        printf("| %s |", rows[row]);
        for (size_t i = 0; i < SIZES; i++)
            printf(" %.1f |", percent(scores[row][i].hit_bytes, (double)t->bytes));
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    int64_t max_age_s = argc > 1 ? strtoll(argv[1], NULL, 10) : DEFAULT_MAX_AGE_S;
    struct trace trace;
    size_t line;

    if (trace_read(stdin, &trace, &line) != 0 || trace.count == 0) {
        fprintf(stderr, "simulate: line %zu of the trace is not \"seconds key size\" in order\n",
                line);
        return 1;
    }
    print_trace(&trace);
    print_tables(&trace, max_age_s);
    trace_clear(&trace);
    return 0;
}
