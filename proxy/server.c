#include "proxy/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/sideband.h"
#include "proxy/acceptor.h"
#include "proxy/log.h"
#include "proxy/sendfile.h"
#include "proxy/tls.h"
#include "proxy/traffic.h"

enum {
    /* libmicrohttpd maps a pool of this size per connection and touches what it needs: request
     * headers must fit in, and a chunk of a growing answer can't be bigger. */
    CONNECTION_MEMORY = 32 * 1024,
    BLOCK_SIZE = 32 * 1024, /* of a whole answer that can't go by sendfile */
    UPLOAD_WINDOW = 256 * 1024,
    WATCH_INTERVAL_MS = 250,
    STOP_WAIT_MS = 5000,
    RETRY_AFTER_S = 5,
    /* A body that is refused is read on and thrown away up to here, so that the client reads
     * the reply instead of a reset. */
    DISCARD_MAX = 64 << 20,
};

enum phase { RECEIVING, WORKING, FOLLOWING, REPLYING };

/* What a sleeping connection waits for; who brings something else doesn't wake it. */
enum wait {
    WAIT_NOTHING = 0,
    WAIT_WORKER = 1, /* a handler's decision */
    WAIT_ROOM = 2,   /* in the upload's window */
    WAIT_ANSWER = 4, /* the answer to grow; the reader is armed */
};

/* One TCP connection; what the watchman looks at. */
struct connection {
    struct server *server;
    int fd;
    void *session;                 /* GnuTLS's; NULL: no TLS */
    struct tls_identity *identity; /* what the session began with */
    char *subject;                 /* of the client's certificate, or NULL */
    bool subject_known;
    enum { AWAIT_HEADERS, AWAIT_REQUEST, AWAIT_BODY, BUSY } awaiting;
    uint64_t since_ms;
    uint64_t body_timeout_ms;
    struct connection *prev, *next;
};

struct upload {
    char *window;
    size_t start, len; /* bytes start..start+len, modulo UPLOAD_WINDOW */
    bool ended;        /* the client has sent all */
    bool abandoned;    /* nobody takes the rest */
    pthread_cond_t more;
};

/* The server's side of an exchange. */
struct server_part {
    struct exchange x;
    struct server *server;
    struct lock lock;                  /* phase, known, waits_for, connection, upload, refs */
    int refs;                          /* libmicrohttpd's one, and one per job */
    struct MHD_Connection *connection; /* NULL: gone */
    enum phase phase;
    enum phase decided;  /* what a handler decided; becomes the phase when it returns */
    enum wait waits_for; /* not WAIT_NOTHING: suspended */
    bool started;        /* headers were looked at */
    bool known;          /* what x asks for; it stays so */
    bool queued;         /* the response was handed over */
    bool refused;        /* a 413 has gone out by the back door */
    struct plan plan;
    exchange_fn *handler;
    struct upload *upload;
    uint64_t body_seen;
    uint64_t started_us, first_byte_us;

    struct answer_reader reader;
    exchange_fn *ready;

    int status;
    struct header headers[REPLY_HEADERS_MAX];
    size_t header_count;
    const char *content_type;
    char *body; /* a reply out of memory */
    size_t body_len;
    bool stream;
    struct bytes note; /* as a pkt */
    int64_t note_offset;
    size_t note_sent;
    atomic_uint_fast64_t body_sent; /* others look at it meanwhile */

    struct server_part *prev, *next;
};

/* A thread that speaks HTTP: a daemon of libmicrohttpd's that doesn't listen. */
struct front {
    struct server *server;
    unsigned index;
    struct MHD_Daemon *daemon;
};

struct server {
    struct proxy *proxy;
    plan_fn *plan;
    void (*ended)(const struct exchange *x, const struct exchange_end *end);
    struct acceptor *acceptor;
    struct front *fronts;
    unsigned front_count;
    bool tls;

    struct lock lock;
    pthread_cond_t idle;     /* the last exchange has ended */
    pthread_cond_t stop_now; /* for the watchman, who has no business with each request's end */
    struct config *config;
    struct tls_identity *identity; /* for connections to come; NULL: no TLS */
    struct connection *connections;
    struct server_part *exchanges;
    size_t active;
    bool draining, stopping;
    pthread_t watchman;
};

static struct server_part *part_of(struct exchange *x)
{
    return x->server;
}

/* ---- life of an exchange ---- */

