/* Content-Encoding of what goes to clients: which one the client takes, and how it is made
 * (RFC 9110, 8.4 and 12.5.3; RFC 8878 for zstd). */
#ifndef PANNIER_PROTOCOL_CONTENT_ENCODING_H
#define PANNIER_PROTOCOL_CONTENT_ENCODING_H

#include <stddef.h>

#include "protocol/bytes.h"

enum content_encoding { ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_ZSTD };

enum { ENCODING_WORTH = 8 * 1024 }; /* below, a body is as well sent as it is */

/* The best that an Accept-Encoding header allows: zstd, then gzip, then none; weights of 0 count as
 * no, others don't rank.  NULL (no header): identity. */
enum content_encoding content_encoding_choose(const char *accept_encoding);
/* "gzip", "zstd"; NULL for identity. */
const char *content_encoding_name(enum content_encoding encoding);
/* Append data, encoded, to out.  -1: out's limit is reached. */
int content_encode(enum content_encoding encoding, const void *data, size_t len, struct bytes *out);

#endif
