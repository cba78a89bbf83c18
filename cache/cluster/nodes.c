#include "cache/cluster/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/digest.h"

enum { HEARTBEAT_DEFAULT_MS = 1000, TTL_DEFAULT_MS = 5000, RUN_SIZE = 64 };

/* Since when this very server has been told of nodes, in its milliseconds: after a restart or a
 * failover it may have forgotten some that still count themselves as alive. */
#define AGE                                                                                        \
    "local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''\n"               \
    "local time = redis.call('TIME')\n"                                                            \
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"                                    \
    "local known = redis.call('HMGET', KEYS[2], 'run', 'since')\n"                                 \
    "local since = known[1] == run and tonumber(known[2]) or now\n"

/* {0: another node has this id; 1: we were known; 2: we were not, the server's run}. */
static const char BEAT[] =
    AGE "local boot = redis.call('HGET', KEYS[1], 'boot')\n"
        "if boot and boot ~= ARGV[3] and redis.call('HGET', KEYS[1], 'address') ~= ARGV[4] then\n"
        "  return {0, run}\n"
        "end\n"
        "redis.call('HSET', KEYS[1], 'boot', ARGV[3], 'address', ARGV[4], 'version', ARGV[5],\n"
        "           'started', ARGV[6], 'requests', ARGV[7], 'disk_used', ARGV[8],\n"
        "           'disk_limit', ARGV[9], 'applied', ARGV[10])\n"
        "redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
        "redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', now))\n"
        "if since == now then\n"
        "  redis.call('HSET', KEYS[2], 'run', run, 'since', string.format('%.0f', now))\n"
        "end\n"
        "return {boot == ARGV[3] and 1 or 2, run}\n";
/* ARGV: ids that another server knew.  As if they had been heard of just now. */
static const char REMIND[] =
    "local time = redis.call('TIME')\n"
    "local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))\n"
    "for i = 1, #ARGV do redis.call('HSETNX', KEYS[1], ARGV[i], now) end\n";
/* Only if it is ours: else it would live for ever. */
static const char APPLIED[] =
    "if redis.call('HGET', KEYS[1], 'boot') ~= ARGV[1] then return 0 end\n"
    "redis.call('HSET', KEYS[1], 'applied', ARGV[2])\n"
    "if ARGV[3] == '1' then\n"
    "  redis.call('PUBLISH', KEYS[2], ARGV[2])\n"
    "end\n"
    "return 1\n";
static const char LEAVE[] = "if redis.call('HGET', KEYS[1], 'boot') ~= ARGV[1] then return 0 end\n"
                            "redis.call('DEL', KEYS[1])\n"
                            "redis.call('HDEL', KEYS[2], ARGV[2])\n"
                            "redis.call('PUBLISH', KEYS[3], '')\n"
                            "return 1\n";
/* {age, {{id, fields}...}}; of one that is silent there are no fields but for how long. */
static const char LIST[] =
    AGE "local out = {}\n"
        "local all = redis.call('HGETALL', KEYS[1])\n"
        "for i = 1, #all, 2 do\n"
        "  local node = redis.call('HGETALL', ARGV[1] .. all[i])\n"
        "  local silent = now - tonumber(all[i + 1])\n"
        "  if #node > 0 then\n"
        "    out[#out + 1] = {all[i], node}\n"
        "  elseif silent < tonumber(ARGV[2]) then\n"
        "    out[#out + 1] = {all[i], {'silent', string.format('%.0f', silent)}}\n"
        "  else\n"
        "    redis.call('HDEL', KEYS[1], all[i])\n"
        "  end\n"
        "end\n"
        "return {now - since, out}\n";
/* 2: it is alive; 1: forgotten; 0: unknown. */
static const char FORGET[] = "if redis.call('EXISTS', KEYS[1]) == 1 then return 2 end\n"
                             "return redis.call('HDEL', KEYS[2], ARGV[1])\n";

struct nodes {
    struct redis *redis; /* NULL: alone */
    char *id, *address, *version;
    char boot[REDIS_TOKEN_SIZE]; /* tells this start from another with our id */
    int64_t started;
    uint64_t heartbeat_ms, ttl_ms, remember_ms;
    char *key, *set_key, *since_key, *prefix, *channel;
    struct redis_script beat, applied, leave, list, remind, forget;
    pthread_t thread;
    bool threaded;

    /* The thread's alone: who there was by the last look, and which server said so. */
    struct node_list known;
    char run[RUN_SIZE];

    struct lock lock;
    pthread_cond_t woken;
    struct node_load load;
    char applied_id[NODE_ID_MAX];
    uint64_t beat_at_ms;               /* the next one */
    uint64_t alive_until_ms, since_ms; /* 0: not alive */
    bool left, ending, refused;
    struct err why; /* if refused */
};

