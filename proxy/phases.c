#include "proxy/phases.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "protocol/base.h"
#include "proxy/connection.h"
#include "proxy/sending.h"
#include "proxy/server_part.h"

enum {
    /* A body that is refused is read on and thrown away up to here, so that the client reads
     * the reply instead of a reset. */
    DISCARD_MAX = 64 << 20,
};

void *phases_on_first_line(void *cls, const char *target, struct MHD_Connection *connection)
{
    return part_new(cls, target, connection);
}

static void await(struct server_part *p, enum awaiting what)
{
    connection_await(connection_of(p->connection), what, p->x.config);
}

/* ---- workers ---- */

static void run_handler(void *ctx)
{
    struct server_part *p = ctx;

    p->handler(&p->x);
    part_commit_phase(p);
    /* A reply that doesn't wait for the body frees the one who waits for room, too. */
    part_wake(p, WAIT_WORKER | WAIT_ROOM);
    part_unref(p);
}

/* Hand p to a worker.  HTTP thread. */
static void start_work(struct server_part *p, exchange_fn *handler)
{
    p->handler = handler;
    lock_take(&p->lock);
    p->phase = p->decided = WORKING;
    p->refs++;
    lock_drop(&p->lock);
    if (workers_submit(p->plan.workers, run_handler, p))
        return;
    lock_take(&p->lock);
    p->refs--; /* never the last: libmicrohttpd holds one */
    lock_drop(&p->lock);
    reply_error(&p->x, &(struct err){ERR_BUSY, "too many requests are waiting"});
    part_commit_phase(p);
}

/* ---- headers ---- */

static char *request_header(struct server_part *p, const char *name)
{
    const char *value = part_header(p, name);

    return value != NULL ? xstrdup(value) : NULL;
}

static void name_client(struct server_part *p)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(p->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *sa = info != NULL ? info->client_addr : NULL;
    char host[INET6_ADDRSTRLEN] = "?";

    if (sa != NULL && sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, host,
                  sizeof(host));
    else if (sa != NULL && sa->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, host,
                  sizeof(host));
    snprintf(p->x.client, sizeof(p->x.client), "%s", host);
}

static void read_headers(struct server_part *p, const char *method)
{
    struct exchange *x = &p->x;
    char *length = request_header(p, "Content-Length");
    char *coding = request_header(p, "Transfer-Encoding");

    x->method = xstrdup(method);
    x->authorization = request_header(p, "Authorization");
    x->git_protocol = request_header(p, "Git-Protocol");
    x->content_type = request_header(p, "Content-Type");
    x->content_encoding = request_header(p, "Content-Encoding");
    x->accept_encoding = request_header(p, "Accept-Encoding");
    x->accept = request_header(p, "Accept");
    x->range = request_header(p, "Range");
    x->protocol = git_protocol_version(x->git_protocol);
    if (length != NULL)
        x->content_length = strtoll(length, NULL, 10);
    x->has_body = coding != NULL || x->content_length > 0;
    bytes_init(&x->body, x->config->limits.body_bytes);
    name_client(p);
    x->tls_subject = connection_subject(connection_of(p->connection));
    free(length);
    free(coding);
}

static bool is_stopping(struct server *s)
{
    bool stopping;

    lock_take(&s->lock);
    stopping = s->stopping;
    lock_drop(&s->lock);
    return stopping;
}

/* The first call for a request: its headers are known. */
static enum MHD_Result begin(struct server_part *p, const char *method)
{
    struct exchange *x = &p->x;

    p->started = true;
    if (is_stopping(p->server))
        return MHD_NO; /* nobody would be there to wake it */
    read_headers(p, method);
    p->plan = p->server->plan(x);
    part_commit_phase(p);
    if (p->plan.kind == PLAN_KEEP_BODY && x->content_length > 0 &&
        (uint64_t)x->content_length > x->config->limits.body_bytes) {
        p->plan.kind = PLAN_REPLIED;
        reply_error(x, &(struct err){ERR_LIMIT, "the request's body is over the limit"});
        part_commit_phase(p);
    }
    await(p, x->has_body && p->plan.kind != PLAN_STREAM_BODY ? AWAIT_BODY : BUSY);
    /* A response that is queued in this first call refuses the body unread and closes the
     * connection; without a body it is better to wait for the next call, so that the connection
     * lives on. */
    if (p->plan.kind == PLAN_REPLIED && x->content_length > DISCARD_MAX)
        return sending_start(p) ? MHD_YES : MHD_NO;
    if (p->plan.kind == PLAN_STREAM_BODY) {
        p->upload = upload_new();
        start_work(p, p->plan.handler);
    }
    return MHD_YES;
}

/* ---- body ---- */

