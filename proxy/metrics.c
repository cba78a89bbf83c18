#include "proxy/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    SHARDS = 16,
    FAMILY_MAX_BYTES = 16 << 20,
    CODES = 6, /* a hundred each; 0: none of these */
};

enum metric_type { COUNTER, GAUGE, TIMES };

static const struct metric_row {
    const char *name, *labels, *help;
    enum metric_type type;
} metric_rows[METRICS_TOTAL] = {
#define X(id_, type_, name_, labels_, help_)                                                       \
    [METRIC_##id_] = {.name = name_, .labels = labels_, .help = help_, .type = type_},
    METRICS_TABLE(X)
#undef X
};

struct cell_row {
    enum metric metric;
    const char *labels;
};

static const struct cell_row cell_rows[CELLS_TOTAL] = {
#define C(id_, metric_, labels_) [CELL_##id_] = {METRIC_##metric_, labels_},
    METRICS_CELLS(C)
#undef C
};

static const struct cell_row timer_rows[TIMERS_TOTAL] = {
#define T(id_, metric_, labels_) [TIMER_##id_] = {METRIC_##metric_, labels_},
    METRICS_TIMERS(T)
#undef T
};

/* ---- cells ---- */

/* Threads count in different cache lines, as far as there are enough. */
struct shard {
    _Alignas(64) atomic_uint_fast64_t cells[CELLS_TOTAL];
    struct {
        atomic_uint_fast64_t buckets[TIMING_BOUNDS + 1];
        atomic_uint_fast64_t sum_us;
    } timers[TIMERS_TOTAL];
};

static struct shard shards[SHARDS];

static struct shard *my_shard(void)
{
    static atomic_uint next;
    static _Thread_local struct shard *mine;

    if (mine == NULL)
        mine = &shards[atomic_fetch_add(&next, 1) % SHARDS];
    return mine;
}

void metrics_count(enum cell cell, uint64_t n)
{
    atomic_fetch_add_explicit(&my_shard()->cells[cell], n, memory_order_relaxed);
}

uint64_t metrics_counted(enum cell cell)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < SHARDS; i++)
        sum += atomic_load_explicit(&shards[i].cells[cell], memory_order_relaxed);
    return sum;
}

void metrics_time(enum timer timer, uint64_t us)
{
    struct shard *s = my_shard();

    atomic_fetch_add_explicit(&s->timers[timer].buckets[timing_bucket(us)], 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&s->timers[timer].sum_us, us, memory_order_relaxed);
}

static void timer_read(enum timer timer, struct timing *out)
{
    *out = (struct timing){.sum_us = 0};
    for (size_t i = 0; i < SHARDS; i++) {
        for (size_t b = 0; b <= TIMING_BOUNDS; b++)
            out->buckets[b] +=
                atomic_load_explicit(&shards[i].timers[timer].buckets[b], memory_order_relaxed);
        out->sum_us += atomic_load_explicit(&shards[i].timers[timer].sum_us, memory_order_relaxed);
    }
}

void metrics_admin_request(int status)
{
    static const enum cell cells[] = {CELL_ADMIN_2XX, CELL_ADMIN_3XX, CELL_ADMIN_4XX,
                                      CELL_ADMIN_5XX};

    if (status >= 200 && status < 600)
        metrics_count(cells[status / 100 - 2], 1);
}

/* ---- upstreams ---- */

enum failure { FAILED_TIMEOUT, FAILED_BUSY, FAILED_CANCELLED, FAILED_OTHER, FAILURES_COUNT };

struct upstream_counts {
    char *name;
    uint64_t codes[CODES];
    uint64_t failures[FAILURES_COUNT];
    uint64_t throttled, bytes;
    uint64_t hooks[HOOK_RESULTS_COUNT];
    UT_hash_handle hh;
};

static struct {
    struct lock lock;
    struct upstream_counts *by_name;
    struct upstream_counts other;
} upstreams;

static pthread_once_t upstreams_once = PTHREAD_ONCE_INIT;

static void upstreams_init(void)
{
    lock_init(&upstreams.lock, LOCK_METRICS);
    upstreams.other.name = xstrdup("other");
}

/* With the lock, which is the caller's to drop. */
static struct upstream_counts *upstream_take(const char *name)
{
    struct upstream_counts *u;

