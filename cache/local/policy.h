/* Which entry goes first when room is needed.
 *
 *     LRU      the one whose last access is longest ago
 *     SIZE     what nobody asked for since max_age; then the largest size / (accesses + 1)
 *     S3FIFO   three queues by bytes: what is new waits in a small one, and goes first unless it is
 *              asked for again; what was moves to the main one; who comes back soon after it went
 *              starts there (Yang et al., "FIFO queues are all you need for cache eviction", 2023)
 *
 * Pure: no locks, no I/O, no clock.  The caller lets one thread in at a time. */
#ifndef PANNIER_CACHE_LOCAL_POLICY_H
#define PANNIER_CACHE_LOCAL_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum policy_kind { POLICY_S3FIFO, POLICY_LRU, POLICY_SIZE };

/* One entry, as a policy sees it; embed it in yours.  While it is inserted only the policy changes
 * it: the order of what goes hangs on these numbers. */
struct policy_item {
    uint64_t id; /* tells entries apart, also those that went; a collision costs nothing but luck */
    uint64_t size;    /* bytes on disk */
    int64_t accessed; /* seconds since 1970 */
    uint64_t accesses;

    /* The policy's own. */
    struct policy_item *prev, *next;
    size_t places[2];
    uint64_t order;
    uint8_t queue, frequency;
};

struct policy;

/* capacity: bytes that all items together may have; bounds what is remembered of those that went.
 * UINT64_MAX: no limit.  max_age_s is for POLICY_SIZE; 0: only size and accesses count. */
struct policy *policy_new(enum policy_kind kind, uint64_t capacity, int64_t max_age_s);
void policy_free(struct policy **p); /* the items are yours */
void policy_set_capacity(struct policy *p, uint64_t capacity);

/* id, size, accessed and accesses are set; the rest need not be.  Items of an earlier run come in
 * the order of their last access, oldest first, with the accesses that they had. */
void policy_insert(struct policy *p, struct policy_item *item);
/* It was asked for again: one access more, the last one now. */
void policy_touch(struct policy *p, struct policy_item *item, int64_t now_s);
void policy_resize(struct policy *p, struct policy_item *item, uint64_t size);
/* It is gone for another reason: nothing is remembered of it. */
void policy_remove(struct policy *p, struct policy_item *item);

struct policy_victim {
    struct policy_item *item; /* NULL: there is none */
    const char *why;          /* a few words for people; static */
};

/* The next one to go.  It is out of the policy now (and may be remembered as a ghost): free it, or
 * when it can't go after all, give it back by policy_insert().  Give back only when enough have
 * gone: it may well be the next one again. */
struct policy_victim policy_evict(struct policy *p, int64_t now_s);

/* What policy_evict() would say, until fn returns false or nothing is left; changes nothing.
 * Works on a copy of all items, of some 100 bytes each. */
void policy_preview(const struct policy *p, int64_t now_s,
                    bool (*fn)(void *ctx, const struct policy_victim *victim), void *ctx);

size_t policy_count(const struct policy *p);
uint64_t policy_bytes(const struct policy *p);

/* "s3fifo", "lru", "size". */
const char *policy_name(enum policy_kind kind);

#endif
