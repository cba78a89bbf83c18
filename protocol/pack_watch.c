#include "protocol/pack_watch.h"

#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "protocol/base.h"

/* Every byte of a cold clone passes here.  Nothing of the input is copied but the pack's header
 * and trailer; the digest runs once over all that one feed brought; what zlib inflates lands in
 * one buffer, again and again, and is never looked at. */

enum {
    PACK_HEADER = 12,
    /* Big enough that an object's inflating is seldom interrupted, small enough for the L2 cache.
     */
    INFLATE_BUFFER = 64 * 1024,
};

enum object_type {
    OBJECT_COMMIT = 1,
    OBJECT_TREE = 2,
    OBJECT_BLOB = 3,
    OBJECT_TAG = 4,
    OBJECT_OFS_DELTA = 6,
    OBJECT_REF_DELTA = 7,
};

enum state {
    AT_HEADER,  /* held gathers the pack's header */
    AT_OBJECT,  /* the first byte of an object's type and size */
    AT_SIZE,    /* further bytes of the size */
    AT_OFFSET,  /* OFS_DELTA: how far back the base is, first byte */
    AT_OFFSET2, /* further bytes of it */
    AT_BASE,    /* REF_DELTA: base_left bytes of the base's id */
    AT_ZLIB,    /* the object's zlib stream */
    AT_TRAILER, /* held gathers the checksum */
    AT_END,
};

struct pack_watch {
    enum state state;
    size_t hash_size;
    struct digest *digest;
    bool failed;
    struct err failure;

    uint64_t bytes; /* taken by the walk */
    uint32_t objects, objects_left;
    uint8_t held[DIGEST_MAX];
    size_t held_len;

    enum object_type type;
    uint64_t object_at;   /* offset in the pack of the object being read */
    uint64_t object_size; /* what its header says it inflates to */
    unsigned shift;
    uint64_t base_back;
    size_t base_left;

    z_stream zlib;
    uint8_t *inflated; /* INFLATE_BUFFER */
};

struct pack_watch *pack_watch_new(enum hash_algo algo)
{
    struct pack_watch *w = xcalloc(1, sizeof(*w));

    w->hash_size = hash_size(algo);
    w->digest = digest_new(algo);
    w->inflated = xmalloc(INFLATE_BUFFER);
    must(inflateInit(&w->zlib) == Z_OK);
    return w;
}

void pack_watch_free(struct pack_watch *w)
{
    if (w == NULL)
        return;
    inflateEnd(&w->zlib);
    digest_free(w->digest);
    free(w->inflated);
    free(w);
}

static int broken(struct err *err, const char *what)
{
    return err_set(err, ERR_UPSTREAM, "not a whole pack: %s", what);
}

/* Gather want bytes in held; true when they are there. */
static bool hold(struct pack_watch *w, size_t want, const uint8_t **p, const uint8_t *end)
{
    size_t n = want - w->held_len;

    if (n > (size_t)(end - *p))
        n = (size_t)(end - *p);
    memcpy(w->held + w->held_len, *p, n);
    w->held_len += n;
    *p += n;
    return w->held_len == want;
}

