#include "cache/shared/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "cache/shared/manifest.h"
#include "cache/workers.h"
#include "protocol/base.h"

enum {
    TICK_MS = 1000,
    DEMOTE_MS = 10 * 1000, /* between two looks at what is large and cold */
    /* How long a repository counts as having no mirror in the store.  A glance then costs nothing,
     * and what another node puts meanwhile is found a bit later. */
    LACKS_MS = 30 * 1000,
    LACKS_MAX = 256,
};

struct lack {
    struct key repo_id;
    uint64_t until_ms;
};

struct shared {
    struct cache *cache;
    struct shared_listener listener;
    char *node;
    enum compression compression;
    uint64_t tidy_interval_ms; /* as the keeper has it */
    size_t upload_queue;

    struct object_store *store; /* behind the guard */
    struct guard *guard;
    struct uploads *uploads;
    struct keeper *keeper;
    struct workers *chores; /* one thread: tidying may take long, and probing must go on */
    pthread_t clock;
    atomic_bool stop;

    struct lock lock;
    pthread_cond_t stop_wanted;
    struct lack lacks[LACKS_MAX];
    size_t lacks_next;
    struct keeper_round round;
    uint64_t removed, removed_bytes; /* in all rounds */

    /* The clock's own. */
    uint64_t tidy_ms, demote_ms;

    atomic_uint_fast64_t hits, misses, restored, damaged, demoted;
};

static int64_t now_s(void)
{
    return (int64_t)time(NULL);
}

static void report_damage(struct shared *s, const char *what, const struct err *why)
{
    atomic_fetch_add(&s->damaged, 1);
    s->listener.damage(s->listener.ctx, what, why);
}

/* ---- up ---- */

/* Our failure, or one that another try would meet again. */
static bool is_final(const struct err *why)
{
    switch (why->kind) {
    case ERR_BUSY:
    case ERR_TIMEOUT:
    case ERR_UPSTREAM:
    case ERR_DENIED: return false;
    default: return true;
    }
}

/* Gone meanwhile, there already, or the end of the program. */
static bool is_of_no_interest(const struct err *why)
{
    return why->kind == ERR_NOT_FOUND || why->kind == ERR_CONFLICT || why->kind == ERR_CANCELLED;
}

static int put_answer(struct shared *s, const char *path, uint64_t *sent, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char *full = folder_pathf(s->cache->folder, "%s", path);
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    struct key key;
    int rc;

    free(full);
    if (slash == NULL || !key_from_hex(slash + 1, &key))
        rc = err_set(err, ERR_NOT_FOUND, "%s is no answer", path);
    else if (fd < 0)
        rc = err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_STORAGE, "open %s", path);
    else
        rc = shared_answer_put(s->store, &key, fd, &s->stop, sent, err);
    if (fd >= 0)
        close(fd);
    if (rc != 0 && err->kind == ERR_CORRUPT) {
        struct err ignored;

        folder_report_damage(s->cache->folder, path, err);
        local_remove(s->cache->local, path, &ignored);
    }
    return rc;
}

static int put_mirror(struct shared *s, const char *path, uint64_t *sent, struct err *err)
{
    const struct shared_mirror_put_options options = {
        .node = s->node, .compression = s->compression, .stop = &s->stop};
    struct mirror *m = mirrors_at(s->cache->mirrors, path);
    struct shared_mirror_sent what = {0};
    int rc;

    if (m == NULL || !mirror_ready(m)) {
        rc = err_set(err, ERR_NOT_FOUND, "%s is no mirror", path);
    } else {
        rc = shared_mirror_put(s->store, m, &options, &what, err);
        if (rc != 0 && err->kind == ERR_CORRUPT)
            mirror_drop_damaged(m, err);
    }
    *sent = what.bytes;
    mirror_unref(&m);
    return rc;
}

static bool upload(void *ctx, enum entry_kind kind, const char *path)
{
    struct shared *s = ctx;
    uint64_t started = now_us(), sent = 0;
    bool conditions = object_store_has_conditions(s->store);
    struct err why;
    int rc =
        kind == ENTRY_ANSWER ? put_answer(s, path, &sent, &why) : put_mirror(s, path, &sent, &why);

    if (rc == 0 && sent > 0)
        s->listener.uploaded(s->listener.ctx, path, sent, now_us() - started);
    /* The store knows no conditions, which shows with the first: again, without. */
    if (rc != 0 && why.kind == ERR_REFUSED && conditions && !object_store_has_conditions(s->store))
        return false;
    if (rc != 0 && !is_of_no_interest(&why))
        s->listener.not_uploaded(s->listener.ctx, path, &why);
    return rc == 0 || is_final(&why);
}

static void on_published(void *ctx, enum entry_kind kind, const char *path)
{
    struct shared *s = ctx;

    uploads_add(s->uploads, kind, path);
}

/* ---- down ---- */

