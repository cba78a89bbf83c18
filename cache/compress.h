/* zstd for files and streams that are kept: does it pay, and do it.
 *
 * The home of zstd for what lies on disk (protocol/content_encoding.c has it for what goes to
 * clients).  Worker threads: reads and writes files. */
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

/* The first len bytes of from, as one zstd frame with a checksum, to to at its offset 0.
 * *out_len is the frame's length.  -1: ERR_STORAGE; ERR_CORRUPT when there aren't so many. */
int compress_file(int from, uint64_t len, int to, uint64_t *out_len, struct err *err);
/* The frame in bytes [0, frame_len) of from, unpacked to to at offset 0, must be len bytes.
 * -1: ERR_CORRUPT, ERR_STORAGE. */
int decompress_file(int from, uint64_t frame_len, int to, uint64_t len, struct err *err);

#endif
