#include "cache/shared/s3_http.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <curl/curl.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    IDLE_MAX = 32, /* connections kept while nobody uses them */
    RECEIVE_SIZE = 256 * 1024,
    SEND_SIZE = 256 * 1024,
    /* A body from this size on waits to be asked for: a refusal then costs no upload.  Not for
     * long, as some servers never ask. */
    EXPECT_FROM = 1024 * 1024,
    EXPECT_TIMEOUT_MS = 300,
};

struct s3_http {
    char *ca_file;
    uint64_t connect_timeout_ms, stall_timeout_ms;
    atomic_uint_fast64_t stopped_ms; /* when; 0: it was not */
    struct lock lock;
    CURL *idle[IDLE_MAX]; /* each keeps its own connection; the last used is used first */
    size_t idle_count;
};

struct s3_http *s3_http_new(const char *ca_file, uint64_t connect_timeout_ms,
                            uint64_t stall_timeout_ms)
{
    struct s3_http *h = xcalloc(1, sizeof(*h));

    must(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    h->ca_file = ca_file != NULL ? xstrdup(ca_file) : NULL;
    h->connect_timeout_ms = connect_timeout_ms;
    h->stall_timeout_ms = stall_timeout_ms;
    lock_init(&h->lock, LOCK_S3_CONNECTIONS);
    return h;
}

void s3_http_free(struct s3_http **hp)
{
    struct s3_http *h = *hp;

    *hp = NULL;
    if (h == NULL)
        return;
    for (size_t i = 0; i < h->idle_count; i++)
        curl_easy_cleanup(h->idle[i]);
    lock_clear(&h->lock);
    free(h->ca_file);
    free(h);
    curl_global_cleanup();
}

void s3_http_stop(struct s3_http *h)
{
    uint_fast64_t never = 0;

    atomic_compare_exchange_strong(&h->stopped_ms, &never, now_ms());
}

bool s3_http_stopped(const struct s3_http *h)
{
    return atomic_load(&h->stopped_ms) != 0;
}

static CURL *take_handle(struct s3_http *h)
{
    CURL *curl = NULL;

    lock_take(&h->lock);
    if (h->idle_count > 0)
        curl = h->idle[--h->idle_count];
    lock_drop(&h->lock);
    if (curl == NULL)
        curl = curl_easy_init();
    must(curl != NULL);
    return curl;
}

static void give_handle(struct s3_http *h, CURL *curl, bool worked)
{
    bool kept = false;

    curl_easy_reset(curl); /* forgets options, keeps the connection */
    lock_take(&h->lock);
    if (worked && h->idle_count < IDLE_MAX) {
        h->idle[h->idle_count++] = curl;
        kept = true;
    }
    lock_drop(&h->lock);
    if (!kept)
        curl_easy_cleanup(curl);
}

void http_reply_init(struct http_reply *r)
{
    *r = (struct http_reply){0};
    bytes_init(&r->body, HTTP_BODY_MAX);
}

void http_reply_clear(struct http_reply *r)
{
    bytes_clear(&r->body);
}

ssize_t http_body_read(const struct http_body *b, uint64_t at, void *buf, size_t len,
                       struct err *err)
{
    if (len > b->size - at)
        len = (size_t)(b->size - at);
    if (b->data == NULL)
        return object_source_read(b->source, b->offset + at, buf, len, err);
    memcpy(buf, (const char *)b->data + at, len);
    return (ssize_t)len;
}

/* ---- one transfer ---- */

struct transfer {
    const struct s3_http *http;
    const struct http_call *call;
    struct http_reply *reply;
    struct err *err;
    uint64_t sent;          /* of the body */
    uint64_t last_moved_ms; /* 0: nothing has */
    curl_off_t moved;
    bool head_done;
    bool stopped; /* by us, *err is filled */
    bool again;   /* and another try may help */
};

static bool is_success(int status)
{
    return status >= 200 && status < 300;
}

/* ---- headers ---- */

static void copy_word(char *out, size_t size, const char *value, size_t len)
{
    if (len < size) /* a longer one is none of ours */
        snprintf(out, size, "%.*s", (int)len, value);
}

static bool parse_number(const char *s, const char *end, uint64_t *out)
{
    uint64_t n = 0;

    if (s == end)
        return false;
    for (; s < end; s++) {
        if (!isdigit((unsigned char)*s) || n > (UINT64_MAX - 9) / 10)
            return false;
        n = n * 10 + (uint64_t)(*s - '0');
    }
    *out = n;
    return true;
}

/* "bytes 0-9/100" */
static bool parse_range(const char *s, const char *end, struct http_reply *r)
{
    static const char unit[] = "bytes ";
    const char *dash, *slash;
    uint64_t last;

    if ((size_t)(end - s) < strlen(unit) || strncasecmp(s, unit, strlen(unit)) != 0)
        return false;
    s += strlen(unit);
    dash = memchr(s, '-', (size_t)(end - s));
    slash = memchr(s, '/', (size_t)(end - s));
    return dash != NULL && slash != NULL && dash < slash &&
           parse_number(s, dash, &r->range_first) && parse_number(dash + 1, slash, &last) &&
           parse_number(slash + 1, end, &r->range_total) && last >= r->range_first &&
           last < r->range_total;
}

static int64_t parse_date(const char *value, size_t len)
{
    char *text = xstrndup(value, len);
    int64_t t = curl_getdate(text, NULL);

    free(text);
    return t > 0 ? t : 0;
}

static void read_header(struct http_reply *r, const char *name, size_t name_len, const char *value,
                        size_t len)
{
    uint64_t n;

#define IS(s) (name_len == sizeof(s) - 1 && strncasecmp(name, s, name_len) == 0)
    if (IS("etag"))
        copy_word(r->etag, sizeof(r->etag), value, len);
    else if (IS("content-length"))
        r->has_length = parse_number(value, value + len, &r->length);
    else if (IS("content-range"))
        r->has_range = parse_range(value, value + len, r);
    else if (IS("last-modified"))
        r->modified = parse_date(value, len);
    else if (IS("date"))
        r->has_date = (r->date = parse_date(value, len)) > 0;
    else if (IS("retry-after") && parse_number(value, value + len, &n))
        r->retry_after_s = n > 3600 ? 3600 : (uint32_t)n;
    else if (IS("x-amz-meta-pannier-mark"))
        copy_word(r->mark, sizeof(r->mark), value, len);
    else if (IS("x-amz-bucket-region"))
        copy_word(r->region, sizeof(r->region), value, len);
#undef IS
}

static void forget_reply(struct http_reply *r)
{
    struct bytes body = r->body;

    *r = (struct http_reply){.body = body};
    bytes_reset(&r->body);
}

static size_t finish_head(struct transfer *t, size_t len)
{
    const struct http_call *c = t->call;

    if (t->head_done || t->reply->status < 200)
        return len; /* trailers, or an interim response */
    t->head_done = true;
    if (is_success(t->reply->status) && c->head_fn != NULL &&
        c->head_fn(c->ctx, t->reply, t->err) != 0) {
        t->stopped = true;
        return 0;
    }
    return len;
}

static size_t on_header(char *line, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * count;
    const char *colon, *value, *end = line + len;

    t->last_moved_ms = now_ms();
    if (len > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
        const char *space = memchr(line, ' ', len);

        forget_reply(t->reply);
        t->reply->status = space != NULL ? atoi(space + 1) : 0;
        return len;
    }
    if (len <= 2)
        return finish_head(t, len);
    colon = memchr(line, ':', len);
    if (t->head_done || colon == NULL)
        return len;
    value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && isspace((unsigned char)end[-1]))
        end--;
    read_header(t->reply, line, (size_t)(colon - line), value, (size_t)(end - value));
    return len;
}

