/* What a cache would have answered of a trace: with each of the policies, and at best. */
#ifndef PANNIER_TESTS_BENCH_REPLAY_H
#define PANNIER_TESTS_BENCH_REPLAY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cache/local/policy.h"

struct request {
    int64_t time_s;
    size_t key;
};

struct trace {
    struct request *requests;
    size_t count;
    uint64_t *sizes; /* by key */
    size_t keys;
    uint64_t bytes, unique_bytes; /* asked for; of all keys, once each */
};

/* Lines of "seconds key size"; keys are numbers in the order of their first request, from 0.
 * 0: *out is yours to clear.  -1: *line says where it isn't so. */
int trace_read(FILE *in, struct trace *out, size_t *line);
void trace_clear(struct trace *trace);

/* Parts of an entry count as such, which only a bound can do. */
struct score {
    double hits, hit_bytes;
};

/* What is asked for is there at once, and is kept when it fits the capacity. */
struct score replay_policy(const struct trace *trace, enum policy_kind kind, uint64_t capacity,
                           int64_t max_age_s);

/* Belady with sizes: who knows the future keeps, of what is there and what comes, that which is
 * asked for next.  Entries are kept whole.  A good policy, but with sizes that differ not the best
 * one: see replay_bound(). */
struct score replay_belady(const struct trace *trace, uint64_t capacity);

/* No policy hits more, whatever it knows.
 *
 * Bytes: Belady, when any part of an entry may be kept.  Each byte is an entry of size 1 then, and
 * of such Belady is the best.
 * Requests: each hit takes size x (time since the last request) of the cache's capacity x time;
 * the cheapest are counted until all of that is used up (PFOO-L of Berger, Beckmann and
 * Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes", 2018). */
struct score replay_bound(const struct trace *trace, uint64_t capacity);

#endif