static void part_free(struct server_part *p)
{
    struct exchange *x = &p->x;

    answer_reader_close(&p->reader);
    if (x->free_state != NULL)
        x->free_state(x->state);
    for (size_t i = 0; i < p->header_count; i++) {
        free(p->headers[i].name);
        free(p->headers[i].value);
    }
    if (p->upload != NULL) {
        pthread_cond_destroy(&p->upload->more);
        free(p->upload->window);
        free(p->upload);
    }
    bytes_clear(&p->note);
    bytes_clear(&x->body);
    if (x->upstream != NULL)
        smart_path_clear(&x->path);
    free(p->body);
    free(x->method);
    free(x->target);
    free(x->base_url);
    free(x->authorization);
    free(x->git_protocol);
    free(x->content_type);
    free(x->content_encoding);
    free(x->accept_encoding);
    free(x->accept);
    free(x->range);
    free(x->tls_subject);
    if (x->config != NULL)
        config_unref((struct config **)&x->config);
    lock_clear(&p->lock);
    free(p);
}

static void part_unref(struct server_part *p)
{
    struct server *s = p->server;
    bool last;

    lock_take(&p->lock);
    last = --p->refs == 0;
    lock_drop(&p->lock);
    if (!last)
        return;
    lock_take(&s->lock);
    DL_DELETE(s->exchanges, p);
    lock_drop(&s->lock);
    part_free(p);
    /* Counted down last: server_stop() may follow at once. */
    lock_take(&s->lock);
    if (--s->active == 0)
        pthread_cond_broadcast(&s->idle);
    lock_drop(&s->lock);
}

static void *on_request_line(void *cls, const char *target, struct MHD_Connection *connection)
{
    struct server *s = cls;
    struct server_part *p = xcalloc(1, sizeof(*p));
    uint64_t random;

    lock_init(&p->lock, LOCK_EXCHANGE);
    p->server = s;
    p->refs = 1;
    p->connection = connection;
    p->started_us = now_us();
    p->note_offset = -1;
    bytes_init(&p->note, 4 * NOTE_MAX);
    p->x.proxy = s->proxy;
    p->x.server = p;
    p->x.target = xstrdup(target);
    p->x.content_length = -1;
    must(getrandom(&random, sizeof(random), 0) == sizeof(random));
    snprintf(p->x.id, sizeof(p->x.id), "%016llx", (unsigned long long)random);
    lock_take(&s->lock);
    p->x.config = config_ref(s->config);
    DL_APPEND(s->exchanges, p);
    s->active++;
    lock_drop(&s->lock);
    return p;
}

static struct connection *watched(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info != NULL ? info->socket_context : NULL;
}

