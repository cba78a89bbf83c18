/* zstd for files and streams that are kept: does it pay, and do it.
 *
 * The home of zstd for what lies on disk (protocol/content_encoding.c has it for what goes to
 * clients).  Worker threads: reads files. */
#ifndef PANNIER_CACHE_COMPRESS_H
#define PANNIER_CACHE_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum compression { COMPRESSION_AUTO, COMPRESSION_ON, COMPRESSION_OFF };

enum {
    COMPRESS_SAMPLES = 4, /* taken evenly from all of it */
    COMPRESS_SAMPLE = 64 * 1024,
    /* Below this share (in percent) of its size it pays: reading costs time, and a file that is
     * compressed can't go out by sendfile. */
    COMPRESS_PAYS_PERCENT = 75,
};

/* Does it pay to compress the first len bytes of the file?  Decided by compressing samples. */
bool compress_pays(int fd, uint64_t len);

/* Takes what comes out, piece by piece; -1 stops it. */
typedef int compress_sink_fn(void *ctx, const void *data, size_t len, struct err *err);

/* The first len bytes of from, as one zstd frame with a checksum.  -1: ERR_STORAGE; ERR_CORRUPT
 * when there aren't so many; or the sink's. */
int compress_file(int from, uint64_t len, compress_sink_fn *sink, void *ctx, struct err *err);
/* A frame that comes in pieces:
 *
 *     d = decompressor_new(len, sink, ctx)     it must be len bytes unpacked
 *     decompressor_take(d, ...)                its pieces, in their order
 *     decompressor_end(d)                      was that all of it?
 *
 * After a failure it can only be freed.  One thread at a time. */
struct decompressor;
struct decompressor *decompressor_new(uint64_t len, compress_sink_fn *sink, void *ctx);
void decompressor_free(struct decompressor **d);
/* What the sink gets is never more than len bytes in all.  -1: ERR_CORRUPT, or the sink's. */
int decompressor_take(struct decompressor *d, const void *data, size_t len, struct err *err);
int decompressor_end(struct decompressor *d, struct err *err);

#endif
