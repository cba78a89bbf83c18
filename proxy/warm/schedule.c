#include "proxy/warm/schedule.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/warm/timetable.h"
#include "proxy/warm/warmups.h"

enum {
    LOOK_AGAIN_S = 30, /* clocks are put, and machines sleep */
    RETRY_MS = 5000,   /* while Redis can't be asked, or another node is at it */
    /* Who comes back later than that makes it once more, which does no harm. */
    MADE_TTL_S = 30 * 24 * 3600,
    LINE_MAX_BYTES = 512,
};
static const char FILE_NAME[] = "warmed";

struct schedule {
    struct proxy *proxy;
    struct lock lock;
    pthread_cond_t changed;
    struct config *config;
    struct timetable *timetable; /* NULL: there is no schedule */
    char *words;                 /* what it was made from: zone and schedule in one line */
    int64_t last;                /* the latest time that was made, or needn't be */
    bool stopping;
    pthread_t thread;
};

/* ---- the file ---- */

/* "<seconds> <zone> <schedule>" */
static bool read_last(const struct folder *folder, const char *words, int64_t *out)
{
    char *path = folder_pathf(folder, "%s", FILE_NAME), line[LINE_MAX_BYTES] = "";
    FILE *f = fopen(path, "re");
    bool is = false;
    char *end;

    if (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        *out = strtoll(line, &end, 10);
        is = end != line && *end == ' ' && strcmp(end + 1, words) == 0;
    }
    if (f != NULL)
        fclose(f);
    free(path);
    return is;
}

static void write_last(struct folder *folder, const char *words, int64_t last)
{
    char *path = folder_pathf(folder, "%s", FILE_NAME);
    char *fresh = folder_incoming_path(folder, ".warmed");
    char *line = xasprintf("%" PRId64 " %s\n", last, words);
    struct err why;
    int rc = write_file(fresh, line, strlen(line), true, &why);

    if (rc == 0 && rename(fresh, path) != 0)
        rc = err_errno(&why, ERR_STORAGE, "publish %s", path);
    if (rc == 0)
        rc = sync_parent(path, &why);
    unlink(fresh);
    if (rc != 0)
        log_line(LOG_WARN, "the time of the last warm-up is not kept", "reason", LOG_STR, why.text,
                 NULL);
    free(line);
    free(fresh);
    free(path);
}

/* ---- one that is due ---- */

/* -1: not now. */
static int make(struct schedule *s, const struct config *config, struct err *err)
{
    struct warmup_list list = {NULL, 0};
    char id[REDIS_TOKEN_SIZE];
    struct err why;
    int rc = 0;

    warmup_list_add_configured(&list, config);
    if (config->warm.most_used > 0 &&
        warmup_list_add_most_used(&list, s->proxy, config, config->warm.most_used, &why) != 0)
        log_line(LOG_WARN, "it is not known what is used most", "reason", LOG_STR, why.text, NULL);
    if (list.count == 0)
        log_line(LOG_INFO, "there is nothing to warm up", NULL);
    else
        rc = warmups_begin(s->proxy->warmups, "schedule", &list, id, err);
    warmup_list_clear(&list);
    return rc;
}

static char *key_of_time(struct redis *redis, int64_t when)
{
    return redis_key(redis, "warm:%" PRId64, when);
}

/* 1: some node has put its jobs into the queue; 0: none has; -1: not to be known now. */
static int was_made(struct redis *redis, int64_t when, struct err *err)
{
    struct redis_reply *reply = NULL;
    char *key = key_of_time(redis, when);
    int rc = redis_ask(redis, REDIS_WORDS("GET", key), &reply, err);

    if (rc == 0)
        rc = reply->type == REDIS_TEXT;
    redis_reply_free(&reply);
    free(key);
    return rc;
}

static int note_made(struct schedule *s, struct redis *redis, int64_t when, struct err *err)
{
    const char *us = nodes_id(cluster_nodes(fleet_cluster(s->proxy->fleet)));
    char ttl[REDIS_NUMBER_SIZE], *key = key_of_time(redis, when);
    int rc = redis_ask(redis, REDIS_WORDS("SET", key, us, "EX", redis_number(MADE_TTL_S, ttl)),
                       NULL, err);

    free(key);
    return rc;
}

/* Who dies before its jobs are in the queue has noted nothing, and soon doesn't hold the lease any
 * more; who dies between the two makes a second one of it.  So does who loses Redis meanwhile, for
 * some of its jobs or for the note. */
static int make_once(struct schedule *s, int64_t when, const struct config *config, struct err *err)
{
    struct cluster *cluster = fleet_cluster(s->proxy->fleet);
    struct redis *redis = cluster_redis(cluster);
    struct lease *lease;
    int rc;

    if (redis == NULL)
        return make(s, config, err);
    if (leases_take(cluster_leases(cluster), "schedule", 0, &lease, err) != 0)
        return -1;
    rc = was_made(redis, when, err);
    if (rc == 0) {
        rc = make(s, config, err);
        if (rc == 0)
            rc = note_made(s, redis, when, err);
    }
    lease_release(&lease);
    return rc < 0 ? -1 : 0;
}

