#include "proxy/upstream.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "proxy/metrics.h"

enum {
    IDLE_MAX = 16,      /* connections kept per origin while nobody uses them */
    IDLE_ALL_MAX = 128, /* and of all origins */
    RECEIVE_SIZE = 128 * 1024,
    LOCATION_MAX = 4096,
    LOOK_MS = 1000, /* at whether to go on, also while nothing comes */
};

/* GitHub and others choose their answer by the agent's first word. */
static const char USER_AGENT[] = "git/2.39 (pannier/" PANNIER_VERSION ")";

struct handle {
    CURL *easy;
    CURLM *multi; /* keeps the connection */
};

struct origin {
    char *base_url;
    struct handle *idle[IDLE_MAX]; /* the last used is used first */
    size_t idle_count;
    uint64_t used_ms; /* last */
    size_t in_use;
    size_t questions; /* of them */
    size_t waiting;   /* for one to come free */
    UT_hash_handle hh;
};

struct origins {
    struct lock lock;
    pthread_cond_t freed;
    struct origin *by_url;
    size_t idle_count; /* of all */
    struct manners *manners;
    atomic_bool cancelled;
};

struct origins *origins_new(void)
{
    struct origins *o = xcalloc(1, sizeof(*o));

    must(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    lock_init(&o->lock, LOCK_ORIGINS);
    lock_cond_init(&o->freed);
    o->manners = manners_new();
    return o;
}

static struct handle *handle_new(void)
{
    struct handle *h = xmalloc(sizeof(*h));

    *h = (struct handle){curl_easy_init(), curl_multi_init()};
    must(h->easy != NULL && h->multi != NULL);
    return h;
}

static void handle_free(struct handle *h)
{
    if (h == NULL)
        return;
    curl_easy_cleanup(h->easy);
    curl_multi_cleanup(h->multi);
    free(h);
}

void origins_free(struct origins **op)
{
    struct origins *o = *op;
    struct origin *origin, *next;

    *op = NULL;
    if (o == NULL)
        return;
    HASH_ITER(hh, o->by_url, origin, next)
    {
        must(origin->in_use == 0);
        HASH_DEL(o->by_url, origin);
        for (size_t i = 0; i < origin->idle_count; i++)
            handle_free(origin->idle[i]);
        free(origin->base_url);
        free(origin);
    }
    pthread_cond_destroy(&o->freed);
    manners_free(&o->manners);
    lock_clear(&o->lock);
    free(o);
    curl_global_cleanup();
}

void origins_cancel(struct origins *o)
{
    atomic_store(&o->cancelled, true);
}

const char *response_head_get(const struct response_head *h, const char *name)
{
    for (size_t i = 0; i < h->header_count; i++)
        if (strcmp(h->headers[i].name, name) == 0)
            return h->headers[i].value;
    return NULL;
}

void response_head_clear(struct response_head *h)
{
    for (size_t i = 0; i < h->header_count; i++) {
        free(h->headers[i].name);
        free(h->headers[i].value);
    }
    *h = (struct response_head){0};
}

void response_head_copy(const struct response_head *from, struct response_head *to)
{
    *to = *from;
    for (size_t i = 0; i < from->header_count; i++) {
        to->headers[i].name = xstrdup(from->headers[i].name);
        to->headers[i].value = xstrdup(from->headers[i].value);
    }
}

/* ---- connections ---- */

static struct origin *find_origin_locked(struct origins *o, const char *base_url)
{
    struct origin *origin;

