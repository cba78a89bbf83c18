#include "cache/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "protocol/base.h"

/* Entries that are copied at once, about: half a KiB of memory for each. */
enum { PART = 16384 };

static bool is_gone(const struct cache *c, const struct entry *e)
{
    char *path = folder_pathf(c->folder, "%s", e->path);
    bool gone = access(path, F_OK) != 0 && errno == ENOENT;

    free(path);
    return gone;
}

int cache_verify_entry(struct cache *c, const struct entry *e, struct err *err)
{
    struct mirror *m;
    int rc;

    if (e->kind == ENTRY_ANSWER)
        return answers_verify(c->answers, e->path, err);
    m = mirrors_at(c->mirrors, e->path);
    if (m == NULL)
        return err_set(err, ERR_CORRUPT, "no mirror can lie at %s", e->path);
    rc = mirror_verify(m, err);
    mirror_unref(&m);
    /* One that is dropped while it is read looks damaged. */
    return rc != 0 && is_gone(c, e) ? 0 : rc;
}

/* Entries are copied before they are verified: whoever walks them keeps the index to itself.  They
 * are walked once for each part of them, so that not all are copied at once. */
struct verification {
    struct cache *cache;
    const struct cache_verify *how;
    uint64_t done, total; /* bytes */
    uint64_t part, parts;
    struct entry *entries;
    size_t count, capacity;
};

static bool stopped(const struct verification *v)
{
    return v->how->stop != NULL && *v->how->stop;
}

/* Which part a path belongs to, in each walk the same (FNV-1a). */
static uint64_t part_of(const struct verification *v, const char *path)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (; *path != '\0'; path++)
        hash = (hash ^ (unsigned char)*path) * UINT64_C(1099511628211);
    return hash % v->parts;
}

static int take(void *ctx, const struct entry *e)
{
    struct verification *v = ctx;

    if (part_of(v, e->path) != v->part)
        return 0;
    if (v->count == v->capacity) {
        v->capacity = v->capacity > 0 ? 2 * v->capacity : 64;
        v->entries = xrealloc(v->entries, v->capacity * sizeof(*v->entries));
    }
    entry_copy(e, &v->entries[v->count++]);
    return 0;
}

static void progress(const struct verification *v, uint64_t total)
{
    v->how->progress(v->how->ctx, v->done, total);
}

static void verify_one(struct verification *v, const struct entry *e)
{
    struct cache_finding finding = {.entry = e};
    struct err why, ignored;

    if (cache_verify_entry(v->cache, e, &why) != 0 && why.kind != ERR_CANCELLED) {
        finding.why = &why;
        finding.repaired = v->how->repair && why.kind == ERR_CORRUPT &&
                           local_remove(v->cache->local, e->path, &ignored) == 0;
        v->how->finding(v->how->ctx, &finding);
    }
    v->done += e->stored_size;
    progress(v, v->done < v->total ? v->total : v->done);
}

static void verify_taken(struct verification *v)
{
    for (size_t i = 0; i < v->count; i++) {
        if (!stopped(v))
            verify_one(v, &v->entries[i]);
        entry_clear(&v->entries[i]);
    }
    v->count = 0;
}

int cache_verify(struct cache *c, const struct cache_verify *how, struct err *err)
{
    struct verification v = {.cache = c, .how = how};
    struct local_usage usage;
    uint64_t entries = 0;
    int rc = 0;

    local_usage(c->local, &usage);
    for (int kind = 0; kind < ENTRY_KINDS_COUNT; kind++) {
        entries += usage.entries[kind];
        v.total += usage.bytes[kind];
    }
    v.parts = entries / PART + 1;
    progress(&v, v.total);
    for (; v.part < v.parts && rc == 0 && !stopped(&v); v.part++) {
        rc = local_each(c->local, take, &v, err);
        verify_taken(&v);
    }
    if (rc == 0 && !stopped(&v))
        progress(&v, v.done);
    free(v.entries);
    return rc;
}
