#include "cache/shared/keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/lock.h"
#include "cache/shared/keeper_lease.h"
#include "cache/shared/keeper_orphans.h"
#include "cache/shared/shared_answer.h"
#include "cache/shared/shared_remove.h"
#include "protocol/base.h"

enum {
    /* What a round keeps in memory of each answer and of each file of a mirror is some 150 and 60
     * bytes.  Beyond these numbers objects are counted only: their turn comes when others have
     * gone. */
    ANSWERS_MAX = 2 * 1000 * 1000,
    FILES_MAX = 2 * 1000 * 1000,
    MIRRORS_MAX = 256 * 1024,
    LARGE_PART = 10, /* of the local tier: what takes more is worth asking the store about */
};

/* ---- names ---- */

/* An answer or a mirror; of bytes alone, as it is compared and hashed. */
struct thing {
    struct key repo_id;
    struct key key; /* an answer's; else 0 */
    uint8_t kind;
};

enum object_kind { OBJECT_ANSWER, OBJECT_MANIFEST, OBJECT_FILE, OBJECT_PACKED_FILE };

struct object_name {
    enum object_kind kind;
    struct key repo_id;
    struct key key; /* of an answer, or a file's content */
};

/* Moves *at behind 64 hex digits. */
static bool take_key(const char **at, struct key *out)
{
    char hex[KEY_HEX_SIZE];

    if (strlen(*at) < KEY_HEX_SIZE - 1)
        return false;
    memcpy(hex, *at, KEY_HEX_SIZE - 1);
    hex[KEY_HEX_SIZE - 1] = '\0';
    *at += KEY_HEX_SIZE - 1;
    return key_from_hex(hex, out);
}

static bool take_word(const char **at, const char *word)
{
    if (strncmp(*at, word, strlen(word)) != 0)
        return false;
    *at += strlen(word);
    return true;
}

/* False: it is none of ours. */
static bool parse_name(const char *at, struct object_name *out)
{
    *out = (struct object_name){0};
    if (take_word(&at, "answers/")) {
        out->kind = OBJECT_ANSWER;
        return take_key(&at, &out->repo_id) && take_word(&at, "/") && take_key(&at, &out->key) &&
               *at == '\0';
    }
    if (!take_word(&at, "mirrors/") || !take_key(&at, &out->repo_id))
        return false;
    out->kind = OBJECT_MANIFEST;
    if (strcmp(at, "/manifest.json") == 0)
        return true;
    if (!take_word(&at, "/files/") || !take_key(&at, &out->key))
        return false;
    out->kind = take_word(&at, ".zst") ? OBJECT_PACKED_FILE : OBJECT_FILE;
    return *at == '\0';
}

static struct thing answer_thing(const struct key *repo_id, const struct key *key)
{
    return (struct thing){*repo_id, *key, ENTRY_ANSWER};
}

static struct thing mirror_thing(const struct key *repo_id)
{
    return (struct thing){.repo_id = *repo_id, .kind = ENTRY_MIRROR};
}

static void answer_object_key(const struct key *repo_id, const struct key *key,
                              char out[OBJECT_KEY_MAX + 1])
{
    char id[KEY_HEX_SIZE];

    key_to_hex(repo_id, id);
    shared_answer_key(id, key, out);
}

/* What e would be in the store. */
static bool thing_of_entry(const struct entry *e, struct thing *out)
{
    const char *name = strrchr(e->path, '/');
    struct key repo_id, key;

    if (e->repo_id == NULL || !key_from_hex(e->repo_id, &repo_id))
        return false;
    if (e->kind == ENTRY_MIRROR) {
        *out = mirror_thing(&repo_id);
        return true;
    }
    if (name == NULL || !key_from_hex(name + 1, &key))
        return false;
    *out = answer_thing(&repo_id, &key);
    return true;
}

/* ---- who used what ---- */

/* The hash keeps the order of adding: the first was used longest ago. */
struct note {
    struct thing thing;
    int64_t used_s;
    uint64_t uses;
    UT_hash_handle hh;
};

struct keeper {
    struct object_store *store;
    struct local *local;
    struct keeper_mirrors mirrors;
    struct cutoffs *cutoffs;
    char *node;
    struct orphans *orphans;

