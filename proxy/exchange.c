#include "proxy/exchange.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "protocol/sideband.h"
#include "proxy/log.h"
#include "proxy/server_part.h"
#include "proxy/traffic.h"

enum { RETRY_AFTER_S = 5 };

const char *exchange_header(const struct exchange *x, const char *name)
{
    return part_header(x->server, name);
}

void exchange_hold(struct exchange *x)
{
    part_ref(x->server);
}

void exchange_release(struct exchange *x)
{
    part_unref(x->server);
}

/* ---- replies ---- */

void reply_header(struct exchange *x, const char *name, const char *value)
{
    struct server_part *p = x->server;

    if (p->header_count == REPLY_HEADERS_MAX)
        return;
    p->headers[p->header_count++] = (struct header){xstrdup(name), xstrdup(value)};
}

void reply_bytes(struct exchange *x, int status, const char *content_type, const void *data,
                 size_t len, const char *result)
{
    struct server_part *p = x->server;

    p->status = status;
    p->content_type = content_type;
    p->body = xmalloc(len + 1);
    memcpy(p->body, data, len);
    p->body_len = len;
    x->result = result;
    p->decided = REPLYING;
}

void reply_text(struct exchange *x, int status, const char *result, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX + 64];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text) - 1, fmt, ap);
    va_end(ap);
    must(n >= 0);
    if ((size_t)n > sizeof(text) - 2)
        n = sizeof(text) - 2;
    text[n] = '\n';
    reply_bytes(x, status, "text/plain; charset=utf-8", text, (size_t)n + 1, result);
}

static void reply_retry_after(struct exchange *x)
{
    const struct manners_who who = {x->upstream, x->base_url, x->authorization, x->path.wire_repo};
    char seconds[16];

    if (x->upstream == NULL) /* a request of another kind, which asked on its own account */
        return;
    snprintf(seconds, sizeof(seconds), "%u", upstream_retry_after_s(x->proxy->origins, &who));
    reply_header(x, "Retry-After", seconds);
}

static void warn_failed(const struct exchange *x, const struct err *err)
{
    log_line(LOG_WARN, "request failed", "id", LOG_STR, x->id, "kind", LOG_STR,
             err_kind_name(err->kind), "reason", LOG_STR, err->text, NULL);
    if (x->upstream != NULL) {
        char *name = xasprintf("%s/%s", x->path.upstream, x->path.repo);

        traffic_failed(x->proxy->traffic, name, "request failed", err, (int64_t)time(NULL));
        free(name);
    }
}

void reply_error(struct exchange *x, const struct err *err)
{
    static const struct {
        enum err_kind kind;
        int status;
        const char *result;
    } statuses[] = {
        {ERR_INPUT, 400, "refused"},   {ERR_LIMIT, 413, "refused"},
        {ERR_REFUSED, 403, "refused"}, {ERR_NOT_FOUND, 404, "refused"},
        {ERR_TIMEOUT, 504, "error"},   {ERR_BUSY, 503, "error"},
        {ERR_CANCELLED, 503, "error"}, {ERR_THROTTLED, 429, "throttled"},
    };
    int status = 502;
    const char *result = "error";
    char seconds[16];

    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        if (statuses[i].kind == err->kind) {
            status = statuses[i].status;
            result = statuses[i].result;
        }
    }
    if (status == 503) {
        snprintf(seconds, sizeof(seconds), "%d", RETRY_AFTER_S);
        reply_header(x, "Retry-After", seconds);
    }
    if (status == 429)
        reply_retry_after(x);
    if (status >= 500 || status == 429)
        warn_failed(x, err);
    reply_text(x, status, result, "pannier: %s", err->text);
}

/* ---- following an answer ---- */

int exchange_follow(struct exchange *x, struct answer *a, exchange_fn *ready, struct err *err)
{
    struct server_part *p = x->server;
    int rc;

    must(p->reader.answer == NULL);
    lock_take(&p->lock);
    /* A reader opened for a client that is gone would hold up a producer for ever. */
    rc = p->connection == NULL ? err_set(err, ERR_CANCELLED, "the client is gone")
                               : answer_reader_open(&p->reader, a, part_on_answer, p, err);
    lock_drop(&p->lock);
    if (rc != 0)
        return -1;
    p->ready = ready;
    p->decided = FOLLOWING;
    return 0;
}

struct answer *exchange_answer(struct exchange *x)
{
    return x->server->reader.answer;
}

void reply_stream(struct exchange *x, int status, const char *content_type, const char *note,
                  const char *result)
{
    struct server_part *p = x->server;

    p->status = status;
    p->content_type = content_type;
    p->stream = true;
    if (note != NULL)
        must(sideband_add(&p->note, SIDEBAND_SMALL, BAND_PROGRESS, note, strlen(note)) == 0);
    x->result = result;
    p->decided = REPLYING;
}

void exchange_again(struct exchange *x, exchange_fn *handler)
{
    struct server_part *p = x->server;

    answer_reader_close(&p->reader);
    p->handler = handler;
    p->decided = WORKING; /* phases.c starts it, once ready() has returned */
}

/* ---- a streamed body ---- */

ssize_t exchange_read_upload(struct exchange *x, void *buf, size_t len)
{
    struct server_part *p = x->server;
    struct upload *u = p->upload;
    ssize_t rc;

    if (u == NULL)
        return 0;
    lock_take(&p->lock);
    while (upload_is_dry_locked(u) && p->connection != NULL)
        upload_wait_locked(u, &p->lock);
    rc = upload_take_locked(u, buf, len);
    lock_drop(&p->lock);
    part_wake(p, WAIT_ROOM);
    return rc;
}

void exchange_end_upload(struct exchange *x)
{
    struct server_part *p = x->server;

    if (p->upload == NULL)
        return;
    lock_take(&p->lock);
    upload_abandon_locked(p->upload);
    lock_drop(&p->lock);
    part_wake(p, WAIT_ROOM);
}
