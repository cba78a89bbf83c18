#include "protocol/content_encoding.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>

#include "protocol/base.h"

enum {
    BLOCK = 64 * 1024,
    GZIP_FORMAT = 16,
    GZIP_LEVEL = 6,
    GZIP_MEMORY = 8,
    /* The fast search wants seven equal bytes.  Slower levels take four, which hex digits have
     * everywhere by chance, and naming such a match costs more than the digits do: 100k refs, each
     * with an object id of its own, shrink 3.0 times at 1 and 2.6 times at 3.  For gzip it is
     * Z_FILTERED that leaves the short matches out: 2.7 times instead of 2.4. */
    ZSTD_LEVEL = 1,
};

/* ---- what the client takes ---- */

enum wish { UNSAID, YES, NO };

struct wishes {
    enum wish gzip, zstd, any;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static void trim(const char **at, size_t *len)
{
    while (*len > 0 && is_space(**at)) {
        ++*at;
        --*len;
    }
    while (*len > 0 && is_space((*at)[*len - 1]))
        --*len;
}

/* "q=0.5", "" (nothing was said): YES; "q=0": NO; what is no weight: NO. */
static enum wish read_weight(const char *at, size_t len)
{
    bool positive;

    if (len < 3 || tolower((unsigned char)at[0]) != 'q' || at[1] != '=' ||
        (at[2] != '0' && at[2] != '1') || (len > 3 && at[3] != '.') || len > 7)
        return NO;
    positive = at[2] == '1';
    for (size_t i = 4; i < len; i++) {
        if (at[i] < '0' || at[i] > (at[2] == '1' ? '0' : '9'))
            return NO;
        positive = positive || at[i] != '0';
    }
    return positive ? YES : NO;
}

static bool is_name(const char *at, size_t len, const char *name)
{
    return len == strlen(name) && strncasecmp(at, name, len) == 0;
}

/* One element, "gzip;q=0.5".  A coding that is named twice and once refused is refused. */
static void read_element(const char *at, size_t len, struct wishes *w)
{
    const char *semicolon = memchr(at, ';', len);
    size_t name_len = semicolon != NULL ? (size_t)(semicolon - at) : len;
    enum wish wish = YES;
    enum wish *of;

    if (semicolon != NULL) {
        const char *weight = semicolon + 1;
        size_t weight_len = len - name_len - 1;

        trim(&weight, &weight_len);
        wish = read_weight(weight, weight_len);
    }
    trim(&at, &name_len);
    if (is_name(at, name_len, "gzip") || is_name(at, name_len, "x-gzip"))
        of = &w->gzip;
    else if (is_name(at, name_len, "zstd"))
        of = &w->zstd;
    else if (is_name(at, name_len, "*"))
        of = &w->any;
    else
        return;
    if (*of != NO)
        *of = wish;
}

enum content_encoding content_encoding_choose(const char *accept_encoding)
{
    struct wishes w = {UNSAID, UNSAID, UNSAID};
    const char *at = accept_encoding;

    while (at != NULL) {
        const char *comma = strchr(at, ',');

        read_element(at, comma != NULL ? (size_t)(comma - at) : strlen(at), &w);
        at = comma != NULL ? comma + 1 : NULL;
    }
    if ((w.zstd == UNSAID ? w.any : w.zstd) == YES)
        return ENCODING_ZSTD;
    if ((w.gzip == UNSAID ? w.any : w.gzip) == YES)
        return ENCODING_GZIP;
    return ENCODING_IDENTITY;
}

const char *content_encoding_name(enum content_encoding encoding)
{
    switch (encoding) {
    case ENCODING_GZIP: return "gzip";
    case ENCODING_ZSTD: return "zstd";
    case ENCODING_IDENTITY: return NULL;
    }
    return NULL;
}

/* ---- encoding ---- */

struct content_encoder {
    ZSTD_CCtx *zstd; /* NULL: gzip */
    z_stream gzip;
    char *block;
};

struct content_encoder *content_encoder_new(enum content_encoding encoding)
{
    struct content_encoder *e = xcalloc(1, sizeof(*e));

    must(encoding == ENCODING_GZIP || encoding == ENCODING_ZSTD);
    e->block = xmalloc(BLOCK);
    if (encoding == ENCODING_GZIP) {
        must(deflateInit2(&e->gzip, GZIP_LEVEL, Z_DEFLATED, MAX_WBITS + GZIP_FORMAT, GZIP_MEMORY,
                          Z_FILTERED) == Z_OK);
        return e;
    }
    e->zstd = ZSTD_createCCtx();
    must(e->zstd != NULL);
    must(!ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL)));
    return e;
}

void content_encoder_free(struct content_encoder **ep)
{
    struct content_encoder *e = *ep;

    *ep = NULL;
    if (e == NULL)
        return;
    if (e->zstd == NULL)
        deflateEnd(&e->gzip);
    ZSTD_freeCCtx(e->zstd);
    free(e->block);
    free(e);
}

static int run_gzip(struct content_encoder *e, const char *data, size_t len, int flush,
                    struct bytes *out)
{
    z_stream *z = &e->gzip;

    do {
        size_t n = len < BLOCK ? len : BLOCK; /* zlib's lengths have fewer bits than size_t */

        z->next_in = (Bytef *)data;
        z->avail_in = (uInt)n;
        do {
            z->next_out = (Bytef *)e->block;
            z->avail_out = BLOCK;
            must(deflate(z, n < len ? Z_NO_FLUSH : flush) != Z_STREAM_ERROR);
            if (bytes_add(out, e->block, BLOCK - z->avail_out) != 0)
                return -1;
        } while (z->avail_out == 0);
        data += n;
        len -= n;
    } while (len > 0);
    return 0;
}

static int run_zstd(struct content_encoder *e, const void *data, size_t len,
                    ZSTD_EndDirective flush, struct bytes *out)
{
    ZSTD_inBuffer in = {data, len, 0};
    size_t left;

    do {
        ZSTD_outBuffer block = {e->block, BLOCK, 0};

        left = ZSTD_compressStream2(e->zstd, &block, &in, flush);
        must(!ZSTD_isError(left));
        if (bytes_add(out, e->block, block.pos) != 0)
            return -1;
    } while (flush == ZSTD_e_continue ? in.pos < in.size : left > 0);
    return 0;
}

int content_encoder_add(struct content_encoder *e, const void *data, size_t len, struct bytes *out)
{
    return e->zstd != NULL ? run_zstd(e, data, len, ZSTD_e_continue, out)
                           : run_gzip(e, data, len, Z_NO_FLUSH, out);
}

int content_encoder_flush(struct content_encoder *e, struct bytes *out)
{
    return e->zstd != NULL ? run_zstd(e, "", 0, ZSTD_e_flush, out)
                           : run_gzip(e, "", 0, Z_SYNC_FLUSH, out);
}

int content_encoder_end(struct content_encoder *e, struct bytes *out)
{
    return e->zstd != NULL ? run_zstd(e, "", 0, ZSTD_e_end, out)
                           : run_gzip(e, "", 0, Z_FINISH, out);
}
