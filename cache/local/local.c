#include "cache/local/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"

/* ---- the table ---- */

uint64_t path_id(const char *path)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; *path != '\0'; path++)
        hash = (hash ^ (uint8_t)*path) * UINT64_C(1099511628211);
    return hash;
}

struct record *record_find_locked(struct local *l, const char *path)
{
    struct record *r;

    HASH_FIND_STR(l->by_path, path, r);
    return r;
}

static void note_change_locked(struct local *l, struct record *r)
{
    if (!r->changed)
        DL_APPEND(l->changes, r);
    r->changed = true;
}

void record_clear_change_locked(struct local *l, struct record *r)
{
    if (r->changed)
        DL_DELETE(l->changes, r);
    r->changed = false;
    if (r->put != NULL)
        entry_clear(r->put);
    free(r->put);
    r->put = NULL;
}

void record_take_out_locked(struct local *l, struct record *r)
{
    if (!r->pinned)
        policy_remove(l->policy, &r->item);
}

void record_put_in_locked(struct local *l, struct record *r)
{
    if (!r->pinned)
        policy_insert(l->policy, &r->item);
}

void record_pin_locked(struct local *l, struct record *r, bool pinned)
{
    if (r->pinned == pinned)
        return;
    if (!r->leaving)
        record_take_out_locked(l, r);
    r->pinned = pinned;
    if (!r->leaving)
        record_put_in_locked(l, r);
    l->pinned += pinned ? 1 : UINT64_MAX;
}

static void touch_locked(struct local *l, struct record *r, int64_t now_s)
{
    if (r->pinned) {
        r->item.accessed = now_s;
        r->item.accesses++;
    } else {
        policy_touch(l->policy, &r->item, now_s);
    }
}

struct record *record_add_locked(struct local *l, const struct entry *e)
{
    struct record *r = xcalloc(1, sizeof(*r));

    r->path = xstrdup(e->path);
    r->kind = e->kind;
    r->item.id = path_id(e->path);
    r->item.size = e->stored_size;
    r->item.accessed = e->accessed > 0 ? e->accessed : e->created;
    r->item.accesses = e->accesses;
    HASH_ADD_KEYPTR(hh, l->by_path, r->path, strlen(r->path), r);
    r->pinned = pins_hold_locked(l, e);
    l->pinned += r->pinned;
    record_put_in_locked(l, r);
    l->entries[r->kind]++;
    l->bytes[r->kind] += r->item.size;
    return r;
}

/* Takes path. */
void local_note_removed_locked(struct local *l, char *path)
{
    l->removed = xrealloc(l->removed, (l->removed_count + 1) * sizeof(*l->removed));
    l->removed[l->removed_count++] = path;
}

void record_uncount_locked(struct local *l, struct record *r)
{
    if (r->counted)
        l->leaving -= r->item.size;
    r->counted = false;
}

/* It is out of the policy already. */
void record_drop_locked(struct local *l, struct record *r)
{
    record_clear_change_locked(l, r);
    local_note_removed_locked(l, r->path);
    l->pinned -= r->pinned;
    l->entries[r->kind]--;
    l->bytes[r->kind] -= r->item.size;
    HASH_DEL(l->by_path, r);
    free(r);
}

static void resize_locked(struct local *l, struct record *r, uint64_t size)
{
    l->bytes[r->kind] += size - r->item.size;
    if (r->leaving) {
        record_uncount_locked(l, r);
        r->item.size = size;
    } else if (r->pinned) {
        r->item.size = size;
    } else {
        policy_resize(l->policy, &r->item, size);
    }
}

void local_publish(struct local *l, const struct entry *e, struct claim **claim)
{
    struct record *r;

    lock_take(&l->lock);
    r = record_find_locked(l, e->path);
    if (r == NULL) {
        struct entry unused = *e; /* borrowed strings */

        /* Who asked while it was made counts, but doesn't make it one that has proved itself. */
        unused.accesses = 0;
        r = record_add_locked(l, &unused);
        for (uint64_t i = 0; i < e->accesses; i++)
            touch_locked(l, r, r->item.accessed);
    } else {
        resize_locked(l, r, e->stored_size);
        if (r->leaving) { /* who is removing it has come too late */
            r->leaving = r->gone = false;
            record_put_in_locked(l, r);
        }
    }
    r->seen = l->scan;
    record_clear_change_locked(l, r);
    r->put = xmalloc(sizeof(*r->put));
    entry_copy(e, r->put);
    note_change_locked(l, r);
    if (claim != NULL && *claim != NULL) {
        /* Within the lock: counted twice it would have others evicted. */
        l->claimed -= (*claim)->bytes;
        (*claim)->bytes = 0;
    }
    lock_drop(&l->lock);
    if (claim != NULL)
        local_claim_free(claim);
    if (l->published != NULL)
        l->published(l->published_ctx, e->kind, e->path);
}

