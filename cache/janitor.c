#include "cache/janitor.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <utlist.h>

#include "cache/lock.h"
#include "cache/workers.h"
#include "protocol/base.h"

enum {
    TICK_MS = 1000,
    SCAN_RETRY_MS = 60 * 1000, /* while the disk fails it would begin again and again */
    QUEUE_MAX = 1024, /* mirrors that wait for their upkeep; the next round finds the others */
};

struct job {
    struct janitor *janitor;
    struct entry entry; /* a copy */
    struct job *next;
};

struct janitor {
    struct cache *cache;
    struct cache_options options;
    struct janitor_listener listener;
    struct workers *workers;
    pthread_t clock;
    struct lock lock;
    pthread_cond_t stop_wanted;
    atomic_bool stop;
    atomic_bool compared;              /* once, with the files: what is there is known */
    bool scanning, looking, verifying; /* one of each at a time */
    size_t upkeeps;                    /* waiting or under way: no new round before they are done */

    /* The clock's own. */
    uint64_t scan_ms, look_ms, verify_ms;

    struct job *to_verify; /* this lap's entries; whoever verifies has them */
    atomic_uint_fast64_t verify_step_ms;

    atomic_uint_fast64_t maintained, verified, failed;
};

static int64_t now_s(void)
{
    return (int64_t)time(NULL);
}

/* Runs fn in a worker, unless one of its kind is under way. */
static void submit_one(struct janitor *j, bool *busy, worker_fn *fn)
{
    bool mine;

    lock_take(&j->lock);
    mine = !*busy;
    *busy = true;
    lock_drop(&j->lock);
    if (!mine || workers_submit(j->workers, fn, j))
        return;
    lock_take(&j->lock);
    *busy = false;
    lock_drop(&j->lock);
}

static void done(struct janitor *j, bool *busy)
{
    lock_take(&j->lock);
    *busy = false;
    lock_drop(&j->lock);
}

static struct job *job_new(struct janitor *j, const struct entry *e)
{
    struct job *job = xcalloc(1, sizeof(*job));

    job->janitor = j;
    entry_copy(e, &job->entry);
    return job;
}

static void job_free(struct job *job)
{
    entry_clear(&job->entry);
    free(job);
}

/* ---- comparing with the files ---- */

static void scan(void *ctx)
{
    struct janitor *j = ctx;
    uint64_t started = now_us();
    struct local_usage usage;

    local_scan(j->cache->local, &j->stop);
    j->compared = !j->stop;
    if (local_scanned(j->cache->local)) {
        local_usage(j->cache->local, &usage);
        j->listener.scanned(j->listener.ctx, &usage, now_us() - started);
    }
    done(j, &j->scanning);
}

/* ---- upkeep of mirrors ---- */

static void upkeep_options(const struct janitor *j, struct mirror_upkeep_options *out)
{
    *out = (struct mirror_upkeep_options){
        .now_s = now_s(),
        .unreachable_ttl_s = j->options.unreachable_ttl_s,
        .memory = j->options.maintenance_memory,
        .stop = &j->stop,
    };
}

static void upkeep(void *ctx)
{
    struct job *job = ctx;
    struct janitor *j = job->janitor;
    struct mirror *m = mirrors_at(j->cache->mirrors, job->entry.path);
    struct mirror_upkeep_options options;
    struct mirror_upkeep what;
    uint64_t started = now_us();
    struct err why;

    upkeep_options(j, &options);
    if (m != NULL && !j->stop) {
        if (mirror_upkeep(m, &options, &what, &why) == 0) {
            atomic_fetch_add(&j->maintained, 1);
            folder_report_success(j->cache->folder, FOLDER_MIRRORS);
            j->listener.maintained(j->listener.ctx, job->entry.repo, &what, now_us() - started);
        } else if (why.kind == ERR_STORAGE) { /* told once for all that it fails */
            atomic_fetch_add(&j->failed, 1);
            folder_report_trouble(j->cache->folder, FOLDER_MIRRORS, &why);
        } else if (why.kind != ERR_CANCELLED) {
            atomic_fetch_add(&j->failed, 1);
            j->listener.failed(j->listener.ctx, job->entry.repo, &why);
        }
    }
    mirror_unref(&m);
    lock_take(&j->lock);
    j->upkeeps--;
    lock_drop(&j->lock);
    job_free(job);
}

static int collect_mirror(void *ctx, const struct entry *e)
{
    struct job *job = ctx; /* the list's head; its janitor is ours */
    struct job *more;

    if (e->kind != ENTRY_MIRROR)
        return 0;
    more = job_new(job->janitor, e);
    LL_PREPEND(job->next, more);
    return job->janitor->stop;
}