    struct lock lock;
    struct keeper_limits limits;
    struct note *notes;
};

struct keeper *keeper_new(struct object_store *store, struct local *local,
                          const struct keeper_mirrors *mirrors, struct cutoffs *cutoffs,
                          const char *node, const struct keeper_limits *limits)
{
    struct keeper *k = xcalloc(1, sizeof(*k));

    k->store = store;
    k->local = local;
    k->mirrors = *mirrors;
    k->cutoffs = cutoffs;
    k->node = xstrdup(node);
    k->orphans = orphans_new();
    k->limits = *limits;
    lock_init(&k->lock, LOCK_KEEPER);
    return k;
}

void keeper_free(struct keeper **kp)
{
    struct keeper *k = *kp;
    struct note *n, *next;

    *kp = NULL;
    if (k == NULL)
        return;
    HASH_ITER(hh, k->notes, n, next)
    {
        HASH_DEL(k->notes, n);
        free(n);
    }
    orphans_free(&k->orphans);
    lock_clear(&k->lock);
    free(k->node);
    free(k);
}

void keeper_configure(struct keeper *k, const struct keeper_limits *limits)
{
    lock_take(&k->lock);
    k->limits = *limits;
    lock_drop(&k->lock);
}

static struct keeper_limits limits_of(struct keeper *k)
{
    struct keeper_limits limits;

    lock_take(&k->lock);
    limits = k->limits;
    lock_drop(&k->lock);
    return limits;
}

void keeper_used(struct keeper *k, const char *object_key, int64_t now_s)
{
    struct object_name name;
    struct thing thing;
    struct note *n;

    if (!parse_name(object_key, &name))
        return;
    thing = name.kind == OBJECT_ANSWER ? answer_thing(&name.repo_id, &name.key)
                                       : mirror_thing(&name.repo_id);
    lock_take(&k->lock);
    HASH_FIND(hh, k->notes, &thing, sizeof(thing), n);
    if (n != NULL) {
        HASH_DEL(k->notes, n);
    } else {
        n = xcalloc(1, sizeof(*n));
        n->thing = thing;
    }
    if (n->used_s < now_s)
        n->used_s = now_s;
    /* A restore reads many files, and is one use of the mirror. */
    n->uses += name.kind == OBJECT_ANSWER || name.kind == OBJECT_MANIFEST;
    HASH_ADD(hh, k->notes, thing, sizeof(n->thing), n);
    if (HASH_COUNT(k->notes) > KEEPER_NOTES_MAX) {
        n = k->notes;
        HASH_DEL(k->notes, n);
        free(n);
    }
    lock_drop(&k->lock);
}

/* ---- a round ---- */

struct item {
    struct policy_item policy; /* its first member: policies hand it back */
    struct thing thing;
    bool gone;
};

struct round {
    struct keeper *keeper;
    struct keeper_limits limits;
    int64_t now_s;
    const atomic_bool *stop;
    struct keeper_round *out;

    struct item *items;
    size_t items_count, items_room;
    struct listed_mirror *mirrors;
    size_t mirrors_count, mirrors_room;
    struct listed_file *files;
    size_t files_count, files_room;
};

static bool stopped(const struct round *r)
{
    return r->stop != NULL && *r->stop;
}

static int cancelled(const atomic_bool *stop, struct err *err)
{
    if (stop != NULL && *stop)
        return err_set(err, ERR_CANCELLED, "tidying the shared tier was ended");
    return 0;
}

/* items has room for one more afterwards. */
static void *make_room_for_one(void *items, size_t count, size_t *room, size_t size)
{
    enum { FIRST_ROOM = 1024 };

    if (count < *room)
        return items;
    *room = *room > 0 ? *room + *room / 2 : FIRST_ROOM;
    return xrealloc(items, *room * size);
}

static uint64_t id_of(const struct thing *t)
{
    const uint8_t *p = (const uint8_t *)t;
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (size_t i = 0; i < sizeof(*t); i++)
        hash = (hash ^ p[i]) * UINT64_C(1099511628211);
    return hash;
}

static void add_item(struct round *r, const struct thing *thing, uint64_t size, int64_t modified)
{
    r->items = make_room_for_one(r->items, r->items_count, &r->items_room, sizeof(*r->items));
    r->items[r->items_count++] = (struct item){
        .policy = {.id = id_of(thing), .size = size, .accessed = modified},
        .thing = *thing,
    };
}

