/* Content-Encoding of what goes to clients: which one the client takes, and how it is made
 * (RFC 9110, 8.4 and 12.5.3; RFC 8878 for zstd).
 *
 *     e = content_encoder_new(encoding)
 *     content_encoder_add(e, data, len, out) ...
 *     content_encoder_flush(e, out)  now and then: all that was added can be decoded from here on
 *     content_encoder_end(e, out)
 *     content_encoder_free(&e)
 *
 * Made for lists of refs: hex digits, which hold half a byte each and nothing else to gain, between
 * names that repeat. */
#ifndef PANNIER_PROTOCOL_CONTENT_ENCODING_H
#define PANNIER_PROTOCOL_CONTENT_ENCODING_H

#include <stddef.h>

#include "protocol/bytes.h"

enum content_encoding { ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_ZSTD };
enum { ENCODINGS_COUNT = ENCODING_ZSTD + 1 };

enum { ENCODING_WORTH = 8 * 1024 }; /* below, a body is as well sent as it is */

/* The best that an Accept-Encoding header allows: zstd, then gzip, then none; weights of 0 count as
 * no, others don't rank.  What is malformed counts as no.  NULL (no header): identity, which is
 * also what a client gets that forbids it and takes nothing else: that beats a refusal. */
enum content_encoding content_encoding_choose(const char *accept_encoding);
/* "gzip", "zstd"; NULL for identity. */
const char *content_encoding_name(enum content_encoding encoding);

/* One body being encoded, not with ENCODING_IDENTITY.  Costs up to 1 MB.  One thread at a time. */
struct content_encoder;
struct content_encoder *content_encoder_new(enum content_encoding encoding);
void content_encoder_free(struct content_encoder **e);

/* Append to out what becomes of data, or a part of it.  -1: out's limit is reached. */
int content_encoder_add(struct content_encoder *e, const void *data, size_t len, struct bytes *out);
/* Append the rest of what was added.  Every 32 KiB it costs next to nothing, every 4 KiB a fortieth
 * of what encoding gains.  -1 as above. */
int content_encoder_flush(struct content_encoder *e, struct bytes *out);
/* Append the end; once.  -1 as above. */
int content_encoder_end(struct content_encoder *e, struct bytes *out);

#endif