static size_t on_data(char *data, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    const struct http_call *c = t->call;
    size_t len = size * count;

    if (is_success(t->reply->status) && c->data_fn != NULL) {
        if (c->data_fn(c->ctx, data, len, t->err) != 0) {
            t->stopped = true;
            return 0;
        }
    } else if (bytes_add(&t->reply->body, data, len) != 0) {
        err_set(t->err, ERR_UPSTREAM, "the answer is over %d bytes", HTTP_BODY_MAX);
        t->stopped = true;
        return 0;
    }
    t->last_moved_ms = now_ms(); /* after: the time that data_fn takes is not the server's */
    return len;
}

static size_t on_read(char *buf, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    ssize_t n;

    if (t->sent == t->call->body.size)
        return 0;
    n = http_body_read(&t->call->body, t->sent, buf, size * count, t->err);
    if (n < 0) {
        t->stopped = true;
        return CURL_READFUNC_ABORT;
    }
    t->sent += (uint64_t)n;
    return (size_t)n;
}

/* curl begins anew on a fresh connection when a kept one turns out closed. */
static int on_seek(void *ctx, curl_off_t offset, int origin)
{
    struct transfer *t = ctx;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->call->body.size)
        return CURL_SEEKFUNC_FAIL;
    t->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static bool is_cancelled(const struct s3_http *h, const struct http_call *c, uint64_t now)
{
    uint64_t stopped_ms = atomic_load(&h->stopped_ms);

    return (c->stop != NULL && atomic_load(c->stop)) ||
           (stopped_ms > 0 && now >= stopped_ms + c->grace_ms);
}