static bool is_id(const char *s)
{
    size_t len = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

    return len > 0 && len <= NODE_ID_MAX && s[len] == '\0';
}

const char *nodes_id(const struct nodes *n)
{
    return n->id;
}

/* ---- the heartbeat ---- */

static uint64_t alive_ms(const struct nodes *n)
{
    return n->ttl_ms - n->ttl_ms / 10; /* clocks differ in rate */
}

/* applied: as it went out. */
static void take_beat(struct nodes *n, int64_t answer, const char *applied, uint64_t sent)
{
    uint64_t now = now_ms();

    lock_take(&n->lock);
    n->refused = answer == 0;
    if (answer == 0) {
        err_set(&n->why, ERR_CONFLICT,
                "another node, with another address, calls itself %s: no two may have one name",
                n->id);
    } else if (!n->left) {
        /* They had forgotten us, or may have, had they looked. */
        if (answer == 2 || now >= n->alive_until_ms)
            n->since_ms = now;
        n->alive_until_ms = sent + alive_ms(n);
    }
    /* A newer one may have been told meanwhile, and been overwritten by this. */
    if (strcmp(applied, n->applied_id) != 0)
        n->beat_at_ms = 0;
    lock_drop(&n->lock);
}

/* A Redis that came back empty has forgotten who was cut off meanwhile, and may serve what it has.
 * Each node tells it of those that it knew. */
static bool remind(struct nodes *n)
{
    const char *ids[NODES_MAX + 1];
    struct err ignored;
    size_t i;

    for (i = 0; i < n->known.count; i++)
        ids[i] = n->known.nodes[i].id;
    ids[i] = NULL;
    return i == 0 ||
           redis_run(n->redis, &n->remind, REDIS_WORDS(n->set_key), ids, NULL, &ignored) == 0;
}

static void remember(struct nodes *n, const char *run)
{
    struct node_list list;
    struct err ignored;

    if (n->run[0] != '\0' && strcmp(run, n->run) != 0 && !remind(n))
        return; /* at the next beat */
    snprintf(n->run, sizeof(n->run), "%s", run);
    if (nodes_list(n, &list, &ignored) != 0)
        return;
    node_list_clear(&n->known);
    n->known = list;
}

static void beat(struct nodes *n)
{
    char ttl[REDIS_NUMBER_SIZE], started[REDIS_NUMBER_SIZE], requests[REDIS_NUMBER_SIZE];
    char used[REDIS_NUMBER_SIZE], limit[REDIS_NUMBER_SIZE], applied[NODE_ID_MAX];
    struct redis_reply *reply = NULL;
    struct node_load load;
    struct err err;
    uint64_t sent;
    int rc;

    lock_take(&n->lock);
    load = n->load;
    strcpy(applied, n->applied_id);
    lock_drop(&n->lock);
    sent = now_ms();
    rc = redis_run(n->redis, &n->beat, REDIS_WORDS(n->key, n->since_key, n->set_key),
                   REDIS_WORDS(n->id, redis_number(n->ttl_ms, ttl), n->boot, n->address, n->version,
                               redis_number((uint64_t)n->started, started),
                               redis_number(load.requests, requests),
                               redis_number(load.disk_used, used),
                               redis_number(load.disk_limit, limit), applied),
                   &reply, &err);
    if (rc == 0)
        take_beat(n, redis_item_integer(reply, 0), applied, sent);
    if (rc == 0 && n->remember_ms > 0)
        remember(n, redis_item_text(reply, 1));
    redis_reply_free(&reply);
}

static void forget_us(struct nodes *n)
{
    struct err ignored;

    redis_run(n->redis, &n->leave, REDIS_WORDS(n->key, n->set_key, n->channel),
              REDIS_WORDS(n->boot, n->id), NULL, &ignored);
}

static void *beat_main(void *arg)
{
    bool left;

    struct nodes *n = arg;

    lock_take(&n->lock);
    while (!n->ending) {
        if (n->left || n->beat_at_ms == UINT64_MAX) {
            lock_wait(&n->lock, &n->woken);
            continue;
        }
        if (now_ms() < n->beat_at_ms) {
            lock_wait_until(&n->lock, &n->woken, n->beat_at_ms);
            continue;
        }
        n->beat_at_ms = now_ms() + n->heartbeat_ms;
        lock_drop(&n->lock);
        beat(n); /* when it fails: hear_change() has it done again as soon as Redis is back */
        lock_take(&n->lock);
        left = n->left;
        lock_drop(&n->lock);
        if (left)
            forget_us(n); /* we left while that beat was under way, and may be listed again */
        lock_take(&n->lock);
    }
    lock_drop(&n->lock);
    return NULL;
}

