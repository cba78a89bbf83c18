#include "cache/shared/s3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    CONNECT_TIMEOUT_MS = 5000,
    STALL_TIMEOUT_MS = 30 * 1000,
    DEADLINE_MS = 60 * 1000,
    PARALLEL = 4,
    ALONE_RATE_MB = 400,
    BACKOFF_MS = 50, /* doubles with every try */
    BACKOFF_MAX_MS = 5000,
    BACKOFF_LOOK_MS = 100, /* a transfer that was stopped doesn't wait longer */
    HASH_SIZE = 256 * 1024,
};

static const char EMPTY_HASH[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/* ---- asking ---- */

void s3_ask_query(struct s3_ask *ask, const char *name, const char *value)
{
    must(ask->query_count < S3_FIELDS_MAX);
    ask->query[ask->query_count++] = (struct s3_field){name, value};
}

void s3_ask_header(struct s3_ask *ask, const char *name, const char *value)
{
    if (value == NULL)
        return;
    must(ask->header_count < S3_FIELDS_MAX);
    ask->headers[ask->header_count++] = (struct s3_field){name, value};
}

void s3_answer_init(struct s3_answer *a)
{
    *a = (struct s3_answer){.code = ""};
    http_reply_init(&a->reply);
}

void s3_answer_clear(struct s3_answer *a)
{
    http_reply_clear(&a->reply);
}

static int hash_source(const struct http_body *b, struct key *out, struct err *err)
{
    struct digest *d = digest_new(HASH_SHA256);
    char *buf = xmalloc(HASH_SIZE);
    uint64_t done = 0;
    int rc = 0;

    while (done < b->size && rc == 0) {
        ssize_t n = http_body_read(b, done, buf, HASH_SIZE, err);

        if (n < 0)
            rc = -1;
        else
            digest_update(d, buf, (size_t)n);
        done += n > 0 ? (uint64_t)n : 0;
    }
    digest_final(d, out->raw);
    digest_free(d);
    free(buf);
    return rc;
}

int s3_ask_hash(struct s3_ask *ask, struct err *err)
{
    struct key hash;

    if (ask->body.size == 0) {
        memcpy(ask->payload_hash, EMPTY_HASH, sizeof(EMPTY_HASH));
        return 0;
    }
    if (ask->body.data != NULL)
        key_of(ask->body.data, (size_t)ask->body.size, &hash);
    else if (hash_source(&ask->body, &hash, err) != 0)
        return -1;
    key_to_hex(&hash, ask->payload_hash);
    return 0;
}

static void fill_request(const struct s3 *s, const struct s3_ask *ask, const char *path,
                         struct s3_request *out)
{
    *out = (struct s3_request){
        .method = ask->method,
        .host = s->host,
        .path = path,
        .query = ask->query,
        .query_count = ask->query_count,
        .headers = ask->headers,
        .header_count = ask->header_count,
        .payload_hash = ask->payload_hash,
    };
}

static char *path_of(const struct s3 *s, const struct s3_ask *ask)
{
    if (ask->key != NULL)
        return xasprintf("%s/%s%s", s->root, s->prefix, ask->key);
    return xstrdup(s->root[0] != '\0' ? s->root : "/");
}

enum { OWN_HEADERS = 4 };

static size_t make_headers(const struct s3_ask *ask, const struct s3_signer *signer,
                           const struct s3_request *r, char *out[])
{
    size_t n = 0;

    for (; n < ask->header_count; n++)
        out[n] = xasprintf("%s: %s", ask->headers[n].name, ask->headers[n].value);
    out[n++] = xasprintf("x-amz-date: %s", signer->time);
    out[n++] = xasprintf("x-amz-content-sha256: %s", ask->payload_hash);
    if (signer->keys.session_token != NULL)
        out[n++] = xasprintf("x-amz-security-token: %s", signer->keys.session_token);
    {
        char *value = s3_authorization(signer, r);

        out[n++] = xasprintf("Authorization: %s", value);
        free(value);
    }
    return n;
}

/* 0, or -1 and *again as s3_http_perform(). */
static int send_once(struct s3 *s, const struct s3_ask *ask, const struct s3_keys *keys,
                     uint64_t deadline_ms, struct s3_answer *a, bool *again, struct err *err)
{
    struct s3_signer signer;
    struct s3_request request;
    char *path = path_of(s, ask), *target, *url;
    char *headers[S3_FIELDS_MAX + OWN_HEADERS];
    struct http_call call = {.method = ask->method,
                             .body = ask->body,
                             .deadline_ms = deadline_ms,
                             .stop = ask->stop,
                             .grace_ms = ask->grace_ms,
                             .head_fn = ask->head_fn,
                             .data_fn = ask->data_fn,
                             .ctx = ask->ctx};
    int rc;

    fill_request(s, ask, path, &request);
    s3_signer_init(&signer, keys, s->region, "s3", time(NULL));
    target = s3_target(&request);
    url = xasprintf("%s%s", s->url, target);
    call.url = url;
    call.headers = (const char *const *)headers;
    call.header_count = make_headers(ask, &signer, &request, headers);
    rc = s3_http_perform(s->http, &call, &a->reply, again, err);
    for (size_t i = 0; i < call.header_count; i++)
        free(headers[i]);
    free(url);
    free(target);
    free(path);
    return rc;
}

enum s3_verdict s3_try(struct s3 *s, const struct s3_ask *ask, struct s3_patience *p,
                       struct s3_answer *a, struct err *err)
{
    struct s3_keys keys = {0};
    enum s3_verdict verdict;
    bool again = false;
    int rc;

    a->code[0] = '\0';
    a->reply.status = 0;
    if (s3_credentials_get(s->credentials, &keys, err) != 0) {
        if (s3_http_stopped(s->http)) /* which is why */
            object_store_cancelled(err);
        return S3_FAILED;
    }
    p->tries++;
    rc = send_once(s, ask, &keys, p->deadline_ms, a, &again, err);
    s3_keys_clear(&keys);
    a->unsure |= rc != 0 || a->reply.status >= 500;
    if (rc != 0) {
        if (err->kind == ERR_UPSTREAM || err->kind == ERR_TIMEOUT)
            err_prefix(err, "%s", s->endpoint);
        /* The deadline passed while it was asked once more: what it said before says more. */
        if (err->kind == ERR_TIMEOUT && p->refusal.kind == ERR_BUSY)
            *err = p->refusal;
        return again ? S3_AGAIN : S3_FAILED;
    }
    if (a->reply.status >= 200 && a->reply.status < 300) {
        atomic_store(&s->bucket_seen, true);
        return S3_DONE;
    }
    verdict = s3_judge(s, ask, a, err);
    p->refusal = *err;
    /* Keys that were good may have expired, or been changed in their file. */
    if (verdict == S3_FAILED && err->kind == ERR_DENIED && !p->distrusted &&
        (strcmp(a->code, "ExpiredToken") == 0 || strcmp(a->code, "InvalidToken") == 0 ||
         strcmp(a->code, "TokenRefreshRequired") == 0 ||
         strcmp(a->code, "InvalidAccessKeyId") == 0) &&
        s3_credentials_distrust(s->credentials)) {
        p->distrusted = true;
        return S3_AGAIN;
    }
    return verdict;
}

/* ---- second tries ---- */

void s3_patience_init(struct s3_patience *p, const struct s3 *s, const atomic_bool *stop)
{
    *p = (struct s3_patience){
        .deadline_ms = now_ms() + s->deadline_ms, .http = s->http, .stop = stop};
}

/* Half of it is chance: who was refused together must not come back together. */
static uint64_t with_jitter(uint64_t ms)
{
    uint64_t random = 0;

    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    return ms / 2 + random % (ms / 2 + 1);
}

static bool is_stopped(const struct s3_patience *p)
{
    return s3_http_stopped(p->http) || (p->stop != NULL && atomic_load(p->stop));
}

bool s3_patience_wait(struct s3_patience *p, const struct http_reply *reply, struct err *err)
{
    unsigned doublings = p->tries > 7 ? 7 : p->tries > 0 ? p->tries - 1 : 0;
    uint64_t ms = (uint64_t)BACKOFF_MS << doublings, until;

    ms = with_jitter(ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS);
    if (ms < (uint64_t)reply->retry_after_s * 1000)
        ms = (uint64_t)reply->retry_after_s * 1000;
    until = now_ms() + ms;
    if (until >= p->deadline_ms)
        return false;
    for (uint64_t now = now_ms(); now < until; now = now_ms()) {
        uint64_t left = until - now < BACKOFF_LOOK_MS ? until - now : BACKOFF_LOOK_MS;

        if (is_stopped(p)) {
            object_store_cancelled(err);
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = (long)left * 1000 * 1000}, NULL);
    }
    return true;
}

