/* gzip'd request bodies: git compresses those above 1,024 bytes. */
#ifndef PANNIER_PROTOCOL_INFLATE_H
#define PANNIER_PROTOCOL_INFLATE_H

#include <stddef.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

/* Append what data inflates to.  -1: ERR_LIMIT when that passes out's limit (it stops there: a
 * small body can inflate to a thousand times its size), ERR_INPUT when it isn't one whole gzip
 * stream. */
int inflate_gzip(const void *data, size_t len, struct bytes *out, struct err *err);

#endif
