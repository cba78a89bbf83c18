#include "protocol/pkt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/digest.h"

int pkt_header(const char *head, struct pkt *pkt, struct err *err)
{
    size_t len = 0;

    for (int i = 0; i < PKT_HEADER; i++) {
        int v = hex_value(head[i]);

        if (v < 0)
            return err_set(err, ERR_INPUT, "a pkt-line's length is not hexadecimal");
        len = len << 4 | (size_t)v;
    }
    *pkt = (struct pkt){.type = PKT_DATA};
    switch (len) {
    case 0: pkt->type = PKT_FLUSH; return 0;
    case 1: pkt->type = PKT_DELIM; return 0;
    case 2: pkt->type = PKT_RESPONSE_END; return 0;
    case 3: return err_set(err, ERR_INPUT, "a pkt-line's length is 0003, which means nothing");
    }
    if (len > PKT_MAX)
        return err_set(err, ERR_INPUT, "a pkt-line of %zu bytes, the limit is %d", len, PKT_MAX);
    pkt->len = len - PKT_HEADER;
    return 0;
}

int pkt_next(const char **p, size_t *left, struct pkt *pkt, struct err *err)
{
    struct pkt next;

    if (*left < PKT_HEADER)
        return 0;
    if (pkt_header(*p, &next, err) != 0)
        return -1;
    if (*left - PKT_HEADER < next.len)
        return 0;
    next.data = *p + PKT_HEADER;
    *p += PKT_HEADER + next.len;
    *left -= PKT_HEADER + next.len;
    *pkt = next;
    return 1;
}

void pkt_chomp(struct pkt *pkt)
{
    if (pkt->len > 0 && pkt->data[pkt->len - 1] == '\n')
        pkt->len--;
}

bool pkt_is(const struct pkt *pkt, const char *s)
{
    const char *rest;
    size_t len;

    return pkt_skip_prefix(pkt, s, &rest, &len) && len == 0;
}

bool pkt_skip_prefix(const struct pkt *pkt, const char *prefix, const char **rest, size_t *rest_len)
{
    size_t n = strlen(prefix);
    struct pkt line = *pkt;

    pkt_chomp(&line);
    if (line.type != PKT_DATA || line.len < n || memcmp(line.data, prefix, n) != 0)
        return false;
    *rest = line.data + n;
    *rest_len = line.len - n;
    return true;
}

void pkt_reader_init(struct pkt_reader *r)
{
    bytes_init(&r->held, PKT_MAX);
}

void pkt_reader_clear(struct pkt_reader *r)
{
    bytes_clear(&r->held);
}

/* Move as much from *p to held as makes it want bytes long; true when it is. */
static bool fill_held(struct bytes *held, size_t want, const char **p, size_t *left)
{
    size_t n = held->len < want ? want - held->len : 0;

    if (n > *left)
        n = *left;
    must(bytes_add(held, *p, n) == 0); /* want is never over PKT_MAX */
    *p += n;
    *left -= n;
    return held->len >= want;
}

/* Finish the pkt that an earlier call began.  1: done or none was begun; 0: more is needed. */
static int finish_held(struct pkt_reader *r, const char **p, size_t *left, pkt_fn *fn, void *ctx,
                       struct err *err)
{
    struct pkt pkt;

    if (r->held.len == 0)
        return 1;
    if (!fill_held(&r->held, PKT_HEADER, p, left))
        return 0;
    if (pkt_header(r->held.data, &pkt, err) != 0)
        return -1;
    if (!fill_held(&r->held, PKT_HEADER + pkt.len, p, left))
        return 0;
    pkt.data = r->held.data + PKT_HEADER;
    if (fn(ctx, &pkt, err) != 0)
        return -1;
    bytes_reset(&r->held);
    return 1;
}

int pkt_reader_feed(struct pkt_reader *r, const void *data, size_t len, pkt_fn *fn, void *ctx,
                    struct err *err)
{
    const char *p = data;
    struct pkt pkt;
    int rc = finish_held(r, &p, &len, fn, ctx, err);

    if (rc != 1)
        return rc;
    while ((rc = pkt_next(&p, &len, &pkt, err)) == 1) {
        if (fn(ctx, &pkt, err) != 0)
            return -1;
    }
    if (rc == 0 && len > 0)
        must(bytes_add(&r->held, p, len) == 0); /* less than one pkt */
    return rc;
}

bool pkt_reader_at_boundary(const struct pkt_reader *r)
{
    return r->held.len == 0;
}

int pkt_add(struct bytes *out, const void *payload, size_t len)
{
    char head[PKT_HEADER + 1];

    if (len > PKT_PAYLOAD_MAX || out->limit - out->len < PKT_HEADER + len)
        return -1;
    snprintf(head, sizeof(head), "%04x", (unsigned)(PKT_HEADER + len));
    must(bytes_add(out, head, PKT_HEADER) == 0);
    must(bytes_add(out, payload, len) == 0);
    return 0;
}

int pkt_addf(struct bytes *out, const char *fmt, ...)
{
    va_list ap;
    char *text;
    int n, rc;

    va_start(ap, fmt);
    n = vasprintf(&text, fmt, ap);
    va_end(ap);
    must(n >= 0);
    rc = pkt_add(out, text, (size_t)n);
    free(text);
    return rc;
}

int pkt_add_flush(struct bytes *out)
{
    return bytes_add(out, "0000", PKT_HEADER);
}

int pkt_add_delim(struct bytes *out)
{
    return bytes_add(out, "0001", PKT_HEADER);
}