int shared_get_answer(struct shared *s, const char *repo_id, const struct key *key,
                      const struct shared_answer_sink *sink, struct err *err)
{
    char object[OBJECT_KEY_MAX + 1];
    struct err ignored;
    int rc = shared_answer_get(s->store, repo_id, key, sink, err);

    shared_answer_key(repo_id, key, object);
    if (rc == 0) {
        atomic_fetch_add(&s->hits, 1);
        keeper_used(s->keeper, object, now_s());
    } else if (err->kind == ERR_NOT_FOUND) {
        atomic_fetch_add(&s->misses, 1);
    } else if (err->kind == ERR_CORRUPT) {
        object_remove(s->store, object, &ignored);
        report_damage(s, object, err);
    }
    return rc;
}

static void note_lack(struct shared *s, const struct key *repo_id)
{
    lock_take(&s->lock);
    s->lacks[s->lacks_next] = (struct lack){*repo_id, now_ms() + LACKS_MS};
    s->lacks_next = (s->lacks_next + 1) % LACKS_MAX;
    lock_drop(&s->lock);
}

static bool lacks(struct shared *s, const struct key *repo_id)
{
    uint64_t now = now_ms();
    bool found = false;

    lock_take(&s->lock);
    for (size_t i = 0; i < LACKS_MAX && !found; i++)
        found = s->lacks[i].until_ms > now &&
                memcmp(&s->lacks[i].repo_id, repo_id, sizeof(*repo_id)) == 0;
    lock_drop(&s->lock);
    return found;
}

bool shared_can_answer(struct shared *s, const char *repo_id, const struct key *key)
{
    char object[OBJECT_KEY_MAX + 1];
    struct object_info info;
    struct key repo;
    bool has = false;
    struct err why;

    shared_answer_key(repo_id, key, object);
    if (object_head(s->store, object, &info, &why) == 0)
        return true;
    if (why.kind != ERR_NOT_FOUND || !key_from_hex(repo_id, &repo) || lacks(s, &repo))
        return false;
    if (shared_mirror_has(s->store, &repo, &has, &why) == 0 && !has)
        note_lack(s, &repo);
    return has;
}

bool shared_may_restore(struct shared *s, const struct key *repo_id)
{
    return !guard_open(s->guard, NULL) && !lacks(s, repo_id);
}

int shared_restore(struct shared *s, struct mirror *m, const struct key *repo_id,
                   shared_mirror_tick_fn *tick, void *ctx, struct shared_mirror_got *out,
                   struct err *err)
{
    char manifest[OBJECT_KEY_MAX + 1];
    int rc;

    if (!shared_may_restore(s, repo_id))
        return err_set(err, ERR_NOT_FOUND, "the shared tier has no mirror");
    rc = shared_mirror_restore(s->store, m, repo_id, tick, ctx, out, err);
    manifest_key(repo_id, manifest);
    if (rc == 0) {
        atomic_fetch_add(&s->restored, 1);
        keeper_used(s->keeper, manifest, now_s());
    } else if (err->kind == ERR_NOT_FOUND) {
        note_lack(s, repo_id);
    } else if (err->kind == ERR_CORRUPT) {
        report_damage(s, manifest, err);
    }
    return rc;
}

bool shared_settle(struct shared *s, uint64_t deadline_ms)
{
    return uploads_settle(s->uploads, uploads_begun(s->uploads), deadline_ms);
}

int shared_remove_repository(struct shared *s, const struct key *repo_id,
                             struct shared_removed *out, struct err *err)
{
    return shared_remove(s->store, repo_id, &s->stop, out, err);
}

/* ---- the clock ---- */

static void tidy(void *ctx)
{
    struct shared *s = ctx;
    uint64_t started = now_us();
    struct keeper_round round;
    struct err ignored; /* of the store's, which the guard tells */

    if (keeper_tidy(s->keeper, now_s(), &s->stop, &round, &ignored) != 0 || !round.held)
        return;
    lock_take(&s->lock);
    s->round = round;
    s->removed += round.removed;
    s->removed_bytes += round.removed_bytes;
    lock_drop(&s->lock);
    s->listener.tidied(s->listener.ctx, &round, now_us() - started);
}

static int has_all_of_mirror(void *ctx, const char *path, bool *has, struct err *err)
{
    struct shared *s = ctx;
    struct mirror *m = mirrors_at(s->cache->mirrors, path);
    int rc = 0;

    *has = true; /* of what has gone meanwhile nothing is missing */
    if (m != NULL && mirror_ready(m))
        rc = shared_mirror_has_all(s->store, m, has, err);
    mirror_unref(&m);
    return rc;
}

static void demote(void *ctx)
{
    struct shared *s = ctx;
    struct keeper_demoted what;
    struct err ignored;

    if (keeper_demote(s->keeper, now_s(), &s->stop, on_published, s, &what, &ignored) != 0 ||
        what.entries == 0)
        return;
    atomic_fetch_add(&s->demoted, what.entries);
    s->listener.demoted(s->listener.ctx, &what);
}

