/* Asking upstream, over HTTP.  The home of libcurl.
 *
 *     struct upstream_request r = {.method = "GET", .base_url = ..., .repo = ..., .rest = ...};
 *     upstream_perform(origins, &config, &r, &err)
 *
 * Connections are kept and used again, at most `max_connections` per base URL; who finds none free
 * waits for up to connect_timeout.  Redirects within the same scheme, host and port are followed
 * here, with method and body, at most REDIRECTS_MAX times; others are an error: a redirect that is
 * passed on takes the client away from us.
 *
 * A request goes out only if manners (proxy/manners/manners.h) allow it: within the upstream's
 * rate, and not while it asks to be left alone.
 *
 * Worker threads only: blocks until the response is complete. */
#ifndef PANNIER_PROXY_UPSTREAM_H
#define PANNIER_PROXY_UPSTREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/err.h"
#include "proxy/config.h"
#include "proxy/manners/manners.h"

enum {
    REDIRECTS_MAX = 5,
    UPSTREAM_HEADERS_MAX = 64,        /* further ones are dropped */
    UPSTREAM_HEADER_SIZE_MAX = 16384, /* a longer line is dropped */
    QUESTION_TIMEOUT_MS = 30 * 1000,
};

struct origins;
struct origins *origins_new(void);
void origins_free(struct origins **o);
/* Requests under way end with ERR_CANCELLED within about a second. */
void origins_cancel(struct origins *o);

struct header {
    char *name; /* lower case */
    char *value;
};

/* Status line and headers, as far as anybody here wants to know them. */
struct response_head {
    int status;
    struct header headers[UPSTREAM_HEADERS_MAX];
    size_t header_count;
};
const char *response_head_get(const struct response_head *h, const char *name); /* first, or NULL */
void response_head_clear(struct response_head *h);
void response_head_copy(const struct response_head *from, struct response_head *to);

struct upstream_request {
    const char *method;
    const char *base_url; /* without a trailing slash */
    const char *repo;     /* escaped path of the repository, ".git" as typed */
    const char *rest;     /* what follows it, with the query */

    enum need need; /* NEED_MUST: neither held up by throttling nor heard for it */

    const char *authorization; /* the header's value, or NULL */
    const char *git_protocol;  /* likewise, as are the next four */
    const char *content_type;
    const char *content_encoding;
    const char *accept;
    const char *range;
    bool direct; /* never by way of the proxy that the environment names */
    bool decode; /* accept gzip and inflate it here; else the bytes come as upstream sends them */

    const void *body; /* NULL: none, or read_fn */
    size_t body_len;
    /* Streaming body: like read(2): >0 bytes, 0 end, -1 give up.  May block.  content_length -1:
     * chunked. */
    ssize_t (*read_fn)(void *ctx, void *buf, size_t len);
    int64_t content_length;

    /* Not NULL, for a credential of pannier's own: *status is set to the response's, 0 when none
     * came, and a 401 is not for those who asked: it ends the request (ERR_UPSTREAM) before
     * head_fn. */
    int *status;

    /* The head of the final response; -1 with err filled stops.  May be NULL. */
    int (*head_fn)(void *ctx, const struct response_head *head, struct err *err);
    /* A short question (access, refs): its first byte must come within QUESTION_TIMEOUT_MS, and
     * questions may use all connections, but only `share` at once (ERR_BUSY beyond): one hanging
     * host must not take all who ask.  0: a transfer, which leaves a quarter of the connections to
     * questions. */
    uint32_t share;

    /* Bytes of the body of any status. */
    int (*data_fn)(void *ctx, const void *data, size_t len, struct err *err);
    /* All that could be read for now has gone to data_fn: the time to pass on what was gathered,
     * as curl hands bytes out in pieces of at most 16 KiB.  Comes again when more has been read, or
     * after *again_ms, which may be made less.  May be NULL. */
    int (*pause_fn)(void *ctx, uint64_t *again_ms, struct err *err);
    /* About once a second, also while nothing comes.  May be NULL. */
    int (*tick_fn)(void *ctx, struct err *err);
    void *ctx;
};

/* 0: a whole response came, whatever its status.  -1: ERR_DOWN (unreachable, TLS, cut off),
 * ERR_UPSTREAM (a redirect that leads away), ERR_TIMEOUT, ERR_BUSY (no connection came free),
 * ERR_THROTTLED (nothing was asked), ERR_CANCELLED, or what a function returned.  *moved_repo, when
 * not NULL, is set to the repository's new escaped path when redirects led to one, else to NULL;
 * yours to free. */
int upstream_perform(struct origins *o, const struct upstream_config *config,
                     const struct upstream_request *r, char **moved_repo, struct err *err);

/* What a status that isn't 200 or a denial means to whoever wanted something: ERR_THROTTLED,
 * ERR_DOWN or ERR_UPSTREAM.  Returns -1. */
int upstream_trouble(const struct upstream_config *config, const struct response_head *head,
                     struct err *err);
/* Upstream said so in place of what was asked for (an ERR pkt under status 200). */
void upstream_said(struct origins *o, const struct manners_who *who, const char *words);
uint32_t upstream_retry_after_s(struct origins *o, const struct manners_who *who);
void upstream_manners(struct origins *o, struct manners_counts *out);

#endif
