#include "cache/local/policy.h"

#include <stdlib.h>

#include <uthash.h>
#include <utlist.h>

#include "protocol/base.h"

enum {
    SMALL_DIVISOR = 10, /* the small queue's part of what is held: a tenth */
    FREQUENCY_MAX = 3,  /* as many turns in the main queue without being asked for */
    GHOSTS_MAX = 65536, /* some 6 MB, however small the entries are */
    HEAP_FIRST_ROOM = 64,
};

/* ---- a heap that knows where its items are ---- */

/* LRU and SIZE are heaps, not lists: items come in any order (a scan finds files of any age), and
 * accesses and sizes change while they are in. */
enum heap_name { BY_AGE, BY_WEIGHT, HEAPS_COUNT };

struct heap {
    enum heap_name name; /* which of item->places is ours */
    struct policy_item **items;
    size_t count, room;
};

static bool older(const struct policy_item *a, const struct policy_item *b)
{
    return a->accessed != b->accessed ? a->accessed < b->accessed : a->order < b->order;
}

/* Bytes that each question to it takes up. */
static uint64_t weight(const struct policy_item *item)
{
    return item->accesses == UINT64_MAX ? 0 : item->size / (item->accesses + 1);
}

static bool goes_before(enum heap_name name, const struct policy_item *a,
                        const struct policy_item *b)
{
    if (name == BY_WEIGHT && weight(a) != weight(b))
        return weight(a) > weight(b);
    return older(a, b);
}

static void heap_put(struct heap *h, size_t at, struct policy_item *item)
{
    h->items[at] = item;
    item->places[h->name] = at;
}

