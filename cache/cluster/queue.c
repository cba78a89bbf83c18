#include "cache/cluster/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    MAX_DEFAULT = 10000,
    VISIBILITY_DEFAULT_MS = 60000,
    /* Without a message: for jobs whose taker died, and messages that were lost. */
    LOOK_AGAIN_MS = 1000,
};

static const char *const names[] = {"high", "normal", "low"};

/* A job in the hash is "<priority 1..3> <tries> <state> <payload>"; state: "-" it waits, a token:
 * it is taken by who has that, a token with "+": and another is to follow. */
#define READ_JOB                                                                                   \
    "local function read(id)\n"                                                                    \
    "  local job = redis.call('HGET', KEYS[4], id)\n"                                              \
    "  if not job then return nil end\n"                                                           \
    "  local p, tries, state, payload = string.match(job, '^(%d) (%d+) (%S+) (.*)$')\n"            \
    "  return tonumber(p), tonumber(tries), state, payload\n"                                      \
    "end\n"                                                                                        \
    "local function write(id, p, tries, state, payload)\n"                                         \
    "  redis.call('HSET', KEYS[4], id, p .. ' ' .. tries .. ' ' .. state .. ' ' .. payload)\n"     \
    "end\n"                                                                                        \
    "local time = redis.call('TIME')\n"                                                            \
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

/* KEYS: the three lists, jobs, taken.  1: it waits.  0: full. */
static const char ADD[] =
    READ_JOB "local id, p, max, payload = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]\n"
             "local had, tries, state = read(id)\n"
             "if had and state == '-' then return 1 end\n"
             "if had then\n"
             "  write(id, p, tries, string.match(state, '%x+') .. '+', payload)\n"
             "  return 1\n"
             "end\n"
             "if redis.call('LLEN', KEYS[p]) >= max then return 0 end\n"
             "write(id, p, 0, '-', payload)\n"
             "redis.call('RPUSH', KEYS[p], id)\n"
             "redis.call('PUBLISH', ARGV[5], id)\n"
             "return 1\n";
/* {} none, or {id, priority, tries, payload}; the last one is how many were dropped. */
static const char TAKE[] = READ_JOB
    "local token, visible, tries_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])\n"
    "local dropped = 0\n"
    "for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, 100)) do\n"
    "  local p, tries, state, payload = read(id)\n"
    "  redis.call('ZREM', KEYS[5], id)\n"
    "  if p and tries >= tries_max and string.sub(state, -1) ~= '+' then\n"
    "    redis.call('HDEL', KEYS[4], id)\n"
    "    dropped = dropped + 1\n"
    "  elseif p then\n"
    "    write(id, p, string.sub(state, -1) == '+' and 0 or tries, '-', payload)\n"
    "    redis.call('RPUSH', KEYS[p], id)\n"
    "  end\n"
    "end\n"
    "for list = 1, 3 do\n"
    "  local id = redis.call('LPOP', KEYS[list])\n"
    "  while id do\n"
    "    local p, tries, state, payload = read(id)\n"
    "    if p and state == '-' then\n"
    "      write(id, p, tries + 1, token, payload)\n"
    "      redis.call('ZADD', KEYS[5], now + visible, id)\n"
    "      return {dropped, id, p, tries + 1, payload}\n"
    "    end\n"
    "    id = redis.call('LPOP', KEYS[list])\n"
    "  end\n"
    "end\n"
    "return {dropped}\n";
/* ARGV: id, token, what: 'done', 'back', or for how long from now; channel; how often it may be
 * tried.  1: it was ours; 2: and was dropped. */
static const char SETTLE[] =
    READ_JOB "local id, token, what = ARGV[1], ARGV[2], ARGV[3]\n"
             "local p, tries, state, payload = read(id)\n"
             "if not p or string.match(state, '%x+') ~= token then return 0 end\n"
             "local again = string.sub(state, -1) == '+'\n"
             "if what ~= 'done' and what ~= 'back' then\n"
             "  redis.call('ZADD', KEYS[5], now + tonumber(what), id)\n"
             "  return 1\n"
             "end\n"
             "redis.call('ZREM', KEYS[5], id)\n"
             "local over = what == 'back' and tries >= tonumber(ARGV[5])\n"
             "if (what == 'done' or over) and not again then\n"
             "  redis.call('HDEL', KEYS[4], id)\n"
             "  return over and 2 or 1\n"
             "end\n"
             "write(id, p, again and 0 or tries, '-', payload)\n"
             "redis.call('RPUSH', KEYS[p], id)\n"
             "redis.call('PUBLISH', ARGV[4], id)\n"
             "return 1\n";
static const char COUNT[] = "return {redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2]),\n"
                            "        redis.call('LLEN', KEYS[3]), redis.call('ZCARD', KEYS[5])}\n";

