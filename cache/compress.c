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

/* ---- reading and writing at offsets ---- */

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

static int write_at(int fd, const char *data, size_t len, uint64_t offset, struct err *err)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "write what was packed or unpacked");
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
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

/* Both ways read blocks of zstd's liking from one file and write such into another. */
struct passage {
    int from, to;
    uint64_t left; /* to be read */
    uint64_t read_offset, write_offset;
    char *in, *out;
    size_t in_size, out_size;
};

static void passage_init(struct passage *p, int from, uint64_t len, int to, size_t in_size,
                         size_t out_size)
{
    *p = (struct passage){
        .from = from,
        .to = to,
        .left = len,
        .in = xmalloc(in_size),
        .out = xmalloc(out_size),
        .in_size = in_size,
        .out_size = out_size,
    };
}

static void passage_clear(struct passage *p)
{
    free(p->in);
    free(p->out);
}

/* The next block; empty at the end. */
static int take(struct passage *p, ZSTD_inBuffer *in, struct err *err)
{
    size_t n = p->left < p->in_size ? (size_t)p->left : p->in_size;
    ssize_t got = read_at(p->from, p->in, n, p->read_offset, err);

    if (got < 0)
        return -1;
    if ((size_t)got < n)
        return err_set(err, ERR_CORRUPT, "a file ends before what is to be packed or unpacked");
    *in = (ZSTD_inBuffer){p->in, n, 0};
    p->read_offset += n;
    p->left -= n;
    return 0;
}

static int put(struct passage *p, size_t len, struct err *err)
{
    if (write_at(p->to, p->out, len, p->write_offset, err) != 0)
        return -1;
    p->write_offset += len;
    return 0;
}

static int pack(ZSTD_CCtx *z, struct passage *p, struct err *err)
{
    bool last;

    do {
        ZSTD_inBuffer in;
        size_t left;

        if (take(p, &in, err) != 0)
            return -1;
        last = p->left == 0;
        do {
            ZSTD_outBuffer out = {p->out, p->out_size, 0};

            left = ZSTD_compressStream2(z, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
            must(!ZSTD_isError(left));
            if (put(p, out.pos, err) != 0)
                return -1;
        } while (last ? left > 0 : in.pos < in.size);
    } while (!last);
    return 0;
}

int compress_file(int from, uint64_t len, int to, uint64_t *out_len, struct err *err)
{
    ZSTD_CCtx *z = ZSTD_createCCtx();
    struct passage p;
    int rc;

    must(z != NULL);
    must(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, LEVEL)));
    must(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1)));
    must(!ZSTD_isError(ZSTD_CCtx_setPledgedSrcSize(z, len)));
    passage_init(&p, from, len, to, ZSTD_CStreamInSize(), ZSTD_CStreamOutSize());
    rc = pack(z, &p, err);
    *out_len = p.write_offset;
    passage_clear(&p);
    ZSTD_freeCCtx(z);
    return rc;
}

/* ---- unpacking ---- */

static int unpack(ZSTD_DCtx *z, struct passage *p, uint64_t len, struct err *err)
{
    size_t hint = 1; /* 0: the frame has come to its end */
    bool full;

    do {
        ZSTD_inBuffer in;

        if (take(p, &in, err) != 0)
            return -1;
        if (in.size == 0)
            return err_set(err, ERR_CORRUPT, "a zstd frame is cut");
        do {
            ZSTD_outBuffer out = {p->out, p->out_size, 0};

            hint = ZSTD_decompressStream(z, &out, &in);
            if (ZSTD_isError(hint))
                return err_set(err, ERR_CORRUPT, "a zstd frame is damaged: %s",
                               ZSTD_getErrorName(hint));
            if (out.pos > len - p->write_offset)
                return err_set(err, ERR_CORRUPT, "a zstd frame holds more than it should");
            if (put(p, out.pos, err) != 0)
                return -1;
            full = out.pos == out.size;
        } while (hint != 0 && (in.pos < in.size || full));
        if (hint == 0 && (in.pos < in.size || p->left > 0))
            return err_set(err, ERR_CORRUPT, "something follows a zstd frame");
    } while (hint != 0);
    if (p->write_offset != len)
        return err_set(err, ERR_CORRUPT, "a zstd frame holds less than it should");
    return 0;
}

int decompress_file(int from, uint64_t frame_len, int to, uint64_t len, struct err *err)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    struct passage p;
    int rc;

    must(z != NULL);
    must(!ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)));
    passage_init(&p, from, frame_len, to, ZSTD_DStreamInSize(), ZSTD_DStreamOutSize());
    rc = unpack(z, &p, len, err);
    passage_clear(&p);
    ZSTD_freeDCtx(z);
    return rc;
}
