#include "cache/invalidate.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

/* What is to go: first all, then away with them, as what is walked stays as it is meanwhile. */
struct removal {
    struct entry *entries; /* their number is bounded by what the disk holds */
    size_t count, room;
};

static int collect(void *ctx, const struct entry *e)
{
    struct removal *r = ctx;

    if (r->count == r->room) {
        r->room = r->room > 0 ? 2 * r->room : 64;
        r->entries = xrealloc(r->entries, r->room * sizeof(*r->entries));
    }
    entry_copy(e, &r->entries[r->count++]);
    return 0;
}

/* True when the mirror is whole and lacks the object: then it may stay. */
static bool is_without(struct cache *c, const struct entry *e, const char *object)
{
    struct mirror *m = mirrors_at(c->mirrors, e->path);
    struct oid oid;
    bool without = m != NULL && oid_from_hex(HASH_SHA1, object, strlen(object), &oid) &&
                   mirror_ready(m) && mirror_lacks(m, &oid);

    mirror_unref(&m);
    return without;
}

static int remove_one(struct cache *c, const struct invalidation *what, const struct entry *e,
                      struct invalidated *out, struct err *err)
{
    if (what->scope == SCOPE_OBJECT && e->kind == ENTRY_MIRROR && is_without(c, e, what->object))
        return 0;
    if (!what->dry_run && local_remove(c->local, e->path, err) != 0)
        return err->kind == ERR_NOT_FOUND ? 0 : -1;
    out->answers += e->kind == ENTRY_ANSWER;
    out->mirrors += e->kind == ENTRY_MIRROR;
    out->bytes += e->stored_size;
    out->size += e->size;
    return 0;
}

/* Mirrors that are not there yet. */
static void remove_unborn(struct cache *c, const struct invalidation *what)
{
    struct key repo_id;

    if (what->scope == SCOPE_EVERYTHING)
        mirrors_remove_all(c->mirrors);
    else if (key_from_hex(what->repo_id, &repo_id))
        mirrors_remove_unborn(c->mirrors, &repo_id);
}

static int unpin(struct cache *c, const struct invalidation *what, struct err *err)
{
    return local_unpin_older(c->local, what->repo_id, what->unpin_s, err) == 0 ||
                   err->kind == ERR_NOT_FOUND
               ? 0
               : -1;
}

int cache_invalidate(struct cache *c, const struct invalidation *what, struct invalidated *out,
                     struct err *err)
{
    struct removal r = {0};
    struct err why, unpinning;
    int rc, unpinned = 0;

    *out = (struct invalidated){0};
    if (!what->dry_run)
        atomic_fetch_add(&c->epoch, 1);
    if (what->scope == SCOPE_REF)
        return 0;
    if (!what->dry_run) {
        answers_let_go(c->answers);
        remove_unborn(c, what);
        if (what->unpin_s > 0)
            unpinned = unpin(c, what, &unpinning);
    }
    rc = what->scope == SCOPE_EVERYTHING ? local_each(c->local, collect, &r, err)
                                         : local_each_of(c->local, what->repo_id, collect, &r, err);
    for (size_t i = 0; i < r.count; i++) {
        /* What can't be removed keeps nothing else here. */
        if (remove_one(c, what, &r.entries[i], out, &why) != 0 && rc == 0) {
            *err = why;
            rc = -1;
        }
        entry_clear(&r.entries[i]);
    }
    free(r.entries);
    if (rc == 0 && unpinned != 0)
        *err = unpinning;
    return rc != 0 || unpinned != 0 ? -1 : 0;
}

uint64_t cache_epoch(const struct cache *c)
{
    return atomic_load(&c->epoch);
}
