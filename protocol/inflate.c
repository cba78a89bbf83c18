#include "protocol/inflate.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

#include "protocol/base.h"

enum { BLOCK = 64 * 1024, GZIP_ONLY = 16 };

int inflate_gzip(const void *data, size_t len, struct bytes *out, struct err *err)
{
    z_stream z = {.next_in = (Bytef *)data, .avail_in = (uInt)len};
    char *block;
    int state = Z_OK, rc = 0;

    if (len > UINT_MAX)
        return err_set(err, ERR_LIMIT, "the request's body is over the limit");
    must(inflateInit2(&z, MAX_WBITS + GZIP_ONLY) == Z_OK);
    block = xmalloc(BLOCK);
    while (rc == 0 && state == Z_OK) {
        z.next_out = (Bytef *)block;
        z.avail_out = BLOCK;
        state = inflate(&z, Z_NO_FLUSH);
        if (state != Z_OK && state != Z_STREAM_END)
            rc = err_set(err, ERR_INPUT, "the request's body is not a whole gzip stream");
        else if (bytes_add(out, block, BLOCK - z.avail_out) != 0)
            rc = err_set(err, ERR_LIMIT, "the request's body inflates to more than the limit");
    }
    if (rc == 0 && z.avail_in > 0)
        rc = err_set(err, ERR_INPUT, "bytes follow the request's gzip stream");
    inflateEnd(&z);
    free(block);
    return rc;
}
