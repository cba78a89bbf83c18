#include "cache/cluster/lease.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    /* Waiters are woken by a message when a lease is released; this is for messages that are lost,
     * and for holders that die. */
    LOOK_AGAIN_MS = 500,
    VALUE_MAX = 128,
};

/* {1, fence}, or {0, milliseconds left, who} */
static const char TAKE[] = "if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then\n"
                           "  return {0, redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1])}\n"
                           "end\n"
                           "local time = redis.call('TIME')\n"
                           "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
                           "local fence = redis.call('INCR', KEYS[2])\n"
                           "if fence < now then\n"
                           "  fence = now\n"
                           "  redis.call('SET', KEYS[2], string.format('%.0f', fence))\n"
                           "end\n"
                           "return {1, fence}\n";
static const char RENEW[] = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
                            "return redis.call('PEXPIRE', KEYS[1], ARGV[2])\n";
static const char RELEASE[] = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
                              "redis.call('DEL', KEYS[1])\n"
                              "redis.call('PUBLISH', KEYS[2], ARGV[2])\n"
                              "return 1\n";

struct lease {
    struct lease *prev, *next; /* of leases.held */
    struct leases *all;
    char name[LEASE_NAME_MAX + 1];
    char value[VALUE_MAX]; /* "<node> <token>" */
    uint64_t fence;
    _Atomic uint64_t valid_until_ms; /* of now_ms(); UINT64_MAX in the process */
    atomic_bool lost;
    uint64_t renew_at_ms; /* under the lock, as what follows */
    bool renewing;        /* the thread uses it without the lock */
};

struct leases {
    struct redis *redis; /* NULL: in the process */
    char *node, *fence_key, *channel;
    uint64_t ttl_ms;
    struct redis_script take, renew, release;
    pthread_t thread;
    bool threaded;

    struct lock lock;
    pthread_cond_t released; /* a lease was released, somewhere; stopping */
    pthread_cond_t renewed;  /* a renewal has ended; there is something to renew; stopping */
    struct lease *held;
    uint64_t releases; /* so that one between a look and the wait isn't missed */
    uint64_t last_fence;
    bool stopping, ending;
    struct leases_counts counts;
};

/* ---- in the process ---- */

static struct lease *find_locked(struct leases *all, const char *name)
{
    struct lease *l;

    DL_FOREACH(all->held, l)
    if (strcmp(l->name, name) == 0)
        return l;
    return NULL;
}

/* As large as one from Redis would be, for who turns to Redis later, or away from it. */
static uint64_t next_fence_locked(struct leases *all)
{
    uint64_t now = wall_ms();

    all->last_fence = now > all->last_fence ? now : all->last_fence + 1;
    return all->last_fence;
}

/* ---- taking ---- */

enum taken { TAKEN, ANOTHERS, FAILED };

static void hold_locked(struct leases *all, struct lease *l)
{
    DL_APPEND(all->held, l);
    all->counts.held++;
    all->counts.taken++;
}

static enum taken take_here(struct leases *all, struct lease *l, struct err *err)
{
    enum taken result = TAKEN;

    lock_take(&all->lock);
    if (find_locked(all, l->name) != NULL) {
        err_set(err, ERR_TIMEOUT, "%s is being worked at by this node", l->name);
        result = ANOTHERS;
    } else {
        l->fence = next_fence_locked(all);
        l->valid_until_ms = UINT64_MAX;
        hold_locked(all, l);
    }
    lock_drop(&all->lock);
    return result;
}

static uint64_t valid_ms(const struct leases *all)
{
    return all->ttl_ms - all->ttl_ms / 10; /* clocks differ in rate, and replies come late */
}