static void hear_change(void *ctx, bool up, const struct err *why)
{
    struct nodes *n = ctx;

    (void)why;
    lock_take(&n->lock);
    if (up) {
        n->beat_at_ms = 0;
        pthread_cond_broadcast(&n->woken);
    } else {
        /* It may come back with another past, in which that event never was. */
        n->applied_id[0] = '\0';
    }
    lock_drop(&n->lock);
}

bool nodes_is_alive(struct nodes *n, uint64_t now_ms, uint64_t *since_ms)
{
    bool alive;

    lock_take(&n->lock);
    alive = n->redis == NULL || now_ms < n->alive_until_ms;
    if (since_ms != NULL)
        *since_ms = n->since_ms;
    lock_drop(&n->lock);
    return alive;
}

bool nodes_trouble(struct nodes *n, struct err *why)
{
    bool trouble;

    lock_take(&n->lock);
    trouble = n->refused;
    if (trouble)
        *why = n->why;
    lock_drop(&n->lock);
    return trouble;
}

void nodes_describe(struct nodes *n, const struct node_load *load)
{
    lock_take(&n->lock);
    n->load = *load;
    lock_drop(&n->lock);
}

int nodes_applied(struct nodes *n, const char *event_id, bool tell, struct err *err)
{
    must(strlen(event_id) < NODE_ID_MAX);
    lock_take(&n->lock);
    strcpy(n->applied_id, event_id);
    lock_drop(&n->lock);
    if (n->redis == NULL)
        return 0;
    if (redis_run(n->redis, &n->applied, REDIS_WORDS(n->key, n->channel),
                  REDIS_WORDS(n->boot, event_id, tell ? "1" : "0"), NULL, err) == 0)
        return 0;
    lock_take(&n->lock);
    n->applied_id[0] = '\0'; /* as hear_change() does, which may have been there before us */
    lock_drop(&n->lock);
    return -1;
}

void nodes_leave(struct nodes *n)
{
    lock_take(&n->lock);
    n->left = true;
    n->alive_until_ms = 0;
    lock_drop(&n->lock);
    if (n->redis != NULL)
        forget_us(n);
}

/* ---- the list ---- */

static void copy_text(char *to, size_t size, const struct redis_reply *fields, const char *name)
{
    const char *text = redis_field(fields, name);

    snprintf(to, size, "%s", text != NULL ? text : "");
}

static uint64_t read_number(const struct redis_reply *fields, const char *name)
{
    const char *text = redis_field(fields, name);

    return text != NULL ? strtoull(text, NULL, 10) : 0;
}

static bool read_node(const struct redis_reply *item, struct node *out)
{
    const struct redis_reply *fields = redis_item(item, 1);

    if (!is_id(redis_item_text(item, 0)) || fields == NULL)
        return false;
    *out = (struct node){0};
    strcpy(out->id, redis_item_text(item, 0));
    copy_text(out->address, sizeof(out->address), fields, "address");
    copy_text(out->version, sizeof(out->version), fields, "version");
    copy_text(out->applied, sizeof(out->applied), fields, "applied");
    out->started = (int64_t)read_number(fields, "started");
    out->load.requests = read_number(fields, "requests");
    out->load.disk_used = read_number(fields, "disk_used");
    out->load.disk_limit = read_number(fields, "disk_limit");
    out->silent_ms = read_number(fields, "silent");
    return true;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct node *)a)->id, ((const struct node *)b)->id);
}

static void list_self(struct nodes *n, struct node_list *out)
{
    struct node *self = xcalloc(1, sizeof(*self));

    lock_take(&n->lock);
    strcpy(self->id, n->id);
    strcpy(self->address, n->address);
    strcpy(self->version, n->version);
    strcpy(self->applied, n->applied_id);
    self->load = n->load;
    self->started = n->started;
    lock_drop(&n->lock);
    *out = (struct node_list){.nodes = self, .count = 1, .complete = true};
}

bool nodes_has(struct nodes *n, const char *id)
{
    struct redis_reply *reply = NULL;
    struct err ignored;
    char *key;
    bool has;

    if (n->redis == NULL)
        return strcmp(id, n->id) == 0;
    key = xasprintf("%s%s", n->prefix, id);
    has = redis_ask(n->redis, REDIS_WORDS("EXISTS", key), &reply, &ignored) == 0 &&
          reply->integer == 1;
    redis_reply_free(&reply);
    free(key);
    return has;
}