/* Bring the item at this place to where it belongs. */
static void heap_settle(struct heap *h, size_t at)
{
    struct policy_item *item = h->items[at];
    size_t child;

    while (at > 0 && goes_before(h->name, item, h->items[(at - 1) / 2])) {
        heap_put(h, at, h->items[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    while ((child = 2 * at + 1) < h->count) {
        if (child + 1 < h->count && goes_before(h->name, h->items[child + 1], h->items[child]))
            child++;
        if (!goes_before(h->name, h->items[child], item))
            break;
        heap_put(h, at, h->items[child]);
        at = child;
    }
    heap_put(h, at, item);
}

static void heap_add(struct heap *h, struct policy_item *item)
{
    if (h->count == h->room) {
        h->room = h->room > 0 ? h->room * 2 : HEAP_FIRST_ROOM;
        h->items = xrealloc(h->items, h->room * sizeof(h->items[0]));
    }
    heap_put(h, h->count++, item);
    heap_settle(h, h->count - 1);
}

static void heap_remove(struct heap *h, const struct policy_item *item)
{
    size_t at = item->places[h->name];

    must(at < h->count && h->items[at] == item);
    h->count--;
    if (at == h->count)
        return;
    heap_put(h, at, h->items[h->count]);
    heap_settle(h, at);
}

static struct policy_item *heap_top(const struct heap *h)
{
    return h->count > 0 ? h->items[0] : NULL;
}

/* ---- what all policies have ---- */

enum queue_name { SMALL, MAIN, QUEUES_COUNT };

struct queue {
    struct policy_item *first; /* the oldest */
    uint64_t bytes;
};

/* Went from the small queue without having been asked for again. */
struct ghost {
    uint64_t id, size;
    UT_hash_handle hh;
};

struct policy {
    enum policy_kind kind;
    uint64_t capacity;
    int64_t max_age_s;
    size_t count;
    uint64_t bytes;
    uint64_t last_order;

    struct heap heaps[HEAPS_COUNT]; /* LRU: by age; SIZE: both */

    /* S3FIFO. */
    struct queue queues[QUEUES_COUNT];
    struct ghost *ghosts; /* the hash keeps the order of adding: the first is the oldest */
    uint64_t ghost_bytes;
};

struct policy *policy_new(enum policy_kind kind, uint64_t capacity, int64_t max_age_s)
{
    struct policy *p = xcalloc(1, sizeof(*p));

    p->kind = kind;
    p->capacity = capacity;
    p->max_age_s = max_age_s;
    for (enum heap_name name = 0; name < HEAPS_COUNT; name++)
        p->heaps[name].name = name;
    return p;
}

static size_t heaps_count(const struct policy *p)
{
    switch (p->kind) {
    case POLICY_S3FIFO: return 0;
    case POLICY_LRU: return 1;
    case POLICY_SIZE: return HEAPS_COUNT;
    }
    must(!"a kind of policy");
    return 0;
}

size_t policy_count(const struct policy *p)
{
    return p->count;
}

uint64_t policy_bytes(const struct policy *p)
{
    return p->bytes;
}

const char *policy_name(enum policy_kind kind)
{
    static const char *const names[] = {
        [POLICY_S3FIFO] = "s3fifo", [POLICY_LRU] = "lru", [POLICY_SIZE] = "size"};

    return names[kind];
}

/* ---- S3FIFO ---- */

static void queue_add(struct policy *p, enum queue_name name, struct policy_item *item)
{
    item->queue = (uint8_t)name;
    p->queues[name].bytes += item->size;
    DL_APPEND(p->queues[name].first, item);
}

static void queue_remove(struct policy *p, struct policy_item *item)
{
    struct queue *q = &p->queues[item->queue];

    q->bytes -= item->size;
    DL_DELETE(q->first, item);
}

static void ghost_forget(struct policy *p, struct ghost *g)
{
    p->ghost_bytes -= g->size;
    HASH_DEL(p->ghosts, g);
    free(g);
}

/* As many bytes are remembered as the main queue could have held. */
static void ghosts_trim(struct policy *p)
{
    uint64_t limit = p->capacity - p->capacity / SMALL_DIVISOR;

    while (p->ghosts != NULL && (p->ghost_bytes > limit || HASH_COUNT(p->ghosts) > GHOSTS_MAX))
        ghost_forget(p, p->ghosts);
}

static struct ghost *ghost_find(const struct policy *p, uint64_t id)
{
    struct ghost *g;

    HASH_FIND(hh, p->ghosts, &id, sizeof(id), g);
    return g;
}

static void ghost_remember(struct policy *p, const struct policy_item *item)
{
    struct ghost *g = ghost_find(p, item->id);

    if (g != NULL)
        ghost_forget(p, g);
    g = xcalloc(1, sizeof(*g));
    g->id = item->id;
    g->size = item->size;
    p->ghost_bytes += g->size;
    HASH_ADD(hh, p->ghosts, id, sizeof(g->id), g);
    ghosts_trim(p);
}

static void s3fifo_insert(struct policy *p, struct policy_item *item)
{
    struct ghost *g = ghost_find(p, item->id);

    item->frequency = 0;
    queue_add(p, g != NULL || item->accesses > 0 ? MAIN : SMALL, item);
    if (g != NULL)
        ghost_forget(p, g);
}

/* By what is held, not by the capacity: the disk may be full long before the capacity is reached,
 * and the small queue must not keep its room then. */
static enum queue_name s3fifo_turn(const struct policy *p)
{
    if (p->queues[MAIN].first == NULL)
        return SMALL;
    return p->queues[SMALL].bytes > p->bytes / SMALL_DIVISOR ? SMALL : MAIN;
}

/* Ends: each step but the last takes from a frequency, or brings an item into main for good. */
static struct policy_victim s3fifo_next(struct policy *p)
{
    for (;;) {
        enum queue_name turn = s3fifo_turn(p);
        struct policy_item *item = p->queues[turn].first;

        if (item == NULL)
            return (struct policy_victim){0};
        if (item->frequency == 0)
            return (struct policy_victim){item, turn == SMALL ? "never asked for again"
                                                              : "not asked for lately"};
        queue_remove(p, item);
        item->frequency = turn == SMALL ? 0 : item->frequency - 1;
        queue_add(p, MAIN, item);
    }
}

/* ---- LRU and SIZE ---- */

static struct policy_victim lru_next(const struct policy *p)
{
    return (struct policy_victim){heap_top(&p->heaps[BY_AGE]), "unused for longest"};
}

static struct policy_victim size_next(const struct policy *p, int64_t now_s)
{
    struct policy_item *oldest = heap_top(&p->heaps[BY_AGE]);

    if (oldest != NULL && p->max_age_s > 0 && oldest->accessed < now_s - p->max_age_s)
        return (struct policy_victim){oldest, "unused for longer than max_age"};
    return (struct policy_victim){heap_top(&p->heaps[BY_WEIGHT]), "large for how often it is used"};
}

/* ---- for the caller ---- */

/* Its numbers have changed. */
static void settle(struct policy *p, const struct policy_item *item)
{
    for (size_t i = 0; i < heaps_count(p); i++)
        heap_settle(&p->heaps[i], item->places[i]);
}

void policy_insert(struct policy *p, struct policy_item *item)
{
    p->count++;
    p->bytes += item->size;
    item->order = ++p->last_order;
    if (p->kind == POLICY_S3FIFO)
        s3fifo_insert(p, item);
    for (size_t i = 0; i < heaps_count(p); i++)
        heap_add(&p->heaps[i], item);
}

void policy_touch(struct policy *p, struct policy_item *item, int64_t now_s)
{
    item->accessed = now_s;
    item->accesses++;
    item->order = ++p->last_order;
    if (p->kind == POLICY_S3FIFO && item->frequency < FREQUENCY_MAX)
        item->frequency++;
    settle(p, item);
}

void policy_resize(struct policy *p, struct policy_item *item, uint64_t size)
{
    p->bytes += size - item->size;
    if (p->kind == POLICY_S3FIFO)
        p->queues[item->queue].bytes += size - item->size;
    item->size = size;
    settle(p, item);
}

void policy_remove(struct policy *p, struct policy_item *item)
{
    p->count--;
    p->bytes -= item->size;
    if (p->kind == POLICY_S3FIFO)
        queue_remove(p, item);
    for (size_t i = 0; i < heaps_count(p); i++)
        heap_remove(&p->heaps[i], item);
}

static struct policy_victim next_victim(struct policy *p, int64_t now_s)
{
    switch (p->kind) {
    case POLICY_S3FIFO: return s3fifo_next(p);
    case POLICY_LRU: return lru_next(p);
    case POLICY_SIZE: return size_next(p, now_s);
    }
    must(!"a kind of policy");
    return (struct policy_victim){0};
}

struct policy_victim policy_evict(struct policy *p, int64_t now_s)
{
    struct policy_victim victim = next_victim(p, now_s);

    if (victim.item == NULL)
        return victim;
    policy_remove(p, victim.item);
    if (p->kind == POLICY_S3FIFO && victim.item->queue == SMALL)
        ghost_remember(p, victim.item);
    return victim;
}

void policy_set_capacity(struct policy *p, uint64_t capacity)
{
    p->capacity = capacity;
    ghosts_trim(p);
}

void policy_free(struct policy **pp)
{
    struct policy *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    while (p->ghosts != NULL)
        ghost_forget(p, p->ghosts);
    for (enum heap_name name = 0; name < HEAPS_COUNT; name++)
        free(p->heaps[name].items);
    free(p);
}

/* ---- a look ahead ---- */

struct twin {
    struct policy_item item; /* first: a victim of the copy is its twin */
    struct policy_item *original;
};

static void copy_queues(const struct policy *p, struct policy *copy, struct twin *twins)
{
    struct policy_item *item;
    size_t n = 0;

    for (enum queue_name name = 0; name < QUEUES_COUNT; name++) {
        DL_FOREACH(p->queues[name].first, item)
        {
            twins[n] = (struct twin){*item, item};
            queue_add(copy, name, &twins[n++].item);
        }
    }
}

static void copy_heaps(const struct policy *p, struct policy *copy, struct twin *twins)
{
    const struct heap *by_age = &p->heaps[BY_AGE];

    for (size_t i = 0; i < by_age->count; i++)
        twins[i] = (struct twin){*by_age->items[i], by_age->items[i]};
    for (size_t name = 0; name < heaps_count(p); name++) {
        struct heap *h = &copy->heaps[name];

        h->count = h->room = p->count;
        h->items = xcalloc(h->room + 1, sizeof(h->items[0]));
        for (size_t i = 0; i < h->count; i++)
            h->items[i] = &twins[p->heaps[name].items[i]->places[BY_AGE]].item;
    }
}

/* Evicts from a copy, so that it can't say anything else than what will be done. */
void policy_preview(const struct policy *p, int64_t now_s,
                    bool (*fn)(void *ctx, const struct policy_victim *victim), void *ctx)
{
    struct policy *copy = policy_new(p->kind, p->capacity, p->max_age_s);
    struct twin *twins = xcalloc(p->count + 1, sizeof(*twins));
    struct policy_victim victim;

    copy->count = p->count;
    copy->bytes = p->bytes;
    if (p->kind == POLICY_S3FIFO)
        copy_queues(p, copy, twins);
    else
        copy_heaps(p, copy, twins);
    do {
        victim = policy_evict(copy, now_s);
        if (victim.item != NULL)
            victim.item = ((struct twin *)victim.item)->original;
    } while (victim.item != NULL && fn(ctx, &victim));
    policy_free(&copy);
    free(twins);
}
