#include "cache/cluster/shared_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"

enum { FIELDS_MAX = 20 };

/* ARGV: ttl, the names of nodes without their ids, now; then of each key what, whose, how many
 * words follow, and these. */
static const char TELL[] =
    "local ttl, nodes, now, at = ARGV[1], ARGV[2], ARGV[3], 4\n"
    "for i = 1, #KEYS do\n"
    "  local key, what, whose, count = KEYS[i], ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])\n"
    "  local words = {}\n"
    "  for j = at + 3, at + 2 + count do words[#words + 1] = ARGV[j] end\n"
    "  at = at + 3 + count\n"
    "  local had = redis.call('HMGET', key, 'tier', 'node')\n"
    "  local tier, holder = had[1], had[2]\n"
    "  local theirs = holder and holder ~= whose and redis.call('EXISTS', nodes .. holder) == 1\n"
    "  if what == 'gone' then\n"
    "    redis.call('DEL', key)\n"
    "  elseif what == 'left' then\n"
    "    if tier == 'local' and holder == whose then redis.call('DEL', key) end\n"
    "  elseif what == 'used' and tier == 'shared' then\n"
    "    redis.call('HINCRBY', key, 'accesses', 1)\n"
    "    redis.call('HSET', key, 'accessed', now)\n"
    "    redis.call('EXPIRE', key, ttl)\n"
    "  elseif tier == 'shared' and (what == 'local' or what == 'still') then\n"
    "  elseif what == 'still' and theirs then\n"
    "  elseif what == 'still' and tier and holder == whose then\n"
    "    redis.call('EXPIRE', key, ttl)\n"
    "  else\n"
    "    redis.call('DEL', key)\n"
    "    redis.call('HSET', key, unpack(words))\n"
    "    redis.call('EXPIRE', key, ttl)\n"
    "  end\n"
    "end\n";
/* ARGV: ttl, and a generation or ''. */
static const char GENERATION[] =
    "local had = tonumber(redis.call('HGET', KEYS[1], 'generation')) or 0\n"
    "if (tonumber(ARGV[2]) or 0) > had then\n"
    "  had = tonumber(ARGV[2])\n"
    "  redis.call('HSET', KEYS[1], 'generation', ARGV[2])\n"
    "end\n"
    "redis.call('EXPIRE', KEYS[1], ARGV[1])\n"
    "return string.format('%.0f', had)\n";

struct shared_index {
    struct redis *redis;
    char ttl[REDIS_NUMBER_SIZE];
    struct redis_script tell, generation;
};

struct shared_index *shared_index_new(struct redis *redis, uint64_t ttl_s)
{
    struct shared_index *x = xcalloc(1, sizeof(*x));