static void next_object(struct pack_watch *w)
{
    w->held_len = 0;
    w->state = w->objects_left > 0 ? AT_OBJECT : AT_TRAILER;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int read_header(struct pack_watch *w, const uint8_t **p, const uint8_t *end, struct err *err)
{
    if (!hold(w, PACK_HEADER, p, end))
        return 0;
    if (memcmp(w->held, "PACK", 4) != 0)
        return broken(err, "it does not begin with PACK");
    if (be32(w->held + 4) != 2 && be32(w->held + 4) != 3)
        return broken(err, "its version is neither 2 nor 3");
    w->objects = w->objects_left = be32(w->held + 8);
    next_object(w);
    return 0;
}

/* Behind type and size: what stands before the zlib stream depends on the type. */
static int size_known(struct pack_watch *w, struct err *err)
{
    switch (w->type) {
    case OBJECT_COMMIT:
    case OBJECT_TREE:
    case OBJECT_BLOB:
    case OBJECT_TAG: w->state = AT_ZLIB; return 0;
    case OBJECT_OFS_DELTA: w->state = AT_OFFSET; return 0;
    case OBJECT_REF_DELTA:
        w->state = AT_BASE;
        w->base_left = w->hash_size;
        return 0;
    }
    return broken(err, "an object's type is unknown");
}

static int read_type(struct pack_watch *w, uint8_t c, uint64_t at, struct err *err)
{
    w->object_at = at;
    w->type = (enum object_type)(c >> 4 & 7);
    w->object_size = c & 15;
    w->shift = 4;
    must(inflateReset(&w->zlib) == Z_OK);
    if (c & 0x80) {
        w->state = AT_SIZE;
        return 0;
    }
    return size_known(w, err);
}

static int read_size(struct pack_watch *w, uint8_t c, struct err *err)
{
    uint64_t part = c & 0x7f;

    if (w->shift >= 64 || part << w->shift >> w->shift != part)
        return broken(err, "an object's size is over 64 bits");
    w->object_size |= part << w->shift;
    w->shift += 7;
    return c & 0x80 ? 0 : size_known(w, err);
}

static int read_offset(struct pack_watch *w, uint8_t c, struct err *err)
{
    if (w->state == AT_OFFSET)
        w->base_back = c & 0x7f;
    else if (w->base_back >= UINT64_MAX >> 8)
        return broken(err, "the offset of a delta's base is over 64 bits");
    else
        /* git adds 1 per further byte, so that no offset can be written in two ways. */
        w->base_back = (w->base_back + 1) << 7 | (c & 0x7f);
    w->state = AT_OFFSET2;
    if (c & 0x80)
        return 0;
    if (w->base_back == 0 || w->base_back > w->object_at - PACK_HEADER)
        return broken(err, "a delta's base is outside the pack");
    w->state = AT_ZLIB;
    return 0;
}

static void skip_base(struct pack_watch *w, const uint8_t **p, const uint8_t *end)
{
    size_t n = w->base_left;

    if (n > (size_t)(end - *p))
        n = (size_t)(end - *p);
    *p += n;
    w->base_left -= n;
    if (w->base_left == 0)
        w->state = AT_ZLIB;
}

static int object_done(struct pack_watch *w, struct err *err)
{
    if (w->zlib.total_out != w->object_size)
        return broken(err, "an object is shorter than its header says");
    w->objects_left--;
    next_object(w);
    return 0;
}

static int inflate_object(struct pack_watch *w, const uint8_t **p, const uint8_t *end,
                          struct err *err)
{
    z_stream *z = &w->zlib;
    int rc;

    do {
        /* One feed is an HTTP buffer or a pkt, but nothing forbids more than zlib can count. */
        size_t n = (size_t)(end - *p) < UINT32_MAX ? (size_t)(end - *p) : UINT32_MAX;

        z->next_in = (Bytef *)*p; /* zlib does not write there */
        z->avail_in = (uInt)n;
        z->next_out = w->inflated;
        z->avail_out = INFLATE_BUFFER;
        rc = inflate(z, Z_NO_FLUSH);
        *p += n - z->avail_in;
        /* At once, not only at the end: a stream that inflates for ever costs no more than
         * its header admits. */
        if (z->total_out > w->object_size)
            return broken(err, "an object is longer than its header says");
        if (rc == Z_STREAM_END)
            return object_done(w, err);
        if (rc != Z_OK && rc != Z_BUF_ERROR) /* the latter: nothing left to do, feed more */
            return broken(err, "an object's zlib stream is damaged");
    } while (rc == Z_OK && (*p < end || z->avail_out == 0));
    return 0;
}

static int read_trailer(struct pack_watch *w, const uint8_t **p, const uint8_t *end,
                        struct err *err)
{
    uint8_t sum[DIGEST_MAX];

    if (!hold(w, w->hash_size, p, end))
        return 0;
    digest_final(w->digest, sum);
    if (memcmp(sum, w->held, w->hash_size) != 0)
        return broken(err, "its checksum is wrong");
    w->state = AT_END;
    return 0;
}

/* Take what the present state can take, at least one byte unless an object's output pends. */
static int step(struct pack_watch *w, const uint8_t **p, const uint8_t *end, uint64_t at,
                struct err *err)
{
    switch (w->state) {
    case AT_HEADER: return read_header(w, p, end, err);
    case AT_OBJECT: return read_type(w, *(*p)++, at, err);
    case AT_SIZE: return read_size(w, *(*p)++, err);
    case AT_OFFSET:
    case AT_OFFSET2: return read_offset(w, *(*p)++, err);
    case AT_BASE: skip_base(w, p, end); return 0;
    case AT_ZLIB: return inflate_object(w, p, end, err);
    case AT_TRAILER: return read_trailer(w, p, end, err);
    case AT_END: return broken(err, "something follows its checksum");
    }
    return 0;
}

/* Walk up to the trailer or the end of the data. */
static int walk(struct pack_watch *w, const uint8_t **p, const uint8_t *end, struct err *err)
{
    const uint8_t *start = *p;

    while (*p < end && w->state < AT_TRAILER) {
        if (step(w, p, end, w->bytes + (uint64_t)(*p - start), err) != 0)
            return -1;
    }
    digest_update(w->digest, start, (size_t)(*p - start));
    w->bytes += (uint64_t)(*p - start);
    return 0;
}

static int fail(struct pack_watch *w, const struct err *err)
{
    w->failed = true;
    w->failure = *err;
    return -1;
}

int pack_watch_feed(struct pack_watch *w, const void *data, size_t len, struct err *err)
{
    const uint8_t *p = data;
    const uint8_t *end;

    if (w->failed) {
        *err = w->failure;
        return -1;
    }
    if (len == 0)
        return 0;
    end = p + len;
    if (w->state < AT_TRAILER && walk(w, &p, end, err) != 0)
        return fail(w, err);
    while (p < end) {
        const uint8_t *before = p;

        if (step(w, &p, end, w->bytes, err) != 0)
            return fail(w, err);
        w->bytes += (uint64_t)(p - before);
    }
    return 0;
}

int pack_watch_finish(struct pack_watch *w, struct err *err)
{
    if (w->failed) {
        *err = w->failure;
        return -1;
    }
    if (w->state != AT_END)
        return err_set(err, ERR_UPSTREAM, "the pack broke off after %llu bytes, %lu of %lu objects",
                       (unsigned long long)w->bytes, (unsigned long)(w->objects - w->objects_left),
                       (unsigned long)w->objects);
    return 0;
}

uint32_t pack_watch_objects(const struct pack_watch *w)
{
    return w->objects;
}

uint64_t pack_watch_bytes(const struct pack_watch *w)
{
    return w->bytes;
}