/* ---- what the store has ---- */

static int list_answer(void *ctx, const char *key, const struct object_info *info)
{
    struct round *r = ctx;
    struct object_name name;
    struct thing thing;

    if (!parse_name(key, &name))
        return stopped(r);
    r->out->objects++;
    r->out->bytes += info->size;
    thing = answer_thing(&name.repo_id, &name.key);
    if (r->items_count < ANSWERS_MAX)
        add_item(r, &thing, info->size, info->modified);
    return stopped(r);
}

/* Objects come in the order of their keys, so those of a mirror come together. */
static struct listed_mirror *mirror_listed(struct round *r, const struct key *repo_id)
{
    struct listed_mirror *m = r->mirrors_count > 0 ? &r->mirrors[r->mirrors_count - 1] : NULL;

    if (m != NULL && key_equal(&m->repo_id, repo_id))
        return m;
    if (r->mirrors_count == MIRRORS_MAX)
        return NULL;
    r->mirrors =
        make_room_for_one(r->mirrors, r->mirrors_count, &r->mirrors_room, sizeof(*r->mirrors));
    m = &r->mirrors[r->mirrors_count++];
    *m = (struct listed_mirror){.repo_id = *repo_id, .first = r->files_count};
    return m;
}

static int list_mirror(void *ctx, const char *key, const struct object_info *info)
{
    struct round *r = ctx;
    struct object_name name;
    struct listed_mirror *m;

    if (!parse_name(key, &name))
        return stopped(r);
    r->out->objects++;
    r->out->bytes += info->size;
    m = mirror_listed(r, &name.repo_id);
    if (m == NULL)
        return stopped(r);
    m->bytes += info->size;
    if (m->modified < info->modified)
        m->modified = info->modified;
    if (name.kind == OBJECT_MANIFEST) {
        m->manifest = true;
        m->manifest_info = *info;
    } else if (r->files_count < FILES_MAX) {
        r->files = make_room_for_one(r->files, r->files_count, &r->files_room, sizeof(*r->files));
        r->files[r->files_count++] = (struct listed_file){
            .sha256 = name.key,
            .size = info->size,
            .modified = info->modified,
            .packed = name.kind == OBJECT_PACKED_FILE,
        };
        m->count++;
    }
    return stopped(r);
}

static int list_all(struct round *r, struct err *err)
{
    if (object_list(r->keeper->store, "answers/", list_answer, r, err) != 0 ||
        cancelled(r->stop, err) != 0 ||
        object_list(r->keeper->store, "mirrors/", list_mirror, r, err) != 0)
        return -1;
    return cancelled(r->stop, err);
}

static void take_away(const struct shared_removed *gone, struct keeper_round *out)
{
    /* More can go than was listed, as others put things meanwhile. */
    out->objects -= gone->objects < out->objects ? gone->objects : out->objects;
    out->bytes -= gone->bytes < out->bytes ? gone->bytes : out->bytes;
}

/* ---- files without a manifest ---- */

static int tidy_orphans(struct round *r, struct err *err)
{
    struct orphans *o = r->keeper->orphans;
    int rc = 0;

    orphans_begin(o);
    for (size_t i = 0; rc == 0 && i < r->mirrors_count; i++) {
        struct listed_mirror *m = &r->mirrors[i];
        struct shared_removed gone = {0};

        rc = cancelled(r->stop, err);
        if (rc == 0)
            rc = orphans_tidy(o, r->keeper->store, m, r->files + m->first, r->now_s, r->stop, &gone,
                              err);
        m->bytes -= gone.bytes < m->bytes ? gone.bytes : m->bytes;
        r->out->orphans += gone.objects;
        r->out->orphans_bytes += gone.bytes;
        take_away(&gone, r->out);
    }
    orphans_end(o);
    return rc;
}

/* Files alone are an upload under way, or orphans: no item. */
static void add_mirrors(struct round *r)
{
    for (size_t i = 0; i < r->mirrors_count; i++) {
        struct thing thing = mirror_thing(&r->mirrors[i].repo_id);

        if (r->mirrors[i].manifest)
            add_item(r, &thing, r->mirrors[i].bytes, r->mirrors[i].modified);
    }
}

