/* What changed goes into the index, now and then. */
#include "cache/local/internal.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum { BATCH = 256 }; /* entries that are copied at once, some 100 KiB */

void local_take_index(struct local *l)
{
    lock_take(&l->lock);
    while (l->index_busy)
        lock_wait(&l->lock, &l->changed);
    l->index_busy = true;
    lock_drop(&l->lock);
}

void local_give_index(struct local *l)
{
    lock_take(&l->lock);
    l->index_busy = false;
    pthread_cond_broadcast(&l->changed);
    lock_drop(&l->lock);
}

/* What one record's row becomes. */
struct change {
    char *path;
    struct entry *put; /* NULL: only the access */
    int64_t accessed;
    uint64_t accesses, size;
};

struct changes {
    struct change *items;
    size_t count;
    char **removed;
    size_t removed_count;
};

static void take_changes(struct local *l, struct changes *out)
{
    struct record *r, *next;

    *out = (struct changes){0};
    lock_take(&l->lock);
    DL_FOREACH(l->changes, r)
    out->count++;
    out->items = xcalloc(out->count, sizeof(*out->items));
    out->count = 0;
    DL_FOREACH_SAFE(l->changes, r, next)
    {
        out->items[out->count++] = (struct change){
            .path = xstrdup(r->path),
            .put = r->put,
            .accessed = r->item.accessed,
            .accesses = r->item.accesses,
            .size = r->item.size,
        };
        r->put = NULL;
        record_clear_change_locked(l, r);
    }
    out->removed = l->removed;
    out->removed_count = l->removed_count;
    l->removed = NULL;
    l->removed_count = 0;
    lock_drop(&l->lock);
}

static void clear_changes(struct changes *c)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->items[i].put != NULL)
            entry_clear(c->items[i].put);
        free(c->items[i].put);
        free(c->items[i].path);
    }
    for (size_t i = 0; i < c->removed_count; i++)
        free(c->removed[i]);
    free(c->items);
    free(c->removed);
}

static int write_changes(struct index *x, const struct changes *c, struct err *err)
{
    int rc = index_begin(x, err);

    /* Removals first: what was published anew under the same path comes after. */
    for (size_t i = 0; i < c->removed_count && rc == 0; i++)
        rc = index_remove(x, c->removed[i], err);
    for (size_t i = 0; i < c->count && rc == 0; i++) {
        const struct change *change = &c->items[i];

        if (change->put != NULL) {
            change->put->accessed = change->accessed;
            change->put->accesses = change->accesses;
            change->put->stored_size = change->size;
            rc = index_put(x, change->put, err);
        } else {
            rc = index_touch(x, change->path, change->accessed, change->accesses, err);
        }
    }
    if (rc == 0)
        rc = index_commit(x, err);
    if (rc != 0)
        index_rollback(x);
    return rc;
}

/* It lacks things that are known here. */
static void lose_index(struct local *l)
{
    lock_take(&l->lock);
    l->index_lost = true;
    l->scanned = false;
    lock_drop(&l->lock);
}

/* Between local_take_index() and local_give_index(), as is all that follows. */
static bool open_index(struct local *l)
{
    char *path = folder_pathf(l->folder, "index.db");
    bool fresh = false;
    struct err why;

    if (l->index == NULL && index_open(path, &l->index, &fresh, &why) != 0) {
        l->index = NULL;
        folder_report_trouble(l->folder, FOLDER_INDEX, &why);
    }
    if (l->index == NULL || fresh)
        lose_index(l);
    free(path);
    return l->index != NULL;
}

/* The index can be made from the files at any time, so what could not be written is not kept: the
 * next scan makes up for it. */
static void index_failed(struct local *l, const struct err *why)
{
    char *path = folder_pathf(l->folder, "index.db");

    lose_index(l);
    if (why->kind == ERR_CORRUPT) {
        folder_report_damage(l->folder, path, why);
        index_close(&l->index);
        open_index(l);
    } else {
        folder_report_trouble(l->folder, FOLDER_INDEX, why);
    }
    free(path);
}

void local_load_index(struct local *l, int (*fn)(void *ctx, const struct entry *e))
{
    struct err why;

    local_take_index(l);
    if (open_index(l) && index_each(l->index, fn, l, &why) != 0)
        index_failed(l, &why);
    local_give_index(l);
}

/* Touching and removing what the index doesn't have writes nothing, and so proves nothing. */
static bool proves_disk(const struct changes *c)
{
    bool puts = false;

    for (size_t i = 0; i < c->count; i++)
        puts = puts || c->items[i].put != NULL;
    return puts;
}

