/* Counting what happens, and saying it in Prometheus' text format.
 *
 *     metrics_count(CELL_HITS_LOCAL, 1)         as it happens: one addition, without a lock
 *     metrics_time(TIMER_TOTAL_PACK, us)
 *     metrics_upstream_...()                    by upstream's name: under a lock for a moment
 *
 *     struct metrics_text t;                    when somebody reads it
 *     metrics_text_init(&t)
 *     metrics_text_counted(&t)                  all of the above
 *     metrics_text_number(&t, METRIC_git, "", n) ...     what others know: proxy/collect.c
 *     metrics_text_end(&t, &out)
 *
 * Counts are the process's, as the log is.  Any thread. */
#ifndef PANNIER_PROXY_METRICS_H
#define PANNIER_PROXY_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cache/timing.h"
#include "protocol/bytes.h"
#include "protocol/err.h"
#include "proxy/metrics_table.h"

enum metric {
#define X(id, ...) METRIC_##id,
    METRICS_TABLE(X)
#undef X
        METRICS_TOTAL
};

enum cell {
#define C(id, ...) CELL_##id,
    METRICS_CELLS(C)
#undef C
        CELLS_TOTAL
};

enum timer {
#define T(id, ...) TIMER_##id,
    METRICS_TIMERS(T)
#undef T
        TIMERS_TOTAL
};

enum {
    METRICS_UPSTREAMS_MAX = 256, /* with series of their own; further ones are one called other */
    METRICS_LABEL_MAX = 256,     /* bytes of one label's value; the rest is cut off */
};

/* ---- as it happens ---- */

void metrics_count(enum cell cell, uint64_t n);
uint64_t metrics_counted(enum cell cell); /* so far */
void metrics_time(enum timer timer, uint64_t us);

/* An upstream (its name in the configuration, which clients can't make up) answered. */
void metrics_upstream_response(const char *upstream, int status, bool throttled);
void metrics_upstream_failure(const char *upstream, enum err_kind why);
void metrics_upstream_bytes(const char *upstream, uint64_t n);
uint64_t metrics_upstream_bytes_all(void);
/* What became of a webhook of that upstream. */
enum hook_result { HOOK_PUSHED, HOOK_PING, HOOK_IGNORED, HOOK_FORGED, HOOK_MALFORMED, HOOK_FAILED };
enum { HOOK_RESULTS_COUNT = HOOK_FAILED + 1 };
void metrics_webhook(const char *upstream, enum hook_result result);

void metrics_admin_request(int status);

/* ---- when it is read ---- */

struct metrics_text {
    struct bytes families[METRICS_TOTAL];
};

void metrics_text_init(struct metrics_text *t);
/* labels: "" or what stands between the braces, values escaped by metrics_label(). */
void metrics_text_number(struct metrics_text *t, enum metric m, const char *labels, uint64_t n);
void metrics_text_real(struct metrics_text *t, enum metric m, const char *labels, double value);
void metrics_text_times(struct metrics_text *t, enum metric m, const char *labels,
                        const struct timing *times);
void metrics_text_counted(struct metrics_text *t);
/* Appends it all to out, and clears t. */
void metrics_text_end(struct metrics_text *t, struct bytes *out);

/* name="value" into out, which has room for METRICS_LABEL_MAX * 2 and the name. */
void metrics_label(const char *name, const char *value, char *out, size_t size);

/* docs/metrics.md's table. */
void metrics_describe(FILE *out);

#endif