/* What the window has no room for stays with libmicrohttpd until the worker has taken some. */
static void receive_streamed(struct server_part *p, const char *data, size_t *len)
{
    lock_take(&p->lock);
    if (p->phase == REPLYING || upload_is_abandoned_locked(p->upload)) {
        *len = 0; /* the reply doesn't wait for the rest */
    } else {
        size_t n = upload_put_locked(p->upload, data, *len);

        *len -= n;
        if (*len > 0)
            part_sleep_locked(p, WAIT_ROOM);
    }
    lock_drop(&p->lock);
}

/* libmicrohttpd takes no response while a body comes, and a client may wait for one before it sends
 * the rest; so this one goes straight to the socket, or into the TLS session. */
static void refuse_in_the_middle(struct server_part *p)
{
    static const char reply[] = "HTTP/1.1 413 Content Too Large\r\n"
                                "Content-Type: text/plain; charset=utf-8\r\n"
                                "Content-Length: 50\r\n"
                                "Connection: close\r\n"
                                "\r\n"
                                "pannier: the request's body is over limits.body.\r\n";

    if (!connection_last_words(connection_of(p->connection), reply, sizeof(reply) - 1))
        return;
    p->status = 413;
    p->x.result = "refused";
    p->refused = true;
}

static enum MHD_Result receive(struct server_part *p, const char *data, size_t *len)
{
    p->body_seen += *len;
    if (p->plan.kind == PLAN_STREAM_BODY) {
        p->body_seen -= *len;
        receive_streamed(p, data, len);
        return MHD_YES;
    }
    if (p->plan.kind == PLAN_KEEP_BODY && p->phase == RECEIVING && !p->refused &&
        bytes_add(&p->x.body, data, *len) != 0) {
        bytes_clear(&p->x.body);
        refuse_in_the_middle(p);
    }
    *len = 0;
    return p->body_seen > p->x.config->limits.body_bytes + DISCARD_MAX ? MHD_NO : MHD_YES;
}

/* ---- the reply, and the end ---- */

/* On a busy machine a worker's turn comes late, and then the HTTP thread's. */
static bool decided_at_once(struct server_part *p)
{
    if (p->plan.quick == NULL || !p->plan.quick(&p->x))
        return false;
    part_commit_phase(p);
    return true;
}

/* The request is all there: go on from phase to phase until one has to wait. */
static enum MHD_Result advance(struct server_part *p)
{
    enum phase phase;
    bool slept = false;

    lock_take(&p->lock);
    phase = p->phase;
    lock_drop(&p->lock);
    if (phase == RECEIVING && !decided_at_once(p))
        start_work(p, p->plan.handler);
    lock_take(&p->lock);
    if (p->upload != NULL)
        upload_end_locked(p->upload);
    lock_drop(&p->lock);
    for (;;) {
        struct answer *a;

        lock_take(&p->lock);
        phase = p->phase;
        if (phase == WORKING) {
            part_sleep_locked(p, WAIT_WORKER);
            slept = true;
        }
        lock_drop(&p->lock);
        if (slept)
            return MHD_YES;
        if (phase == REPLYING)
            return sending_start(p) ? MHD_YES : MHD_NO;
        must(phase == FOLLOWING);
        a = p->reader.answer;
        if (answer_state(a) == ANSWER_FILLING && answer_size(a) == 0) {
            part_sleep_until_more(p);
            return MHD_YES;
        }
        p->decided = FOLLOWING;
        p->ready(&p->x);
        if (p->decided == WORKING)
            start_work(p, p->handler);
        else
            part_commit_phase(p);
    }
}

enum MHD_Result phases_on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **con_cls)
{
    struct server_part *p = *con_cls;

    (void)cls;
    (void)connection;
    (void)url;
    (void)version;
    if (!p->started)
        return begin(p, method);
    if (*upload_len > 0)
        return receive(p, upload, upload_len);
    await(p, BUSY);
    return p->refused ? MHD_NO : advance(p);
}

static void tell_end(struct server_part *p, bool whole)
{
    uint64_t total = now_us() - p->started_us;
    const struct exchange_end end = {
        .status = p->status,
        .bytes = p->body_sent,
        .first_byte_us = p->first_byte_us > 0 ? p->first_byte_us - p->started_us : total,
        .total_us = total,
        .whole = whole,
    };

    p->server->ended(&p->x, &end);
}

void phases_on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode why)
{
    struct server_part *p = *con_cls;

    (void)cls;
    (void)connection;
    if (p == NULL)
        return;
    *con_cls = NULL;
    await(p, AWAIT_REQUEST);
    if (p->queued && !p->stream && why == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        p->body_sent = p->body_len;
    if (p->started)
        tell_end(p, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    lock_take(&p->lock);
    p->connection = NULL;
    if (p->upload != NULL)
        upload_wake_locked(p->upload);
    lock_drop(&p->lock);
    answer_reader_close(&p->reader); /* after the above: exchange_follow() opens no more */
    part_unref(p);
}