    pthread_once(&upstreams_once, upstreams_init);
    lock_take(&upstreams.lock);
    HASH_FIND_STR(upstreams.by_name, name, u);
    if (u == NULL && HASH_COUNT(upstreams.by_name) >= METRICS_UPSTREAMS_MAX)
        return &upstreams.other;
    if (u == NULL) {
        u = xcalloc(1, sizeof(*u));
        u->name = xstrdup(name);
        HASH_ADD_KEYPTR(hh, upstreams.by_name, u->name, strlen(u->name), u);
    }
    return u;
}

void metrics_upstream_response(const char *upstream, int status, bool throttled)
{
    struct upstream_counts *u = upstream_take(upstream);

    u->codes[status >= 100 && status < 600 ? status / 100 : 0]++;
    u->throttled += throttled;
    lock_drop(&upstreams.lock);
}

void metrics_upstream_failure(const char *upstream, enum err_kind why)
{
    struct upstream_counts *u = upstream_take(upstream);

    u->failures[why == ERR_TIMEOUT     ? FAILED_TIMEOUT
                : why == ERR_BUSY      ? FAILED_BUSY
                : why == ERR_CANCELLED ? FAILED_CANCELLED
                                       : FAILED_OTHER]++;
    lock_drop(&upstreams.lock);
}

void metrics_upstream_bytes(const char *upstream, uint64_t n)
{
    upstream_take(upstream)->bytes += n;
    lock_drop(&upstreams.lock);
}

void metrics_webhook(const char *upstream, enum hook_result result)
{
    upstream_take(upstream)->hooks[result]++;
    lock_drop(&upstreams.lock);
}

uint64_t metrics_upstream_bytes_all(void)
{
    uint64_t sum;

    pthread_once(&upstreams_once, upstreams_init);
    lock_take(&upstreams.lock);
    sum = upstreams.other.bytes;
    for (struct upstream_counts *u = upstreams.by_name; u != NULL; u = u->hh.next)
        sum += u->bytes;
    lock_drop(&upstreams.lock);
    return sum;
}

/* Writes into memory, which may be done under the lock. */
static void text_upstream(struct metrics_text *t, const struct upstream_counts *u)
{
    static const char *const failures[] = {[FAILED_TIMEOUT] = "timeout",
                                           [FAILED_BUSY] = "busy",
                                           [FAILED_CANCELLED] = "cancelled",
                                           [FAILED_OTHER] = "broken"};
    static const char *const hooks[] = {
        [HOOK_PUSHED] = "pushed", [HOOK_PING] = "ping",           [HOOK_IGNORED] = "ignored",
        [HOOK_FORGED] = "forged", [HOOK_MALFORMED] = "malformed", [HOOK_FAILED] = "failed"};
    char name[2 * METRICS_LABEL_MAX + 32], labels[sizeof(name) + 64];

    metrics_label("upstream", u->name, name, sizeof(name));
    for (size_t i = 0; i < CODES; i++) {
        if (u->codes[i] == 0)
            continue;
        snprintf(labels, sizeof(labels), "%s,code=\"%zuxx\"", name, i);
        metrics_text_number(t, METRIC_upstream_requests, labels, u->codes[i]);
    }
    for (size_t i = 0; i < FAILURES_COUNT; i++) {
        snprintf(labels, sizeof(labels), "%s,reason=\"%s\"", name, failures[i]);
        metrics_text_number(t, METRIC_upstream_failures, labels, u->failures[i]);
    }
    for (size_t i = 0; i < HOOK_RESULTS_COUNT; i++) {
        snprintf(labels, sizeof(labels), "%s,result=\"%s\"", name, hooks[i]);
        metrics_text_number(t, METRIC_webhooks, labels, u->hooks[i]);
    }
    metrics_text_number(t, METRIC_upstream_throttled, name, u->throttled);
    metrics_text_number(t, METRIC_upstream_bytes, name, u->bytes);
}

/* ---- text ---- */

void metrics_text_init(struct metrics_text *t)
{
    for (size_t i = 0; i < METRICS_TOTAL; i++)
        bytes_init(&t->families[i], FAMILY_MAX_BYTES);
}

