/* What lies on this node's disk, told to the others behind everybody's back.
 *
 *     records_new(redis or NULL, index, &config)   before redis_start()
 *     records_tell(r, change, &key, &entry)        any thread, HTTP's too; never blocks
 *     records_stop(r)
 *     records_free(&r)                             after redis_stop()
 *
 * A thread tells it to the shared index, as many at once as go into a round trip.  What waits has a
 * bound; what is beyond it, or can't be told because Redis is away, is dropped: then a record
 * lacks, and another node asks upstream for what lies here, or one is wrong, and costs a refused
 * request.
 *
 * Whenever Redis comes up, and each day, all that lies here is told once more, slowly: so what was
 * dropped, or what Redis has lost, is known again. */
#ifndef PANNIER_CACHE_CLUSTER_RECORDS_H
#define PANNIER_CACHE_CLUSTER_RECORDS_H

#include <stdint.h>

#include "cache/cluster/redis.h"
#include "cache/cluster/shared_index.h"

enum { RECORDS_WAITING_MAX = 4096 }; /* some hundred bytes each */

struct records;

struct records_config {
    const char *node; /* borrowed, and lives longer */
    /* In the thread of records: hand everything that lies here to records_again().  Ends when that
     * says -1.  NULL: nothing is told again. */
    void (*list)(void *ctx, struct records *r);
    void *ctx;
    uint64_t again_ms; /* when nothing happens; 0: a day */
};

/* redis NULL: nothing is told. */
struct records *records_new(struct redis *redis, struct shared_index *index,
                            const struct records_config *config);
void records_stop(struct records *r); /* what waits is forgotten; a list that is under way ends */
void records_free(struct records **r);

/* e is copied; its node, where none is said, is this one. */
void records_tell(struct records *r, enum index_change change, const struct key *key,
                  const struct entry *e);
/* Only from list().  -1: no more. */
int records_again(struct records *r, const struct key *key, const struct entry *e);

struct records_counts {
    uint64_t told, dropped;
    uint64_t listed; /* times that everything was told */
};
void records_count(struct records *r, struct records_counts *out); /* any thread, HTTP's too */

#endif
