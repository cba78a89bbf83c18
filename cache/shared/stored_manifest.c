#include "cache/shared/stored_manifest.h"

#include <string.h>

#include "protocol/base.h"

enum {
    READ_TRIES = 3, /* each costs another node's put in the middle of it */
    /* Each is a walk through the history.  Of so many that have come since, upkeep makes few. */
    WALKS_MAX = 64,
};

void stored_manifest_clear(struct stored_manifest *s)
{
    manifest_clear(&s->manifest);
    *s = (struct stored_manifest){0};
}

/* ---- reading ---- */

static int add_text(void *ctx, const void *data, size_t len, struct err *err)
{
    return bytes_add(ctx, data, len) == 0
               ? 0
               : err_set(err, ERR_CORRUPT, "the manifest of a mirror is too long");
}

int stored_manifest_read(struct object_store *store, struct cutoffs *cutoffs,
                         const struct key *repo_id, struct stored_manifest *out, struct err *err)
{
    char key[OBJECT_KEY_MAX + 1];
    struct object_info info = {0};
    struct bytes text;
    int rc = -1;

    *out = (struct stored_manifest){0};
    manifest_key(repo_id, key);
    bytes_init(&text, MANIFEST_MAX);
    for (unsigned i = 0; i < READ_TRIES && rc != 0; i++) {
        bytes_reset(&text);
        rc = object_get(store, key, 0, UINT64_MAX, &info, add_text, &text, err);
        if (rc != 0 && err->kind != ERR_CONFLICT)
            break;
    }
    if (rc == 0 || err->kind == ERR_CORRUPT) {
        out->there = true;
        out->size = info.size;
        memcpy(out->etag, info.etag, sizeof(out->etag));
    }
    if (rc == 0)
        rc = manifest_read(text.data != NULL ? text.data : "", text.len, repo_id, &out->manifest,
                           err);
    out->generation = rc == 0 ? out->manifest.generation : 0;
    if (rc == 0 && cutoffs != NULL && cutoffs_refuse(cutoffs, repo_id, out->manifest.applied)) {
        manifest_clear(&out->manifest);
        out->late = true;
        rc = err_set(err, ERR_NOT_FOUND,
                     "the mirror in the shared tier was put by a node that had yet to hear of an "
                     "invalidation");
    }
    out->usable = rc == 0;
    bytes_clear(&text);
    return rc;
}

bool stored_manifest_is_same(struct object_store *store, const struct key *repo_id,
                             const struct stored_manifest *read)
{
    char key[OBJECT_KEY_MAX + 1];
    struct object_info now;
    struct err err;

    manifest_key(repo_id, key);
    if (object_head(store, key, &now, &err) != 0)
        return err.kind == ERR_NOT_FOUND && !read->there;
    return read->there && strcmp(now.etag, read->etag) == 0;
}

/* ---- writing ---- */

struct rest {
    const char *data;
    size_t len;
};

static ssize_t give(void *ctx, void *buf, size_t len, struct err *err)
{
    struct rest *r = ctx;

    (void)err;
    if (len > r->len)
        len = r->len;
    memcpy(buf, r->data, len);
    r->data += len;
    r->len -= len;
    return (ssize_t)len;
}

int stored_manifest_put(struct object_store *store, const struct stored_manifest *read,
                        const struct manifest *next, uint64_t *size, struct err *err)
{
    struct object_put_options options = {.content_type = "application/json"};
    char key[OBJECT_KEY_MAX + 1];
    struct object_source source;
    struct bytes text;
    struct rest rest;
    int rc;

    manifest_key(&next->repo_id, key);
    bytes_init(&text, MANIFEST_MAX);
    rc = manifest_write(next, &text, err);
    if (object_store_has_conditions(store)) {
        options.only_new = !read->there;
        /* Of one that is so broken that not even that could be read, there is no etag. */
        options.if_match = read->etag[0] != '\0' ? read->etag : NULL;
    } else if (rc == 0 && !stored_manifest_is_same(store, &next->repo_id, read)) {
        /* What comes between this look and the put is lost: such a store has no better. */
        rc = err_set(err, ERR_CONFLICT, "another node has uploaded the mirror meanwhile");
    }
    rest = (struct rest){text.data, text.len};
    source = (struct object_source){.fd = -1, .read = give, .ctx = &rest};
    if (rc == 0)
        rc = object_put(store, key, &source, &options, NULL, err);
    *size = rc == 0 ? text.len : 0;
    bytes_clear(&text);
    return rc;
}

/* ---- what it has ---- */

static const struct manifest_tip *next_at(const struct manifest *there, size_t *at,
                                          const struct oid *oid)
{
    while (*at < there->tips_count && oid_cmp(&there->tips[*at].oid, oid) < 0)
        ++*at;
    return *at < there->tips_count && oid_cmp(&there->tips[*at].oid, oid) == 0 ? &there->tips[*at]
                                                                               : NULL;
}

bool manifest_covers(const struct manifest *there, struct mirror *m,
                     const struct mirror_content *here, int64_t slack_s)
{
    struct oid_list others = {0}, tips = {0};
    bool covers = true;
    size_t at = 0;

    for (size_t i = 0; i < here->tips_count && covers; i++) {
        const struct mirror_content_tip *ours = &here->tips[i];
        const struct manifest_tip *tip = next_at(there, &at, &ours->oid);

        if (tip == NULL)
            oid_list_add(&others, &ours->oid);
        else
            covers = ours->wanted_s - tip->wanted_s <= slack_s;
        covers = covers && others.count <= WALKS_MAX;
    }
    for (size_t i = 0; i < there->tips_count && covers && others.count > 0; i++)
        oid_list_add(&tips, &there->tips[i].oid);
    covers = covers && (others.count == 0 || mirror_reaches_all(m, &others, &tips));
    oid_list_clear(&tips);
    oid_list_clear(&others);
    return covers;
}