int nodes_list(struct nodes *n, struct node_list *out, struct err *err)
{
    const struct redis_reply *items;
    struct redis_reply *reply = NULL;
    char remember[REDIS_NUMBER_SIZE];

    *out = (struct node_list){0};
    if (n->redis == NULL) {
        list_self(n, out);
        return 0;
    }
    if (redis_run(n->redis, &n->list, REDIS_WORDS(n->set_key, n->since_key),
                  REDIS_WORDS(n->prefix, redis_number(n->remember_ms, remember)), &reply, err) != 0)
        return -1;
    out->complete = redis_item_integer(reply, 0) >= (int64_t)n->ttl_ms;
    items = redis_item(reply, 1);
    out->nodes = xcalloc(NODES_MAX, sizeof(out->nodes[0]));
    for (size_t i = 0; items != NULL && i < items->count && out->count < NODES_MAX; i++)
        out->count += read_node(items->items[i], &out->nodes[out->count]);
    qsort(out->nodes, out->count, sizeof(out->nodes[0]), by_id);
    redis_reply_free(&reply);
    return 0;
}

int nodes_forget(struct nodes *n, const char *id, struct err *err)
{
    struct redis_reply *reply = NULL;
    bool known, alive;
    char *key;
    int rc;

    if (n->redis == NULL) {
        alive = strcmp(id, n->id) == 0;
        known = alive;
    } else {
        key = xasprintf("%s%s", n->prefix, id);
        rc = redis_run(n->redis, &n->forget, REDIS_WORDS(key, n->set_key), REDIS_WORDS(id), &reply,
                       err);
        free(key);
        if (rc != 0)
            return -1;
        alive = reply->integer == 2;
        known = reply->integer != 0;
        redis_reply_free(&reply);
    }
    if (alive)
        return err_set(err, ERR_CONFLICT, "node %s is alive: stop it, and it is gone by itself",
                       id);
    return known ? 0 : err_set(err, ERR_NOT_FOUND, "there is no node %s", id);
}

void node_list_clear(struct node_list *l)
{
    free(l->nodes);
    *l = (struct node_list){0};
}

/* ---- beginning and end ---- */

static void prepare_redis(struct nodes *n)
{
    n->key = redis_key(n->redis, "node:%s", n->id);
    n->set_key = redis_key(n->redis, "nodes");
    n->since_key = redis_key(n->redis, "nodes:since");
    n->prefix = redis_key(n->redis, "node:");
    n->channel = redis_key(n->redis, "applied");
    redis_script_init(&n->beat, BEAT);
    redis_script_init(&n->applied, APPLIED);
    redis_script_init(&n->leave, LEAVE);
    redis_script_init(&n->list, LIST);
    redis_script_init(&n->remind, REMIND);
    redis_script_init(&n->forget, FORGET);
    redis_watch(n->redis, hear_change, n);
    n->beat_at_ms = UINT64_MAX; /* until it is up */
    must(pthread_create(&n->thread, NULL, beat_main, n) == 0);
    pthread_setname_np(n->thread, "nodes");
    n->threaded = true;
}

int nodes_new(struct redis *redis, const struct nodes_config *config, struct nodes **out,
              struct err *err)
{
    struct nodes *n;

    if (!is_id(config->id))
        return err_set(err, ERR_INPUT,
                       "a node's name has 1 to %d of letters, digits, '.', '_' and '-'",
                       NODE_ID_MAX);
    if (strlen(config->address) >= NODE_TEXT_MAX || strpbrk(config->address, " \r\n") != NULL)
        return err_set(err, ERR_INPUT, "a node's address is host:port, at most %d bytes",
                       NODE_TEXT_MAX - 1);
    must(strlen(config->version) < NODE_TEXT_MAX);
    n = xcalloc(1, sizeof(*n));
    n->redis = redis;
    n->id = xstrdup(config->id);
    n->address = xstrdup(config->address);
    n->version = xstrdup(config->version);
    n->heartbeat_ms = config->heartbeat_ms != 0 ? config->heartbeat_ms : HEARTBEAT_DEFAULT_MS;
    n->ttl_ms = config->ttl_ms != 0 ? config->ttl_ms : TTL_DEFAULT_MS;
    n->remember_ms = config->remember_ms;
    must(n->ttl_ms > n->heartbeat_ms);
    n->started = time(NULL);
    redis_token(n->boot);
    lock_init(&n->lock, LOCK_NODES);
    lock_cond_init(&n->woken);
    if (redis != NULL)
        prepare_redis(n);
    *out = n;
    return 0;
}

void nodes_free(struct nodes **np)
{
    struct nodes *n = *np;

    *np = NULL;
    if (n == NULL)
        return;
    lock_take(&n->lock);
    n->ending = true;
    pthread_cond_broadcast(&n->woken);
    lock_drop(&n->lock);
    if (n->threaded)
        must(pthread_join(n->thread, NULL) == 0);
    pthread_cond_destroy(&n->woken);
    lock_clear(&n->lock);
    free(n->id);
    free(n->address);
    free(n->version);
    free(n->key);
    free(n->set_key);
    free(n->since_key);
    free(n->prefix);
    free(n->channel);
    node_list_clear(&n->known);
    free(n);
}