/* False: it is still to be made. */
static bool see_to(struct schedule *s, int64_t when, const struct config *config)
{
    struct err why;

    if (make_once(s, when, config, &why) == 0)
        return true;
    log_line(LOG_DEBUG, "a warm-up waits", "reason", LOG_STR, why.text, NULL);
    return false;
}

/* ---- the thread ---- */

static void wait_locked(struct schedule *s)
{
    int64_t now = (int64_t)time(NULL), next = now + LOOK_AGAIN_S, when;

    if (s->timetable != NULL && timetable_next(s->timetable, now, &when) && when < next)
        next = when;
    lock_wait_until(&s->lock, &s->changed, now_ms() + (uint64_t)(next - now) * 1000);
}

/* With the lock, which is given back meanwhile. */
static void make_locked(struct schedule *s, int64_t when)
{
    struct config *config = config_ref(s->config);
    char *words = xstrdup(s->words);
    bool seen_to;

    lock_drop(&s->lock);
    seen_to = see_to(s, when, config);
    if (seen_to)
        write_last(s->proxy->cache.folder, words, when);
    config_unref(&config);
    lock_take(&s->lock);
    if (seen_to && s->last < when)
        s->last = when;
    else if (!seen_to && !s->stopping)
        lock_wait_until(&s->lock, &s->changed, now_ms() + RETRY_MS);
    free(words);
}

static void *keep_schedule(void *ctx)
{
    struct schedule *s = ctx;
    int64_t when;

    lock_take(&s->lock);
    while (!s->stopping) {
        if (s->timetable != NULL &&
            timetable_due(s->timetable, s->last, (int64_t)time(NULL), &when))
            make_locked(s, when);
        else
            wait_locked(s);
    }
    lock_drop(&s->lock);
    return NULL;
}

/* ---- its life ---- */

static char *words_of(const struct config *c)
{
    return c->warm.schedule != NULL ? xasprintf("%s %s", c->warm.time_zone, c->warm.schedule)
                                    : NULL;
}

/* What a time is counted from: that the schedule has been another one until now makes up for
 * nothing. */
static int64_t last_of(struct schedule *s, const char *words)
{
    int64_t now = (int64_t)time(NULL), last;

    /* The clock may have been wrong then. */
    if (read_last(s->proxy->cache.folder, words, &last) && last <= now)
        return last;
    write_last(s->proxy->cache.folder, words, now);
    return now;
}

static struct timetable *timetable_of(const struct config *c)
{
    struct timetable *t = NULL;
    bool ignored;
    struct err why;

    /* It was right when the configuration was read; the zone's file may be gone since. */
    if (c->warm.schedule != NULL &&
        timetable_open(c->warm.schedule, c->warm.time_zone, &t, &ignored, &why) != 0) {
        log_line(LOG_WARN, "nothing is warmed up by schedule", "reason", LOG_STR, why.text, NULL);
        return NULL;
    }
    return t;
}

void schedule_configure(struct schedule *s, const struct config *config)
{
    struct config *old, *new = config_ref(config);
    struct timetable *old_table, *table = timetable_of(config);
    char *old_words, *words = words_of(config);
    int64_t last = words != NULL ? last_of(s, words) : 0;

    lock_take(&s->lock);
    old = s->config;
    old_table = s->timetable;
    old_words = s->words;
    s->config = new;
    s->timetable = table;
    s->words = words;
    s->last = last;
    pthread_cond_broadcast(&s->changed);
    lock_drop(&s->lock);
    timetable_free(&old_table);
    free(old_words);
    if (old != NULL)
        config_unref(&old);
}

struct schedule *schedule_start(struct proxy *p, const struct config *config)
{
    struct schedule *s = xcalloc(1, sizeof(*s));

    s->proxy = p;
    lock_init(&s->lock, LOCK_SCHEDULE);
    lock_cond_init(&s->changed);
    schedule_configure(s, config);
    must(pthread_create(&s->thread, NULL, keep_schedule, s) == 0);
    return s;
}

void schedule_stop(struct schedule **sp)
{
    struct schedule *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    lock_take(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    lock_drop(&s->lock);
    pthread_join(s->thread, NULL);
    timetable_free(&s->timetable);
    free(s->words);
    config_unref(&s->config);
    pthread_cond_destroy(&s->changed);
    lock_clear(&s->lock);
    free(s);
}

bool schedule_next(struct schedule *s, int64_t now, int64_t *when)
{
    bool is;

    lock_take(&s->lock);
    is = s->timetable != NULL && timetable_next(s->timetable, now, when);
    lock_drop(&s->lock);
    return is;
}