/* True when there was something. */
bool local_write_index(struct local *l)
{
    struct changes changes;
    struct err why;
    bool any;

    local_take_index(l);
    take_changes(l, &changes);
    any = changes.count + changes.removed_count > 0;
    if (any) {
        if (!open_index(l))
            ; /* that was said */
        else if (write_changes(l->index, &changes, &why) != 0)
            index_failed(l, &why);
        else if (proves_disk(&changes))
            folder_report_success(l->folder, FOLDER_INDEX);
    }
    local_give_index(l);
    clear_changes(&changes);
    return any;
}

int local_each_row(struct local *l, int (*fn)(void *ctx, const struct entry *e), void *ctx,
                   struct err *err)
{
    int rc;

    local_write_index(l);
    local_take_index(l);
    rc = open_index(l) ? index_each(l->index, fn, ctx, err)
                       : err_set(err, ERR_STORAGE, "the index can't be opened");
    if (rc == -1 && l->index != NULL)
        index_failed(l, err);
    local_give_index(l);
    return rc;
}

/* ---- walking over all ---- */

struct place {
    int64_t accessed;
    char *path;
};

static int by_access(const void *a, const void *b)
{
    const struct place *left = a, *right = b;

    if (left->accessed != right->accessed)
        return left->accessed < right->accessed ? -1 : 1;
    return strcmp(left->path, right->path);
}

static struct place *list_places(struct local *l, size_t *count)
{
    struct place *places;
    struct record *r, *next;
    size_t n = 0;

    lock_take(&l->lock);
    places = xcalloc(HASH_COUNT(l->by_path) + 1, sizeof(*places));
    HASH_ITER(hh, l->by_path, r, next)
    places[n++] = (struct place){r->item.accessed, xstrdup(r->path)};
    lock_drop(&l->lock);
    qsort(places, n, sizeof(*places), by_access);
    *count = n;
    return places;
}

/* Copies of the entries at so many places; those that went meanwhile are left out.  -1: the index
 * fails. */
static int copy_entries(struct local *l, const struct place *places, size_t n, struct entry *out,
                        size_t *count, struct err *err)
{
    int rc = 0;

    *count = 0;
    local_take_index(l);
    if (!open_index(l))
        rc = err_set(err, ERR_STORAGE, "the index can't be opened");
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (index_get(l->index, places[i].path, &out[*count], err) == 0)
            (*count)++;
        else if (err->kind != ERR_NOT_FOUND)
            rc = -1;
    }
    if (rc != 0 && l->index != NULL)
        index_failed(l, err);
    local_give_index(l);
    return rc;
}

int local_each(struct local *l, int (*fn)(void *ctx, const struct entry *e), void *ctx,
               struct err *err)
{
    struct entry batch[BATCH];
    struct place *places;
    size_t places_count, count;
    int rc = 0;

    local_write_index(l);
    places = list_places(l, &places_count);
    for (size_t at = 0; at < places_count && rc == 0; at += BATCH) {
        size_t n = places_count - at < BATCH ? places_count - at : BATCH;

        rc = copy_entries(l, places + at, n, batch, &count, err);
        for (size_t i = 0; i < count; i++) {
            if (rc == 0)
                rc = fn(ctx, &batch[i]);
            entry_clear(&batch[i]);
        }
    }
    for (size_t i = 0; i < places_count; i++)
        free(places[i].path);
    free(places);
    return rc;
}

struct copies {
    struct entry *entries;
    size_t count;
};

static int copy_one(void *ctx, const struct entry *e)
{
    struct copies *c = ctx;

    if ((c->count & (c->count - 1)) == 0)
        c->entries = xrealloc(c->entries, (c->count > 0 ? 2 * c->count : 1) * sizeof(*c->entries));
    entry_copy(e, &c->entries[c->count++]);
    return 0;
}

int local_each_of(struct local *l, const char *repo_id, int (*fn)(void *ctx, const struct entry *e),
                  void *ctx, struct err *err)
{
    struct copies copies = {0};
    int rc;

    local_write_index(l);
    local_take_index(l);
    rc = open_index(l) ? index_each_of(l->index, repo_id, copy_one, &copies, err)
                       : err_set(err, ERR_STORAGE, "the index can't be opened");
    if (rc == -1 && l->index != NULL)
        index_failed(l, err);
    local_give_index(l);
    for (size_t i = 0; i < copies.count; i++) {
        if (rc == 0)
            rc = fn(ctx, &copies.entries[i]);
        entry_clear(&copies.entries[i]);
    }
    free(copies.entries);
    return rc;
}