    HASH_FIND_STR(o->by_url, base_url, origin);
    if (origin == NULL) {
        origin = xcalloc(1, sizeof(*origin));
        origin->base_url = xstrdup(base_url);
        HASH_ADD_KEYPTR(hh, o->by_url, origin->base_url, strlen(origin->base_url), origin);
    }
    return origin;
}

static size_t limit_for(const struct upstream_config *config, const struct upstream_request *r)
{
    size_t max = config->max_connections;

    return r->share > 0 || max < 4 ? max : max - max / 4;
}

static struct handle *take_handle(struct origins *o, const struct upstream_config *config,
                                  const struct upstream_request *r, struct err *err)
{
    uint64_t deadline = now_ms() + config->connect_timeout_ms;
    size_t limit = limit_for(config, r);
    struct origin *origin;
    struct handle *handle = NULL;
    bool got;

    lock_take(&o->lock);
    origin = find_origin_locked(o, r->base_url);
    origin->waiting++; /* so that it stays */
    while (origin->in_use >= limit && (r->share == 0 || origin->questions < r->share) &&
           lock_wait_until(&o->lock, &o->freed, deadline))
        ;
    origin->waiting--;
    got = origin->in_use < limit && (r->share == 0 || origin->questions < r->share);
    if (got) {
        origin->in_use++;
        origin->questions += r->share > 0;
        if (origin->idle_count > 0) {
            handle = origin->idle[--origin->idle_count];
            o->idle_count--;
        }
    }
    lock_drop(&o->lock);
    if (!got) {
        err_set(err, ERR_BUSY, "too many requests to %s are under way", config->name);
        return NULL;
    }
    return handle != NULL ? handle : handle_new();
}

static void drop_if_unused_locked(struct origins *o, struct origin *origin)
{
    if (origin->in_use + origin->idle_count + origin->waiting > 0)
        return;
    HASH_DEL(o->by_url, origin);
    free(origin->base_url);
    free(origin);
}

/* The connection that is unused for longest, of the origin that is: hosts of long ago must not hold
 * what others could use. */
static struct handle *take_oldest_idle_locked(struct origins *o)
{
    struct origin *oldest = NULL;
    struct handle *handle;

    for (struct origin *origin = o->by_url; origin != NULL; origin = origin->hh.next)
        if (origin->idle_count > 0 && (oldest == NULL || origin->used_ms < oldest->used_ms))
            oldest = origin;
    must(oldest != NULL);
    handle = oldest->idle[0];
    oldest->idle_count--;
    memmove(oldest->idle, oldest->idle + 1, oldest->idle_count * sizeof(oldest->idle[0]));
    o->idle_count--;
    drop_if_unused_locked(o, oldest);
    return handle;
}

/* Only a connection that worked is worth keeping; and origins without one go, as clients can make
 * up hosts where the upstream is a pattern. */
static void give_handle(struct origins *o, const struct upstream_request *r, struct handle *handle,
                        bool worked)
{
    struct origin *origin;
    struct handle *unused = handle;

    curl_easy_reset(handle->easy);
    lock_take(&o->lock);
    origin = find_origin_locked(o, r->base_url);
    origin->in_use--;
    origin->questions -= r->share > 0;
    origin->used_ms = now_ms();
    if (worked && origin->idle_count < IDLE_MAX) {
        origin->idle[origin->idle_count++] = handle;
        o->idle_count++;
        unused = o->idle_count > IDLE_ALL_MAX ? take_oldest_idle_locked(o) : NULL;
    } else {
        drop_if_unused_locked(o, origin);
    }
    pthread_cond_broadcast(&o->freed); /* waiters of all origins share the condition */
    lock_drop(&o->lock);
    handle_free(unused);
}

/* ---- one transfer ---- */

struct transfer {
    struct origins *origins;
    const struct upstream_config *config;
    const struct upstream_request *request;
    struct response_head head;
    struct bytes refusal; /* the beginning of a 403's or 429's body */
    bool head_done;
    bool redirecting; /* the body of a redirect is nobody's */
    bool got_data;
    uint64_t bytes; /* of the body */
    uint64_t last_progress_ms;
    curl_off_t last_up;
    uint64_t last_tick_ms;
    struct err *err;
    bool stopped; /* a function of ours said -1, *err is its */
};

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static void add_header(struct response_head *head, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len);
    const char *value, *end = line + len;
    struct header *h;

    if (colon == NULL || colon == line || head->header_count == UPSTREAM_HEADERS_MAX ||
        len > UPSTREAM_HEADER_SIZE_MAX)
        return;
    value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && isspace((unsigned char)end[-1]))
        end--;
    h = &head->headers[head->header_count++];
    h->name = xstrndup(line, (size_t)(colon - line));
    for (char *p = h->name; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    h->value = xstrndup(value, (size_t)(end - value));
}

static int finish_head(struct transfer *t)
{
    const struct upstream_request *r = t->request;

    t->head_done = true;
    t->redirecting = is_redirect(t->head.status) && response_head_get(&t->head, "location") != NULL;
    if (!t->redirecting && r->status != NULL)
        *r->status = t->head.status;
    if (!t->redirecting && r->status != NULL && t->head.status == 401) {
        t->stopped = true;
        return err_set(t->err, ERR_UPSTREAM, "%s refuses the credential that pannier has for it",
                       t->config->name);
    }
    if (t->redirecting || r->head_fn == NULL)
        return 0;
    if (r->head_fn(r->ctx, &t->head, t->err) != 0) {
        t->stopped = true;
        return -1;
    }
    return 0;
}