static enum taken take_there(struct leases *all, struct lease *l, uint64_t *left_ms,
                             struct err *err)
{
    char *key = redis_key(all->redis, "lock:%s", l->name), ttl[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    uint64_t sent = now_ms();
    enum taken result = FAILED;

    if (redis_run(all->redis, &all->take, REDIS_WORDS(key, all->fence_key),
                  REDIS_WORDS(l->value, redis_number(all->ttl_ms, ttl)), &reply, err) != 0) {
    } else if (redis_item_integer(reply, 0) == 1) {
        l->fence = (uint64_t)redis_item_integer(reply, 1);
        l->valid_until_ms = sent + valid_ms(all);
        lock_take(&all->lock);
        l->renew_at_ms = sent + all->ttl_ms / 3;
        hold_locked(all, l);
        pthread_cond_broadcast(&all->renewed);
        lock_drop(&all->lock);
        result = TAKEN;
    } else {
        const char *who = redis_item_text(reply, 2);
        int64_t left = redis_item_integer(reply, 1);

        *left_ms = left > 0 ? (uint64_t)left : 0;
        err_set(err, ERR_TIMEOUT, "%s is being worked at by node %.*s", l->name,
                (int)strcspn(who, " "), who);
        result = ANOTHERS;
    }
    redis_reply_free(&reply);
    free(key);
    return result;
}

/* Until it may be free.  False: the time is over. */
static bool wait_for_release(struct leases *all, uint64_t seen, uint64_t left_ms,
                             uint64_t deadline_ms)
{
    uint64_t now = now_ms(), look = now + (left_ms < LOOK_AGAIN_MS ? left_ms + 1 : LOOK_AGAIN_MS);

    lock_take(&all->lock);
    while (!all->stopping && all->releases == seen &&
           lock_wait_until(&all->lock, &all->released, look < deadline_ms ? look : deadline_ms))
        ;
    lock_drop(&all->lock);
    return now < deadline_ms;
}

static bool look_at_releases(struct leases *all, uint64_t *seen)
{
    bool stopping;

    lock_take(&all->lock);
    *seen = all->releases;
    stopping = all->stopping;
    lock_drop(&all->lock);
    return !stopping;
}

static void count_waiting(struct leases *all, int change)
{
    lock_take(&all->lock);
    all->counts.waiting += (uint64_t)change;
    lock_drop(&all->lock);
}

static enum taken take_or_wait(struct leases *all, struct lease *l, uint64_t wait_ms,
                               struct err *err)
{
    uint64_t deadline = now_ms() + wait_ms;
    enum taken result;
    bool in_time = wait_ms > 0;

    do {
        uint64_t seen, left_ms = LOOK_AGAIN_MS;

        if (!look_at_releases(all, &seen)) {
            err_set(err, ERR_CANCELLED, "this node stops");
            return FAILED;
        }
        result = all->redis != NULL ? take_there(all, l, &left_ms, err) : take_here(all, l, err);
        if (result != ANOTHERS || !in_time)
            break;
        in_time = wait_for_release(all, seen, left_ms, deadline);
    } while (in_time);
    return result;
}

int leases_take(struct leases *all, const char *name, uint64_t wait_ms, struct lease **out,
                struct err *err)
{
    struct lease *l = xcalloc(1, sizeof(*l));
    char token[REDIS_TOKEN_SIZE];
    enum taken result;

