/* pkt-lines: four hex digits of length (counting themselves), then the payload.
 * Source of every rule: git's Documentation/gitprotocol-common.txt and gitprotocol-v2.txt.
 *
 * Reading bytes that are all there:
 *
 *     while ((rc = pkt_next(&p, &left, &pkt, err)) == 1)
 *         ... pkt.type, pkt.data, pkt.len ...
 *     rc == 0: left bytes at p are the start of an unfinished pkt (or none); rc == -1: malformed
 *
 * Reading bytes as they come: struct pkt_reader keeps the unfinished one between calls.
 * Pure functions on bytes; not thread-safe, no I/O. */
#ifndef PANNIER_PROTOCOL_PKT_H
#define PANNIER_PROTOCOL_PKT_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

enum {
    PKT_HEADER = 4,
    PKT_MAX = 65520, /* whole pkt, header included */
    PKT_PAYLOAD_MAX = PKT_MAX - PKT_HEADER,
};

enum pkt_type {
    PKT_DATA,
    PKT_FLUSH,        /* 0000 */
    PKT_DELIM,        /* 0001, v2 only */
    PKT_RESPONSE_END, /* 0002, v2 over stateless connections */
};

struct pkt {
    enum pkt_type type;
    const char *data; /* borrowed; not NUL-terminated */
    size_t len;       /* may be 0: "0004" is a data pkt without payload */
};

/* 1: *pkt is the next one, *p and *left stand behind it.  0: more bytes are needed, nothing
 * moved.  -1: the length is not hex, is 0003, or is over PKT_MAX (ERR_INPUT). */
int pkt_next(const char **p, size_t *left, struct pkt *pkt, struct err *err);

/* The first PKT_HEADER bytes of a pkt alone, for who handles payloads as they come: fills type and
 * the payload's len, data is NULL.  -1 as pkt_next(). */
int pkt_header(const char *head, struct pkt *pkt, struct err *err);

/* The payload without one trailing newline. */
void pkt_chomp(struct pkt *pkt);
/* True when the (chomped or not) payload is exactly s, with or without a trailing newline. */
bool pkt_is(const struct pkt *pkt, const char *s);
/* When the payload starts with prefix: true, and *rest / *rest_len are what follows it, without
 * the trailing newline. */
bool pkt_skip_prefix(const struct pkt *pkt, const char *prefix, const char **rest,
                     size_t *rest_len);

/* Incremental: feed any split of the bytes, get whole pkts. */
struct pkt_reader {
    struct bytes held; /* an unfinished pkt, at most PKT_MAX bytes */
};
/* Return 0 to go on, -1 with err filled to stop: pkt_reader_feed() then returns -1. */
typedef int pkt_fn(void *ctx, const struct pkt *pkt, struct err *err);

void pkt_reader_init(struct pkt_reader *r);
void pkt_reader_clear(struct pkt_reader *r);
int pkt_reader_feed(struct pkt_reader *r, const void *data, size_t len, pkt_fn *fn, void *ctx,
                    struct err *err);
/* True when no unfinished pkt is held. */
bool pkt_reader_at_boundary(const struct pkt_reader *r);

/* Writing.  -1 when len is over PKT_PAYLOAD_MAX or the buffer's limit is reached. */
int pkt_add(struct bytes *out, const void *payload, size_t len);
int pkt_addf(struct bytes *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int pkt_add_flush(struct bytes *out);
int pkt_add_delim(struct bytes *out);

#endif
