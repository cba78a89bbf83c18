#include "proxy/chores.h"

#include <stdlib.h>

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
    const char *repo;
    struct config *config;
    bool ended; /* with chores->lock, as are rc and why */
    int rc;
    struct err why;
};

int chores_add_warmup(struct fleet *f, const struct key *repo_id, const char *repo, struct err *err)
{
    char hex[KEY_HEX_SIZE];
    char *id;
    int rc;

    key_to_hex(repo_id, hex);
    id = xasprintf("warmup:%s", hex);
    rc = queue_add(cluster_queue(fleet_cluster(f)), QUEUE_NORMAL, id, repo, err);
    free(id);
    return rc;
}

/* ---- the work ---- */

static int warm_up(struct chore *k, struct err *err)
{
    struct mirror_refreshed done;
    uint64_t started = now_us();

    if (mirroring_refresh(k->chores->proxy, k->config, k->repo, &done, err) != 0)
        return -1;
    log_line(LOG_INFO, "warmed up", "repository", LOG_STR, k->repo, "mirror", LOG_STR,
             done.restored      ? "restored"
             : done.made        ? "made"
             : done.missing > 0 ? "refreshed"
                                : "unchanged",
             "missing", LOG_U64, (uint64_t)done.missing, "total_ms", LOG_MS, now_us() - started,
             NULL);
    return 0;
}

static void do_chore(void *ctx)
{
    struct chore *k = ctx;
    struct chores *c = k->chores;
    struct err why;
    int rc = warm_up(k, &why);

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
    struct chore k = {.chores = c, .repo = job->payload};
    bool done;

    lock_take(&c->lock);
    k.config = config_ref(c->config);
    lock_drop(&c->lock);
    if (workers_submit(c->proxy->background, do_chore, &k)) {
        attend_to(c, job, &k);
    } else {
        k.rc = err_set(&k.why, ERR_BUSY, "so much is waiting already");
    }
    config_unref(&k.config);
    done = k.rc == 0 || is_final(&k.why);
    if (k.rc != 0)
        log_line(LOG_WARN, "not warmed up", "repository", LOG_STR, k.repo, "reason", LOG_STR,
                 k.why.text, "tries", LOG_U64, (uint64_t)job->tries, "again", LOG_STR,
                 done || job->tries >= QUEUE_TRIES_MAX ? "no" : "yes", NULL);
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
