/* Making room: who goes, and for whom. */
#include "cache/local/internal.h"

#include <stdlib.h>
#include <time.h>

#include "protocol/base.h"

enum {
    /* What took more than this of the tier and then found no room isn't tried again while it is
     * remembered: it would empty the tier each time. */
    TOO_LARGE_PERCENT = 50,
    LIMIT_SWAY = 8, /* a part of the limit: so much room may come free and it is too large still */
    EXPIRE_INTERVAL_S = 60,
};

/* Start to remove what is out of the policy; the lock is dropped meanwhile.  False: it is in use
 * and stays, out of the policy still: give_back_locked(). */
static bool remove_locked(struct local *l, struct record *r, bool force)
{
    char *path = xstrdup(r->path);
    enum entry_kind kind = r->kind;
    uint64_t size = r->item.size;
    bool removed;

    r->leaving = r->counted = true;
    l->leaving += size;
    lock_drop(&l->lock);
    removed = l->owners[kind].remove(l->owners[kind].ctx, path, force);
    if (removed && l->gone != NULL)
        l->gone(l->gone_ctx, kind, path);
    lock_take(&l->lock);
    r = record_find_locked(l, path);
    if (r != NULL && r->counted) { /* else it was published anew */
        record_uncount_locked(l, r);
        if (removed || r->gone)
            record_drop_locked(l, r);
    }
    pthread_cond_broadcast(&l->changed);
    free(path);
    return removed;
}

static void give_back_locked(struct local *l, const char *path)
{
    struct record *r = record_find_locked(l, path);

    if (r == NULL || !r->leaving || r->counted)
        return;
    r->leaving = false;
    record_put_in_locked(l, r);
    if (r->gone)
        record_forget_locked(l, r);
    pthread_cond_broadcast(&l->changed); /* local_remove() may wait for it */
}

/* Those who could not go must not be offered again and again, so they are given back at the end. */
struct refused {
    char **paths;
    size_t count;
};

static bool evict_one_locked(struct local *l, int64_t now_s, struct refused *refused)
{
    struct policy_victim victim = policy_evict(l->policy, now_s);
    struct record *r = (struct record *)victim.item;
    uint64_t size;
    char *path;

    if (r == NULL)
        return false;
    size = r->item.size;
    path = xstrdup(r->path);
    if (remove_locked(l, r, false)) {
        l->evicted++;
        l->evicted_bytes += size;
        free(path);
    } else {
        refused->paths = xrealloc(refused->paths, (refused->count + 1) * sizeof(char *));
        refused->paths[refused->count++] = path;
    }
    return true;
}

/* Until total and need are at most goal; NULL: the limit, whatever it becomes meanwhile.  False: it
 * can't be done. */
static bool make_room_locked(struct local *l, uint64_t need, const uint64_t *goal, int64_t now_s)
{
    struct refused refused = {0};
    bool made = true;

    while (made) {
        uint64_t total = local_total_locked(l) + need;
        uint64_t limit = goal != NULL ? *goal : l->limit;

        if (total <= limit)
            break;
        if (l->leaving > 0 && total - l->leaving <= limit) /* others are at it */
            lock_wait(&l->lock, &l->changed);
        else
            made = evict_one_locked(l, now_s, &refused);
    }
    for (size_t i = 0; i < refused.count; i++) {
        give_back_locked(l, refused.paths[i]);
        free(refused.paths[i]);
    }
    free(refused.paths);
    return made;
}

uint64_t local_evict(struct local *l, int64_t now_s, uint64_t goal)
{
    uint64_t before, after;

    local_measure_limit(l);
    lock_take(&l->lock);
    before = l->evicted_bytes;
    make_room_locked(l, 0, goal != UINT64_MAX ? &goal : NULL, now_s);
    after = l->evicted_bytes;
    lock_drop(&l->lock);
    return after - before;
}

static int remove_one(struct local *l, const char *path, bool force, int64_t used_s,
                      struct err *err)
{
    struct record *r;
    int rc = 0;

    lock_take(&l->lock);
    while ((r = record_find_locked(l, path)) != NULL && r->leaving)
        lock_wait(&l->lock, &l->changed);
    if (r == NULL) {
        rc = err_set(err, ERR_NOT_FOUND, "%s is not kept here", path);
    } else if (r->item.accessed > used_s) {
        rc = err_set(err, ERR_BUSY, "%s was used just now", path);
    } else if (r->pinned && !force) {
        rc = err_set(err, ERR_BUSY, "%s is pinned", path);
    } else {
        record_take_out_locked(l, r);
        if (!remove_locked(l, r, force)) {
            give_back_locked(l, path);
            rc = err_set(err, ERR_BUSY, "%s is %s, or can't be removed", path,
                         force ? "being made anew" : "in use");
        }
    }
    lock_drop(&l->lock);
    return rc;
}

int local_remove(struct local *l, const char *path, struct err *err)
{
    return remove_one(l, path, true, INT64_MAX, err);
}

int local_remove_unused(struct local *l, const char *path, int64_t used_s, struct err *err)
{
    return remove_one(l, path, false, used_s, err);
}

/* ---- claims ---- */

struct claim *local_claim_new(struct local *l)
{
    struct claim *c = xcalloc(1, sizeof(*c));

    c->local = l;
    return c;
}

void local_claim_for(struct claim *c, const char *path)
{
    c->id = path_id(path);
}

static bool was_too_large_locked(const struct local *l, uint64_t id)
{
    for (size_t i = 0; i < TOO_LARGE_MAX; i++)
        if (l->too_large[i].id == id && l->too_large[i].limit >= l->limit - l->limit / LIMIT_SWAY)
            return id != 0;
    return false;
}