/* At least once a second, also while nothing comes. */
static int on_progress(void *ctx, curl_off_t dl_total, curl_off_t dl, curl_off_t ul_total,
                       curl_off_t ul)
{
    struct transfer *t = ctx;
    uint64_t now = now_ms(), limit = t->call->deadline_ms;

    (void)dl_total, (void)ul_total;
    if (t->stopped) /* once more, as curl closes what was stopped */
        return 1;
    if (dl + ul != t->moved)
        t->last_moved_ms = now;
    t->moved = dl + ul;
    if (t->last_moved_ms > 0)
        limit = t->last_moved_ms + t->http->stall_timeout_ms;
    if (is_cancelled(t->http, t->call, now)) {
        err_set(t->err, ERR_CANCELLED, "nobody wants it any more");
        t->stopped = true;
    } else if (now > limit) {
        err_set(t->err, ERR_TIMEOUT, "nothing moved for too long");
        t->stopped = t->again = true;
    }
    return t->stopped ? 1 : 0;
}

static struct curl_slist *make_headers(const struct http_call *c)
{
    struct curl_slist *list = NULL;

    for (size_t i = 0; i < c->header_count; i++) {
        list = curl_slist_append(list, c->headers[i]);
        must(list != NULL);
    }
    list =
        curl_slist_append(list, c->body.size >= EXPECT_FROM ? "Expect: 100-continue" : "Expect:");
    must(list != NULL);
    return list;
}

static void set_method(CURL *curl, struct transfer *t)
{
    const struct http_call *c = t->call;

    if (strcmp(c->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
        return;
    }
    if (c->body.size > 0 || strcmp(c->method, "PUT") == 0 || strcmp(c->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)c->body.size);
        curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, (long)SEND_SIZE);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(curl, CURLOPT_READDATA, t);
        curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(curl, CURLOPT_SEEKDATA, t);
        curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, (long)EXPECT_TIMEOUT_MS);
    }
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, c->method);
}

static void set_options(CURL *curl, struct transfer *t, struct curl_slist *headers, char *words)
{
    const struct s3_http *h = t->http;
    uint64_t now = now_ms(), deadline = t->call->deadline_ms;
    uint64_t left = deadline > now ? deadline - now : 1;

    curl_easy_setopt(curl, CURLOPT_URL, t->call->url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L); /* what was signed */
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "pannier/" PANNIER_VERSION);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, (long)RECEIVE_SIZE);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(left < h->connect_timeout_ms ? left : h->connect_timeout_ms));
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    /* One handle, one connection: HTTP/2 would bring nothing but its window. */
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    if (h->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, h->ca_file);
    set_method(curl, t);
}

static int explain(CURLcode code, const char *words, struct transfer *t)
{
    const char *reason = words[0] != '\0' ? words : curl_easy_strerror(code);

    if (t->stopped)
        return -1; /* *err is filled */
    t->again = true;
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(t->err, ERR_TIMEOUT, "no answer in time: %s", reason);
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_SEND_FAIL_REWIND:
        return err_set(t->err, ERR_UPSTREAM, "the connection broke: %s", reason);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_URL_MALFORMAT:
        t->again = false;
        return err_set(t->err, ERR_UPSTREAM, "it can't be trusted: %s", reason);
    default: return err_set(t->err, ERR_UPSTREAM, "it can't be reached: %s", reason);
    }
}

int s3_http_perform(struct s3_http *h, const struct http_call *c, struct http_reply *reply,
                    bool *again, struct err *err)
{
    struct transfer t = {.http = h, .call = c, .reply = reply, .err = err};
    char words[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers;
    CURLcode code;
    CURL *curl;
    int rc = 0;

    forget_reply(reply);
    *again = false;
    if (is_cancelled(h, c, now_ms()))
        return err_set(err, ERR_CANCELLED, "nobody wants it any more");
    curl = take_handle(h);
    headers = make_headers(c);
    set_options(curl, &t, headers, words);
    code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    if (code != CURLE_OK)
        rc = explain(code, words, &t);
    else if (!t.head_done) { /* curl takes a head that is cut off for a response without a body */
        t.again = true;
        rc = err_set(err, ERR_UPSTREAM, "the connection broke in the middle of the headers");
    }
    give_handle(h, curl, rc == 0);
    *again = t.again;
    return rc;
}