int s3_ask(struct s3 *s, struct s3_ask *ask, struct s3_answer *a, struct err *err)
{
    struct s3_patience patience;

    s3_patience_init(&patience, s, ask->stop);
    if (s3_ask_hash(ask, err) != 0)
        return -1;
    for (;;) {
        enum s3_verdict verdict = s3_try(s, ask, &patience, a, err);

        if (verdict == S3_DONE)
            return 0;
        if (verdict == S3_FAILED || !s3_patience_wait(&patience, &a->reply, err))
            return -1;
    }
}

/* ---- small operations ---- */

void s3_copy_etag(const char *from, char out[OBJECT_ETAG_MAX])
{
    size_t len = strlen(from);

    if (len >= 2 && from[0] == '"' && from[len - 1] == '"') {
        from++;
        len -= 2;
    }
    snprintf(out, OBJECT_ETAG_MAX, "%.*s", (int)len, from);
}

/* A HEAD's refusal has no words: ask for the first byte to hear them. */
static void ask_why(struct s3 *s, const char *key, struct err *err)
{
    struct s3_ask ask = {.method = "GET", .key = key};
    struct s3_answer a;
    struct err why;

    s3_ask_header(&ask, "range", "bytes=0-0");
    s3_answer_init(&a);
    if (s3_ask(s, &ask, &a, &why) != 0 && a.reply.status >= 400)
        *err = why;
    s3_answer_clear(&a);
}