/* ---- when each was last used ---- */

static int by_thing(const void *a, const void *b)
{
    const struct item *left = a, *right = b;

    return memcmp(&left->thing, &right->thing, sizeof(left->thing));
}

static int by_access(const void *a, const void *b)
{
    const struct item *left = a, *right = b;

    if (left->policy.accessed != right->policy.accessed)
        return left->policy.accessed < right->policy.accessed ? -1 : 1;
    return by_thing(a, b);
}

static void note_use(struct round *r, const struct thing *thing, int64_t used_s, uint64_t uses)
{
    struct item wanted = {.thing = *thing}, *i = NULL;

    if (r->items_count > 0)
        i = bsearch(&wanted, r->items, r->items_count, sizeof(*i), by_thing);
    if (i == NULL)
        return;
    if (i->policy.accessed < used_s)
        i->policy.accessed = used_s;
    if (i->policy.accesses < uses)
        i->policy.accesses = uses;
}

static int note_local_use(void *ctx, const struct entry *e)
{
    struct round *r = ctx;
    struct thing thing;

    if (thing_of_entry(e, &thing))
        note_use(r, &thing, e->accessed, e->accesses);
    return stopped(r);
}

struct use {
    struct thing thing;
    int64_t used_s;
    uint64_t uses;
};

static struct use *copy_notes(struct keeper *k, size_t *count)
{
    struct note *n, *next;
    struct use *uses;
    size_t i = 0;

    lock_take(&k->lock);
    uses = xcalloc(HASH_COUNT(k->notes) + 1, sizeof(*uses));
    HASH_ITER(hh, k->notes, n, next)
    uses[i++] = (struct use){n->thing, n->used_s, n->uses};
    lock_drop(&k->lock);
    *count = i;
    return uses;
}

/* Leaves the items sorted, what was used longest ago first. */
static void find_uses(struct round *r)
{
    size_t count;
    struct use *uses = copy_notes(r->keeper, &count);
    struct err ignored;

    if (r->items_count > 0)
        qsort(r->items, r->items_count, sizeof(*r->items), by_thing);
    /* Without a local index less is known; waiting for it would let the store grow. */
    local_each(r->keeper->local, note_local_use, r, &ignored);
    for (size_t i = 0; i < count; i++)
        note_use(r, &uses[i].thing, uses[i].used_s, uses[i].uses);
    free(uses);
    if (r->items_count > 0)
        qsort(r->items, r->items_count, sizeof(*r->items), by_access);
}

/* ---- what goes ---- */

static int remove_item(struct round *r, struct item *i, struct err *err)
{
    struct shared_removed gone = {0};
    char key[OBJECT_KEY_MAX + 1];
    int rc = cancelled(r->stop, err);

    if (rc == 0 && i->thing.kind == ENTRY_ANSWER) {
        answer_object_key(&i->thing.repo_id, &i->thing.key, key);
        rc = object_remove(r->keeper->store, key, err);
        if (rc == 0)
            gone = (struct shared_removed){.objects = 1, .bytes = i->policy.size};
    } else if (rc == 0) {
        rc = shared_remove_mirror(r->keeper->store, &i->thing.repo_id, r->stop, &gone, err);
    }
    i->gone = true; /* or what is left of it is none any more */
    r->out->removed += gone.objects;
    r->out->removed_bytes += gone.bytes;
    take_away(&gone, r->out);
    return rc;
}

static int remove_expired(struct round *r, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && r->limits.ttl_s > 0 && i < r->items_count; i++) {
        if (r->items[i].policy.accessed + r->limits.ttl_s >= r->now_s)
            break;
        rc = remove_item(r, &r->items[i], err);
    }
    return rc;
}

static int make_room(struct round *r, struct err *err)
{
    struct policy *p;
    int rc = 0;

    if (r->limits.max_size == 0 || r->out->bytes <= r->limits.max_size)
        return 0;
    p = policy_new(r->limits.policy, r->limits.max_size, r->limits.max_age_s);
    for (size_t i = 0; i < r->items_count; i++) {
        if (!r->items[i].gone)
            policy_insert(p, &r->items[i].policy);
    }
    while (rc == 0 && r->out->bytes > r->limits.max_size) {
        struct policy_victim victim = policy_evict(p, r->now_s);

        if (victim.item == NULL)
            break; /* the rest are uploads under way, or more than one round looks at */
        rc = remove_item(r, (struct item *)victim.item, err);
    }
    policy_free(&p);
    return rc;
}

