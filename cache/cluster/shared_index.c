#include "cache/cluster/shared_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum { FIELDS_MAX = 20 };

static const char PUT[] =
    "if ARGV[2] == 'local' and redis.call('HGET', KEYS[1], 'tier') == 'shared' then return 0 end\n"
    "local words = {}\n"
    "for i = 3, #ARGV do words[#words + 1] = ARGV[i] end\n"
    "redis.call('DEL', KEYS[1])\n"
    "redis.call('HSET', KEYS[1], 'tier', ARGV[2], unpack(words))\n"
    "return redis.call('EXPIRE', KEYS[1], ARGV[1])\n";
/* Only if it is there: else a hash without anything else would come to be. */
static const char USE[] = "if redis.call('EXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end\n"
                          "redis.call('HINCRBY', KEYS[1], 'accesses', 1)\n"
                          "redis.call('HSET', KEYS[1], 'accessed', ARGV[2])\n"
                          "return 1\n";
/* ARGV: ttl, refs, asked, generation; the last three may be ''.  {refs, asked, generation, now} */
static const char VERSION[] =
    "local time = redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local had = redis.call('HMGET', KEYS[1], 'refs', 'refs_ms', 'generation')\n"
    "local refs, asked, generation = had[1] or '', tonumber(had[2]) or 0, tonumber(had[3]) or 0\n"
    "local news = tonumber(ARGV[3]) or 0\n"
    "if news == 0 then news = now end\n"
    "if ARGV[2] ~= '' and news >= asked then refs, asked = ARGV[2], news end\n"
    "if (tonumber(ARGV[4]) or 0) > generation then generation = tonumber(ARGV[4]) end\n"
    "local asked_text = string.format('%.0f', asked)\n"
    "local generation_text = string.format('%.0f', generation)\n"
    "if ARGV[2] ~= '' or ARGV[4] ~= '' then\n"
    "  redis.call('HSET', KEYS[1], 'refs', refs, 'refs_ms', asked_text,\n"
    "             'generation', generation_text)\n"
    "end\n"
    "redis.call('EXPIRE', KEYS[1], ARGV[1])\n"
    "return {refs, asked_text, generation_text, string.format('%.0f', now)}\n";

struct shared_index {
    struct redis *redis;
    char ttl[REDIS_NUMBER_SIZE];
    struct redis_script put, use, version;
};

struct shared_index *shared_index_new(struct redis *redis, uint64_t ttl_s)
{
    struct shared_index *x = xcalloc(1, sizeof(*x));

    must(ttl_s > 0);
    x->redis = redis;
    redis_number(ttl_s, x->ttl);
    redis_script_init(&x->put, PUT);
    redis_script_init(&x->use, USE);
    redis_script_init(&x->version, VERSION);
    return x;
}

void shared_index_free(struct shared_index **x)
{
    free(*x);
    *x = NULL;
}

/* ---- entries ---- */

static char *name_of(struct shared_index *x, enum entry_kind kind, const struct key *key)
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(key, hex);
    return redis_key(x->redis, "entry:%s:%s", entry_kind_name(kind), hex);
}

/* The words of a command, growing; numbers lie in texts. */
struct words {
    const char *list[2 * FIELDS_MAX + 3];
    char texts[FIELDS_MAX][REDIS_NUMBER_SIZE];
    size_t count, numbers;
};

static int add_text(struct words *w, const char *name, const char *value, struct err *err)
{
    if (value == NULL)
        return 0;
    if (strlen(value) > SHARED_INDEX_TEXT_MAX)
        return err_set(err, ERR_LIMIT, "the %s of an entry is longer than %d bytes", name,
                       SHARED_INDEX_TEXT_MAX);
    w->list[w->count++] = name;
    w->list[w->count++] = value;
    return 0;
}

static void add_number(struct words *w, const char *name, int64_t value)
{
    char *text = w->texts[w->numbers++];

    snprintf(text, REDIS_NUMBER_SIZE, "%lld", (long long)value);
    w->list[w->count++] = name;
    w->list[w->count++] = text;
}

static int write_entry(struct words *w, const struct entry *e, struct err *err)
{
    if (add_text(w, "repo_id", e->repo_id, err) != 0 || add_text(w, "repo", e->repo, err) != 0 ||
        add_text(w, "url", e->url, err) != 0 || add_text(w, "ref", e->ref, err) != 0 ||
        add_text(w, "commit", e->commit, err) != 0 || add_text(w, "path", e->path, err) != 0 ||
        add_text(w, "node", e->node, err) != 0)
        return -1;
    add_number(w, "size", (int64_t)e->size);
    add_number(w, "stored_size", (int64_t)e->stored_size);
    add_number(w, "created", e->created);
    add_number(w, "accessed", e->accessed);
    add_number(w, "accesses", (int64_t)e->accesses);
    add_number(w, "note_offset", e->note_offset);
    add_number(w, "objects", e->objects);
    add_number(w, "packed", e->packed);
    return 0;
}

int shared_index_put(struct shared_index *x, const struct key *key, const struct entry *e,
                     struct err *err)
{
    struct words w = {.list = {x->ttl, e->tier == TIER_SHARED ? "shared" : "local"}, .count = 2};
    char *name;
    int rc;

