#include "cache/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "protocol/base.h"

enum {
    LEVEL = 3,
    /* Below, there are hardly blocks of the disk to be won. */
    WORTH = 16 * 1024,
    /* What a frame may make unpacking allocate, 8 MiB; LEVEL needs 2. */
    WINDOW_LOG_MAX = 23,
};

static ssize_t read_at(int fd, void *buf, size_t len, uint64_t offset, struct err *err)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "read what is to be packed or unpacked");
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* ---- does it pay ---- */

bool compress_pays(int fd, uint64_t len)
{
    size_t sample = COMPRESS_SAMPLE;
    size_t bound = ZSTD_compressBound(sample);
    uint64_t taken = 0, packed = 0;
    char *from, *to;
    struct err ignored;
    bool readable = true;

    if (len < WORTH)
        return false;
    from = xmalloc(sample);
    to = xmalloc(bound);
    if (len < (uint64_t)COMPRESS_SAMPLES * sample)
        sample = (size_t)(len / COMPRESS_SAMPLES);
    for (uint64_t i = 0; i < COMPRESS_SAMPLES && readable; i++) {
        uint64_t at = i * ((len - sample) / (COMPRESS_SAMPLES - 1));
        size_t n;

        readable = read_at(fd, from, sample, at, &ignored) == (ssize_t)sample;
        if (!readable)
            break;
        n = ZSTD_compress(to, bound, from, sample, LEVEL);
        must(!ZSTD_isError(n));
        taken += sample;
        packed += n;
    }
    free(from);
    free(to);
    return readable && packed * 100 < taken * COMPRESS_PAYS_PERCENT;
}

/* ---- packing ---- */

/* Blocks of a file, of zstd's liking. */
struct source {
    int fd;
    uint64_t offset, left;
    char *block;
    size_t block_size;
};

static void source_init(struct source *s, int fd, uint64_t len, size_t block_size)
{
    *s = (struct source){
        .fd = fd, .left = len, .block = xmalloc(block_size), .block_size = block_size};
}

/* The next block; empty at the end. */
static int take(struct source *s, ZSTD_inBuffer *in, struct err *err)
{
    size_t n = s->left < s->block_size ? (size_t)s->left : s->block_size;
    ssize_t got = read_at(s->fd, s->block, n, s->offset, err);

    if (got < 0)
        return -1;
    if ((size_t)got < n)
        return err_set(err, ERR_CORRUPT, "a file ends before what is to be packed or unpacked");
    *in = (ZSTD_inBuffer){s->block, n, 0};
    s->offset += n;
    s->left -= n;
    return 0;
}

static int pack(ZSTD_CCtx *z, struct source *s, compress_sink_fn *sink, void *ctx, struct err *err)
{
    size_t block_size = ZSTD_CStreamOutSize();
    char *block = xmalloc(block_size);
    bool last;
    int rc;

    do {
        ZSTD_inBuffer in;
        size_t left = 1;

        rc = take(s, &in, err);
        last = s->left == 0;
        while (rc == 0 && (last ? left > 0 : in.pos < in.size)) {
            ZSTD_outBuffer out = {block, block_size, 0};

            left = ZSTD_compressStream2(z, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
            must(!ZSTD_isError(left));
            if (out.pos > 0)
                rc = sink(ctx, block, out.pos, err);
        }
    } while (rc == 0 && !last);
    free(block);
    return rc;
}

int compress_file(int from, uint64_t len, compress_sink_fn *sink, void *ctx, struct err *err)
{
    ZSTD_CCtx *z = ZSTD_createCCtx();
    struct source s;
    int rc;

    must(z != NULL);
    must(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, LEVEL)));
    must(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1)));
    must(!ZSTD_isError(ZSTD_CCtx_setPledgedSrcSize(z, len)));
    source_init(&s, from, len, ZSTD_CStreamInSize());
    rc = pack(z, &s, sink, ctx, err);
    free(s.block);
    ZSTD_freeCCtx(z);
    return rc;
}

/* ---- unpacking ---- */

struct decompressor {
    ZSTD_DCtx *z;
    compress_sink_fn *sink;
    void *ctx;
    char *block;
    size_t block_size;
    uint64_t left; /* of the length that it must have */
    bool ended;    /* the frame has */
};

struct decompressor *decompressor_new(uint64_t len, compress_sink_fn *sink, void *ctx)
{
    struct decompressor *d = xcalloc(1, sizeof(*d));

    d->z = ZSTD_createDCtx();
    must(d->z != NULL);
    must(!ZSTD_isError(ZSTD_DCtx_setParameter(d->z, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)));
    d->sink = sink;
    d->ctx = ctx;
    d->block_size = ZSTD_DStreamOutSize();
    d->block = xmalloc(d->block_size);
    d->left = len;
    return d;
}

void decompressor_free(struct decompressor **dp)
{
    struct decompressor *d = *dp;

    *dp = NULL;
    if (d == NULL)
        return;
    ZSTD_freeDCtx(d->z);
    free(d->block);
    free(d);
}

int decompressor_take(struct decompressor *d, const void *data, size_t len, struct err *err)
{
    ZSTD_inBuffer in = {data, len, 0};
    bool full;

    do {
        ZSTD_outBuffer out = {d->block, d->block_size, 0};
        size_t hint;

        if (d->ended)
            return len == 0 ? 0 : err_set(err, ERR_CORRUPT, "something follows a zstd frame");
        hint = ZSTD_decompressStream(d->z, &out, &in);
        if (ZSTD_isError(hint))
            return err_set(err, ERR_CORRUPT, "a zstd frame is damaged: %s",
                           ZSTD_getErrorName(hint));
        if (out.pos > d->left)
            return err_set(err, ERR_CORRUPT, "a zstd frame holds more than it should");
        d->left -= out.pos;
        if (out.pos > 0 && d->sink(d->ctx, d->block, out.pos, err) != 0)
            return -1;
        d->ended = hint == 0;
        full = out.pos == out.size && !d->ended;
    } while (in.pos < in.size || full);
    return 0;
}

int decompressor_end(struct decompressor *d, struct err *err)
{
    if (!d->ended)
        return err_set(err, ERR_CORRUPT, "a zstd frame is cut");
    if (d->left > 0)
        return err_set(err, ERR_CORRUPT, "a zstd frame holds less than it should");
    return 0;
}