    must(ttl_s > 0);
    x->redis = redis;
    redis_number(ttl_s, x->ttl);
    redis_script_init(&x->tell, TELL);
    redis_script_init(&x->generation, GENERATION);
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

/* The words of a record, growing; numbers lie in texts. */
struct words {
    const char *list[2 * FIELDS_MAX];
    char texts[FIELDS_MAX][REDIS_NUMBER_SIZE];
    size_t count, numbers;
};

/* False: it is longer than records are to be. */
static bool add_text(struct words *w, const char *name, const char *value)
{
    if (value == NULL)
        return true;
    w->list[w->count++] = name;
    w->list[w->count++] = value;
    return strlen(value) <= SHARED_INDEX_TEXT_MAX;
}

static void add_number(struct words *w, const char *name, int64_t value)
{
    char *text = w->texts[w->numbers++];

    snprintf(text, REDIS_NUMBER_SIZE, "%lld", (long long)value);
    w->list[w->count++] = name;
    w->list[w->count++] = text;
}

static bool write_entry(struct words *w, const struct entry *e)
{
    bool fits = add_text(w, "tier", e->tier == TIER_SHARED ? "shared" : "local");

    fits = add_text(w, "repo_id", e->repo_id) && fits;
    fits = add_text(w, "repo", e->repo) && fits;
    fits = add_text(w, "url", e->url) && fits;
    fits = add_text(w, "ref", e->ref) && fits;
    fits = add_text(w, "commit", e->commit) && fits;
    fits = add_text(w, "path", e->path) && fits;
    fits = add_text(w, "node", e->node) && fits;
    add_number(w, "size", (int64_t)e->size);
    add_number(w, "stored_size", (int64_t)e->stored_size);
    add_number(w, "created", e->created);
    add_number(w, "accessed", e->accessed);
    add_number(w, "accesses", (int64_t)e->accesses);
    add_number(w, "note_offset", e->note_offset);
    add_number(w, "objects", e->objects);
    add_number(w, "packed", e->packed);
    return fits;
}

/* All the words of one telling. */
struct telling {
    const char *keys[SHARED_INDEX_NOTES_MAX + 1];
    const char *args[REDIS_WORDS_MAX];
    size_t key_count, arg_count;
    struct words words[SHARED_INDEX_NOTES_MAX];
    char counts[SHARED_INDEX_NOTES_MAX][REDIS_NUMBER_SIZE];
};

static const char *const changes[] = {
    [INDEX_SHARED] = "shared", [INDEX_USED] = "used", [INDEX_LOCAL] = "local",
    [INDEX_STILL] = "still",   [INDEX_LEFT] = "left", [INDEX_GONE] = "gone",
};

static void add_note(struct shared_index *x, struct telling *t, const struct index_note *n)
{
    bool is_about = n->change != INDEX_LEFT && n->change != INDEX_GONE;
    struct words *w = &t->words[t->key_count];

    w->count = w->numbers = 0; /* of one that was left out */
    if (is_about && !write_entry(w, &n->entry))
        return;
    t->args[t->arg_count++] = changes[n->change];
    t->args[t->arg_count++] = n->entry.node != NULL ? n->entry.node : "";
    t->args[t->arg_count++] = redis_number(w->count, t->counts[t->key_count]);
    for (size_t i = 0; i < w->count; i++)
        t->args[t->arg_count++] = w->list[i];
    t->keys[t->key_count++] = name_of(x, n->entry.kind, &n->key);
}

int shared_index_tell(struct shared_index *x, const struct index_note *notes, size_t count,
                      struct err *err)
{
    char now[REDIS_NUMBER_SIZE], *nodes;
    struct telling *t;
    int rc = 0;

    must(count <= SHARED_INDEX_NOTES_MAX);
    if (x->redis == NULL)
        return 0;
    t = xcalloc(1, sizeof(*t));
    nodes = redis_key(x->redis, "node:");
    t->args[t->arg_count++] = x->ttl;
    t->args[t->arg_count++] = nodes;
    t->args[t->arg_count++] = redis_number((uint64_t)time(NULL), now);
    for (size_t i = 0; i < count; i++)
        add_note(x, t, &notes[i]);
    if (t->key_count > 0)
        rc = redis_run(x->redis, &x->tell, t->keys, t->args, NULL, err);
    for (size_t i = 0; i < t->key_count; i++)
        free((char *)t->keys[i]);
    free(nodes);
    free(t);
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

/* ---- generations ---- */

static int ask_generation(struct shared_index *x, const char *repo_id, const char *raise_to,
                          uint64_t *out, struct err *err)
{
    struct redis_reply *reply = NULL;
    char *name;
    int rc;

    *out = 0;
    if (x->redis == NULL)
        return 0;
    name = redis_key(x->redis, "repo:%s", repo_id);
    rc = redis_run(x->redis, &x->generation, REDIS_WORDS(name), REDIS_WORDS(x->ttl, raise_to),
                   &reply, err);
    free(name);
    if (rc == 0 && reply->text != NULL)
        *out = strtoull(reply->text, NULL, 10);
    redis_reply_free(&reply);
    return rc;
}

int shared_generation_get(struct shared_index *x, const char *repo_id, uint64_t *out,
                          struct err *err)
{
    return ask_generation(x, repo_id, "", out, err);
}

int shared_generation_raise(struct shared_index *x, const char *repo_id, uint64_t generation,
                            struct err *err)
{
    char number[REDIS_NUMBER_SIZE];
    uint64_t ignored;

    return ask_generation(x, repo_id, redis_number(generation, number), &ignored, err);
}

int shared_generation_forget(struct shared_index *x, const char *repo_id, struct err *err)
{
    char *name;
    int rc;

    if (x->redis == NULL)
        return 0;
    name = redis_key(x->redis, "repo:%s", repo_id);
    rc = redis_ask(x->redis, REDIS_WORDS("DEL", name), NULL, err);
    free(name);
    return rc;
}