/* A chore that is under way keeps the others waiting for their next time. */
static void do_if_due(struct shared *s, uint64_t *at_ms, uint64_t interval_ms, worker_fn *fn)
{
    uint64_t now = now_ms();

    if (now < *at_ms || workers_load(s->chores) > 0 || guard_open(s->guard, NULL))
        return;
    *at_ms = now + interval_ms;
    workers_submit(s->chores, fn, s);
}

struct leftover {
    struct shared *shared;
    size_t skip; /* of the oldest: the queue has no room for more */
};

static int add_leftover(void *ctx, const struct entry *e)
{
    struct leftover *l = ctx;

    if (l->skip > 0)
        l->skip--;
    else
        uploads_add(l->shared->uploads, e->kind, e->path);
    return l->shared->stop;
}

/* What waited when this node ended, however it did, goes up now: the latest that lie here.  What is
 * there already costs a glance each. */
static void resume(struct shared *s)
{
    struct leftover l = {.shared = s};
    struct local_usage usage;
    uint64_t count = 0;
    struct err ignored;

    local_usage(s->cache->local, &usage);
    for (size_t i = 0; i < ENTRY_KINDS_COUNT; i++)
        count += usage.entries[i];
    l.skip = count > s->upload_queue ? count - s->upload_queue : 0;
    local_each(s->cache->local, add_leftover, &l, &ignored);
}

static void *keep_time(void *ctx)
{
    struct shared *s = ctx;

    guard_probe(s->guard, now_ms(), true);
    resume(s);
    lock_take(&s->lock);
    while (!s->stop) {
        lock_wait_until(&s->lock, &s->stop_wanted, now_ms() + TICK_MS);
        if (s->stop)
            break;
        lock_drop(&s->lock);
        guard_probe(s->guard, now_ms(), false);
        do_if_due(s, &s->demote_ms, DEMOTE_MS, demote);
        do_if_due(s, &s->tidy_ms, s->tidy_interval_ms, tidy);
        lock_take(&s->lock);
    }
    lock_drop(&s->lock);
    return NULL;
}

/* ---- its life ---- */

static void on_changed(void *ctx, const struct err *why)
{
    struct shared *s = ctx;

    uploads_pause(s->uploads, why != NULL);
    s->listener.changed(s->listener.ctx, why);
}

int shared_open(struct cache *cache, const struct shared_options *options,
                const struct shared_listener *listener, struct shared **out, struct err *err)
{
    struct object_store *store;
    struct shared *s;

    if (object_store_open(&options->store, &store, err) != 0)
        return -1;
    s = xcalloc(1, sizeof(*s));
    s->cache = cache;
    s->listener = *listener;
    s->node = xstrdup(options->node);
    s->compression = options->compression;
    s->tidy_interval_ms = (uint64_t)options->limits.interval_s * 1000;
    s->upload_queue = options->upload_queue;
    lock_init(&s->lock, LOCK_SHARED);
    lock_cond_init(&s->stop_wanted);
    s->uploads = uploads_new(options->uploads, options->upload_queue, upload, s);
    s->store = guard_new(&store, on_changed, s, &s->guard);
    s->keeper = keeper_new(s->store, cache->local, &(struct keeper_mirrors){has_all_of_mirror, s},
                           options->node, &options->limits);
    s->chores = workers_new("shared", 1, 1);
    s->tidy_ms = now_ms() + s->tidy_interval_ms;
    s->demote_ms = now_ms();
    local_set_listener(cache->local, on_published, s);
    must(pthread_create(&s->clock, NULL, keep_time, s) == 0);
    *out = s;
    return 0;
}

void shared_stop(struct shared *s)
{
    lock_take(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->stop_wanted);
    lock_drop(&s->lock);
    uploads_stop(s->uploads);
    object_store_stop(s->store);
}

void shared_close(struct shared **sp)
{
    struct shared *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    shared_stop(s);
    local_set_listener(s->cache->local, NULL, NULL);
    pthread_join(s->clock, NULL);
    workers_free(&s->chores);
    uploads_free(&s->uploads);
    keeper_free(&s->keeper);
    object_store_free(&s->store);
    pthread_cond_destroy(&s->stop_wanted);
    lock_clear(&s->lock);
    free(s->node);
    free(s);
}

void shared_configure(struct shared *s, const struct keeper_limits *limits)
{
    keeper_configure(s->keeper, limits);
}

const char *shared_name(const struct shared *s)
{
    return object_store_name(s->store);
}

bool shared_troubled(struct shared *s, struct err *why)
{
    return guard_open(s->guard, why);
}

void shared_count(struct shared *s, struct shared_counts *out)
{
    *out = (struct shared_counts){
        .hits = atomic_load(&s->hits),
        .misses = atomic_load(&s->misses),
        .restored = atomic_load(&s->restored),
        .damaged = atomic_load(&s->damaged),
        .demoted = atomic_load(&s->demoted),
    };
    uploads_count(s->uploads, &out->uploads);
    guard_count(s->guard, &out->store);
    lock_take(&s->lock);
    out->round = s->round;
    out->removed = s->removed;
    out->removed_bytes = s->removed_bytes;
    lock_drop(&s->lock);
}
