#include "cache/cluster/filling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

/* {1, started}, or {0, milliseconds left, value} */
static const char CLAIM[] =
    "local value = redis.call('GET', KEYS[1])\n"
    "if value then return {0, redis.call('PTTL', KEYS[1]), value} end\n"
    "local time = redis.call('TIME')\n"
    "local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))\n"
    "redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. now .. ' ' .. ARGV[2], 'PX', ARGV[3])\n"
    "return {1, now}\n";
static const char FIND[] = "local value = redis.call('GET', KEYS[1])\n"
                           "if not value then return {1} end\n"
                           "return {0, redis.call('PTTL', KEYS[1]), value}\n";
/* ARGV: token, for how long, or '' to clear it. */
static const char SETTLE[] =
    "local value = redis.call('GET', KEYS[1])\n"
    "if not value or string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then return 0 end\n"
    "if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end\n"
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2])\n";

static int run(struct redis *redis, const char *text, const struct key *key,
               const char *const *args, struct redis_reply **reply, struct err *err)
{
    struct redis_script script;
    char hex[KEY_HEX_SIZE], *name;
    int rc;

    redis_script_init(&script, text);
    key_to_hex(key, hex);
    name = redis_key(redis, "filling:%s", hex);
    rc = redis_run(redis, &script, REDIS_WORDS(name), args, reply, err);
    free(name);
    return rc;
}

/* "<token> <started> <node> <address>"; false: that is none of ours. */
static bool read_value(const struct redis_reply *reply, struct filling *f)
{
    const char *value = redis_item_text(reply, 2), *node, *address;
    long long started;
    int n = 0;

    if (sscanf(value, "%16[0-9a-f] %lld %n", f->token, &started, &n) != 2 || n == 0)
        return false;
    node = value + n;
    address = node + strcspn(node, " ");
    if (address[0] != ' ' || address == node || (size_t)(address - node) > NODE_ID_MAX ||
        strlen(address + 1) >= NODE_TEXT_MAX)
        return false;
    memcpy(f->node, node, (size_t)(address - node));
    strcpy(f->address, address + 1);
    f->started_ms = started;
    f->left_ms = redis_item_integer(reply, 1) > 0 ? (uint64_t)redis_item_integer(reply, 1) : 0;
    return true;
}

static void fill_in(struct filling *f, const struct key *key, const char *node, const char *address,
                    uint64_t ttl_ms)
{
    must(strlen(node) <= NODE_ID_MAX && strlen(address) < NODE_TEXT_MAX);
    *f = (struct filling){.key = *key, .left_ms = ttl_ms};
    strcpy(f->node, node);
    strcpy(f->address, address);
    redis_token(f->token);
}

int filling_claim(struct redis *redis, const struct key *key, const char *node, const char *address,
                  uint64_t ttl_ms, struct filling *out, struct err *err)
{
    char ttl[REDIS_NUMBER_SIZE], *who;
    struct redis_reply *reply = NULL;
    int rc;

    fill_in(out, key, node, address, ttl_ms);
    if (redis == NULL)
        return 0;
    who = xasprintf("%s %s", node, address);
    rc = run(redis, CLAIM, key, REDIS_WORDS(out->token, who, redis_number(ttl_ms, ttl)), &reply,
             err);
    free(who);
    if (rc != 0) {
        *out = (struct filling){.key = *key};
        return -1;
    }
    if (redis_item_integer(reply, 0) == 1) {
        out->started_ms = redis_item_integer(reply, 1);
    } else {
        *out = (struct filling){.key = *key};
        rc = read_value(reply, out)
                 ? err_set(err, ERR_CONFLICT, "node %s is filling it", out->node)
                 : err_set(err, ERR_UPSTREAM, "what Redis says about who fills it makes no sense");
    }
    redis_reply_free(&reply);
    return rc;
}

int filling_find(struct redis *redis, const struct key *key, struct filling *out, struct err *err)
{
    struct redis_reply *reply = NULL;
    int rc = 0;

    *out = (struct filling){.key = *key};
    if (redis == NULL)
        return err_set(err, ERR_NOT_FOUND, "there are no other nodes");
    if (run(redis, FIND, key, NULL, &reply, err) != 0)
        return -1;
    if (redis_item_integer(reply, 0) == 1)
        rc = err_set(err, ERR_NOT_FOUND, "no node is filling it");
    else if (!read_value(reply, out))
        rc = err_set(err, ERR_UPSTREAM, "what Redis says about who fills it makes no sense");
    redis_reply_free(&reply);
    return rc;
}

static bool settle(struct redis *redis, const struct filling *f, const char *ttl)
{
    struct redis_reply *reply = NULL;
    struct err ignored;
    bool ours;

    if (redis == NULL || f->token[0] == '\0')
        return redis == NULL;
    ours = run(redis, SETTLE, &f->key, REDIS_WORDS(f->token, ttl), &reply, &ignored) == 0 &&
           reply->integer == 1;
    redis_reply_free(&reply);
    return ours;
}

bool filling_renew(struct redis *redis, const struct filling *f, uint64_t ttl_ms)
{
    char ttl[REDIS_NUMBER_SIZE];

    return settle(redis, f, redis_number(ttl_ms, ttl));
}

void filling_clear(struct redis *redis, const struct filling *f)
{
    settle(redis, f, "");
}
