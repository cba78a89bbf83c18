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

struct drain {
    compress_sink_fn *sink;
    void *ctx;
    char *block;
    size_t block_size;
    uint64_t left; /* of the length that it must have */
};

/* All that in holds.  *hint is 0 when the frame has come to its end. */
static int unpack_block(ZSTD_DCtx *z, ZSTD_inBuffer *in, struct drain *d, size_t *hint,
                        struct err *err)
{
    bool full;

    do {
        ZSTD_outBuffer out = {d->block, d->block_size, 0};

        *hint = ZSTD_decompressStream(z, &out, in);
        if (ZSTD_isError(*hint))
            return err_set(err, ERR_CORRUPT, "a zstd frame is damaged: %s",
                           ZSTD_getErrorName(*hint));
        if (out.pos > d->left)
            return err_set(err, ERR_CORRUPT, "a zstd frame holds more than it should");
        d->left -= out.pos;
        if (out.pos > 0 && d->sink(d->ctx, d->block, out.pos, err) != 0)
            return -1;
        full = out.pos == out.size;
    } while (*hint != 0 && (in->pos < in->size || full));
    return 0;
}

static int unpack(ZSTD_DCtx *z, struct source *s, struct drain *d, struct err *err)
{
    size_t hint;

    do {
        ZSTD_inBuffer in;

        if (take(s, &in, err) != 0)
            return -1;
        if (in.size == 0)
            return err_set(err, ERR_CORRUPT, "a zstd frame is cut");
        if (unpack_block(z, &in, d, &hint, err) != 0)
            return -1;
        if (hint == 0 && (in.pos < in.size || s->left > 0))
            return err_set(err, ERR_CORRUPT, "something follows a zstd frame");
    } while (hint != 0);
    if (d->left > 0)
        return err_set(err, ERR_CORRUPT, "a zstd frame holds less than it should");
    return 0;
}

int decompress_file(int from, uint64_t frame_len, uint64_t len, compress_sink_fn *sink, void *ctx,
                    struct err *err)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    struct drain d = {sink, ctx, NULL, ZSTD_DStreamOutSize(), len};
    struct source s;
    int rc;

    must(z != NULL);
    must(!ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)));
    source_init(&s, from, frame_len, ZSTD_DStreamInSize());
    d.block = xmalloc(d.block_size);
    rc = unpack(z, &s, &d, err);
    free(d.block);
    free(s.block);
    ZSTD_freeDCtx(z);
    return rc;
}
