/* What was asked of each repository since the start, and what went wrong: for people, and for the
 * metrics of those that are asked for most.
 *
 * Of TRAFFIC_MAX repositories; beyond them who was not asked for longest and has no series is
 * forgotten.  Any thread;
 * never blocks on I/O. */
#ifndef PANNIER_PROXY_TRAFFIC_H
#define PANNIER_PROXY_TRAFFIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/digest.h"
#include "protocol/err.h"

struct traffic;
struct metrics_text;

enum {
    TRAFFIC_MAX = 4096, /* some 3 KiB each */
    TRAFFIC_ERRORS_MAX = 5,
};

enum traffic_result { TRAFFIC_HIT, TRAFFIC_MISS, TRAFFIC_PASS };
enum { TRAFFIC_RESULTS_COUNT = TRAFFIC_PASS + 1 };

struct traffic_counts {
    uint64_t requests[TRAFFIC_RESULTS_COUNT]; /* for packs */
    uint64_t bytes[TRAFFIC_RESULTS_COUNT];    /* sent to clients */
};

struct traffic_error {
    int64_t time_s;
    const char *what; /* static words, those of the log */
    struct err why;
};

struct traffic_view {
    struct traffic_counts counts;
    int64_t asked_s; /* the last request for a pack, seconds since 1970; 0: none */
    struct traffic_error errors[TRAFFIC_ERRORS_MAX]; /* the latest first */
    size_t error_count;
};

struct traffic *traffic_new(void);
void traffic_free(struct traffic **t); /* NULL inside is fine */

/* name: "<upstream>/<path>". */
void traffic_note(struct traffic *t, const char *name, enum traffic_result result, uint64_t bytes,
                  int64_t now_s);
/* what: static.  Nothing is noted of what nobody is to blame for (ERR_CANCELLED, ERR_LIMIT). */
void traffic_failed(struct traffic *t, const char *name, const char *what, const struct err *why,
                    int64_t now_s);
/* False: nothing is known; *out is empty then. */
bool traffic_get(struct traffic *t, const struct key *repo_id, struct traffic_view *out);

/* Series of at most limit repositories, the rest as "other".  Who has series keeps them until
 * somebody is clearly asked for more; who comes to have them begins at 0, so that none ever goes
 * down. */
void traffic_metrics(struct traffic *t, size_t limit, struct metrics_text *out);

#endif