/* Which mirrors need it? */
static void look(void *ctx)
{
    struct janitor *j = ctx;
    struct job head = {.janitor = j}, *job, *next;
    struct mirror_upkeep_options options;
    struct err ignored;

    upkeep_options(j, &options);
    local_each(j->cache->local, collect_mirror, &head, &ignored);
    LL_FOREACH_SAFE(head.next, job, next)
    {
        struct mirror *m = mirrors_at(j->cache->mirrors, job->entry.path);
        bool needed = m != NULL && !j->stop && mirror_needs_upkeep(m, &options);

        mirror_unref(&m);
        lock_take(&j->lock);
        j->upkeeps += needed;
        lock_drop(&j->lock);
        if (needed && workers_submit(j->workers, upkeep, job))
            continue;
        lock_take(&j->lock);
        j->upkeeps -= needed;
        lock_drop(&j->lock);
        job_free(job);
    }
    done(j, &j->looking);
}

/* ---- reading again ---- */

static int collect_any(void *ctx, const struct entry *e)
{
    struct job *head = ctx;
    /* Only what cache_verify_entry() needs: a lap may take weeks, and has all entries. */
    const struct entry needed = {.kind = e->kind, .path = e->path};
    struct job *more = job_new(head->janitor, &needed);

    LL_PREPEND(head->next, more);
    return 0;
}

/* One entry; each lap goes over all that were there when it began. */
static void verify(void *ctx)
{
    struct janitor *j = ctx;
    struct job *job = j->to_verify;
    struct err why;

    if (job == NULL) {
        struct job head = {.janitor = j};
        size_t count;

        local_each(j->cache->local, collect_any, &head, &why);
        LL_COUNT(head.next, job, count);
        j->to_verify = head.next;
        j->verify_step_ms = (uint64_t)j->options.verify_interval_s * 1000 / (count > 0 ? count : 1);
    } else {
        LL_DELETE(j->to_verify, job);
        if (cache_verify_entry(j->cache, &job->entry, &why) != 0 && why.kind == ERR_CORRUPT) {
            folder_report_damage(j->cache->folder, job->entry.path, &why);
            local_remove(j->cache->local, job->entry.path, &why);
        }
        atomic_fetch_add(&j->verified, 1);
        job_free(job);
    }
    done(j, &j->verifying);
}

/* ---- the clock ---- */

static bool due(uint64_t *at_ms, uint64_t interval_ms)
{
    uint64_t now = now_ms();

    if (now < *at_ms)
        return false;
    *at_ms = now + interval_ms;
    return true;
}

static void tick(struct janitor *j)
{
    bool idle;

    local_tick(j->cache->local, now_s());
    if (!local_scanned(j->cache->local)) {
        if (due(&j->scan_ms, SCAN_RETRY_MS))
            submit_one(j, &j->scanning, scan);
    }
    if (!j->compared)
        return;
    lock_take(&j->lock);
    idle = j->upkeeps == 0 && !j->looking;
    lock_drop(&j->lock);
    if (j->options.maintenance_threads > 0 && idle &&
        due(&j->look_ms, j->options.maintenance_interval_ms))
        submit_one(j, &j->looking, look);
    if (j->options.verify_interval_s > 0 && due(&j->verify_ms, j->verify_step_ms))
        submit_one(j, &j->verifying, verify);
}

static void *keep_time(void *ctx)
{
    struct janitor *j = ctx;

    lock_take(&j->lock);
    while (!j->stop) {
        lock_drop(&j->lock);
        tick(j);
        lock_take(&j->lock);
        if (!j->stop)
            lock_wait_until(&j->lock, &j->stop_wanted, now_ms() + TICK_MS);
    }
    lock_drop(&j->lock);
    return NULL;
}

struct janitor *janitor_start(struct cache *c, const struct cache_options *options,
                              const struct janitor_listener *listener)
{
    struct janitor *j = xcalloc(1, sizeof(*j));
    size_t threads = options->maintenance_threads > 0 ? options->maintenance_threads : 1;

    j->cache = c;
    j->options = *options;
    j->listener = *listener;
    j->verify_step_ms = TICK_MS;
    j->look_ms = now_ms() + options->maintenance_interval_ms; /* a start is busy enough */
    lock_init(&j->lock, LOCK_JANITOR);
    lock_cond_init(&j->stop_wanted);
    j->workers = workers_new("upkeep", threads, QUEUE_MAX);
    must(pthread_create(&j->clock, NULL, keep_time, j) == 0);
    return j;
}

void janitor_stop(struct janitor **jp)
{
    struct janitor *j = *jp;
    struct job *job, *next;

    *jp = NULL;
    if (j == NULL)
        return;
    lock_take(&j->lock);
    j->stop = true;
    pthread_cond_signal(&j->stop_wanted);
    lock_drop(&j->lock);
    pthread_join(j->clock, NULL);
    workers_free(&j->workers);
    LL_FOREACH_SAFE(j->to_verify, job, next)
    job_free(job);
    pthread_cond_destroy(&j->stop_wanted);
    lock_clear(&j->lock);
    free(j);
}

void janitor_count(struct janitor *j, struct janitor_counts *out)
{
    *out = (struct janitor_counts){
        .maintained = atomic_load(&j->maintained),
        .verified = atomic_load(&j->verified),
        .failed = atomic_load(&j->failed),
    };
}