void local_set_listener(struct local *l, local_published_fn *fn, void *ctx)
{
    l->published = fn;
    l->published_ctx = ctx;
}

void local_set_gone_listener(struct local *l, local_published_fn *fn, void *ctx)
{
    l->gone = fn;
    l->gone_ctx = ctx;
}

void local_touch(struct local *l, const char *path)
{
    struct record *r;
    int64_t now = (int64_t)time(NULL);

    lock_take(&l->lock);
    r = record_find_locked(l, path);
    if (r != NULL && !r->leaving) {
        touch_locked(l, r, now);
        note_change_locked(l, r);
    }
    lock_drop(&l->lock);
}

void record_forget_locked(struct local *l, struct record *r)
{
    if (r->leaving) {
        r->gone = true;
        return;
    }
    record_take_out_locked(l, r);
    record_drop_locked(l, r);
}

void local_forget(struct local *l, const char *path)
{
    enum entry_kind kind = ENTRY_ANSWER;
    struct record *r;

    lock_take(&l->lock);
    r = record_find_locked(l, path);
    if (r != NULL) {
        kind = r->kind;
        record_forget_locked(l, r);
    }
    lock_drop(&l->lock);
    if (r != NULL && l->gone != NULL)
        l->gone(l->gone_ctx, kind, path);
}

/* ---- for people ---- */

void local_usage(struct local *l, struct local_usage *out)
{
    lock_take(&l->lock);
    *out = (struct local_usage){
        .filling = l->claimed,
        .frame = l->frame,
        .total = local_total_locked(l),
        .limit = l->limit,
        .evicted = l->evicted,
        .evicted_bytes = l->evicted_bytes,
        .pinned = l->pinned,
    };
    memcpy(out->entries, l->entries, sizeof(out->entries));
    memcpy(out->bytes, l->bytes, sizeof(out->bytes));
    lock_drop(&l->lock);
}

/* ---- start and end ---- */

static int load_one(void *ctx, const struct entry *e)
{
    struct local *l = ctx;

    lock_take(&l->lock);
    if (record_find_locked(l, e->path) == NULL)
        record_add_locked(l, e);
    lock_drop(&l->lock);
    return 0;
}

struct local *local_open(struct folder *folder, const struct local_limits *limits)
{
    struct local *l = xcalloc(1, sizeof(*l));

    l->folder = folder;
    l->limits = *limits;
    lock_init(&l->lock, LOCK_LOCAL);
    lock_cond_init(&l->changed);
    l->policy = policy_new(limits->policy, UINT64_MAX, limits->max_age_s);
    pins_load(l);
    local_load_index(l, load_one);
    local_measure_frame(l);
    local_measure_limit(l);
    return l;
}

void local_close(struct local **lp)
{
    struct local *l = *lp;
    struct record *r, *next;

    *lp = NULL;
    if (l == NULL)
        return;
    local_write_index(l);
    index_close(&l->index);
    HASH_ITER(hh, l->by_path, r, next)
    {
        HASH_DEL(l->by_path, r);
        record_take_out_locked(l, r);
        record_clear_change_locked(l, r);
        free(r->path);
        free(r);
    }
    for (size_t i = 0; i < l->removed_count; i++)
        free(l->removed[i]);
    free(l->removed);
    policy_free(&l->policy);
    pins_clear(l);
    pthread_cond_destroy(&l->changed);
    lock_clear(&l->lock);
    free(l);
}

void local_set_owner(struct local *l, enum entry_kind kind, const struct local_owner *owner)
{
    l->owners[kind] = *owner;
}

void local_configure(struct local *l, const struct local_limits *limits)
{
    lock_take(&l->lock);
    if (limits->policy != l->limits.policy || limits->max_age_s != l->limits.max_age_s) {
        struct policy *fresh = policy_new(limits->policy, l->limit, limits->max_age_s);

        for (struct policy_victim v = policy_evict(l->policy, 0); v.item != NULL;
             v = policy_evict(l->policy, 0))
            policy_insert(fresh, v.item);
        policy_free(&l->policy);
        l->policy = fresh;
    }
    l->limits = *limits;
    lock_drop(&l->lock);
    local_measure_limit(l);
}
