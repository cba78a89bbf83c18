#include "cache/shared/keeper_lease.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

enum { LEASE_MAX = 8192 }; /* bytes of text */

/* What is there. */
struct lease {
    bool there;
    char *node; /* NULL: it can't be read, so nobody holds it */
    int64_t until;
    char etag[OBJECT_ETAG_MAX]; /* "": not even that is known */
};

static int take_text(void *ctx, const void *data, size_t len, struct err *err)
{
    if (bytes_add(ctx, data, len) != 0)
        return err_set(err, ERR_CORRUPT, "%s is too long", KEEPER_LEASE_KEY);
    return 0;
}

static void parse(const struct bytes *text, struct lease *out)
{
    json_t *json = json_loadb(text->data != NULL ? text->data : "", text->len, 0, NULL);
    const char *node;
    json_int_t until;

    if (json != NULL && json_unpack(json, "{s:s, s:I}", "node", &node, "until", &until) == 0) {
        out->node = xstrdup(node);
        out->until = until;
    }
    json_decref(json);
}

/* *out is the caller's to free, its node that is. */
static int read_lease(struct object_store *store, struct lease *out, struct err *err)
{
    struct object_info info = {0};
    struct bytes text;
    int rc;

    *out = (struct lease){0};
    bytes_init(&text, LEASE_MAX);
    rc = object_get(store, KEEPER_LEASE_KEY, 0, UINT64_MAX, &info, take_text, &text, err);
    if (rc == 0)
        parse(&text, out);
    out->there = rc == 0 || err->kind != ERR_NOT_FOUND;
    if (rc != 0 && (err->kind == ERR_NOT_FOUND || err->kind == ERR_CORRUPT))
        rc = 0;
    memcpy(out->etag, info.etag, sizeof(out->etag));
    bytes_clear(&text);
    return rc;
}

static ssize_t give_text(void *ctx, void *buf, size_t len, struct err *err)
{
    struct bytes *text = ctx;

    (void)err;
    if (len > text->len)
        len = text->len;
    if (len > 0) {
        memcpy(buf, text->data, len);
        bytes_drop_front(text, len);
    }
    return (ssize_t)len;
}

static int write_lease(struct object_store *store, const char *node, int64_t until,
                       const struct object_put_options *options, struct err *err)
{
    json_t *json = json_pack("{s:s, s:I}", "node", node, "until", (json_int_t)until);
    struct object_source source = {.fd = -1, .read = give_text};
    struct bytes text;
    char *line;
    int rc;

    if (json == NULL)
        return err_set(err, ERR_INPUT, "the name of this node is not UTF-8");
    line = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(json);
    must(line != NULL);
    bytes_init(&text, LEASE_MAX);
    rc = bytes_addf(&text, "%s\n", line);
    free(line);
    source.ctx = &text;
    if (rc == 0)
        rc = object_put(store, KEEPER_LEASE_KEY, &source, options, NULL, err);
    else
        err_set(err, ERR_INPUT, "the name of this node is too long");
    bytes_clear(&text);
    return rc;
}

/* Damaged so that a condition can't name it: out of the way.  Two nodes that do so at once may both
 * hold the lease then, for one round. */
static int clear_way(struct object_store *store, struct lease *l, struct err *err)
{
    if (!l->there || l->etag[0] != '\0')
        return 0;
    l->there = false;
    return object_remove(store, KEEPER_LEASE_KEY, err);
}

int keeper_lease_take(struct object_store *store, const char *node, int64_t now_s,
                      int64_t interval_s, bool *held, struct err *err)
{
    int64_t lasts = KEEPER_LEASE_INTERVALS * interval_s;
    struct object_put_options options = {.content_type = "application/json"};
    struct lease l;
    bool others;
    int rc;

    *held = !object_store_has_conditions(store);
    if (*held)
        return 0;
    if (read_lease(store, &l, err) != 0)
        return err->kind == ERR_CONFLICT ? 0 : -1; /* somebody is writing it */
    others = l.node != NULL && strcmp(l.node, node) != 0 && l.until > now_s &&
             l.until <= now_s + lasts + KEEPER_CLOCKS_DIFFER_S;
    free(l.node);
    if (others)
        return 0;
    if (clear_way(store, &l, err) != 0)
        return -1;
    options.only_new = !l.there;
    options.if_match = l.there ? l.etag : NULL;
    rc = write_lease(store, node, now_s + lasts, &options, err);
    /* A store that is full takes no lease either, and would stay full if nobody tidied. */
    *held = rc == 0 || err->kind == ERR_REFUSED;
    return *held || err->kind == ERR_CONFLICT ? 0 : -1;
}
