/* What the fuzz targets share.  A target is a LLVMFuzzerTestOneInput; with libFuzzer it is hunted,
 * without it replay.c runs it over its corpus.  A broken invariant is a must() that aborts. */
#ifndef PANNIER_TESTS_FUZZ_FUZZ_H
#define PANNIER_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte of an input chooses; the rest is the input.  0 when there is none. */
static inline uint8_t fuzz_choice(const uint8_t **data, size_t *size)
{
    if (*size == 0)
        return 0;
    ++*data;
    --*size;
    return (*data)[-1];
}

/* A copy of exactly size bytes, so that the sanitizer sees a read behind them. */
static inline char *fuzz_copy(const uint8_t *data, size_t size)
{
    char *copy = xmalloc(size > 0 ? size : 1);

    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
