#include "cache/shared/shared_remove.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/shared/manifest.h"
#include "protocol/base.h"

/* Listed at once, then removed, then the next: a repository may have any number of answers. */
enum { BATCH = 4096 };

struct found {
    char *key;
    uint64_t size;
};

struct batch {
    struct found items[BATCH];
    size_t count;
    char last[OBJECT_KEY_MAX + 1]; /* of the batch before; what isn't behind it had its turn */
    const char *ending;            /* only keys that end so; "": all */
    const atomic_bool *stop;
};

static int collect(void *ctx, const char *key, const struct object_info *info)
{
    struct batch *b = ctx;
    size_t len = strlen(key), end = strlen(b->ending);

    if (strcmp(key, b->last) > 0 && len >= end && strcmp(key + len - end, b->ending) == 0)
        b->items[b->count++] = (struct found){xstrdup(key), info->size};
    return b->count == BATCH || (b->stop != NULL && *b->stop);
}

static int cancelled(const atomic_bool *stop, struct err *err)
{
    if (stop != NULL && *stop)
        return err_set(err, ERR_CANCELLED, "removing from the shared tier was ended");
    return 0;
}

/* "answers/<repo_id>/<key>", "mirrors/<repo_id>/manifest.json"; nobody knows of other objects. */
static void tell_gone(const struct shared_removed *out, const char *object)
{
    const char *first = strchr(object, '/'), *last = strrchr(object, '/');
    bool answer = strncmp(object, "answers/", strlen("answers/")) == 0;
    struct key key;
    char *name;

    if (out->gone == NULL || first == last || (!answer && strcmp(last, "/manifest.json") != 0))
        return;
    name = answer ? xstrdup(last + 1) : xstrndup(first + 1, (size_t)(last - first - 1));
    if (key_from_hex(name, &key))
        out->gone(out->ctx, answer ? ENTRY_ANSWER : ENTRY_MIRROR, &key);
    free(name);
}

static int remove_batch(struct object_store *store, struct batch *b, struct shared_removed *out,
                        struct err *err)
{
    int rc = cancelled(b->stop, err);

    for (size_t i = 0; i < b->count; i++) {
        struct found *f = &b->items[i];

        if (rc == 0)
            rc = cancelled(b->stop, err);
        if (rc == 0)
            rc = object_remove(store, f->key, err);
        if (rc == 0) {
            out->objects++;
            out->bytes += f->size;
            tell_gone(out, f->key);
            snprintf(b->last, sizeof(b->last), "%s", f->key);
        }
        free(f->key);
    }
    return rc;
}

static int remove_below(struct object_store *store, const char *prefix, const char *ending,
                        const atomic_bool *stop, struct shared_removed *out, struct err *err)
{
    struct batch *b = xcalloc(1, sizeof(*b));
    int rc;

    b->ending = ending;
    b->stop = stop;
    do {
        b->count = 0;
        rc = object_list(store, prefix, collect, b, err);
        if (rc == 0) {
            rc = remove_batch(store, b, out, err);
        } else {
            for (size_t i = 0; i < b->count; i++)
                free(b->items[i].key);
        }
    } while (rc == 0 && b->count == BATCH);
    free(b);
    return rc;
}

static int remove_manifest(struct object_store *store, const struct key *repo_id,
                           struct shared_removed *out, struct err *err)
{
    char key[OBJECT_KEY_MAX + 1];
    struct object_info info = {0};
    struct err why;
    bool there;

    manifest_key(repo_id, key);
    there = object_head(store, key, &info, &why) == 0;
    if (!there && why.kind == ERR_NOT_FOUND)
        return 0;
    /* Whatever else is wrong with it, it may be removed. */
    if (object_remove(store, key, err) != 0)
        return -1;
    out->objects++;
    out->bytes += there ? info.size : 0;
    tell_gone(out, key);
    return 0;
}

int shared_remove_mirror(struct object_store *store, const struct key *repo_id,
                         const atomic_bool *stop, struct shared_removed *out, struct err *err)
{
    char prefix[OBJECT_KEY_MAX + 1], hex[KEY_HEX_SIZE];

    key_to_hex(repo_id, hex);
    snprintf(prefix, sizeof(prefix), "mirrors/%s/", hex);
    if (cancelled(stop, err) != 0 || remove_manifest(store, repo_id, out, err) != 0 ||
        remove_below(store, prefix, "", stop, out, err) != 0)
        return -1;
    return remove_manifest(store, repo_id, out, err);
}

int shared_remove(struct object_store *store, const struct key *repo_id, const atomic_bool *stop,
                  struct shared_removed *out, struct err *err)
{
    char prefix[OBJECT_KEY_MAX + 1], hex[KEY_HEX_SIZE];

    key_to_hex(repo_id, hex);
    snprintf(prefix, sizeof(prefix), "answers/%s/", hex);
    if (shared_remove_mirror(store, repo_id, stop, out, err) != 0)
        return -1;
    return remove_below(store, prefix, "", stop, out, err);
}

int shared_remove_all(struct object_store *store, const atomic_bool *stop,
                      struct shared_removed *out, struct err *err)
{
    if (remove_below(store, "mirrors/", "/manifest.json", stop, out, err) != 0 ||
        remove_below(store, "mirrors/", "", stop, out, err) != 0)
        return -1;
    return remove_below(store, "answers/", "", stop, out, err);
}