static size_t on_header(char *line, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * count;
    int status;

    t->last_progress_ms = now_ms();
    if (len > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
        const char *space = memchr(line, ' ', len);

        status = space != NULL ? atoi(space + 1) : 0;
        response_head_clear(&t->head);
        t->head.status = status;
        return len;
    }
    if (len <= 2) { /* the empty line */
        if (t->head_done || t->head.status < 200)
            return len; /* trailers, or an interim response */
        return finish_head(t) == 0 ? len : 0;
    }
    if (!t->head_done)
        add_header(&t->head, line, len);
    return len;
}

static size_t on_data(char *data, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * count;

    t->got_data = true;
    if (t->head.status == 403 || t->head.status == 429)
        bytes_add(&t->refusal, data, len < THROTTLE_TEXT_MAX ? len : THROTTLE_TEXT_MAX);
    t->bytes += len;
    if (!t->redirecting && t->request->data_fn(t->request->ctx, data, len, t->err) != 0) {
        t->stopped = true;
        return 0;
    }
    t->last_progress_ms = now_ms(); /* after: the time that our readers take is not upstream's */
    return len;
}

static size_t on_read(char *buf, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    ssize_t n = t->request->read_fn(t->request->ctx, buf, size * count);

    t->last_progress_ms = now_ms();
    if (n >= 0)
        return (size_t)n;
    err_set(t->err, ERR_CANCELLED, "the client stopped sending");
    t->stopped = true;
    return CURL_READFUNC_ABORT;
}

static int on_progress(void *ctx, curl_off_t dl_total, curl_off_t dl, curl_off_t ul_total,
                       curl_off_t ul)
{
    struct transfer *t = ctx;
    const struct upstream_request *r = t->request;
    uint64_t now = now_ms();
    uint64_t limit = t->got_data ? t->config->stall_timeout_ms : t->config->response_timeout_ms;

    if (t->stopped) /* once more, as curl closes what was stopped */
        return 1;
    if (r->share > 0 && !t->got_data && limit > QUESTION_TIMEOUT_MS)
        limit = QUESTION_TIMEOUT_MS;
    (void)dl_total, (void)dl, (void)ul_total;
    if (ul != t->last_up)
        t->last_progress_ms = now;
    t->last_up = ul;
    if (atomic_load(&t->origins->cancelled)) {
        err_set(t->err, ERR_CANCELLED, "pannier is shutting down");
        t->stopped = true;
    } else if (now - t->last_progress_ms > limit) {
        err_set(t->err, ERR_TIMEOUT, "%s sent nothing for %llu s", t->config->name,
                (unsigned long long)(limit / 1000));
        t->stopped = true;
    }
    if (!t->stopped && r->tick_fn != NULL && now - t->last_tick_ms >= LOOK_MS) {
        t->last_tick_ms = now;
        t->stopped = r->tick_fn(r->ctx, t->err) != 0;
    }
    return t->stopped ? 1 : 0;
}

static struct curl_slist *add_field(struct curl_slist *list, const char *name, const char *value)
{
    char *line;

    if (value == NULL)
        return list;
    line = xasprintf("%s: %s", name, value);
    list = curl_slist_append(list, line);
    must(list != NULL);
    free(line);
    return list;
}

static struct curl_slist *request_headers(const struct upstream_request *r)
{
    struct curl_slist *list = NULL;

    list = add_field(list, "Authorization", r->authorization);
    list = add_field(list, "Git-Protocol", r->git_protocol);
    list = add_field(list, "Content-Encoding", r->content_encoding);
    list = add_field(list, "Accept", r->accept != NULL ? r->accept : "*/*");
    list = add_field(list, "Range", r->range);
    if (r->body != NULL || r->read_fn != NULL)
        list = add_field(list, "Content-Type",
                         r->content_type != NULL ? r->content_type : "application/octet-stream");
    if (r->read_fn != NULL && r->content_length < 0)
        list = add_field(list, "Transfer-Encoding", "chunked");
    /* Without it curl waits a second for a 100 that many hosts never send. */
    list = curl_slist_append(list, "Expect:");
    must(list != NULL);
    return list;
}

static void set_body(CURL *curl, struct transfer *t)
{
    const struct upstream_request *r = t->request;

    if (r->read_fn != NULL) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(curl, CURLOPT_READDATA, t);
        /* What streams can't be sent again when a kept connection turns out closed. */
        curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L);
        if (r->content_length >= 0)
            curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->content_length);
    } else if (r->body != NULL || strcmp(r->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, r->body != NULL ? r->body : "");
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
    }
    if (strcmp(r->method, "HEAD") == 0)
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    else
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, r->method);
}