    if (write_entry(&w, e, err) != 0)
        return -1;
    if (x->redis == NULL)
        return 0;
    name = name_of(x, e->kind, key);
    rc = redis_run(x->redis, &x->put, REDIS_WORDS(name), w.list, NULL, err);
    free(name);
    return rc;
}

static char *copy_field(const struct redis_reply *fields, const char *name)
{
    const char *value = redis_field(fields, name);

    return value != NULL ? xstrdup(value) : NULL;
}

static int64_t number_field(const struct redis_reply *fields, const char *name)
{
    const char *value = redis_field(fields, name);

    return value != NULL ? strtoll(value, NULL, 10) : 0;
}

static int read_entry(const struct redis_reply *fields, enum entry_kind kind, struct entry *out,
                      struct err *err)
{
    const char *tier = redis_field(fields, "tier");

    if (tier == NULL)
        return err_set(err, ERR_NOT_FOUND, "no node knows such an entry");
    *out = (struct entry){
        .kind = kind,
        .repo_id = copy_field(fields, "repo_id"),
        .repo = copy_field(fields, "repo"),
        .url = copy_field(fields, "url"),
        .ref = copy_field(fields, "ref"),
        .commit = copy_field(fields, "commit"),
        .path = copy_field(fields, "path"),
        .node = copy_field(fields, "node"),
        .size = (uint64_t)number_field(fields, "size"),
        .stored_size = (uint64_t)number_field(fields, "stored_size"),
        .created = number_field(fields, "created"),
        .accessed = number_field(fields, "accessed"),
        .accesses = (uint64_t)number_field(fields, "accesses"),
        .tier = strcmp(tier, "shared") == 0 ? TIER_SHARED : TIER_LOCAL,
        .note_offset = number_field(fields, "note_offset"),
        .objects = (uint32_t)number_field(fields, "objects"),
        .packed = number_field(fields, "packed") != 0,
    };
    if (out->repo_id != NULL && out->repo != NULL && out->url != NULL && out->path != NULL)
        return 0;
    entry_clear(out);
    return err_set(err, ERR_NOT_FOUND, "what Redis has of that entry is not all of it");
}

int shared_index_find(struct shared_index *x, enum entry_kind kind, const struct key *key,
                      struct entry *out, struct err *err)
{
    struct redis_reply *fields = NULL;
    char *name;
    int rc;

    *out = (struct entry){0};
    if (x->redis == NULL)
        return err_set(err, ERR_NOT_FOUND, "there are no other nodes");
    name = name_of(x, kind, key);
    rc = redis_ask(x->redis, REDIS_WORDS("HGETALL", name), &fields, err);
    free(name);
    if (rc == 0)
        rc = read_entry(fields, kind, out, err);
    redis_reply_free(&fields);
    return rc;
}

int shared_index_use(struct shared_index *x, enum entry_kind kind, const struct key *key,
                     int64_t now_s, struct err *err)
{
    char now[REDIS_NUMBER_SIZE], *name;
    int rc;

    if (x->redis == NULL)
        return 0;
    name = name_of(x, kind, key);
    rc = redis_run(x->redis, &x->use, REDIS_WORDS(name),
                   REDIS_WORDS(x->ttl, redis_number((uint64_t)now_s, now)), NULL, err);
    free(name);
    return rc;
}

int shared_index_remove(struct shared_index *x, enum entry_kind kind, const struct key *key,
                        struct err *err)
{
    char *name;
    int rc;

    if (x->redis == NULL)
        return 0;
    name = name_of(x, kind, key);
    rc = redis_ask(x->redis, REDIS_WORDS("DEL", name), NULL, err);
    free(name);
    return rc;
}

/* ---- versions ---- */

static int ask_version(struct shared_index *x, const char *repo_id, const char *const *args,
                       struct shared_version *out, struct err *err)
{
    struct redis_reply *reply = NULL;
    char *name;
    int rc;

    *out = (struct shared_version){0};
    if (x->redis == NULL)
        return 0;
    name = redis_key(x->redis, "repo:%s", repo_id);
    rc = redis_run(x->redis, &x->version, REDIS_WORDS(name), args, &reply, err);
    free(name);
    if (rc == 0) {
        snprintf(out->refs, sizeof(out->refs), "%s", redis_item_text(reply, 0));
        out->refs_ms = redis_item_integer(reply, 1);
        out->generation = (uint64_t)redis_item_integer(reply, 2);
        out->now_ms = redis_item_integer(reply, 3);
    }
    redis_reply_free(&reply);
    return rc;
}

int shared_version_get(struct shared_index *x, const char *repo_id, struct shared_version *out,
                       struct err *err)
{
    return ask_version(x, repo_id, REDIS_WORDS(x->ttl, "", "", ""), out, err);
}

int shared_version_put(struct shared_index *x, const char *repo_id, const char *refs,
                       int64_t asked_ms, uint64_t generation, struct shared_version *out,
                       struct err *err)
{
    char asked[REDIS_NUMBER_SIZE], number[REDIS_NUMBER_SIZE];
    struct shared_version ignored;

    must(strlen(refs) < KEY_HEX_SIZE && asked_ms >= 0);
    redis_number((uint64_t)asked_ms, asked);
    redis_number(generation, number);
    return ask_version(x, repo_id, REDIS_WORDS(x->ttl, refs, asked, generation != 0 ? number : ""),
                       out != NULL ? out : &ignored, err);
}
