#include "cache/shared/invalidations.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

static const char PREFIX[] = "invalidations/";
static const char ABOUT_ALL[] = "all";

enum {
    TEXT_MAX = 16 * 1024,
    LISTED_MAX = 100 * 1000, /* a lot for a month */
};

/* ---- writing down ---- */

static char *key_for(const struct event *e, const char *id, int64_t now_ms)
{
    char token[REDIS_TOKEN_SIZE];
    bool one = e->scope != SCOPE_EVERYTHING && e->repo_id[0] != '\0';

    redis_token(token);
    return xasprintf("%s%013" PRId64 "-%s-%s-%.*s.json", PREFIX, now_ms, token,
                     one ? e->repo_id : ABOUT_ALL, (int)strcspn(id, " "), id);
}

struct name {
    int64_t noted_ms;
    char about[KEY_HEX_SIZE]; /* a repository's id, or ABOUT_ALL */
    char id[EVENT_ID_SIZE];
};

/* False: that is none of ours. */
static bool read_name(const char *key, struct name *out)
{
    unsigned long long ms, number;
    const char *name = key + sizeof(PREFIX) - 1;
    struct key ignored;
    int end = 0;

    if (sscanf(name, "%13" SCNd64 "-%*16[0-9a-f]-%64[0-9a-z]-%18llu-%18llu.json%n", &out->noted_ms,
               out->about, &ms, &number, &end) != 4 ||
        end == 0 || name[end] != '\0' || out->noted_ms < 0)
        return false;
    snprintf(out->id, sizeof(out->id), "%llu-%llu", ms, number);
    return strcmp(out->about, ABOUT_ALL) == 0 || key_from_hex(out->about, &ignored);
}

struct keys {
    char **items;
    size_t count;
};

static int collect(void *ctx, const char *key, const struct object_info *info)
{
    struct keys *k = ctx;
    struct name name;

    (void)info;
    if (!read_name(key, &name))
        return 0;
    if ((k->count & (k->count - 1)) == 0)
        k->items = xrealloc(k->items, (k->count > 0 ? 2 * k->count : 1) * sizeof(*k->items));
    k->items[k->count++] = xstrdup(key);
    return k->count == LISTED_MAX;
}

static void keys_clear(struct keys *k)
{
    for (size_t i = 0; i < k->count; i++)
        free(k->items[i]);
    free(k->items);
}

static void remove_old(struct object_store *store, int64_t now_ms)
{
    struct keys keys = {0};
    struct name name;
    struct err ignored;

    if (object_list(store, PREFIX, collect, &keys, &ignored) == 0)
        for (size_t i = 0; i < keys.count; i++)
            if (read_name(keys.items[i], &name) &&
                name.noted_ms < now_ms - (int64_t)INVALIDATIONS_KEPT_S * 1000)
                object_remove(store, keys.items[i], &ignored);
    keys_clear(&keys);
}

struct text {
    const char *data;
    size_t left;
};

static ssize_t read_text(void *ctx, void *buf, size_t len, struct err *err)
{
    struct text *t = ctx;
    size_t n = t->left < len ? t->left : len;

    (void)err;
    memcpy(buf, t->data, n);
    t->data += n;
    t->left -= n;
    return (ssize_t)n;
}

int invalidations_note(struct object_store *store, const struct event *e, const char *id,
                       int64_t now_ms, struct err *err)
{
    json_t *json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:b}", "scope", (int)e->scope,
                             "repo_id", e->repo_id, "repo", e->repo, "name", e->name, "reason",
                             e->reason, "node", e->node, "unpin", (int)e->unpin);
    char *line = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
    struct text text = {line, line != NULL ? strlen(line) : 0};
    const struct object_source source = {.fd = -1, .read = read_text, .ctx = &text};
    char *key = key_for(e, id, now_ms);
    int rc;

    if (line == NULL)
        rc = err_set(err, ERR_INPUT, "a name that is to be invalidated is not UTF-8");
    else
        rc = object_put(store, key, &source, NULL, NULL, err);
    if (rc == 0)
        remove_old(store, now_ms);
    free(key);
    free(line);
    json_decref(json);
    return rc;
}

/* ---- reading ---- */

struct reading {
    char text[TEXT_MAX];
    size_t len;
};

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    struct reading *r = ctx;

    if (len > sizeof(r->text) - r->len)
        return err_set(err, ERR_CORRUPT, "a note of an invalidation is too long");
    memcpy(r->text + r->len, data, len);
    r->len += len;
    return 0;
}

static int hand_out(const struct reading *r, const char *key, invalidation_fn *fn, void *ctx,
                    struct err *err)
{
    struct event e = {.kind = EVENT_INVALIDATE};
    const char *repo_id = "";
    json_error_t why;
    json_t *json = json_loadb(r->text, r->len, 0, &why);
    struct name name;
    int scope, unpin = 0, rc;

    if (json == NULL ||
        json_unpack(json, "{s:i, s:s, s:s, s:s, s:s, s:s, s?b}", "scope", &scope, "repo_id",
                    &repo_id, "repo", &e.repo, "name", &e.name, "reason", &e.reason, "node",
                    &e.node, "unpin", &unpin) != 0 ||
        scope < 0 || scope >= SCOPE_EVERYTHING || strlen(repo_id) != KEY_HEX_SIZE - 1) {
        e = (struct event){.kind = EVENT_INVALIDATE,
                           .scope = SCOPE_EVERYTHING,
                           .repo = "",
                           .name = "",
                           .reason = "",
                           .node = ""};
    } else {
        e.scope = (enum event_scope)scope;
        e.unpin = unpin && e.scope == SCOPE_REPOSITORY;
        memcpy(e.repo_id, repo_id, KEY_HEX_SIZE);
    }
    must(read_name(key, &name));
    rc = fn(ctx, &e, name.id, err);
    json_decref(json);
    return rc;
}

int invalidations_each(struct object_store *store, const atomic_bool *stop, invalidation_fn *fn,
                       void *ctx, struct err *err)
{
    struct reading *r = xcalloc(1, sizeof(*r));
    struct keys keys = {0};
    int rc = object_list(store, PREFIX, collect, &keys, err);

    for (size_t i = 0; i < keys.count && rc == 0; i++) {
        r->len = 0;
        if (stop != NULL && *stop) {
            rc = err_set(err, ERR_CANCELLED, "the program ends");
        } else if (object_get(store, keys.items[i], 0, UINT64_MAX, NULL, take, r, err) == 0) {
            rc = hand_out(r, keys.items[i], fn, ctx, err);
        } else if (err->kind == ERR_CORRUPT) {
            r->len = 0;
            rc = hand_out(r, keys.items[i], fn, ctx, err);
        } else if (err->kind != ERR_NOT_FOUND) { /* or it was too old just now */
            rc = -1;
        }
    }
    keys_clear(&keys);
    free(r);
    return rc;
}

struct naming {
    invalidation_name_fn *fn;
    void *ctx;
};

static int hand_out_name(void *ctx, const char *key, const struct object_info *info)
{
    const struct naming *n = ctx;
    struct name name;
    struct key repo_id;

    (void)info;
    if (read_name(key, &name))
        n->fn(n->ctx, key_from_hex(name.about, &repo_id) ? &repo_id : NULL, name.id);
    return 0;
}

int invalidations_list(struct object_store *store, invalidation_name_fn *fn, void *ctx,
                       struct err *err)
{
    struct naming n = {fn, ctx};

    return object_list(store, PREFIX, hand_out_name, &n, err);
}
