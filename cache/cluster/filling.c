#include "cache/cluster/filling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/entry.h"
#include "protocol/base.h"

/* KEYS: who fills it, its record.  ARGV: mode, who asks, the names of nodes without their ids; of a
 * claim: token, how we are reached, ttl.  {what, left or since, value, holder, its address} */
static const char SEEK[] =
    "local mode, me, nodes = ARGV[1], ARGV[2], ARGV[3]\n"
    "local record = redis.call('HMGET', KEYS[2], 'tier', 'node')\n"
    "local holder, where = record[2] or '', ''\n"
    "if record[1] == 'shared' then\n"
    "  if mode == 'look' or mode == 'claim' then return {'shared'} end\n"
    "  if mode == 'not there' then redis.call('DEL', KEYS[2]) end\n"
    "end\n"
    "local value = redis.call('GET', KEYS[1])\n"
    "local filler = value and string.match(value, '^%x+ %d+ (%S+) ')\n"
    "if filler and filler ~= me and redis.call('EXISTS', nodes .. filler) == 1 then\n"
    "  return {'theirs', redis.call('PTTL', KEYS[1]), value}\n"
    "end\n"
    "if holder ~= '' and holder ~= me then\n"
    "  where = redis.call('HGET', nodes .. holder, 'address') or ''\n"
    "end\n"
    "if mode == 'look' then return {'nothing', '', '', holder, where} end\n"
    "local time = redis.call('TIME')\n"
    "local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))\n"
    "redis.call('SET', KEYS[1], ARGV[4] .. ' ' .. now .. ' ' .. me .. ' ' .. ARGV[5],\n"
    "           'PX', ARGV[6])\n"
    "return {'ours', now, '', holder, where}\n";
/* ARGV: token, for how long, or '' to clear it. */
static const char SETTLE[] =
    "local value = redis.call('GET', KEYS[1])\n"
    "if not value or string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then return 0 end\n"
    "if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end\n"
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2])\n";

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

static const char *const modes[] = {[SEEK_LOOK] = "look",
                                    [SEEK_OR_CLAIM] = "claim",
                                    [SEEK_NOT_SHARED] = "not shared",
                                    [SEEK_NOT_THERE] = "not there"};

static int ask(struct redis *redis, const struct filler *us, enum seek_mode mode,
               const struct filling *claim, struct redis_reply **reply, struct err *err)
{
    char hex[KEY_HEX_SIZE], ttl[REDIS_NUMBER_SIZE], *name, *entry, *nodes;
    struct redis_script script;
    int rc;

    redis_script_init(&script, SEEK);
    key_to_hex(&claim->key, hex);
    name = redis_key(redis, "filling:%s", hex);
    entry = redis_key(redis, "entry:%s:%s", entry_kind_name(ENTRY_ANSWER), hex);
    nodes = redis_key(redis, "node:");
    rc = redis_run(redis, &script, REDIS_WORDS(name, entry),
                   REDIS_WORDS(modes[mode], us->node, nodes, claim->token, us->address,
                               redis_number(us->ttl_ms, ttl)),
                   reply, err);
    free(nodes);
    free(entry);
    free(name);
    return rc;
}

static void read_holder(const struct redis_reply *reply, struct seek_found *out)
{
    const char *holder = redis_item_text(reply, 3), *address = redis_item_text(reply, 4);

    if (address[0] == '\0' || strlen(holder) > NODE_ID_MAX || strlen(address) >= NODE_TEXT_MAX)
        return;
    strcpy(out->holder, holder);
    strcpy(out->address, address);
}

static int read_found(const struct redis_reply *reply, const struct filling *claim,
                      struct seek_found *out, struct err *err)
{
    const char *what = redis_item_text(reply, 0);

    *out = (struct seek_found){.filling = {.key = claim->key}};
    read_holder(reply, out);
    if (strcmp(what, "shared") == 0) {
        out->sought = SOUGHT_SHARED;
    } else if (strcmp(what, "theirs") == 0) {
        out->sought = SOUGHT_THEIRS;
        if (!read_value(reply, &out->filling))
            return err_set(err, ERR_UPSTREAM, "what Redis says about who fills it makes no sense");
    } else if (strcmp(what, "ours") == 0) {
        out->sought = SOUGHT_OURS;
        out->filling = *claim;
        out->filling.started_ms = redis_item_integer(reply, 1);
    }
    return 0;
}

int filling_seek(struct redis *redis, const struct filler *us, const struct key *key,
                 enum seek_mode mode, struct seek_found *out, struct err *err)
{
    struct redis_reply *reply = NULL;
    struct filling claim;
    int rc;

    fill_in(&claim, key, us->node, us->address, us->ttl_ms);
    *out = (struct seek_found){.filling = claim};
    if (redis == NULL) {
        out->sought = mode == SEEK_LOOK ? SOUGHT_NOTHING : SOUGHT_OURS;
        return 0;
    }
    rc = ask(redis, us, mode, &claim, &reply, err);
    if (rc == 0)
        rc = read_found(reply, &claim, out, err);
    if (rc != 0)
        *out = (struct seek_found){.filling = {.key = *key}};
    redis_reply_free(&reply);
    return rc;
}

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
