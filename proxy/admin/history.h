/* What was counted lately, by time: for people who look at how it goes, without a database.
 *
 *     h = history_start()                 a thread counts every HISTORY_STEP_S from here on
 *     history_read(h, HISTORY_MINUTES, since_s, &out, &count)
 *     history_stop(&h)
 *
 * A day in minutes and the last minutes in finer steps, in memory; a restart forgets them.  Any
 * thread. */
#ifndef PANNIER_PROXY_ADMIN_HISTORY_H
#define PANNIER_PROXY_ADMIN_HISTORY_H

#include <stddef.h>
#include <stdint.h>

enum {
    HISTORY_STEP_S = 5,
    HISTORY_MINUTE_S = 60,
    HISTORY_STEPS_MAX = 180,    /* a quarter of an hour */
    HISTORY_MINUTES_MAX = 1440, /* a day */
};

enum history_grain { HISTORY_STEPS, HISTORY_MINUTES };
enum { HISTORY_GRAINS_COUNT = HISTORY_MINUTES + 1 };

/* In the order of their names in the API. */
enum { HISTORY_HITS_COUNT = 4, HISTORY_MISSES_COUNT = 4 };

struct history_counts {
    uint64_t requests;                     /* of every kind, without questions for health */
    uint64_t hits[HISTORY_HITS_COUNT];     /* local, shared, coalesced, peer */
    uint64_t misses[HISTORY_MISSES_COUNT]; /* mirror, refresh, upstream, pass */
    uint64_t client_bytes;                 /* of packs, told when a request ends */
    uint64_t upstream_bytes;               /* told as they come */
};

struct history_sample {
    int64_t time_s; /* when it ended, seconds since 1970 */
    struct history_counts counts;
};

struct history;

struct history *history_start(void);
void history_stop(struct history **h); /* NULL inside is fine */

/* Those that ended after since_s, the oldest first.  *out is yours to free. */
void history_read(struct history *h, enum history_grain grain, int64_t since_s,
                  struct history_sample **out, size_t *count);

/* ---- without the thread, for tests ---- */

struct history *history_new(void);
void history_free(struct history **h);
/* So much was counted since the process started; each call ends a step.  The first one only says
 * where it begins. */
void history_note(struct history *h, const struct history_counts *totals, int64_t now_s);

#endif
