/* An object store that tells of each call before it is made, lets the test have it fail, and
 * counts. Included by unit tests only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_WATCHED_STORE_H
#define PANNIER_TESTS_UNIT_WATCHED_STORE_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/shared/object_store.h"
#include "protocol/base.h"
#include "protocol/bytes.h"

enum watched_call {
    WATCHED_PUT,
    WATCHED_GET,
    WATCHED_HEAD,
    WATCHED_LIST,
    WATCHED_REMOVE,
    WATCHED_CALLS_COUNT
};

/* -1 fails the call with what it puts into err. */
typedef int watched_fn(void *ctx, enum watched_call call, const char *key, struct err *err);

struct watched {
    struct object_store *inner; /* to use it unseen */
    struct object_store *store; /* to use it as one that is watched */
    watched_fn *before;         /* NULL: everything passes */
    object_sink_fn *on_piece;   /* each piece of a get, before it is handed on */
    void *ctx;
    atomic_uint calls[WATCHED_CALLS_COUNT];
    atomic_uint_fast64_t bytes_up;
};

static inline int watched_ask(struct watched *w, enum watched_call call, const char *key,
                              struct err *err)
{
    w->calls[call]++;
    return w->before != NULL ? w->before(w->ctx, call, key, err) : 0;
}

/* A stream, counted. */
struct watched_stream {
    struct watched *watched;
    const struct object_source *source;
};

static inline ssize_t watched_read(void *ctx, void *buf, size_t len, struct err *err)
{
    struct watched_stream *s = ctx;
    ssize_t n = s->source->read(s->source->ctx, buf, len, err);

    s->watched->bytes_up += n > 0 ? (uint64_t)n : 0;
    return n;
}

static inline int watched_put(void *self, const char *key, const struct object_source *source,
                              const struct object_put_options *options, struct object_info *out,
                              struct err *err)
{
    struct watched *w = self;
    struct watched_stream stream = {w, source};
    struct object_source counted = {.fd = -1, .read = watched_read, .ctx = &stream};

    if (watched_ask(w, WATCHED_PUT, key, err) != 0)
        return -1;
    if (source->fd < 0)
        return object_put(w->inner, key, &counted, options, out, err);
    w->bytes_up += source->size + source->head_len;
    return object_put(w->inner, key, source, options, out, err);
}

struct watched_sink {
    struct watched *watched;
    object_sink_fn *fn;
    void *ctx;
};

static inline int watched_piece(void *ctx, const void *data, size_t len, struct err *err)
{
    struct watched_sink *s = ctx;

    if (s->watched->on_piece != NULL && s->watched->on_piece(s->watched->ctx, data, len, err) != 0)
        return -1;
    return s->fn(s->ctx, data, len, err);
}

static inline int watched_get(void *self, const char *key, uint64_t offset, uint64_t length,
                              struct object_info *info, object_sink_fn *fn, void *ctx,
                              struct err *err)
{
    struct watched *w = self;
    struct watched_sink sink = {w, fn, ctx};

    if (watched_ask(w, WATCHED_GET, key, err) != 0)
        return -1;
    return object_get(w->inner, key, offset, length, info, watched_piece, &sink, err);
}

static inline int watched_head(void *self, const char *key, struct object_info *out,
                               struct err *err)
{
    struct watched *w = self;

    return watched_ask(w, WATCHED_HEAD, key, err) == 0 ? object_head(w->inner, key, out, err) : -1;
}

static inline int watched_list(void *self, const char *prefix, object_list_fn *fn, void *ctx,
                               struct err *err)
{
    struct watched *w = self;

    return watched_ask(w, WATCHED_LIST, prefix, err) == 0
               ? object_list(w->inner, prefix, fn, ctx, err)
               : -1;
}

static inline int watched_remove(void *self, const char *key, struct err *err)
{
    struct watched *w = self;

    return watched_ask(w, WATCHED_REMOVE, key, err) == 0 ? object_remove(w->inner, key, err) : -1;
}

static inline void watched_free(void *self)
{
    struct watched *w = self;

    object_store_free(&w->inner);
}

/* inner is w's from here on; object_store_free(&w->store) frees both. */
static inline void watched_init(struct watched *w, struct object_store *inner, bool has_conditions)
{
    const struct object_driver driver = {
        .put = watched_put,
        .get = watched_get,
        .head = watched_head,
        .list = watched_list,
        .remove = watched_remove,
        .free = watched_free,
        .has_conditions = has_conditions,
    };

    memset(w, 0, sizeof(*w));
    w->inner = inner;
    w->store = object_store_new(&driver, w, "watched");
}

/* ---- objects as bytes ---- */

static inline int watched_collect(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)err;
    assert_int_equal(bytes_add(ctx, data, len), 0);
    return 0;
}

static inline void read_object(struct object_store *s, const char *key, struct bytes *out)
{
    struct err err;

    bytes_init(out, 64 << 20);
    assert_int_equal(object_get(s, key, 0, UINT64_MAX, NULL, watched_collect, out, &err), 0);
}

static inline ssize_t give_bytes(void *ctx, void *buf, size_t len, struct err *err)
{
    struct bytes *rest = ctx;

    (void)err;
    len = len < rest->len ? len : rest->len;
    memcpy(buf, rest->data, len);
    bytes_drop_front(rest, len);
    return (ssize_t)len;
}

/* content is used up. */
static inline void write_object(struct object_store *s, const char *key, struct bytes *content)
{
    struct object_source source = {.fd = -1, .read = give_bytes, .ctx = content};
    struct err err;

    assert_int_equal(object_put(s, key, &source, NULL, NULL, &err), 0);
    bytes_clear(content);
}

static inline int add_key(void *ctx, const char *key, const struct object_info *info)
{
    (void)info;
    assert_int_equal(bytes_add(ctx, key, strlen(key) + 1), 0);
    return 0;
}

/* Keys that begin with prefix, each with its NUL; returns how many. */
static inline size_t list_keys(struct object_store *s, const char *prefix, struct bytes *out)
{
    size_t count = 0;
    struct err err;

    bytes_init(out, 64 << 20);
    assert_int_equal(object_list(s, prefix, add_key, out, &err), 0);
    for (size_t i = 0; i < out->len; i++)
        count += out->data[i] == '\0';
    return count;
}

static inline size_t count_keys(struct object_store *s, const char *prefix)
{
    struct bytes keys;
    size_t count = list_keys(s, prefix, &keys);

    bytes_clear(&keys);
    return count;
}

static inline void empty_store(struct object_store *s)
{
    struct bytes keys;
    struct err err;

    list_keys(s, "", &keys);
    for (size_t at = 0; at < keys.len; at += strlen(keys.data + at) + 1)
        assert_int_equal(object_remove(s, keys.data + at, &err), 0);
    bytes_clear(&keys);
}

#endif