/* A job within the process. */
struct local_job {
    struct local_job *prev, *next; /* of its list, or of those that are taken */
    UT_hash_handle hh;
    char *id, *payload;
    enum queue_priority priority;
    unsigned tries;
    bool taken, again;
    char token[REDIS_TOKEN_SIZE];
    uint64_t until_ms; /* while it is taken */
};

struct queue {
    struct redis *redis; /* NULL: within the process */
    uint64_t max, visibility_ms;
    char *keys[5]; /* as the scripts want them */
    char *channel;
    struct redis_script add, take, settle, count;

    struct lock lock;
    pthread_cond_t added;
    uint64_t additions; /* so that one between a look and the wait isn't missed */
    bool stopping;
    uint64_t dropped;
    struct local_job *jobs; /* by their ids */
    struct local_job *lists[QUEUE_PRIORITIES_COUNT], *taken;
    uint64_t waiting[QUEUE_PRIORITIES_COUNT];
};

static const char *const *keys_of(struct queue *q, const char *words[6])
{
    for (size_t i = 0; i < 5; i++)
        words[i] = q->keys[i];
    words[5] = NULL;
    return words;
}

static void wake(struct queue *q)
{
    lock_take(&q->lock);
    q->additions++;
    pthread_cond_broadcast(&q->added);
    lock_drop(&q->lock);
}

static struct queue_job *job_new(struct queue *q, const char *id, const char *payload,
                                 enum queue_priority priority, unsigned tries, const char *token)
{
    struct queue_job *job = xcalloc(1, sizeof(*job));

    job->priority = priority;
    job->tries = tries;
    job->id = xstrdup(id);
    job->payload = xstrdup(payload);
    job->queue = q;
    strcpy(job->token, token);
    return job;
}

static void job_free(struct queue_job *job)
{
    free(job->id);
    free(job->payload);
    free(job);
}

/* ---- within the process ---- */

static void enqueue_locked(struct queue *q, struct local_job *j)
{
    if (j->taken)
        DL_DELETE(q->taken, j);
    j->taken = j->again = false;
    DL_APPEND(q->lists[j->priority], j);
    q->waiting[j->priority]++;
    q->additions++;
    pthread_cond_broadcast(&q->added);
}

static void drop_locked(struct queue *q, struct local_job *j)
{
    if (j->taken)
        DL_DELETE(q->taken, j);
    HASH_DEL(q->jobs, j);
    free(j->id);
    free(j->payload);
    free(j);
}

static int add_here(struct queue *q, enum queue_priority priority, const char *id,
                    const char *payload, struct err *err)
{
    struct local_job *j;
    int rc = 0;

    lock_take(&q->lock);
    HASH_FIND_STR(q->jobs, id, j);
    if (j != NULL && j->taken) {
        j->again = true;
        j->priority = priority;
        free(j->payload);
        j->payload = xstrdup(payload);
    } else if (j == NULL && q->waiting[priority] >= q->max) {
        rc = err_set(err, ERR_LIMIT, "the queue %s is full", names[priority]);
    } else if (j == NULL) {
        j = xcalloc(1, sizeof(*j));
        j->id = xstrdup(id);
        j->payload = xstrdup(payload);
        j->priority = priority;
        HASH_ADD_KEYPTR(hh, q->jobs, j->id, strlen(j->id), j);
        enqueue_locked(q, j);
    }
    lock_drop(&q->lock);
    return rc;
}

static void put_back_overdue_locked(struct queue *q, uint64_t now)
{
    struct local_job *j, *next;

    DL_FOREACH_SAFE(q->taken, j, next)
    {
        if (now < j->until_ms)
            continue;
        if (j->tries >= QUEUE_TRIES_MAX && !j->again) {
            q->dropped++;
            drop_locked(q, j);
            continue;
        }
        if (j->again)
            j->tries = 0;
        enqueue_locked(q, j);
    }
}

static struct queue_job *take_here(struct queue *q)
{
    struct queue_job *job = NULL;
    uint64_t now = now_ms();

    lock_take(&q->lock);
    put_back_overdue_locked(q, now);
    for (size_t p = 0; p < QUEUE_PRIORITIES_COUNT && job == NULL; p++) {
        struct local_job *j = q->lists[p];

        if (j == NULL)
            continue;
        DL_DELETE(q->lists[p], j);
        q->waiting[p]--;
        DL_APPEND(q->taken, j);
        j->taken = true;
        j->tries++;
        j->until_ms = now + q->visibility_ms;
        redis_token(j->token);
        job = job_new(q, j->id, j->payload, j->priority, j->tries, j->token);
    }
    lock_drop(&q->lock);
    return job;
}

enum settling { DONE, BACK, EXTEND };

