#include "proxy/chores.h"

#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/mirroring.h"

enum {
    TAKE_WAIT_MS = 60 * 1000, /* until stopped; a job that comes ends it */
    EXTEND_MS = 15 * 1000,    /* a part of the queue's visibility_ms */
    PAUSE_MS = 2000,          /* after what failed, for others to try, or the trouble to pass */
};

struct chores {
    struct proxy *proxy;
    struct lock lock;
    pthread_cond_t changed;
    struct config *config;
    bool stopping;
    pthread_t thread;
};

/* A job under way. */
struct chore {
    struct chores *chores;
    const struct kind *kind; /* NULL: one of a newer version's */
    const char *repo;
    struct config *config;
    bool ended; /* with chores->lock, as are rc and why */
    int rc;
    struct err why;
};

static int add(struct fleet *f, enum queue_priority priority, const char *kind,
               const struct key *repo_id, const char *payload, struct err *err)
{
    char hex[KEY_HEX_SIZE];
    char *id;
    int rc;

    key_to_hex(repo_id, hex);
    id = xasprintf("%s:%s", kind, hex);
    rc = queue_add(cluster_queue(fleet_cluster(f)), priority, id, payload, err);
    free(id);
    return rc;
}

int chores_add_warmup(struct fleet *f, const struct key *repo_id, const char *repo, struct err *err)
{
    return add(f, QUEUE_NORMAL, "warmup", repo_id, repo, err);
}

int chores_add_refresh(struct fleet *f, enum queue_priority priority, const struct key *repo_id,
                       const char *repo, struct err *err)
{
    return add(f, priority, "refresh", repo_id, repo, err);
}

/* ---- the work ---- */

static void log_done(const struct chore *k, const char *event, const struct mirror_refreshed *done,
                     uint64_t started_us)
{
    log_line(LOG_INFO, event, "repository", LOG_STR, k->repo, "mirror", LOG_STR,
             done->restored      ? "restored"
             : done->made        ? "made"
             : done->missing > 0 ? "refreshed"
                                 : "unchanged",
             "missing", LOG_U64, (uint64_t)done->missing, "total_ms", LOG_MS, now_us() - started_us,
             NULL);
}

static int warm_up(struct chore *k, struct err *err)
{
    struct mirror_refreshed done;
    uint64_t started = now_us();

    if (mirroring_refresh(k->chores->proxy, k->config, k->repo, &done, err) != 0)
        return -1;
    log_done(k, "warmed up", &done, started);
    return 0;
}

static int refresh(struct chore *k, struct err *err)
{
    struct mirror_refreshed done;
    uint64_t started = now_us();

    if (mirroring_refresh_present(k->chores->proxy, k->config, k->repo, &done, err) != 0)
        return -1;
    log_done(k, "refreshed", &done, started);
    return 0;
}

static const struct kind {
    const char *name;
    int (*work)(struct chore *k, struct err *err);
    const char *failed;
    bool unasked; /* by people: that there is nothing it could do is no news to them */
} kinds[] = {
    {"warmup", warm_up, "not warmed up", false},
    {"refresh", refresh, "not refreshed", true},
};

static const struct kind *kind_of(const char *id)
{
    size_t len = strcspn(id, ":");

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strlen(kinds[i].name) == len && strncmp(kinds[i].name, id, len) == 0)
            return &kinds[i];
    return NULL;
}

static void do_chore(void *ctx)
{
    struct chore *k = ctx;
    struct chores *c = k->chores;
    struct err why;
    int rc = k->kind->work(k, &why);

    lock_take(&c->lock);
    k->rc = rc;
    if (rc != 0)
        k->why = why;
    k->ended = true;
    pthread_cond_broadcast(&c->changed);
    lock_drop(&c->lock);
}

/* ---- taking ---- */

/* It will not be better next time. */
static bool is_final(const struct err *why)
{
    return why->kind == ERR_DENIED || why->kind == ERR_REFUSED || why->kind == ERR_NOT_FOUND ||
           why->kind == ERR_INPUT || why->kind == ERR_LIMIT || why->kind == ERR_CONFLICT;
}

/* Until it has ended, keep it ours.  Who stops waits for it, too: by then all that it may wait for
 * gives up. */
