#include "proxy/relay.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/access.h"
#include "proxy/encoded.h"
#include "proxy/log.h"
#include "proxy/pushes.h"
#include "proxy/stream.h"
#include "proxy/traffic.h"

struct relay {
    struct asker asker;
    struct exchange *x; /* held; only touched for its upload */
    struct answer *answer;
    const char *result;
    char *method, *rest;
    char *git_protocol, *content_type, *content_encoding, *accept, *range;
    enum service service;
    bool streams_body;
    bool upload_ended;
    uint64_t response_bytes;
    int64_t content_length;
    struct bytes body;

    /* Shared with the exchange: */
    struct response_head *head; /* complete before the first byte */
    struct encoded *form;       /* of the answer */
    bool watched;
    struct stream stream;
    struct oid_list wants; /* of a watched fetch */
    bool failed;
};

/* What the exchange keeps of a relay. */
struct relay_state {
    struct response_head head;
    struct encoded form;
    bool decoded; /* upstream's Content-Encoding was taken off here */
    const char *result;
    void *before; /* the exchange's state until then, which callers still use */
    void (*free_before)(void *state);
};

static void free_relay_state(void *state)
{
    struct relay_state *s = state;

    if (s->free_before != NULL)
        s->free_before(s->before);
    response_head_clear(&s->head);
    encoded_clear(&s->form);
    free(s);
}

static void relay_free(struct relay *r)
{
    if (r->watched)
        stream_clear(&r->stream);
    oid_list_clear(&r->wants);
    answer_unref(&r->answer);
    asker_clear(&r->asker);
    bytes_clear(&r->body);
    free(r->method);
    free(r->rest);
    free(r->git_protocol);
    free(r->content_type);
    free(r->content_encoding);
    free(r->accept);
    free(r->range);
    exchange_release(r->x);
    free(r);
}

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct relay *r = ctx;

    (void)err;
    response_head_copy(head, r->head);
    if (r->service == SERVICE_UPLOAD_PACK)
        access_learn(&r->asker, head);
    return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct relay *r = ctx;

    /* An upstream that talks at length before it has read all: its words wait in the window for a
     * client that is still sending, and both would wait for ever. */
    r->response_bytes += len;
    if (r->streams_body && !r->upload_ended && r->response_bytes > ANSWER_WINDOW / 2) {
        r->upload_ended = true;
        exchange_end_upload(r->x);
    }
    if (r->watched && r->head->status == 200)
        return stream_feed(&r->stream, data, len, err);
    return encoded_append(r->form, data, len, err);
}

static ssize_t on_upload(void *ctx, void *buf, size_t len)
{
    struct relay *r = ctx;
    ssize_t n = exchange_read_upload(r->x, buf, len);

    r->upload_ended = n == 0;
    return n;
}

static int on_tick(void *ctx, struct err *err)
{
    struct relay *r = ctx;

    if (r->watched && r->head->status == 200)
        return stream_idle(&r->stream, err);
    return encoded_flush(r->form, err);
}

static int transfer(struct relay *r, struct err *err)
{
    struct decisions *d = r->asker.proxy->decisions;
    /* An advertisement is asked for where the client typed: redirects are learned from it. */
    char *repo = r->service == SERVICE_RECEIVE_PACK_REFS ? xstrdup(r->asker.wire_repo)
                                                         : asker_wire_repo(&r->asker);
    char *moved = NULL;
    const struct upstream_request request = {
        .method = r->method,
        .repo = repo,
        .rest = r->rest,
        .git_protocol = r->git_protocol,
        .content_type = r->content_type,
        .content_encoding = r->content_encoding,
        .accept = r->accept,
        .range = r->range,
        .decode = r->service == SERVICE_RECEIVE_PACK_REFS,
        .body = r->body.data,
        .body_len = r->body.len,
        .read_fn = r->streams_body ? on_upload : NULL,
        .content_length = r->content_length,
        .need = r->service == SERVICE_UPLOAD_PACK || r->service == SERVICE_UPLOAD_PACK_REFS
                    ? NEED_CLIENT
                    : NEED_MUST,
        .head_fn = on_head,
        .data_fn = on_data,
        .tick_fn = on_tick,
        .ctx = r,
    };
    int rc = asker_perform(&r->asker, &request, &moved, err);

    if (rc == 0 && r->service == SERVICE_RECEIVE_PACK_REFS)
        decisions_set_moved(d, &r->asker.subject, now_ms(), r->asker.upstream->access_ttl_ms,
                            moved);
    free(moved);
    free(repo);
    return rc;
}

static void conclude(struct relay *r, int rc, struct err *why)
{
    bool fetched = r->watched && r->head->status == 200;

    if (rc == 0 && fetched && stream_finish(&r->stream, why) == 0) {
        decisions_grant(r->asker.proxy->decisions, &r->asker.subject, now_ms(),
                        r->asker.upstream->access_ttl_ms, &r->wants);
    } else if (rc == 0 && fetched && stream_refused(&r->stream) != NULL) {
        struct bytes words;
        struct err ignored;

        access_heard(&r->asker, stream_refused(&r->stream));
        /* The stream holds a refusal back, for those who'd rather ask elsewhere; here it is what
         * upstream says. */
        bytes_init(&words, PKT_MAX);
        pkt_addf(&words, "ERR %s\n", stream_refused(&r->stream));
        answer_append(r->answer, words.data, words.len, &ignored);
        bytes_clear(&words);
    }
    if (rc == 0) {
        encoded_end(r->form);
        return;
    }
    if (fetched)
        stream_break(&r->stream, why);
    log_line(LOG_WARN, "relay failed", "repository", LOG_STR, r->asker.name, "service", LOG_STR,
             service_name(r->service), "reason", LOG_STR, why->text, NULL);
    traffic_failed(r->asker.proxy->traffic, r->asker.name, "relay failed", why,
                   (int64_t)time(NULL));
    encoded_fail(r->form, why);
}