/* What finds no room any more is left out: a line is whole or isn't there. */
static void __attribute__((format(printf, 5, 6)))
add_sample(struct metrics_text *t, enum metric m, const char *suffix, const char *labels,
           const char *fmt, ...)
{
    char value[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    (void)bytes_addf(&t->families[m], "%s%s%s%s%s %s\n", metric_rows[m].name, suffix,
                     *labels != '\0' ? "{" : "", labels, *labels != '\0' ? "}" : "", value);
}

void metrics_text_number(struct metrics_text *t, enum metric m, const char *labels, uint64_t n)
{
    add_sample(t, m, "", labels, "%" PRIu64, n);
}

void metrics_text_real(struct metrics_text *t, enum metric m, const char *labels, double value)
{
    if (__builtin_isinf(value))
        add_sample(t, m, "", labels, "+Inf");
    else
        add_sample(t, m, "", labels, "%.6f", value);
}

void metrics_text_times(struct metrics_text *t, enum metric m, const char *labels,
                        const struct timing *times)
{
    char with_bound[2 * METRICS_LABEL_MAX + 96];
    uint64_t below = 0;

    for (size_t i = 0; i <= TIMING_BOUNDS; i++) {
        char bound[32] = "+Inf";

        below += times->buckets[i];
        if (i < TIMING_BOUNDS)
            snprintf(bound, sizeof(bound), "%g", (double)timing_bounds_us[i] / 1e6);
        snprintf(with_bound, sizeof(with_bound), "%s%sle=\"%s\"", labels,
                 *labels != '\0' ? "," : "", bound);
        add_sample(t, m, "_bucket", with_bound, "%" PRIu64, below);
    }
    add_sample(t, m, "_sum", labels, "%.6f", (double)times->sum_us / 1e6);
    add_sample(t, m, "_count", labels, "%" PRIu64, below);
}

void metrics_text_counted(struct metrics_text *t)
{
    for (size_t i = 0; i < CELLS_TOTAL; i++)
        metrics_text_number(t, cell_rows[i].metric, cell_rows[i].labels,
                            metrics_counted((enum cell)i));
    for (size_t i = 0; i < TIMERS_TOTAL; i++) {
        struct timing times;

        timer_read((enum timer)i, &times);
        metrics_text_times(t, timer_rows[i].metric, timer_rows[i].labels, &times);
    }
    pthread_once(&upstreams_once, upstreams_init);
    lock_take(&upstreams.lock);
    for (struct upstream_counts *u = upstreams.by_name; u != NULL; u = u->hh.next)
        text_upstream(t, u);
    if (HASH_COUNT(upstreams.by_name) >= METRICS_UPSTREAMS_MAX)
        text_upstream(t, &upstreams.other);
    lock_drop(&upstreams.lock);
}

static const char *type_name(enum metric_type type)
{
    static const char *const names[] = {
        [COUNTER] = "counter", [GAUGE] = "gauge", [TIMES] = "histogram"};

    return names[type];
}

void metrics_text_end(struct metrics_text *t, struct bytes *out)
{
    for (size_t i = 0; i < METRICS_TOTAL; i++) {
        const struct metric_row *row = &metric_rows[i];
        struct bytes *family = &t->families[i];

        if (family->len > 0 && bytes_addf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help,
                                          row->name, type_name(row->type)) == 0)
            (void)bytes_add(out, family->data, family->len);
        bytes_clear(family);
    }
}

void metrics_label(const char *name, const char *value, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s=\"", name);
    size_t len = strnlen(value, METRICS_LABEL_MAX);

    must(n + 2 * METRICS_LABEL_MAX + 2 <= size);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];

        if (c == '"' || c == '\\')
            out[n++] = '\\';
        /* Names that are no ASCII would have to be UTF-8, and a cut could break that. */
        out[n++] = (char)(c < ' ' || c >= 0x7f ? '?' : c);
    }
    out[n++] = '"';
    out[n] = '\0';
}

void metrics_describe(FILE *out)
{
    fputs("| Metric | Type | Labels | Meaning |\n"
          "|---|---|---|---|\n",
          out);
    for (size_t i = 0; i < METRICS_TOTAL; i++) {
        const struct metric_row *row = &metric_rows[i];

        fprintf(out, "| `%s` | %s | %s | %s |\n", row->name, type_name(row->type), row->labels,
                row->help);
    }
}
