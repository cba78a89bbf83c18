#include "proxy/chores.h"

#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/mirroring.h"
#include "proxy/warm/warmups.h"

enum {
    TAKE_WAIT_MS = 60 * 1000, /* until stopped; a job that comes ends it */
    EXTEND_MS = 15 * 1000,    /* a part of the queue's visibility_ms */
    PAUSE_MS = 2000,          /* after what failed, for others to try, or the trouble to pass */
};

/* A thread that takes jobs out of a queue. */
struct taker {
    struct chores *chores;
    struct queue *queue;
    pthread_t thread;
};

struct chores {
    struct proxy *proxy;
    struct lock lock;
    pthread_cond_t changed;
    struct config *config;
    bool stopping;
    struct workers *workers; /* one for each taker */
    struct taker *takers;
    size_t taker_count;
};

struct chore;

/* What can be done, one of these for each kind of job. */
struct kind {
    const char *begins; /* the job's id */
    /* In a worker: the work. */
    int (*work)(struct chore *k, struct err *err);
    /* Afterwards, what came of it: log it, free k->state.  again: it will be tried once more.
     * Where no worker took it, this is all that is called. */
    void (*end)(struct chore *k, bool again);
};

/* A job under way. */
struct chore {
    struct chores *chores;
    const struct kind *kind;
    const struct queue_job *job;
    struct config *config;
    void *state; /* the kind's own */
    bool ended;  /* with chores->lock, as are rc and why */
    int rc;
    struct err why;
};

/* ---- warm-ups ---- */

static int warm_up(struct chore *k, struct err *err)
{
    struct warmup_job *job = xcalloc(1, sizeof(*job));

    if (warmup_job_read(k->job->payload, job, err) != 0) {
        free(job);
        return -1;
    }
    k->state = job;
    return warmups_do(k->chores->proxy->warmups, k->config, job, err);
}

static void end_warmup(struct chore *k, bool again)
{
    struct warmup_job *job = k->state;

    if (job == NULL) {
        log_line(LOG_WARN, "not warmed up", "job", LOG_STR, k->job->id, "reason", LOG_STR,
                 k->why.text, "again", LOG_STR, again ? "yes" : "no", NULL);
        return;
    }
    warmups_done(k->chores->proxy->warmups, job, k->rc != 0 ? &k->why : NULL, again);
    warmup_job_clear(job);
    free(job);
}

/* ---- refreshes ---- */

#define REFRESH_JOBS "refresh:"

void chores_add_refresh(struct fleet *f, enum queue_priority priority, const struct key *repo_id,
                        const char *repo)
{
    struct queue *own = fleet_own_jobs(f);
    char hex[KEY_HEX_SIZE], *id;
    struct err why;

    key_to_hex(repo_id, hex);
    id = xasprintf(REFRESH_JOBS "%s", hex);
    if (queue_add(own != NULL ? own : cluster_queue(fleet_cluster(f)), priority, id, repo, &why) !=
        0)
        log_line(LOG_DEBUG, "no refresh was queued", "repository", LOG_STR, repo, "reason", LOG_STR,
                 why.text, NULL);
    free(id);
}

static int refresh(struct chore *k, struct err *err)
{
    struct mirror_refreshed done;
    uint64_t started = now_us();

    if (mirroring_refresh_present(k->chores->proxy, k->config, k->job->payload, &done, err) != 0)
        return -1;
    log_line(LOG_INFO, "refreshed", "repository", LOG_STR, k->job->payload, "mirror", LOG_STR,
             mirroring_word(&done), "missing", LOG_U64, (uint64_t)done.missing, "total_ms", LOG_MS,
             now_us() - started, NULL);
    return 0;
}

/* No person has asked for it: that there is nothing it could do, or no room, is no news, and of a
 * disk that fails mirroring.h has told. */