static void run(void *ctx)
{
    struct relay *r = ctx;
    struct err why;
    int rc = transfer(r, &why);

    exchange_end_upload(r->x);
    /* It has changed the refs, or may have. */
    if (r->service == SERVICE_RECEIVE_PACK)
        pushes_seen(r->asker.proxy, r->asker.name, &r->asker.repo_id, "push", QUEUE_NORMAL);
    conclude(r, rc, &why);
    relay_free(r);
}

static void copy_header(struct exchange *x, const struct response_head *head, const char *from,
                        const char *to)
{
    for (size_t i = 0; i < head->header_count; i++)
        if (strcmp(head->headers[i].name, from) == 0)
            reply_header(x, to, head->headers[i].value);
}

static void relay_ready(struct exchange *x)
{
    static const char *const passed[][2] = {
        {"www-authenticate", "WWW-Authenticate"}, {"retry-after", "Retry-After"},
        {"content-range", "Content-Range"},       {"etag", "ETag"},
        {"last-modified", "Last-Modified"},       {"cache-control", "Cache-Control"},
        {"lfs-authenticate", "LFS-Authenticate"},
    };
    struct relay_state *s = x->state;
    struct answer *a = exchange_answer(x);
    const char *type = response_head_get(&s->head, "content-type");
    const char *encoding = encoded_header(&s->form);

    if (answer_state(a) == ANSWER_FAILED && answer_size(a) == 0) {
        struct err why;

        answer_why(a, &why);
        reply_error(x, &why);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(passed); i++)
        copy_header(x, &s->head, passed[i][0], passed[i][1]);
    if (s->decoded) {
        reply_header(x, "Vary", "Accept-Encoding");
        if (encoding != NULL)
            reply_header(x, "Content-Encoding", encoding);
    } else {
        copy_header(x, &s->head, "content-encoding", "Content-Encoding");
    }
    reply_header(x, "Cache-Status", "pannier; fwd=bypass");
    reply_stream(x, s->head.status, type != NULL ? type : "application/octet-stream", NULL,
                 access_is_denial(&s->head) ? "denied" : s->result);
}

static char *copy(const char *s)
{
    return s != NULL ? xstrdup(s) : NULL;
}

/* NULL: x has been replied to. */
static struct relay *relay_new(struct exchange *x, const char *result)
{
    struct relay_state *state;
    struct relay *r;
    struct asker asker;
    struct err why;

    if (asker_init(&asker, x, &why) != 0) {
        exchange_end_upload(x);
        reply_error(x, &why);
        return NULL;
    }
    state = xcalloc(1, sizeof(*state));
    r = xcalloc(1, sizeof(*r));
    r->asker = asker;
    r->x = x;
    exchange_hold(x);
    r->answer = answer_new_passing();
    r->method = xstrdup(x->method);
    r->rest = xstrdup(x->path.wire_rest);
    r->git_protocol = copy(x->git_protocol);
    r->content_type = copy(x->content_type);
    r->content_encoding = copy(x->content_encoding);
    r->accept = copy(x->accept);
    r->range = copy(x->range);
    r->service = x->path.service;
    r->content_length = x->content_length;
    r->result = result;
    bytes_init(&r->body, SIZE_MAX / 2);
    state->result = result;
    r->head = &state->head;
    /* Refs alone are many bytes that shrink; the rest is passed on as it is. */
    state->decoded = r->service == SERVICE_RECEIVE_PACK_REFS;
    encoded_init(&state->form, answer_ref(r->answer),
                 state->decoded ? content_encoding_choose(x->accept_encoding) : ENCODING_IDENTITY);
    r->form = &state->form;
    state->before = x->state;
    state->free_before = x->free_state;
    x->state = state;
    x->free_state = free_relay_state;
    return r;
}

/* Consumes r. */
static void start(struct exchange *x, struct relay *r)
{
    struct err why;

    if (exchange_follow(x, r->answer, relay_ready, &why) != 0) {
        reply_error(x, &why);
        relay_free(r);
        return;
    }
    if (workers_submit(x->proxy->relays, run, r))
        return;
    exchange_end_upload(x);
    answer_fail(r->answer, &(struct err){ERR_BUSY, "too many transfers are under way"});
    relay_free(r);
}

void relay_serve(struct exchange *x)
{
    static const char *const results[] = {
        [SERVICE_UPLOAD_PACK_REFS] = "refs",
        [SERVICE_UPLOAD_PACK] = "pass",
        [SERVICE_RECEIVE_PACK_REFS] = "push",
        [SERVICE_RECEIVE_PACK] = "push",
        [SERVICE_LFS] = "lfs",
        [SERVICE_DUMB] = "dumb",
    };
    struct relay *r = relay_new(x, results[x->path.service]);

    if (r == NULL)
        return;
    r->streams_body = x->has_body;
    start(x, r);
}

void relay_fetch(struct exchange *x, const struct fetch_request *req, struct bytes *body)
{
    struct relay *r = relay_new(x, "pass");

    if (r == NULL)
        return;
    r->body = *body;
    bytes_init(body, body->limit);
    free(r->content_encoding); /* the body was inflated here */
    r->content_encoding = NULL;
    if (req != NULL) {
        r->watched = true;
        stream_init(&r->stream, r->answer, req);
        oid_list_copy(&req->wants, &r->wants);
    }
    start(x, r);
}
