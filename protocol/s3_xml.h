/* The XML that S3 endpoints answer with: small documents of text in nested elements.  The home of
 * expat.
 *
 * A document type is refused, and with it every entity of the document's own: no S3 endpoint sends
 * one.  Depth and the size of a text are bounded. */
#ifndef PANNIER_PROTOCOL_S3_XML_H
#define PANNIER_PROTOCOL_S3_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum {
    S3_XML_DEPTH_MAX = 8,
    S3_XML_NAME_MAX = 64,
    S3_XML_TEXT_MAX = 16 * 1024, /* session tokens have some kilobytes */
};

/* An element ended.  path: "ListBucketResult/Contents/Key", without namespaces; text: what stood in
 * it, if no elements did; else "".  Not 0: enough. */
typedef int s3_xml_fn(void *ctx, const char *path, const char *text);

/* -1: ERR_UPSTREAM, it is no such document; fn may have been called before. */
int s3_xml_walk(const void *data, size_t len, s3_xml_fn *fn, void *ctx, struct err *err);

/* "2013-05-24T00:00:00.000Z" as seconds since 1970; false for what is no such time. */
bool s3_xml_time(const char *text, int64_t *out);

#endif