static int explain(CURLcode code, const char *words, const struct transfer *t)
{
    const char *reason = words[0] != '\0' ? words : curl_easy_strerror(code);

    if (t->stopped)
        return -1; /* *err is filled */
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(t->err, ERR_TIMEOUT, "%s did not answer in time: %s", t->config->name,
                       reason);
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return err_set(t->err, ERR_DOWN, "%s broke off: %s", t->config->name, reason);
    default: return err_set(t->err, ERR_DOWN, "%s can't be reached: %s", t->config->name, reason);
    }
}

/* Returns after how long to come again. */
static uint64_t pause_transfer(struct transfer *t)
{
    const struct upstream_request *r = t->request;
    uint64_t again_ms = LOOK_MS, started = now_ms();

    if (r->pause_fn == NULL)
        return again_ms;
    t->stopped = r->pause_fn(r->ctx, &again_ms, t->err) != 0;
    t->last_progress_ms += now_ms() - started; /* as in on_data() */
    return again_ms;
}

/* As curl_easy_perform(), which would come back to our functions only once a second while nothing
 * comes. */
static CURLcode perform(struct handle *h, struct transfer *t)
{
    CURLcode code = CURLE_ABORTED_BY_CALLBACK;
    CURLMcode rc = curl_multi_add_handle(h->multi, h->easy);
    CURLMsg *message;
    int running = 1, left;

    while (rc == CURLM_OK && !t->stopped) {
        uint64_t again_ms;

        rc = curl_multi_perform(h->multi, &running);
        if (rc != CURLM_OK || running == 0 || t->stopped)
            break;
        again_ms = pause_transfer(t);
        if (!t->stopped)
            rc = curl_multi_poll(h->multi, NULL, 0, (int)again_ms, NULL);
    }
    message = curl_multi_info_read(h->multi, &left);
    if (message != NULL)
        code = message->data.result;
    else if (rc != CURLM_OK)
        code = CURLE_OUT_OF_MEMORY;
    curl_multi_remove_handle(h->multi, h->easy);
    return code;
}

static int run(struct handle *h, struct transfer *t, const char *url)
{
    CURL *curl = h->easy;
    const struct upstream_request *r = t->request;
    struct curl_slist *headers = request_headers(r);
    char words[CURL_ERROR_SIZE] = "";
    CURLcode code;

    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, USER_AGENT);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, (long)RECEIVE_SIZE);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)t->config->connect_timeout_ms);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    /* A forward proxy's "200 Connection established" is not upstream's. */
    curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    if (r->direct)
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    if (r->decode)
        curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "gzip");
    if (t->config->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, t->config->ca_file);
    set_body(curl, t);
    t->last_progress_ms = t->last_tick_ms = now_ms();
    code = perform(h, t);
    curl_slist_free_all(headers);
    /* curl takes a head that is cut off for a response without a body. */
    if (code == CURLE_OK && !t->head_done)
        return err_set(t->err, ERR_DOWN, "%s broke off in the middle of its headers",
                       t->config->name);
    return code == CURLE_OK ? 0 : explain(code, words, t);
}

/* Where a redirect leads, as an escaped path of a repository of the same origin: the location must
 * be base_url, "/", a path, "/", rest. */
static char *follow(const struct upstream_request *r, const char *location)
{
    size_t base_len = strlen(r->base_url), rest_len = strlen(r->rest), len = strlen(location);
    const char *path = location;

    if (len > LOCATION_MAX)
        return NULL;
    if (location[0] == '/' && location[1] != '/') {
        const char *host = strstr(r->base_url, "://");
        const char *prefix = host != NULL ? strchr(host + 3, '/') : NULL;
        size_t prefix_len = prefix != NULL ? strlen(prefix) : 0;

        if (prefix_len > 0 && strncmp(location, prefix, prefix_len) != 0)
            return NULL;
        path = location + prefix_len;
    } else {
        if (strncasecmp(location, r->base_url, base_len) != 0)
            return NULL;
        path = location + base_len;
    }
    len = strlen(path);
    if (path[0] != '/' || len < rest_len + 3 || path[len - rest_len - 1] != '/' ||
        strcmp(path + len - rest_len, r->rest) != 0)
        return NULL;
    return xstrndup(path + 1, len - rest_len - 2);
}

/* ---- manners ---- */

static struct manners_who who_asks(const struct upstream_config *config,
                                   const struct upstream_request *r)
{
    return (struct manners_who){config, r->base_url, r->authorization, r->repo};
}

