#include "proxy/purge.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/decisions.h"
#include "proxy/log.h"
#include "proxy/refs.h"

/* ---- who keeps something ---- */

struct repository {
    struct key repo_id;
    uint64_t until;                 /* what was begun before this isn't kept */
    unsigned invalidating;          /* now */
    unsigned keeping;               /* now */
    struct repository *prev, *next; /* the one that was invalidated longest ago first */
    UT_hash_handle hh;
};

struct purges {
    struct lock lock;
    pthread_cond_t left;
    uint64_t now;   /* rises with each beginning and end */
    uint64_t floor; /* what was begun before this isn't kept, whatever it is of */
    struct repository *by_id, *by_age;
};

struct purges *purges_new(void)
{
    struct purges *all = xcalloc(1, sizeof(*all));

    lock_init(&all->lock, LOCK_PURGES);
    lock_cond_init(&all->left);
    all->now = 1;
    return all;
}

static void forget_locked(struct purges *all, struct repository *r)
{
    HASH_DEL(all->by_id, r);
    DL_DELETE(all->by_age, r);
    free(r);
}

void purges_free(struct purges **allp)
{
    struct purges *all = *allp;

    *allp = NULL;
    if (all == NULL)
        return;
    while (all->by_age != NULL)
        forget_locked(all, all->by_age);
    pthread_cond_destroy(&all->left);
    lock_clear(&all->lock);
    free(all);
}

uint64_t purges_now(struct purges *all)
{
    uint64_t now;

    lock_take(&all->lock);
    now = all->now;
    lock_drop(&all->lock);
    return now;
}

static struct repository *find_locked(struct purges *all, const struct key *repo_id)
{
    struct repository *r;

    HASH_FIND(hh, all->by_id, repo_id, sizeof(*repo_id), r);
    return r;
}

static struct repository *take_locked(struct purges *all, const struct key *repo_id)
{
    struct repository *r = find_locked(all, repo_id);

    if (r != NULL)
        return r;
    r = xcalloc(1, sizeof(*r));
    r->repo_id = *repo_id;
    HASH_ADD(hh, all->by_id, repo_id, sizeof(r->repo_id), r);
    DL_APPEND(all->by_age, r);
    return r;
}

/* Those that are of no use, or too many. */
static void trim_locked(struct purges *all)
{
    struct repository *r, *next;

    DL_FOREACH_SAFE(all->by_age, r, next)
    {
        if (r->invalidating > 0 || r->keeping > 0)
            continue;
        if (r->until != 0 && HASH_COUNT(all->by_id) <= PURGES_MAX)
            return;
        if (r->until > all->floor)
            all->floor = r->until;
        forget_locked(all, r);
    }
}

bool purges_enter(struct purges *all, const struct key *repo_id, uint64_t begun)
{
    const struct repository *known;
    bool may;

    lock_take(&all->lock);
    known = find_locked(all, repo_id);
    may = begun >= all->floor &&
          (known == NULL || (known->invalidating == 0 && begun >= known->until));
    if (may)
        take_locked(all, repo_id)->keeping++;
    lock_drop(&all->lock);
    return may;
}

void purges_leave(struct purges *all, const struct key *repo_id)
{
    struct repository *r;

    lock_take(&all->lock);
    r = find_locked(all, repo_id);
    must(r != NULL && r->keeping > 0);
    if (--r->keeping == 0)
        pthread_cond_broadcast(&all->left);
    if (r->keeping == 0 && r->invalidating == 0 && r->until == 0)
        forget_locked(all, r);
    lock_drop(&all->lock);
}

void purges_begin(struct purges *all, const struct key *repo_id)
{
    struct repository *r;

    lock_take(&all->lock);
    r = take_locked(all, repo_id);
    r->invalidating++;
    r->until = ++all->now;
    while (r->keeping > 0)
        lock_wait(&all->lock, &all->left);
    lock_drop(&all->lock);
}

void purges_end(struct purges *all, const struct key *repo_id)
{
    struct repository *r;

    lock_take(&all->lock);
    r = find_locked(all, repo_id);
    must(r != NULL && r->invalidating > 0);
    r->invalidating--;
    r->until = ++all->now;
    DL_DELETE(all->by_age, r);
    DL_APPEND(all->by_age, r);
    trim_locked(all);
    lock_drop(&all->lock);
}

/* ---- invalidating ---- */

struct task {
    struct proxy *proxy;
    const struct purge *what;
    struct purged *out;
    char repo_id[KEY_HEX_SIZE];
};

/* The mirror has the object, or can't tell: one that is damaged, or whose ids are of another kind.
 */
static bool mirror_may_have(const struct task *t, const char *path)
{
    struct mirror *m = mirrors_at(t->proxy->cache.mirrors, path);
    struct oid_list objects = {0};
    bool may = true;

    if (m != NULL && t->what->algo == HASH_SHA1 && mirror_ready(m)) {
        oid_list_add(&objects, &t->what->object);
        may = mirror_has_all(m, &objects);
        oid_list_clear(&objects);
    }
    mirror_unref(&m);
    return may;
}

static bool goes(void *ctx, const struct entry *e)
{
    const struct task *t = ctx;

    if (e->repo_id == NULL || strcmp(e->repo_id, t->repo_id) != 0)
        return false;
    switch (t->what->what) {
    case PURGE_REFS: return false;
    case PURGE_REF: return e->ref != NULL && strcmp(e->ref, t->what->ref) == 0;
    case PURGE_OBJECT: return e->kind == ENTRY_ANSWER || mirror_may_have(t, e->path);
    case PURGE_EVERYTHING: return true;
    }
    return true;
}

static bool went(void *ctx, const struct entry *e)
{
    const struct task *t = ctx;

    t->out->mirror = t->out->mirror || e->kind == ENTRY_MIRROR;
    return true;
}

static void log_done(const struct task *t)
{
    static const char *const words[] = {[PURGE_REFS] = "refs",
                                        [PURGE_REF] = "ref",
                                        [PURGE_OBJECT] = "object",
                                        [PURGE_EVERYTHING] = "everything"};
    const struct commands_removed *r = &t->out->removed;

    log_line(LOG_INFO, "invalidated", "repo_id", LOG_STR, t->repo_id, "what", LOG_STR,
             words[t->what->what], "ref", LOG_STR, t->what->ref, "entries", LOG_U64, r->entries,
             "shared_objects", LOG_U64, r->shared.objects, "reason", LOG_STR, t->what->reason,
             "who", LOG_STR, t->what->who, NULL);
}

int purge_here(struct proxy *p, const struct purge *what, struct purged *out, struct err *err)
{
    struct task t = {.proxy = p, .what = what, .out = out};
    bool everywhere = what->what == PURGE_OBJECT || what->what == PURGE_EVERYTHING;
    const struct commands_removal how = {
        .goes = goes,
        .went = went,
        .ctx = &t,
        .repo_ids = &what->repo_id,
        .repo_count = everywhere ? 1 : 0,
        .dry_run = what->dry_run,
    };
    int rc;

    *out = (struct purged){.mirror = false};
    key_to_hex(&what->repo_id, t.repo_id);
    if (what->dry_run)
        return commands_remove(&p->cache, &how, &out->removed, err);
    purges_begin(p->purges, &what->repo_id);
    decisions_forget(p->decisions, &what->repo_id);
    refs_forget(p->refs, &what->repo_id);
    rc = commands_remove(&p->cache, &how, &out->removed, err);
    purges_end(p->purges, &what->repo_id);
    if (rc == 0)
        log_done(&t);
    return rc;
}