static int tidy(struct round *r, struct err *err)
{
    if (list_all(r, err) != 0 || tidy_orphans(r, err) != 0)
        return -1;
    add_mirrors(r);
    find_uses(r);
    if (remove_expired(r, err) != 0)
        return -1;
    return make_room(r, err);
}

int keeper_tidy(struct keeper *k, int64_t now_s, const atomic_bool *stop, struct keeper_round *out,
                struct err *err)
{
    struct round r = {
        .keeper = k, .limits = limits_of(k), .now_s = now_s, .stop = stop, .out = out};
    int rc;

    *out = (struct keeper_round){0};
    if (cancelled(stop, err) != 0 ||
        keeper_lease_take(k->store, k->node, now_s, r.limits.interval_s, &out->held, err) != 0)
        return -1;
    if (!out->held)
        return 0;
    rc = tidy(&r, err);
    free(r.items);
    free(r.mirrors);
    free(r.files);
    return rc;
}

/* ---- what need not lie here ---- */

struct large {
    uint64_t min_size;
    int64_t used_s;
    struct entry *entries;
    size_t count;
};

/* There are few: each is a tenth of what there may be. */
static int collect_large(void *ctx, const struct entry *e)
{
    struct large *l = ctx;

    if (e->stored_size < l->min_size || e->accessed > l->used_s)
        return 0;
    l->entries = xrealloc(l->entries, (l->count + 1) * sizeof(*l->entries));
    entry_copy(e, &l->entries[l->count++]);
    return 0;
}

static int store_has_answer(struct keeper *k, const struct entry *e, bool *has, struct err *err)
{
    struct thing thing;

    *has = false;
    return thing_of_entry(e, &thing)
               ? shared_answer_has(k->store, k->cutoffs, e->repo_id, &thing.key, has, err)
               : 0;
}

/* Another version of pannier put it, or it went or turned out damaged meanwhile: that keeps nothing
 * else here.  The rest is the store's. */
static bool is_about_it(const struct err *why)
{
    return why->kind == ERR_REFUSED || why->kind == ERR_NOT_FOUND || why->kind == ERR_CORRUPT ||
           why->kind == ERR_STORAGE;
}

static int demote(struct keeper *k, const struct entry *e, int64_t used_s, bool *has,
                  struct keeper_demoted *out, struct err *err)
{
    int rc = e->kind == ENTRY_MIRROR ? k->mirrors.has_all(k->mirrors.ctx, e->path, has, err)
                                     : store_has_answer(k, e, has, err);
    struct err busy;

    if (rc != 0 && is_about_it(err)) {
        *has = true; /* to put it would meet the same */
        return 0;
    }
    if (rc != 0)
        return -1;
    if (*has && local_remove_unused(k->local, e->path, used_s, &busy) == 0) {
        out->entries++;
        out->bytes += e->stored_size;
    }
    return 0;
}

int keeper_demote(struct keeper *k, int64_t now_s, const atomic_bool *stop,
                  void (*missing)(void *ctx, enum entry_kind kind, const char *path), void *ctx,
                  struct keeper_demoted *out, struct err *err)
{
    struct large large = {.used_s = now_s - limits_of(k).hot_s};
    struct local_usage usage;
    int rc;

    *out = (struct keeper_demoted){0};
    local_usage(k->local, &usage);
    if (usage.limit == UINT64_MAX || usage.limit == 0)
        return 0; /* nothing is large, or all of it is about to go */
    large.min_size = usage.limit / LARGE_PART;
    rc = local_each(k->local, collect_large, &large, err);
    for (size_t i = 0; i < large.count; i++) {
        const struct entry *e = &large.entries[i];
        bool has = true;

        if (rc == 0)
            rc = cancelled(stop, err);
        if (rc == 0)
            rc = demote(k, e, large.used_s, &has, out, err);
        if (rc == 0 && !has && missing != NULL)
            missing(ctx, e->kind, e->path);
        entry_clear(&large.entries[i]);
    }
    free(large.entries);
    return rc;
}