static void note_too_large_locked(struct local *l, uint64_t id)
{
    if (id == 0)
        return;
    l->too_large[l->too_large_next].id = id;
    l->too_large[l->too_large_next].limit = l->limit;
    l->too_large_next = (l->too_large_next + 1) % TOO_LARGE_MAX;
}

int local_claim_grow(struct claim *c, uint64_t bytes, struct err *err)
{
    struct local *l = c->local;
    bool fits, known, crowded;

    local_measure_limit(l);
    lock_take(&l->lock);
    known = was_too_large_locked(l, c->id);
    fits = !known && c->bytes + bytes <= l->limit &&
           make_room_locked(l, bytes, NULL, (int64_t)time(NULL));
    /* What would hardly fit into a tier as large as it may be is not for the disk to answer. */
    crowded = l->crowded && !known && c->bytes + bytes <= l->asked / 100 * TOO_LARGE_PERCENT;
    if (fits) {
        c->bytes += bytes;
        l->claimed += bytes;
    } else if (!known && c->bytes + bytes > l->limit / 100 * TOO_LARGE_PERCENT) {
        note_too_large_locked(l, c->id);
    }
    lock_drop(&l->lock);
    if (fits)
        return 0;
    return crowded ? err_set(err, ERR_STORAGE, "the file system has no room left for the cache")
                   : err_set(err, ERR_LIMIT, "the cache has no room for it");
}

void local_claim_set(struct claim *c, uint64_t bytes)
{
    lock_take(&c->local->lock);
    c->local->claimed += bytes - c->bytes;
    c->bytes = bytes;
    lock_drop(&c->local->lock);
}

void local_claim_free(struct claim **cp)
{
    struct claim *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    local_claim_set(c, 0);
    free(c);
}

/* ---- what is over its time ---- */

void paths_add(struct paths *p, const char *path)
{
    p->items = xrealloc(p->items, (p->count + 1) * sizeof(char *));
    p->items[p->count++] = xstrdup(path);
}

void paths_clear(struct paths *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->items[i]);
    free(p->items);
    *p = (struct paths){0};
}

static bool is_expired_locked(const struct local *l, const struct record *r, int64_t now_s)
{
    int64_t ttl = l->limits.ttl_s[r->kind];

    return ttl > 0 && !r->leaving && !r->pinned && r->item.accessed + ttl < now_s;
}

static void list_expired_locked(struct local *l, int64_t now_s, struct paths *out)
{
    struct record *r, *next;

    HASH_ITER(hh, l->by_path, r, next)
    if (is_expired_locked(l, r, now_s))
        paths_add(out, r->path);
}

static void remove_expired(struct local *l, int64_t now_s)
{
    struct paths expired = {0};

    lock_take(&l->lock);
    list_expired_locked(l, now_s, &expired);
    for (size_t i = 0; i < expired.count; i++) {
        struct record *r = record_find_locked(l, expired.items[i]);
        uint64_t size;

        if (r == NULL || !is_expired_locked(l, r, now_s))
            continue;
        size = r->item.size;
        record_take_out_locked(l, r);
        if (remove_locked(l, r, false)) {
            l->evicted++;
            l->evicted_bytes += size;
        } else {
            give_back_locked(l, expired.items[i]);
        }
    }
    lock_drop(&l->lock);
    paths_clear(&expired);
}

void local_tick(struct local *l, int64_t now_s)
{
    if (local_write_index(l))
        local_measure_frame(l);
    if (now_s - l->expired_s >= EXPIRE_INTERVAL_S) {
        remove_expired(l, now_s);
        l->expired_s = now_s;
    }
    local_evict(l, now_s, UINT64_MAX);
}

struct preview {
    struct paths paths;
    const char **why;
    uint64_t total, goal;
};

static void preview_add(struct preview *p, const struct record *r, const char *why)
{
    p->why = xrealloc(p->why, (p->paths.count + 1) * sizeof(*p->why));
    p->why[p->paths.count] = why;
    paths_add(&p->paths, r->path);
    p->total -= r->item.size;
}

static bool preview_victim(void *ctx, const struct policy_victim *victim)
{
    struct preview *p = ctx;
    const struct record *r = (const struct record *)victim->item;

    if (p->total <= p->goal)
        return false;
    if (!r->expired)
        preview_add(p, r, victim->why);
    return true;
}

void local_preview(struct local *l, int64_t now_s, uint64_t goal, local_preview_fn *fn, void *ctx)
{
    struct preview p = {.goal = goal};
    struct record *r, *next;
    struct err ignored;

    local_write_index(l);
    local_measure_limit(l);
    lock_take(&l->lock);
    p.total = local_total_locked(l);
    p.goal = goal != UINT64_MAX ? goal : l->limit;
    HASH_ITER(hh, l->by_path, r, next)
    {
        r->expired = is_expired_locked(l, r, now_s);
        if (r->expired)
            preview_add(&p, r, "not used for its ttl");
    }
    policy_preview(l->policy, now_s, preview_victim, &p);
    lock_drop(&l->lock);
    for (size_t i = 0; i < p.paths.count; i++) {
        struct entry e = {0};
        int rc;

        local_take_index(l);
        rc = l->index != NULL ? index_get(l->index, p.paths.items[i], &e, &ignored) : -1;
        local_give_index(l);
        if (rc == 0)
            fn(ctx, &e, p.why[i]);
        entry_clear(&e);
    }
    paths_clear(&p.paths);
    free(p.why);
}