    must(strlen(name) <= LEASE_NAME_MAX);
    redis_token(token);
    l->all = all;
    strcpy(l->name, name);
    snprintf(l->value, sizeof(l->value), "%s %s", all->node, token);
    count_waiting(all, 1);
    result = take_or_wait(all, l, wait_ms, err);
    count_waiting(all, -1);
    if (result != TAKEN) {
        free(l);
        return -1;
    }
    *out = l;
    return 0;
}

/* ---- holding ---- */

bool lease_held(const struct lease *l, uint64_t now_ms)
{
    return !atomic_load(&l->lost) && now_ms < atomic_load(&l->valid_until_ms);
}

uint64_t lease_fence(const struct lease *l)
{
    return l->fence;
}

static void lose_locked(struct leases *all, struct lease *l)
{
    if (!atomic_exchange(&l->lost, true))
        all->counts.lost++;
}

/* Without the lock; l->renewing keeps it alive. */
static void renew_one(struct leases *all, struct lease *l)
{
    char *key = redis_key(all->redis, "lock:%s", l->name), ttl[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    uint64_t sent = now_ms();
    struct err err;
    int rc = redis_run(all->redis, &all->renew, REDIS_WORDS(key),
                       REDIS_WORDS(l->value, redis_number(all->ttl_ms, ttl)), &reply, &err);
    bool ours = rc == 0 && reply->type == REDIS_INTEGER && reply->integer == 1;

    lock_take(&all->lock);
    /* What had run out by the clock stays lost, also if nobody took it meanwhile: who looked at
     * lease_held() has given up. */
    if (now_ms() >= atomic_load(&l->valid_until_ms) || (rc == 0 && !ours))
        lose_locked(all, l);
    else if (ours)
        atomic_store(&l->valid_until_ms, sent + valid_ms(all));
    /* Redis is away, perhaps not for long. */
    l->renew_at_ms = now_ms() + (ours ? all->ttl_ms / 3 : all->ttl_ms / 20 + 1);
    lock_drop(&all->lock);
    redis_reply_free(&reply);
    free(key);
}

/* The one to renew next, if any is due; else *until is when one will be. */
static struct lease *next_due_locked(struct leases *all, uint64_t now, uint64_t *until)
{
    struct lease *l;

    *until = UINT64_MAX;
    DL_FOREACH(all->held, l)
    {
        if (atomic_load(&l->lost))
            continue;
        if (l->renew_at_ms <= now)
            return l;
        if (l->renew_at_ms < *until)
            *until = l->renew_at_ms;
    }
    return NULL;
}

static void *renew_main(void *arg)
{
    struct leases *all = arg;

    lock_take(&all->lock);
    while (!all->ending) {
        uint64_t until;
        struct lease *l = next_due_locked(all, now_ms(), &until);

        if (l != NULL) {
            l->renewing = true;
            lock_drop(&all->lock);
            renew_one(all, l);
            lock_take(&all->lock);
            l->renewing = false;
            pthread_cond_broadcast(&all->renewed);
        } else if (until == UINT64_MAX) {
            lock_wait(&all->lock, &all->renewed);
        } else {
            lock_wait_until(&all->lock, &all->renewed, until);
        }
    }
    lock_drop(&all->lock);
    return NULL;
}

/* ---- letting go ---- */

static void hear_release(void *ctx, const char *name)
{
    struct leases *all = ctx;

    (void)name;
    lock_take(&all->lock);
    all->releases++;
    pthread_cond_broadcast(&all->released);
    lock_drop(&all->lock);
}

static void release_there(struct leases *all, const struct lease *l)
{
    char *key = redis_key(all->redis, "lock:%s", l->name);
    struct err ignored;

    redis_run(all->redis, &all->release, REDIS_WORDS(key, all->channel),
              REDIS_WORDS(l->value, l->name), NULL, &ignored);
    free(key);
}

void lease_release(struct lease **lp)
{
    struct lease *l = *lp;
    struct leases *all;

    *lp = NULL;
    if (l == NULL)
        return;
    all = l->all;
    lock_take(&all->lock);
    while (l->renewing)
        lock_wait(&all->lock, &all->renewed);
    DL_DELETE(all->held, l);
    all->counts.held--;
    if (all->redis == NULL) {
        all->releases++;
        pthread_cond_broadcast(&all->released);
    }
    lock_drop(&all->lock);
    if (all->redis != NULL)
        release_there(all, l);
    free(l);
}

/* ---- all of them ---- */

struct leases *leases_new(struct redis *redis, const char *node, uint64_t ttl_ms)
{
    struct leases *all = xcalloc(1, sizeof(*all));

    must(ttl_ms >= LEASE_TTL_MIN_MS);
    must(strlen(node) + 1 + REDIS_TOKEN_SIZE <= VALUE_MAX);
    all->redis = redis;
    all->node = xstrdup(node);
    all->ttl_ms = ttl_ms;
    lock_init(&all->lock, LOCK_LEASES);
    lock_cond_init(&all->released);
    lock_cond_init(&all->renewed);
    if (redis == NULL)
        return all;
    all->fence_key = redis_key(redis, "fence");
    all->channel = redis_key(redis, "released");
    redis_script_init(&all->take, TAKE);
    redis_script_init(&all->renew, RENEW);
    redis_script_init(&all->release, RELEASE);
    redis_subscribe(redis, "released", hear_release, all);
    must(pthread_create(&all->thread, NULL, renew_main, all) == 0);
    pthread_setname_np(all->thread, "leases");
    all->threaded = true;
    return all;
}

void leases_stop(struct leases *all)
{
    lock_take(&all->lock);
    all->stopping = true;
    pthread_cond_broadcast(&all->released);
    lock_drop(&all->lock);
}

void leases_free(struct leases **ap)
{
    struct leases *all = *ap;

    *ap = NULL;
    if (all == NULL)
        return;
    must(all->held == NULL);
    lock_take(&all->lock);
    all->ending = true;
    pthread_cond_broadcast(&all->renewed);
    lock_drop(&all->lock);
    if (all->threaded)
        must(pthread_join(all->thread, NULL) == 0);
    pthread_cond_destroy(&all->released);
    pthread_cond_destroy(&all->renewed);
    lock_clear(&all->lock);
    free(all->node);
    free(all->fence_key);
    free(all->channel);
    free(all);
}

void leases_count(struct leases *all, struct leases_counts *out)
{
    lock_take(&all->lock);
    *out = all->counts;
    lock_drop(&all->lock);
}