static void watch(struct server_part *p, int awaiting)
{
    struct connection *c = watched(p->connection);

    if (c == NULL)
        return;
    lock_take(&c->server->lock);
    c->awaiting = awaiting;
    c->since_ms = now_ms();
    c->body_timeout_ms = p->x.config->limits.body_timeout_ms;
    lock_drop(&c->server->lock);
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

void server_log_request(const struct exchange *x, const struct exchange_end *end)
{
    char repository[512] = "", stale[32] = "";

    if (x->upstream != NULL)
        snprintf(repository, sizeof(repository), "%s/%s", x->path.upstream, x->path.repo);
    if (x->stale_age_ms > 0)
        snprintf(stale, sizeof(stale), "%.1f s", (double)x->stale_age_ms / 1000);
    log_line(LOG_INFO, "request", "id", LOG_STR, x->id, "client", LOG_STR, x->client, "subject",
             LOG_STR, x->tls_subject, "as", LOG_STR, x->who != NULL ? x->who->name : NULL, "method",
             LOG_STR, x->method != NULL ? x->method : "?", "repository", LOG_STR,
             repository[0] != '\0' ? repository : NULL, "service", LOG_STR,
             x->upstream != NULL ? service_name(x->path.service) : NULL, "protocol", LOG_U64,
             (uint64_t)x->protocol, "result", LOG_STR, x->result != NULL ? x->result : "aborted",
             "stale", LOG_STR, stale[0] != '\0' ? stale : NULL, "status", LOG_U64,
             (uint64_t)end->status, "bytes", LOG_U64, end->bytes, "first_byte_ms", LOG_MS,
             end->first_byte_us, "total_ms", LOG_MS, end->total_us, "ended", LOG_STR,
             end->whole ? "whole" : "cut", NULL);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode why)
{
    struct server_part *p = *con_cls;

    (void)cls;
    (void)connection;
    if (p == NULL)
        return;
    *con_cls = NULL;
    watch(p, AWAIT_REQUEST);
    if (p->queued && !p->stream && why == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        p->body_sent = p->body_len;
    if (p->started)
        tell_end(p, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    lock_take(&p->lock);
    p->connection = NULL;
    if (p->upload != NULL)
        pthread_cond_broadcast(&p->upload->more);
    lock_drop(&p->lock);
    answer_reader_close(&p->reader); /* after the above: exchange_follow() opens no more */
    part_unref(p);
}

/* ---- sleeping and waking ---- */

/* HTTP thread, with p->lock held. */
static void sleep_locked(struct server_part *p, enum wait what)
{
    MHD_suspend_connection(p->connection);
    p->waits_for = what;
}

static void wake_up(struct server_part *p, int what)
{
    struct MHD_Connection *connection = NULL;

    lock_take(&p->lock);
    if ((p->waits_for & what) != 0) {
        p->waits_for = WAIT_NOTHING;
        connection = p->connection;
    }
    lock_drop(&p->lock);
    if (connection != NULL)
        MHD_resume_connection(connection);
}

static void on_answer(void *ctx)
{
    wake_up(ctx, WAIT_ANSWER);
}

/* HTTP thread: sleep until the answer that p reads has more to say. */
static void sleep_until_more(struct server_part *p)
{
    lock_take(&p->lock);
    sleep_locked(p, WAIT_ANSWER);
    lock_drop(&p->lock);
    if (!answer_reader_arm(&p->reader))
        wake_up(p, WAIT_ANSWER);
}

/* The handler, ready or plan function has returned: only now may another thread go on. */
static void commit_phase(struct server_part *p)
{
    lock_take(&p->lock);
    p->phase = p->decided;
    p->known = true;
    lock_drop(&p->lock);
}

static void run_handler(void *ctx)
{
    struct server_part *p = ctx;

    p->handler(&p->x);
    commit_phase(p);
    /* A reply that doesn't wait for the body frees the one who waits for room, too. */
    wake_up(p, WAIT_WORKER | WAIT_ROOM);
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
    commit_phase(p);
}

/* ---- replies ---- */

void reply_header(struct exchange *x, const char *name, const char *value)
{
    struct server_part *p = part_of(x);

    if (p->header_count == REPLY_HEADERS_MAX)
        return;
    p->headers[p->header_count++] = (struct header){xstrdup(name), xstrdup(value)};
}

void reply_bytes(struct exchange *x, int status, const char *content_type, const void *data,
                 size_t len, const char *result)
{
    struct server_part *p = part_of(x);

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

int exchange_follow(struct exchange *x, struct answer *a, exchange_fn *ready, struct err *err)
{
    struct server_part *p = part_of(x);
    int rc;

    must(p->reader.answer == NULL);
    lock_take(&p->lock);
    /* A reader opened for a client that is gone would hold up a producer for ever. */
    rc = p->connection == NULL ? err_set(err, ERR_CANCELLED, "the client is gone")
                               : answer_reader_open(&p->reader, a, on_answer, p, err);
    lock_drop(&p->lock);
    if (rc != 0)
        return -1;
    p->ready = ready;
    p->decided = FOLLOWING;
    return 0;
}

void exchange_hold(struct exchange *x)
{
    struct server_part *p = part_of(x);

    lock_take(&p->lock);
    p->refs++;
    lock_drop(&p->lock);
}

void exchange_release(struct exchange *x)
{
    part_unref(part_of(x));
}

struct answer *exchange_answer(struct exchange *x)
{
    return part_of(x)->reader.answer;
}

void reply_stream(struct exchange *x, int status, const char *content_type, const char *note,
                  const char *result)
{
    struct server_part *p = part_of(x);

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
    struct server_part *p = part_of(x);

    answer_reader_close(&p->reader);
    p->handler = handler;
    p->decided = WORKING; /* advance() starts it, once ready() has returned */
}

/* ---- sending ---- */

/* What comes next of the note, and how much: 0, the answer's own bytes come first, or only they. */
static size_t note_is_due(struct server_part *p, const char **from)
{
    if (p->note.len > 0 && p->note_offset < 0)
        p->note_offset = answer_note_offset(p->reader.answer);
    if (p->note_offset < 0 || p->reader.offset != (uint64_t)p->note_offset)
        return 0;
    *from = p->note.data + p->note_sent;
    return p->note.len - p->note_sent;
}

/* How many of so many bytes of the answer stand before the note. */
static size_t before_note(const struct server_part *p, size_t len)
{
    uint64_t at = (uint64_t)p->note_offset;

    if (p->note_offset < 0 || p->note_sent == p->note.len || at < p->reader.offset)
        return len;
    return at - p->reader.offset < len ? (size_t)(at - p->reader.offset) : len;
}

/* Reads the answer with the note put in.  As answer_reader_read(). */
static ssize_t read_with_note(struct server_part *p, char *buf, size_t len)
{
    const char *note;
    size_t n = note_is_due(p, &note);

    if (n == 0)
        return answer_reader_read(&p->reader, buf, before_note(p, len));
    n = n < len ? n : len;
    memcpy(buf, note, n);
    p->note_sent += n;
    return (ssize_t)n;
}

static ssize_t on_send(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct server_part *p = cls;
    ssize_t n = read_with_note(p, buf, max);

    (void)pos;
    if (n > 0) {
        p->body_sent += (uint64_t)n;
        return n;
    }
    if (n == READER_END)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == READER_FAILED)
        return MHD_CONTENT_READER_END_WITH_ERROR; /* no last chunk: the client sees the break */
    sleep_until_more(p);
    return 0;
}

/* As send_step(): from the file, or where fd is -1 from memory. */
static ssize_t send_bytes(int to, int fd, uint64_t offset, const char *from, size_t len)
{
    ssize_t n;

    do
        n = fd >= 0 ? sendfile_step(to, fd, offset, len)
                    : send(to, from, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return n;
    /* Else the client is gone, or the disk lost what it had taken. */
    return n < 0 && errno == EAGAIN ? 0 : READER_FAILED;
}

static ssize_t send_note(struct server_part *p, int to, const char *from, size_t len)
{
    ssize_t n = send_bytes(to, -1, 0, from, len);

    if (n > 0)
        p->note_sent += (size_t)n;
    return n;
}

static ssize_t send_answer(struct server_part *p, int to, size_t wanted)
{
    char block[BLOCK_SIZE];
    int fd;
    ssize_t n = answer_reader_look(&p->reader, block, sizeof(block), &fd);
    size_t len;

    if (n == READER_WAIT || n == READER_FAILED)
        return n;
    if (n == READER_END)
        return READER_FAILED; /* libmicrohttpd asks for more than was promised */
    len = sendfile_bounded(n < SENDFILE_STEP ? (size_t)n : SENDFILE_STEP,
                           p->body_len - p->body_sent, wanted);
    n = send_bytes(to, fd, p->reader.offset, block, before_note(p, len));
    if (n > 0)
        answer_reader_take(&p->reader, (size_t)n);
    return n;
}

/* Bytes that the socket took; 0: it takes no more now; or what the reader says, where that is no
 * bytes. */
static ssize_t send_step(struct server_part *p, int to, size_t wanted)
{
    const char *note;
    size_t due = note_is_due(p, &note);
    ssize_t n = due > 0 ? send_note(p, to, note, due) : send_answer(p, to, wanted);

    if (n > 0)
        p->body_sent += (uint64_t)n;
    return n;
}

/* Takes the place of libmicrohttpd's sendfile where the answer grows.  What is less than it wants
 * it takes for a full socket, which it is told of once that isn't full any more: so where it's
 * something else the connection sleeps, and is called again. */
static ssize_t on_sendfile(void *cls, int to, size_t wanted)
{
    struct server_part *p = cls;
    size_t sent = 0;
    ssize_t n = 1;

    while (sent < wanted && (n = send_step(p, to, wanted - sent)) > 0)
        sent += (size_t)n;
    if (n < 0 && sent > 0)
        sendfile_push(to);
    if (n < 0 && (n == READER_WAIT || sent > 0))
        sleep_until_more(p);
    if (sent > 0)
        return (ssize_t)sent;
    /* With anything else but these it would go on to read the file itself. */
    errno = n == READER_FAILED ? EBADF : EAGAIN;
    return -1;
}

/* Where the file still grows the body goes out behind whoever writes it. */
static struct MHD_Response *response_by_sendfile(struct server_part *p, uint64_t size)
{
    int fd = answer_dup_fd(p->reader.answer);
    struct MHD_Response *r;

    if (fd < 0)
        return NULL;
    p->body_len = size + p->note.len;
    r = sendfile_instead(fd, on_sendfile, p)
            ? MHD_create_response_from_fd_at_offset64(p->body_len, fd, 0)
            : NULL;
    if (r == NULL)
        close(fd);
    return r;
}

/* By sendfile when the body is just the file's first bytes, or will be. */
static struct MHD_Response *response_for_stream(struct server_part *p)
{
    struct answer *a = p->reader.answer;
    bool whole = answer_state(a) == ANSWER_WHOLE;
    int64_t promised = answer_promised_size(a);
    bool known = whole || promised >= 0;
    uint64_t size = whole ? answer_size(a) : (uint64_t)promised;
    struct MHD_Response *r = NULL;

    if (known && size == 0) {
        p->stream = false;
        return MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    }
    p->note_offset = answer_note_offset(a);
    if (known && p->note_offset < 0)
        bytes_reset(&p->note); /* no sideband: nowhere to put it */
    /* What TLS has to encrypt can't go by sendfile. */
    if (known && !p->server->tls)
        r = response_by_sendfile(p, size);
    if (r != NULL)
        return r;
    return MHD_create_response_from_callback(known ? size + p->note.len : MHD_SIZE_UNKNOWN,
                                             BLOCK_SIZE, on_send, p, NULL);
}

static void set_header(struct MHD_Response *r, const char *name, const char *value)
{
    if (value != NULL)
        MHD_add_response_header(r, name, value);
}

static enum MHD_Result send_reply(struct server_part *p)
{
    struct MHD_Response *r;
    enum MHD_Result rc;
    bool draining;

    if (p->stream)
        r = response_for_stream(p);
    else
        r = MHD_create_response_from_buffer(p->body_len, p->body, MHD_RESPMEM_PERSISTENT);
    if (r == NULL)
        return MHD_NO;
    set_header(r, "Content-Type", p->content_type);
    set_header(r, "X-Request-Id", p->x.id);
    for (size_t i = 0; i < p->header_count; i++)
        set_header(r, p->headers[i].name, p->headers[i].value);
    lock_take(&p->server->lock);
    draining = p->server->draining;
    lock_drop(&p->server->lock);
    if (draining)
        set_header(r, "Connection", "close");
    p->first_byte_us = now_us();
    p->queued = true;
    rc = MHD_queue_response(p->connection, (unsigned)p->status, r);
    MHD_destroy_response(r);
    return rc;
}

/* ---- receiving ---- */

static char *request_header(struct server_part *p, const char *name)
{
    const char *value = MHD_lookup_connection_value(p->connection, MHD_HEADER_KIND, name);

    return value != NULL ? xstrdup(value) : NULL;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->server->connection, MHD_HEADER_KIND, name);
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

/* A connection's certificate is looked at once: it says the same to each request. */
static void name_subject(struct server_part *p)
{
    struct connection *c = watched(p->connection);

    if (c == NULL || c->session == NULL)
        return;
    if (!c->subject_known)
        c->subject = tls_session_subject(c->session);
    c->subject_known = true;
    p->x.tls_subject = c->subject != NULL ? xstrdup(c->subject) : NULL;
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
    name_subject(p);
    free(length);
    free(coding);
}

static void start_upload(struct server_part *p)
{
    p->upload = xcalloc(1, sizeof(*p->upload));
    p->upload->window = xmalloc(UPLOAD_WINDOW);
    lock_cond_init(&p->upload->more);
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
    commit_phase(p);
    if (p->plan.kind == PLAN_KEEP_BODY && x->content_length > 0 &&
        (uint64_t)x->content_length > x->config->limits.body_bytes) {
        p->plan.kind = PLAN_REPLIED;
        reply_error(x, &(struct err){ERR_LIMIT, "the request's body is over the limit"});
        commit_phase(p);
    }
    watch(p, x->has_body && p->plan.kind != PLAN_STREAM_BODY ? AWAIT_BODY : BUSY);
    /* A response that is queued in this first call refuses the body unread and closes the
     * connection; without a body it is better to wait for the next call, so that the connection
     * lives on. */
    if (p->plan.kind == PLAN_REPLIED && x->content_length > DISCARD_MAX)
        return send_reply(p);
    if (p->plan.kind == PLAN_STREAM_BODY) {
        start_upload(p);
        start_work(p, p->plan.handler);
    }
    return MHD_YES;
}

static size_t upload_put_locked(struct upload *u, const char *data, size_t len)
{
    size_t done = 0;

    while (done < len && u->len < UPLOAD_WINDOW) {
        size_t at = (u->start + u->len) % UPLOAD_WINDOW;
        size_t n = UPLOAD_WINDOW - at;

        n = n < UPLOAD_WINDOW - u->len ? n : UPLOAD_WINDOW - u->len;
        n = n < len - done ? n : len - done;
        memcpy(u->window + at, data + done, n);
        u->len += n;
        done += n;
    }
    return done;
}

/* What the window has no room for stays with libmicrohttpd until the worker has taken some. */
static void receive_streamed(struct server_part *p, const char *data, size_t *len)
{
    lock_take(&p->lock);
    if (p->phase == REPLYING || p->upload->abandoned) {
        *len = 0; /* the reply doesn't wait for the rest */
    } else {
        size_t n = upload_put_locked(p->upload, data, *len);

        *len -= n;
        if (n > 0)
            pthread_cond_signal(&p->upload->more);
        if (*len > 0)
            sleep_locked(p, WAIT_ROOM);
    }
    lock_drop(&p->lock);
}

ssize_t exchange_read_upload(struct exchange *x, void *buf, size_t len)
{
    struct server_part *p = part_of(x);
    struct upload *u = p->upload;
    size_t done = 0;
    ssize_t rc;

    if (u == NULL)
        return 0;
    lock_take(&p->lock);
    while (u->len == 0 && !u->ended && !u->abandoned && p->connection != NULL)
        lock_wait(&p->lock, &u->more);
    while (done < len && u->len > 0) {
        size_t n = UPLOAD_WINDOW - u->start;

        n = n < u->len ? n : u->len;
        n = n < len - done ? n : len - done;
        memcpy((char *)buf + done, u->window + u->start, n);
        u->start = (u->start + n) % UPLOAD_WINDOW;
        u->len -= n;
        done += n;
    }
    /* What was abandoned has no proper end. */
    rc = u->abandoned || (done == 0 && !u->ended) ? -1 : (ssize_t)done;
    lock_drop(&p->lock);
    wake_up(p, WAIT_ROOM);
    return rc;
}

void exchange_end_upload(struct exchange *x)
{
    struct server_part *p = part_of(x);

    if (p->upload == NULL)
        return;
    lock_take(&p->lock);
    p->upload->abandoned = true;
    pthread_cond_broadcast(&p->upload->more);
    lock_drop(&p->lock);
    wake_up(p, WAIT_ROOM);
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
    struct connection *c = watched(p->connection);

    if (c == NULL)
        return;
    if (c->session != NULL ? !tls_session_last_words(c->session, reply, sizeof(reply) - 1)
                           : send(c->fd, reply, sizeof(reply) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return;
    shutdown(c->fd, SHUT_WR);
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

/* On a busy machine a worker's turn comes late, and then the HTTP thread's. */
static bool decided_at_once(struct server_part *p)
{
    if (p->plan.quick == NULL || !p->plan.quick(&p->x))
        return false;
    commit_phase(p);
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
    if (p->upload != NULL && !p->upload->ended) {
        p->upload->ended = true;
        pthread_cond_signal(&p->upload->more);
    }
    lock_drop(&p->lock);
    for (;;) {
        struct answer *a;

        lock_take(&p->lock);
        phase = p->phase;
        if (phase == WORKING) {
            sleep_locked(p, WAIT_WORKER);
            slept = true;
        }
        lock_drop(&p->lock);
        if (slept)
            return MHD_YES;
        if (phase == REPLYING)
            return send_reply(p);
        must(phase == FOLLOWING);
        a = p->reader.answer;
        if (answer_state(a) == ANSWER_FILLING && answer_size(a) == 0) {
            sleep_until_more(p);
            return MHD_YES;
        }
        p->decided = FOLLOWING;
        p->ready(&p->x);
        if (p->decided == WORKING)
            start_work(p, p->handler);
        else
            commit_phase(p);
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
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
    watch(p, BUSY);
    return p->refused ? MHD_NO : advance(p);
}

/* ---- the watchman: deadlines that restart at no byte ---- */

/* Before the handshake. */
static void begin_session(struct connection *c, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

    lock_take(&c->server->lock);
    c->identity = tls_identity_ref(c->server->identity);
    lock_drop(&c->server->lock);
    must(info != NULL && info->tls_session != NULL);
    c->session = info->tls_session;
    tls_session_begin(c->session, c->identity);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct front *f = cls;
    struct server *s = f->server;
    struct connection *c = *context;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        c = xcalloc(1, sizeof(*c));
        c->server = s;
        c->fd = info->connect_fd;
        c->since_ms = now_ms();
        *context = c;
        if (s->tls)
            begin_session(c, connection);
        lock_take(&s->lock);
        DL_APPEND(s->connections, c);
        lock_drop(&s->lock);
    } else if (c != NULL) {
        lock_take(&s->lock);
        DL_DELETE(s->connections, c);
        lock_drop(&s->lock);
        tls_identity_unref(&c->identity);
        free(c->subject);
        free(c);
        *context = NULL;
        acceptor_left(s->acceptor, f->index);
    }
}

static bool is_overdue(const struct connection *c, const struct config *config, uint64_t now)
{
    uint64_t waited = now - c->since_ms;

    switch (c->awaiting) {
    case AWAIT_HEADERS: return waited > config->limits.header_timeout_ms;
    case AWAIT_REQUEST: return waited > config->limits.idle_timeout_ms;
    case AWAIT_BODY: return waited > c->body_timeout_ms;
    case BUSY: return false;
    }
    return false;
}

static void *watchman_main(void *arg)
{
    struct server *s = arg;
    struct connection *c;

    lock_take(&s->lock);
    while (!s->stopping) {
        uint64_t now = now_ms();

        /* Shutting the socket down is how another thread may end a connection of
         * libmicrohttpd's: its thread sees the end of the stream and cleans up. */
        DL_FOREACH(s->connections, c)
        {
            if (is_overdue(c, s->config, now)) {
                shutdown(c->fd, SHUT_RDWR);
                c->awaiting = BUSY;
            }
        }
        lock_wait_until(&s->lock, &s->stop_now, now + WATCH_INTERVAL_MS);
    }
    lock_drop(&s->lock);
    return NULL;
}

/* ---- start and stop ---- */

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    char text[256];

    (void)cls;
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    log_line(LOG_DEBUG, "http", "message", LOG_STR, text, NULL);
}

static unsigned http_threads(const struct config *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (config->limits.http_threads > 0)
        return config->limits.http_threads;
    return cores < 1 ? 1 : cores > 8 ? 8 : (unsigned)cores;
}

/* Where connections are added from outside libmicrohttpd 0.9.75 checks the limit with a lock that
 * it doesn't give back when the limit is reached, so the limit is the acceptor's alone. */
static struct MHD_Daemon *start_daemon(struct front *f, const struct config *config)
{
    struct server *s = f->server;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC |
                     MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    unsigned stall_s = (unsigned)((config->limits.stall_timeout_ms + 999) / 1000);
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
        {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)tls_unused()},
        {MHD_OPTION_END, 0, NULL}};

    if (s->tls)
        flags |= MHD_USE_TLS;
    else
        tls[0].option = MHD_OPTION_END;
    return MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
        MHD_OPTION_ARRAY, tls, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        f, MHD_OPTION_CONNECTION_LIMIT, UINT_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, stall_s, MHD_OPTION_END);
}

static bool give_connection(void *ctx, unsigned taker, int fd, const struct sockaddr *from,
                            socklen_t len)
{
    struct server *s = ctx;

    return MHD_add_connection(s->fronts[taker].daemon, fd, from, len) == MHD_YES;
}

static bool start_fronts(struct server *s, unsigned count, const struct config *config)
{
    s->fronts = xcalloc(count, sizeof(*s->fronts));
    for (; s->front_count < count; s->front_count++) {
        struct front *f = &s->fronts[s->front_count];

        *f = (struct front){.server = s, .index = s->front_count};
        f->daemon = start_daemon(f, config);
        if (f->daemon == NULL)
            return false;
    }
    return true;
}

/* Nobody is accepted any more, or was ever. */
static void server_free(struct server *s)
{
    for (unsigned i = 0; i < s->front_count; i++)
        MHD_stop_daemon(s->fronts[i].daemon);
    acceptor_free(&s->acceptor);
    free(s->fronts);
    tls_identity_unref(&s->identity);
    config_unref(&s->config);
    pthread_cond_destroy(&s->idle);
    pthread_cond_destroy(&s->stop_now);
    lock_clear(&s->lock);
    free(s);
}

int server_start(struct proxy *proxy, struct config *config, const struct server_listener *listener,
                 struct server **out, struct err *err)
{
    struct acceptor_config accepting = {
        .takers = listener->threads > 0 ? listener->threads : http_threads(config),
        .limit = listener->connections > 0 ? listener->connections : config->limits.connections,
        .give = give_connection};
    int listen_fd = listener->socket;
    struct server *s;

    if (listener->tls != NULL && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(err, ERR_INPUT, "tls: the libmicrohttpd here was built without TLS");
    if (listen_fd <= 0 && acceptor_listen(listener->host, listener->port, &listen_fd, err) != 0)
        return -1;
    s = xcalloc(1, sizeof(*s));
    s->proxy = proxy;
    s->plan = listener->plan;
    s->ended = listener->ended;
    s->tls = listener->tls != NULL;
    if (s->tls)
        s->identity = tls_identity_ref(listener->tls);
    s->config = (struct config *)config_ref(config);
    lock_init(&s->lock, LOCK_SERVER);
    lock_cond_init(&s->idle);
    lock_cond_init(&s->stop_now);
    if (!start_fronts(s, accepting.takers, config)) {
        err_errno(err, ERR_INPUT, "the HTTP front can't be started");
        server_free(s);
        if (listener->socket <= 0)
            close(listen_fd);
        return -1;
    }
    accepting.ctx = s;
    s->acceptor = acceptor_new(listen_fd, &accepting);
    must(pthread_create(&s->watchman, NULL, watchman_main, s) == 0);
    acceptor_start(s->acceptor);
    *out = s;
    return 0;
}

void server_configure(struct server *s, struct config *config)
{
    struct config *old;

    lock_take(&s->lock);
    old = s->config;
    s->config = (struct config *)config_ref(config);
    lock_drop(&s->lock);
    config_unref(&old);
}

bool server_has_tls(const struct server *s)
{
    return s->tls;
}

void server_set_identity(struct server *s, struct tls_identity *id)
{
    struct tls_identity *old;

    must(s->tls);
    lock_take(&s->lock);
    old = s->identity;
    s->identity = tls_identity_ref(id);
    lock_drop(&s->lock);
    tls_identity_unref(&old);
}

const char *server_address(const struct server *s)
{
    return acceptor_address(s->acceptor);
}

void server_drain(struct server *s)
{
    lock_take(&s->lock);
    s->draining = true;
    lock_drop(&s->lock);
    acceptor_stop(s->acceptor);
}

size_t server_connections(struct server *s)
{
    struct connection *c;
    size_t n;

    lock_take(&s->lock);
    DL_COUNT(s->connections, c, n);
    lock_drop(&s->lock);
    return n;
}

size_t server_active(struct server *s)
{
    size_t n;

    lock_take(&s->lock);
    n = s->active;
    lock_drop(&s->lock);
    return n;
}

/* ---- for who looks on ---- */

static const char *state_name(enum phase phase)
{
    static const char *const names[] = {[RECEIVING] = "receiving",
                                        [WORKING] = "working",
                                        [FOLLOWING] = "waiting",
                                        [REPLYING] = "sending"};

    return names[phase];
}

/* False: there is nothing to be seen of p yet, or any more. */
static bool hold_if_known(struct server_part *p)
{
    bool held;

    lock_take(&p->lock);
    held = p->known && p->refs > 0 && p->connection != NULL;
    p->refs += held;
    lock_drop(&p->lock);
    return held;
}

static void look_at(struct server_part *p, struct server_request *out)
{
    const struct exchange *x = &p->x;

    *out = (struct server_request){
        .method = xstrdup(x->method),
        .as = x->who != NULL ? xstrdup(x->who->name) : NULL,
        .bytes = atomic_load(&p->body_sent),
        .age_ms = (now_us() - p->started_us) / 1000,
    };
    memcpy(out->id, x->id, sizeof(out->id));
    memcpy(out->client, x->client, sizeof(out->client));
    if (x->upstream != NULL) {
        out->repo = xasprintf("%s/%s", x->path.upstream, x->path.repo);
        out->service = service_name(x->path.service);
        repo_id_of(x->path.upstream, x->path.repo, &out->repo_id);
    }
    lock_take(&p->lock);
    out->state = state_name(p->phase);
    if (p->phase == REPLYING)
        out->result = x->result;
    lock_drop(&p->lock);
}

size_t server_requests(struct server *s, struct server_request *out, size_t max)
{
    struct server_part **parts = xcalloc(max, sizeof(struct server_part *)), *p;
    size_t count = 0;

    lock_take(&s->lock);
    DL_FOREACH(s->exchanges, p)
    {
        if (count == max)
            break;
        if (hold_if_known(p))
            parts[count++] = p;
    }
    lock_drop(&s->lock);
    for (size_t i = 0; i < count; i++) {
        look_at(parts[i], &out[i]);
        part_unref(parts[i]);
    }
    free(parts);
    return count;
}

void server_request_clear(struct server_request *r)
{
    free(r->as);
    free(r->method);
    free(r->repo);
}

bool server_wait_idle(struct server *s, uint64_t deadline_ms, const volatile int *stop_waiting)
{
    bool idle;

    lock_take(&s->lock);
    while (s->active > 0 && !*stop_waiting && now_ms() < deadline_ms)
        lock_wait_until(&s->lock, &s->idle, now_ms() + WATCH_INTERVAL_MS);
    idle = s->active == 0;
    lock_drop(&s->lock);
    return idle;
}

void server_stop(struct server **sp)
{
    struct server *s = *sp;

    *sp = NULL;
    acceptor_stop(s->acceptor);
    lock_take(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->stop_now);
    lock_drop(&s->lock);
    pthread_join(s->watchman, NULL);
    /* A request that slipped in before `stopping` was seen: libmicrohttpd aborts when it is stopped
     * with a connection asleep. */
    lock_take(&s->lock);
    for (uint64_t until = now_ms() + STOP_WAIT_MS; s->active > 0 && now_ms() < until;)
        lock_wait_until(&s->lock, &s->idle, until);
    lock_drop(&s->lock);
    server_free(s);
}