static void attend_to(struct chores *c, struct queue_job *job, struct chore *k)
{
    uint64_t extend_ms = now_ms() + EXTEND_MS;

    lock_take(&c->lock);
    while (!k->ended) {
        lock_wait_until(&c->lock, &c->changed, extend_ms);
        if (k->ended || now_ms() < extend_ms)
            continue;
        lock_drop(&c->lock);
        queue_extend(job); /* lost: it is done twice, which does no harm */
        extend_ms = now_ms() + EXTEND_MS;
        lock_take(&c->lock);
    }
    lock_drop(&c->lock);
}

static void log_failed(const struct chore *k, const struct queue_job *job, bool done)
{
    bool no_news =
        k->kind != NULL && k->kind->unasked &&
        (k->why.kind == ERR_NOT_FOUND || k->why.kind == ERR_DENIED || k->why.kind == ERR_CONFLICT);

    log_line(no_news ? LOG_DEBUG : LOG_WARN, k->kind != NULL ? k->kind->failed : "job not done",
             "repository", LOG_STR, k->repo, "reason", LOG_STR, k->why.text, "tries", LOG_U64,
             (uint64_t)job->tries, "again", LOG_STR,
             done || job->tries >= QUEUE_TRIES_MAX ? "no" : "yes", NULL);
}

static void pause_a_little(struct chores *c)
{
    uint64_t until = now_ms() + PAUSE_MS;

    lock_take(&c->lock);
    while (!c->stopping && lock_wait_until(&c->lock, &c->changed, until))
        ;
    lock_drop(&c->lock);
}

/* Consumes the job.  False: it was not done. */
static bool run_job(struct chores *c, struct queue_job *job)
{
    struct chore k = {.chores = c, .kind = kind_of(job->id), .repo = job->payload};
    bool done;

    lock_take(&c->lock);
    k.config = config_ref(c->config);
    lock_drop(&c->lock);
    if (k.kind == NULL) {
        k.rc = err_set(&k.why, ERR_BUSY, "this version doesn't know such jobs");
    } else if (workers_submit(c->proxy->background, do_chore, &k)) {
        attend_to(c, job, &k);
    } else {
        k.rc = err_set(&k.why, ERR_BUSY, "so much is waiting already");
    }
    config_unref(&k.config);
    done = k.rc == 0 || is_final(&k.why);
    if (k.rc != 0)
        log_failed(&k, job, done);
    if (done)
        queue_done(&job);
    else
        queue_give_up(&job);
    return done;
}

static bool take_chores(struct chores *c)
{
    struct queue *q = cluster_queue(fleet_cluster(c->proxy->fleet));
    struct queue_job *job;
    struct err why;

    if (queue_take(q, TAKE_WAIT_MS, &job, &why) == 0)
        return run_job(c, job);
    return why.kind == ERR_TIMEOUT;
}

static void *do_chores(void *ctx)
{
    struct chores *c = ctx;
    bool stopping = false;

    while (!stopping) {
        if (!take_chores(c))
            pause_a_little(c);
        lock_take(&c->lock);
        stopping = c->stopping;
        lock_drop(&c->lock);
    }
    return NULL;
}

/* ---- its life ---- */

struct chores *chores_start(struct proxy *p, const struct config *config)
{
    struct chores *c = xcalloc(1, sizeof(*c));

    c->proxy = p;
    c->config = config_ref(config);
    lock_init(&c->lock, LOCK_CHORES);
    lock_cond_init(&c->changed);
    must(pthread_create(&c->thread, NULL, do_chores, c) == 0);
    return c;
}

void chores_configure(struct chores *c, const struct config *config)
{
    struct config *old, *new = config_ref(config);

    lock_take(&c->lock);
    old = c->config;
    c->config = new;
    lock_drop(&c->lock);
    config_unref(&old);
}

void chores_stop(struct chores **cp)
{
    struct chores *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    lock_take(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->changed);
    lock_drop(&c->lock);
    pthread_join(c->thread, NULL);
    config_unref(&c->config);
    pthread_cond_destroy(&c->changed);
    lock_clear(&c->lock);
    free(c);
}