int s3_head_mark(struct s3 *s, const char *key, struct object_info *out, char mark[HTTP_WORD_MAX],
                 struct err *err)
{
    struct s3_ask ask = {.method = "HEAD", .key = key};
    struct s3_answer a;
    int rc;

    s3_answer_init(&a);
    rc = s3_ask(s, &ask, &a, err);
    if (rc == 0 && !a.reply.has_length) {
        rc = err_set(err, ERR_UPSTREAM, "%s does not say how big %s is", s->endpoint, key);
    } else if (rc == 0) {
        *out = (struct object_info){.size = a.reply.length, .modified = a.reply.modified};
        s3_copy_etag(a.reply.etag, out->etag);
        memcpy(mark, a.reply.mark, HTTP_WORD_MAX);
    } else if (a.reply.status >= 300 && a.reply.status < 500 &&
               (err->kind != ERR_NOT_FOUND || !atomic_load(&s->bucket_seen))) {
        ask_why(s, key, err);
    }
    s3_answer_clear(&a);
    return rc;
}

int s3_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    char mark[HTTP_WORD_MAX];

    return s3_head_mark(self, key, out, mark, err);
}

int s3_remove(void *self, const char *key, struct err *err)
{
    struct s3_ask ask = {.method = "DELETE", .key = key};
    struct s3_answer a;
    int rc;

    s3_answer_init(&a);
    rc = s3_ask(self, &ask, &a, err);
    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        rc = 0;
    s3_answer_clear(&a);
    return rc;
}

/* ---- opening ---- */

/* The requests under way look at it, waits between tries, and who fetches keys. */
static void s3_stop(void *self)
{
    struct s3 *s = self;

    s3_http_stop(s->http);
}

