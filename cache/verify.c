#include "cache/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "protocol/base.h"

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

struct verification {
    struct cache *cache;
    const struct cache_verify *how;
    uint64_t done, total; /* bytes */
};

static bool stopped(const struct verification *v)
{
    return v->how->stop != NULL && *v->how->stop;
}

static void progress(const struct verification *v, uint64_t total)
{
    v->how->progress(v->how->ctx, v->done, total);
}

static int verify_one(void *ctx, const struct entry *e)
{
    struct verification *v = ctx;
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
    return stopped(v);
}

int cache_verify(struct cache *c, const struct cache_verify *how, struct err *err)
{
    struct verification v = {.cache = c, .how = how};
    struct local_usage usage;
    int rc;

    local_usage(c->local, &usage);
    for (int kind = 0; kind < ENTRY_KINDS_COUNT; kind++)
        v.total += usage.bytes[kind];
    progress(&v, v.total);
    rc = local_each(c->local, verify_one, &v, err);
    if (rc == 0)
        progress(&v, v.done);
    return rc < 0 ? -1 : 0;
}