/* A 200 may say that it was the last one; in a body only a refusal is looked at, as anything may
 * stand in a repository. */
static void hear(struct origins *o, const struct upstream_request *r, struct transfer *t)
{
    struct manners_who who = who_asks(t->config, r);
    enum throttle_scope scope;
    uint64_t wait_ms;

    if (r->need == NEED_MUST || !t->head_done)
        return;
    scope = throttle_of_head(&t->head, (int64_t)time(NULL), &wait_ms);
    manners_heard(o->manners, &who, scope, wait_ms, now_ms());
    if (scope == THROTTLE_NONE && t->refusal.len > 0 && bytes_add(&t->refusal, "", 1) == 0)
        upstream_said(o, &who, t->refusal.data);
}

void upstream_said(struct origins *o, const struct manners_who *who, const char *words)
{
    uint64_t wait_ms;
    enum throttle_scope scope = throttle_of_text(words, &wait_ms);

    manners_heard(o->manners, who, scope, wait_ms, now_ms());
}

int upstream_trouble(const struct upstream_config *config, const struct response_head *head,
                     struct err *err)
{
    uint64_t wait_ms;
    enum err_kind kind = ERR_UPSTREAM;

    if (head->status == 429 ||
        throttle_of_head(head, (int64_t)time(NULL), &wait_ms) != THROTTLE_NONE)
        kind = ERR_THROTTLED;
    else if (head->status >= 500)
        kind = ERR_DOWN;
    return err_set(err, kind, "%s answered with HTTP status %d", config->name, head->status);
}

uint32_t upstream_retry_after_s(struct origins *o, const struct manners_who *who)
{
    return manners_retry_after_s(o->manners, who, now_ms());
}

void upstream_manners(struct origins *o, struct manners_counts *out)
{
    manners_count(o->manners, out);
}

static void count_transfer(const struct transfer *t, int rc, uint64_t took_us)
{
    const char *upstream = t->config->name;
    int status = t->head.status;

    if (rc == 0)
        metrics_upstream_response(upstream, status,
                                  status == 429 ||
                                      ((status == 403 || status == 503) &&
                                       response_head_get(&t->head, "retry-after") != NULL));
    else
        metrics_upstream_failure(upstream, t->err->kind);
    metrics_upstream_bytes(upstream, t->bytes);
    metrics_time(t->request->share > 0 ? TIMER_UPSTREAM_QUESTION : TIMER_UPSTREAM_TRANSFER,
                 took_us);
}

int upstream_perform(struct origins *o, const struct upstream_config *config,
                     const struct upstream_request *r, char **moved_repo, struct err *err)
{
    struct manners_who who = who_asks(config, r);
    char *repo = NULL;
    int rc = -1;
    struct handle *handle;

    if (moved_repo != NULL)
        *moved_repo = NULL;
    if (r->status != NULL)
        *r->status = 0;
    if (manners_admit(o->manners, &who, r->need, now_ms(), err) != 0)
        return -1;
    handle = take_handle(o, config, r, err);
    if (handle == NULL) {
        metrics_upstream_failure(config->name, err->kind);
        return -1;
    }
    for (int redirects = 0;; redirects++) {
        struct transfer t = {.origins = o, .config = config, .request = r, .err = err};
        char *url = xasprintf("%s/%s/%s", r->base_url, repo != NULL ? repo : r->repo, r->rest);
        uint64_t started = now_us();
        char *next = NULL;

        bytes_init(&t.refusal, 2 * THROTTLE_TEXT_MAX);
        rc = run(handle, &t, url);
        count_transfer(&t, rc, now_us() - started);
        free(url);
        hear(o, r, &t);
        bytes_clear(&t.refusal);
        if (rc == 0 && t.redirecting) {
            next = follow(r, response_head_get(&t.head, "location"));
            if (next == NULL)
                rc = err_set(err, ERR_UPSTREAM,
                             "%s redirects to a place that is not this repository on the same host",
                             config->name);
            else if (redirects == REDIRECTS_MAX || r->read_fn != NULL)
                rc = err_set(err, ERR_UPSTREAM, "%s redirects too often", config->name);
        }
        response_head_clear(&t.head);
        if (next == NULL || rc != 0) {
            free(next);
            break;
        }
        free(repo);
        repo = next;
        curl_easy_reset(handle->easy);
    }
    give_handle(o, r, handle, rc == 0);
    if (moved_repo != NULL && rc == 0)
        *moved_repo = repo;
    else
        free(repo);
    return rc;
}