static void s3_free(void *self)
{
    struct s3 *s = self;

    s3_credentials_free(&s->credentials);
    s3_http_free(&s->http);
    free(s->endpoint);
    free(s->bucket);
    free(s->prefix);
    free(s->region);
    free(s->url);
    free(s->host);
    free(s->root);
    free(s->server_side_encryption);
    free(s->kms_key);
    free(s);
}

static char *copy_set(const char *text)
{
    return text != NULL && text[0] != '\0' ? xstrdup(text) : NULL;
}

static uint64_t or_else(uint64_t value, uint64_t usual)
{
    return value > 0 ? value : usual;
}

/* Scheme and host of what is asked, and the Host header, from which curl leaves the usual port. */
static void set_address(struct s3 *s, bool virtual_host)
{
    bool tls = strncmp(s->endpoint, "https://", 8) == 0;
    const char *host = strstr(s->endpoint, "://") + 3, *usual = tls ? ":443" : ":80";
    size_t len = strlen(host);

    if (len > strlen(usual) && strcmp(host + len - strlen(usual), usual) == 0)
        len -= strlen(usual);
    s->host = virtual_host ? xasprintf("%s.%.*s", s->bucket, (int)len, host) : xstrndup(host, len);
    s->url = xasprintf("%s://%s", tls ? "https" : "http", s->host);
    s->root = virtual_host ? xstrdup("") : xasprintf("/%s", s->bucket);
}

static int check(const struct object_store_config *c, struct err *err)
{
    if (c->region != NULL && c->region[strspn(c->region, "abcdefghijklmnopqrstuvwxyz0123456789"
                                                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-")] != '\0')
        return err_set(err, ERR_INPUT, "an S3 region holds only letters, digits, _ and -");
    if (c->ca_file != NULL && access(c->ca_file, R_OK) != 0)
        return err_errno(err, ERR_INPUT, "the S3 endpoint's ca_file %s can't be read", c->ca_file);
    if (c->parallel > S3_PARALLEL_MAX)
        return err_set(err, ERR_INPUT, "at most %d parts of an S3 object at once", S3_PARALLEL_MAX);
    return 0;
}

int object_store_open_s3(const struct object_store_config *config, struct object_store **out,
                         struct err *err)
{
    static const struct object_driver driver = {
        .put = s3_put,
        .get = s3_get,
        .head = s3_head,
        .list = s3_list,
        .remove = s3_remove,
        .stop = s3_stop,
        .free = s3_free,
        .has_conditions = true,
        .lacks_conditions = s3_lacks_conditions,
    };
    struct object_store_config c = *config;
    struct s3 *s;
    char *name;

    if (c.region == NULL || c.region[0] == '\0')
        c.region = "us-east-1";
    if (check(&c, err) != 0)
        return -1;
    s = xcalloc(1, sizeof(*s));
    s->endpoint = xstrdup(c.endpoint);
    s->bucket = xstrdup(c.bucket);
    s->prefix = xstrdup(c.prefix != NULL ? c.prefix : "");
    s->region = xstrdup(c.region);
    s->server_side_encryption = copy_set(c.server_side_encryption);
    s->kms_key = copy_set(c.kms_key);
    set_address(s, c.virtual_host);
    s->deadline_ms = or_else(c.deadline_ms, DEADLINE_MS);
    s->parallel = c.parallel > 0 ? c.parallel : PARALLEL;
    s->alone_rate = or_else(c.alone_rate_mb, ALONE_RATE_MB);
    s->http = s3_http_new(c.ca_file, or_else(c.connect_timeout_ms, CONNECT_TIMEOUT_MS),
                          or_else(c.stall_timeout_ms, STALL_TIMEOUT_MS));
    if (s3_credentials_open(&c, s->http, &s->credentials, err) != 0) {
        s3_free(s);
        return -1;
    }
    name = xasprintf("s3 %s/%s", s->endpoint, s->bucket);
    *out = object_store_new(&driver, s, name);
    free(name);
    return 0;
}