static void end_refresh(struct chore *k, bool again)
{
    bool no_news = k->why.kind == ERR_NOT_FOUND || k->why.kind == ERR_DENIED ||
                   k->why.kind == ERR_CONFLICT || k->why.kind == ERR_LIMIT ||
                   k->why.kind == ERR_STORAGE;

    if (k->rc != 0)
        log_line(no_news ? LOG_DEBUG : LOG_WARN, "not refreshed", "repository", LOG_STR,
                 k->job->payload, "reason", LOG_STR, k->why.text, "tries", LOG_U64,
                 (uint64_t)k->job->tries, "again", LOG_STR, again ? "yes" : "no", NULL);
}

static const struct kind kinds[] = {
    {WARMUP_JOBS, warm_up, end_warmup},
    {REFRESH_JOBS, refresh, end_refresh},
};

static const struct kind *kind_of(const char *id)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strncmp(id, kinds[i].begins, strlen(kinds[i].begins)) == 0)
            return &kinds[i];
    return NULL;
}

/* ---- the work ---- */

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

static void pause_a_little(struct chores *c)
{
    uint64_t until = now_ms() + PAUSE_MS;

    lock_take(&c->lock);
    while (!c->stopping && lock_wait_until(&c->lock, &c->changed, until))
        ;
    lock_drop(&c->lock);
}

static void work_on(struct chores *c, struct queue_job *job, struct chore *k)
{
    lock_take(&c->lock);
    k->config = config_ref(c->config);
    lock_drop(&c->lock);
    if (workers_submit(c->workers, do_chore, k))
        attend_to(c, job, k);
    else
        k->rc = err_set(&k->why, ERR_BUSY, "so much is waiting already");
}

/* Consumes the job.  False: it was not done. */
static bool run_job(struct chores *c, struct queue_job *job)
{
    struct chore k = {.chores = c, .kind = kind_of(job->id), .job = job};
    bool done;

    if (k.kind == NULL) {
        /* A newer node's: others may know it. */
        log_line(LOG_WARN, "a job of an unknown kind", "id", LOG_STR, job->id, NULL);
        queue_give_up(&job);
        return false;
    }
    work_on(c, job, &k);
    done = k.rc == 0 || is_final(&k.why);
    /* Before it leaves our hands: somebody else may begin with it then. */
    k.kind->end(&k, !done && job->tries < QUEUE_TRIES_MAX);
    config_unref(&k.config);
    if (done)
        queue_done(&job);
    else
        queue_give_up(&job);
    return done;
}

static bool take_chores(const struct taker *t)
{
    struct queue_job *job;
    struct err why;

    if (queue_take(t->queue, TAKE_WAIT_MS, &job, &why) == 0)
        return run_job(t->chores, job);
    return why.kind == ERR_TIMEOUT;
}

static void *do_chores(void *ctx)
{
    const struct taker *t = ctx;
    struct chores *c = t->chores;
    bool stopping = false;

    while (!stopping) {
        if (!take_chores(t))
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
    struct queue *all = cluster_queue(fleet_cluster(p->fleet)), *own = fleet_own_jobs(p->fleet);
    struct chores *c = xcalloc(1, sizeof(*c));

    c->proxy = p;
    c->config = config_ref(config);
    lock_init(&c->lock, LOCK_CHORES);
    lock_cond_init(&c->changed);
    c->taker_count = config->warm.parallelism + (own != NULL);
    c->workers = workers_new("chore", c->taker_count, c->taker_count);
    c->takers = xcalloc(c->taker_count, sizeof(*c->takers));
    for (size_t i = 0; i < c->taker_count; i++) {
        struct taker *t = &c->takers[i];

        *t = (struct taker){.chores = c, .queue = i < config->warm.parallelism ? all : own};
        must(pthread_create(&t->thread, NULL, do_chores, t) == 0);
    }
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
    for (size_t i = 0; i < c->taker_count; i++)
        pthread_join(c->takers[i].thread, NULL);
    workers_free(&c->workers);
    free(c->takers);
    config_unref(&c->config);
    pthread_cond_destroy(&c->changed);
    lock_clear(&c->lock);
    free(c);
}