static bool settle_here(struct queue *q, const struct queue_job *job, enum settling what)
{
    struct local_job *j;
    bool ours;

    lock_take(&q->lock);
    HASH_FIND_STR(q->jobs, job->id, j);
    ours = j != NULL && j->taken && strcmp(j->token, job->token) == 0;
    if (ours && what == EXTEND) {
        j->until_ms = now_ms() + q->visibility_ms;
    } else if (ours && !j->again && (what == DONE || j->tries >= QUEUE_TRIES_MAX)) {
        q->dropped += what == BACK;
        drop_locked(q, j);
    } else if (ours) {
        if (j->again)
            j->tries = 0;
        enqueue_locked(q, j);
    }
    lock_drop(&q->lock);
    return ours;
}

/* ---- in Redis ---- */

static int add_there(struct queue *q, enum queue_priority priority, const char *id,
                     const char *payload, struct err *err)
{
    char number[REDIS_NUMBER_SIZE], max[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    const char *keys[6];
    int rc = redis_run(q->redis, &q->add, keys_of(q, keys),
                       REDIS_WORDS(id, redis_number((uint64_t)priority + 1, number),
                                   redis_number(q->max, max), payload, q->channel),
                       &reply, err);

    if (rc == 0 && reply->integer != 1)
        rc = err_set(err, ERR_LIMIT, "the queue %s is full", names[priority]);
    redis_reply_free(&reply);
    return rc;
}

/* 0: *out is a job, or NULL. */
static int take_there(struct queue *q, struct queue_job **out, struct err *err)
{
    char token[REDIS_TOKEN_SIZE], visible[REDIS_NUMBER_SIZE], tries[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    const char *keys[6];
    int64_t priority;

    redis_token(token);
    if (redis_run(q->redis, &q->take, keys_of(q, keys),
                  REDIS_WORDS(token, redis_number(q->visibility_ms, visible),
                              redis_number(QUEUE_TRIES_MAX, tries)),
                  &reply, err) != 0)
        return -1;
    lock_take(&q->lock);
    q->dropped += (uint64_t)redis_item_integer(reply, 0);
    lock_drop(&q->lock);
    priority = redis_item_integer(reply, 2);
    if (redis_item(reply, 4) != NULL && priority >= 1 && priority <= QUEUE_PRIORITIES_COUNT)
        *out = job_new(q, redis_item_text(reply, 1), redis_item_text(reply, 4),
                       (enum queue_priority)(priority - 1), (unsigned)redis_item_integer(reply, 3),
                       token);
    redis_reply_free(&reply);
    return 0;
}

static bool settle_there(struct queue *q, const struct queue_job *job, enum settling what)
{
    char visible[REDIS_NUMBER_SIZE], tries[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    const char *keys[6], *word;
    struct err ignored;
    bool ours;

    word = what == DONE ? "done" : what == BACK ? "back" : redis_number(q->visibility_ms, visible);
    ours = redis_run(q->redis, &q->settle, keys_of(q, keys),
                     REDIS_WORDS(job->id, job->token, word, q->channel,
                                 redis_number(QUEUE_TRIES_MAX, tries)),
                     &reply, &ignored) == 0 &&
           reply->integer >= 1;
    if (ours && reply->integer == 2) {
        lock_take(&q->lock);
        q->dropped++;
        lock_drop(&q->lock);
    }
    redis_reply_free(&reply);
    return ours;
}

/* ---- whichever it is ---- */

int queue_add(struct queue *q, enum queue_priority priority, const char *id, const char *payload,
              struct err *err)
{
    must((size_t)priority < QUEUE_PRIORITIES_COUNT);
    if (id[0] == '\0' || strlen(id) > QUEUE_ID_MAX || strlen(payload) > QUEUE_PAYLOAD_MAX)
        return err_set(err, ERR_LIMIT, "a job has an id of 1 to %d bytes, and %d more at most",
                       QUEUE_ID_MAX, QUEUE_PAYLOAD_MAX);
    return q->redis != NULL ? add_there(q, priority, id, payload, err)
                            : add_here(q, priority, id, payload, err);
}

static int take_once(struct queue *q, struct queue_job **out, struct err *err)
{
    *out = NULL;
    if (q->redis != NULL)
        return take_there(q, out, err);
    *out = take_here(q);
    return 0;
}

/* False: the queue stops. */
static bool note_additions(struct queue *q, uint64_t *seen)
{
    bool stopping;

    lock_take(&q->lock);
    *seen = q->additions;
    stopping = q->stopping;
    lock_drop(&q->lock);
    return !stopping;
}

static void wait_for_more(struct queue *q, uint64_t seen, uint64_t deadline_ms)
{
    uint64_t again = LOOK_AGAIN_MS < q->visibility_ms ? LOOK_AGAIN_MS : q->visibility_ms;
    uint64_t look = now_ms() + again;

    lock_take(&q->lock);
    while (!q->stopping && q->additions == seen &&
           lock_wait_until(&q->lock, &q->added, look < deadline_ms ? look : deadline_ms))
        ;
    lock_drop(&q->lock);
}

int queue_take(struct queue *q, uint64_t wait_ms, struct queue_job **out, struct err *err)
{
    uint64_t deadline = now_ms() + wait_ms, seen;
    struct queue_job *job;

    for (;;) {
        if (!note_additions(q, &seen))
            return err_set(err, ERR_CANCELLED, "this node stops");
        if (take_once(q, &job, err) != 0)
            return -1;
        if (job != NULL) {
            *out = job;
            return 0;
        }
        if (now_ms() >= deadline)
            return err_set(err, ERR_TIMEOUT, "there is nothing to be done");
        wait_for_more(q, seen, deadline);
    }
}

static bool settle(const struct queue_job *job, enum settling what)
{
    return job->queue->redis != NULL ? settle_there(job->queue, job, what)
                                     : settle_here(job->queue, job, what);
}

bool queue_extend(struct queue_job *job)
{
    return settle(job, EXTEND);
}

void queue_done(struct queue_job **job)
{
    settle(*job, DONE);
    job_free(*job);
    *job = NULL;
}

void queue_give_up(struct queue_job **job)
{
    settle(*job, BACK);
    job_free(*job);
    *job = NULL;
}

static void count_here(struct queue *q, struct queue_counts *out)
{
    struct local_job *j, *next;

    lock_take(&q->lock);
    memcpy(out->waiting, q->waiting, sizeof(out->waiting));
    HASH_ITER(hh, q->jobs, j, next)
    out->taken += j->taken;
    out->dropped = q->dropped;
    lock_drop(&q->lock);
}

int queue_count(struct queue *q, struct queue_counts *out, struct err *err)
{
    struct redis_reply *reply = NULL;
    const char *keys[6];

    *out = (struct queue_counts){0};
    if (q->redis == NULL) {
        count_here(q, out);
        return 0;
    }
    lock_take(&q->lock);
    out->dropped = q->dropped;
    lock_drop(&q->lock);
    if (redis_run(q->redis, &q->count, keys_of(q, keys), NULL, &reply, err) != 0)
        return -1;
    for (size_t p = 0; p < QUEUE_PRIORITIES_COUNT; p++)
        out->waiting[p] = (uint64_t)redis_item_integer(reply, p);
    out->taken = (uint64_t)redis_item_integer(reply, 3);
    redis_reply_free(&reply);
    return 0;
}

/* ---- beginning and end ---- */

static void hear_addition(void *ctx, const char *id)
{
    (void)id;
    wake(ctx);
}

static void prepare_redis(struct queue *q)
{
    for (size_t p = 0; p < QUEUE_PRIORITIES_COUNT; p++)
        q->keys[p] = redis_key(q->redis, "queue:%s", names[p]);
    q->keys[3] = redis_key(q->redis, "queue:jobs");
    q->keys[4] = redis_key(q->redis, "queue:taken");
    q->channel = redis_key(q->redis, "queued");
    redis_script_init(&q->add, ADD);
    redis_script_init(&q->take, TAKE);
    redis_script_init(&q->settle, SETTLE);
    redis_script_init(&q->count, COUNT);
    redis_subscribe(q->redis, "queued", hear_addition, q);
}

struct queue *queue_new(struct redis *redis, const struct queue_config *config)
{
    struct queue *q = xcalloc(1, sizeof(*q));

    q->redis = redis;
    q->max = config->max != 0 ? config->max : MAX_DEFAULT;
    q->visibility_ms = config->visibility_ms != 0 ? config->visibility_ms : VISIBILITY_DEFAULT_MS;
    lock_init(&q->lock, LOCK_QUEUE);
    lock_cond_init(&q->added);
    if (redis != NULL)
        prepare_redis(q);
    return q;
}

void queue_stop(struct queue *q)
{
    lock_take(&q->lock);
    q->stopping = true;
    pthread_cond_broadcast(&q->added);
    lock_drop(&q->lock);
}

void queue_free(struct queue **qp)
{
    struct queue *q = *qp;
    struct local_job *j, *next;

    *qp = NULL;
    if (q == NULL)
        return;
    HASH_ITER(hh, q->jobs, j, next)
    drop_locked(q, j);
    for (size_t i = 0; i < ARRAY_LEN(q->keys); i++)
        free(q->keys[i]);
    free(q->channel);
    pthread_cond_destroy(&q->added);
    lock_clear(&q->lock);
    free(q);
}
