/* S3 by the packaged libs3 2.0: for endpoints that want signature V2.  Its home.
 *
 * What it lacks is refused by name: https (it has the check of certificates switched off),
 * multipart (so an object has 5 GiB at most), conditions on puts, session tokens, encryption
 * headers.  It can't put what has no known size, so a stream goes to an unlinked temporary file
 * first.  Each request has a connection of its own. */
#include "cache/shared/object_store.h"
#include "protocol/err.h"

#ifndef PANNIER_LIBS3

int object_store_open_libs3(const struct object_store_config *config, struct object_store **out,
                            struct err *err)
{
    (void)config;
    (void)out;
    return err_set(err, ERR_REFUSED,
                   "this pannier was built without libs3; build it with libs3-dev, or use the "
                   "driver s3");
}

#else

#include <libs3.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    COPY_SIZE = 256 * 1024,
    PAGE_MAX = 1000, /* keys in one answer to a list; servers give no more */
    SAID_MAX = 160,  /* of what a server says about an error */
    STALL_DEFAULT_MS = 30000,
    DEADLINE_DEFAULT_MS = 60000,
};

static const uint64_t SINGLE_PUT_MAX = UINT64_C(5) << 30;

struct libs3 {
    char *host, *bucket, *prefix, *access_key, *secret_key;
    S3BucketContext context; /* points to the above */
    uint64_t stall_ms, deadline_ms;
    atomic_bool stopped;
};

struct listed {
    char *key;
    struct object_info info;
};

/* One request, with its repetitions. */
struct call {
    const struct libs3 *s;
    char *key;         /* with the prefix */
    uint64_t moved_ms; /* when something last came or went */
    S3Status status;
    char said[SAID_MAX];
    struct object_info info; /* size: of what the answer holds */
    bool failed;             /* the source or the sink did, with: */
    struct err err;

    const struct object_source *source; /* a file */
    const char *content_type;
    uint64_t sent;

    object_sink_fn *fn;
    void *ctx;
    struct object_info *whole; /* of the object, once it is known (etag) */
    uint64_t at, end;          /* what is still wanted; end 0: to the end, which isn't known yet */

    const char *prefix, *marker;
    struct listed *page;
    size_t page_count;
    bool more;
};

/* ---- failures ---- */

static enum err_kind kind_of(S3Status status)
{
    switch (status) {
    case S3StatusErrorNoSuchKey:
    case S3StatusHttpErrorNotFound: return ERR_NOT_FOUND;
    case S3StatusErrorPreconditionFailed:
    case S3StatusErrorOperationAborted:
    case S3StatusHttpErrorConflict: return ERR_CONFLICT;
    case S3StatusErrorAccessDenied:
    case S3StatusErrorAccountProblem:
    case S3StatusErrorExpiredToken:
    case S3StatusErrorInvalidAccessKeyId:
    case S3StatusErrorInvalidSecurity:
    case S3StatusErrorInvalidToken:
    case S3StatusErrorRequestTimeTooSkewed:
    case S3StatusErrorSignatureDoesNotMatch:
    case S3StatusHttpErrorForbidden: return ERR_DENIED;
    case S3StatusInvalidBucketNameTooLong:
    case S3StatusInvalidBucketNameFirstCharacter:
    case S3StatusInvalidBucketNameCharacter:
    case S3StatusInvalidBucketNameCharacterSequence:
    case S3StatusInvalidBucketNameTooShort:
    case S3StatusInvalidBucketNameDotQuadNotation:
    case S3StatusErrorInvalidBucketName:
    case S3StatusErrorNoSuchBucket:
    case S3StatusErrorEntityTooLarge:
    case S3StatusErrorMethodNotAllowed:
    case S3StatusErrorNotImplemented: return ERR_REFUSED;
    case S3StatusErrorInvalidRange: return ERR_LIMIT;
    case S3StatusErrorSlowDown: return ERR_BUSY;
    case S3StatusErrorRequestTimeout:
    case S3StatusInterrupted: return ERR_TIMEOUT;
    default: return ERR_UPSTREAM;
    }
}

static bool worth_another_try(S3Status status)
{
    switch (kind_of(status)) {
    case ERR_BUSY:
    case ERR_TIMEOUT: return true;
    case ERR_UPSTREAM: break;
    default: return false;
    }
    /* The library's own complaints about what it was given; the others may pass. */
    return status < S3StatusInvalidBucketNameTooLong || status > S3StatusXmlDocumentTooLarge;
}

static int tell(const struct call *c, struct err *err)
{
    if (c->failed) {
        *err = c->err;
        return -1;
    }
    if (atomic_load(&c->s->stopped))
        return object_store_cancelled(err);
    if (c->status == S3StatusInterrupted)
        return err_set(err, ERR_TIMEOUT, "http://%s was silent for too long", c->s->host);
    return err_set(err, kind_of(c->status), "http://%s says %s%s%s", c->s->host,
                   S3_get_status_name(c->status), c->said[0] != '\0' ? ": " : "", c->said);
}

/* ---- callbacks ---- */

/* As in the contract: opaque, without the quotes that belong to HTTP. */
static void copy_etag(char out[OBJECT_ETAG_MAX], const char *etag)
{
    size_t len = strlen(etag);

    if (len >= 2 && etag[0] == '"' && etag[len - 1] == '"') {
        etag++;
        len -= 2;
    }
    if (len >= OBJECT_ETAG_MAX)
        len = OBJECT_ETAG_MAX - 1;
    memcpy(out, etag, len);
    out[len] = '\0';
}

static S3Status take_properties(const S3ResponseProperties *p, void *ctx)
{
    struct call *c = ctx;

    c->moved_ms = now_ms();
    c->info = (struct object_info){.size = p->contentLength, .modified = p->lastModified};
    if (p->eTag != NULL)
        copy_etag(c->info.etag, p->eTag);
    return S3StatusOK;
}

static void take_end(S3Status status, const S3ErrorDetails *details, void *ctx)
{
    struct call *c = ctx;

    c->status = status;
    c->said[0] = '\0';
    if (details != NULL && details->message != NULL)
        snprintf(c->said, sizeof(c->said), "%s", details->message);
}

static S3Status give_up(struct call *c)
{
    c->failed = true;
    return S3StatusAbortedByCallback;
}

static int give_data(int len, char *buf, void *ctx)
{
    struct call *c = ctx;
    ssize_t n = object_source_read(c->source, c->sent, buf, (size_t)len, &c->err);

    if (n < 0) {
        give_up(c);
        return -1;
    }
    c->moved_ms = now_ms();
    c->sent += (uint64_t)n;
    return (int)n;
}

/* The first answer says what the object is; those behind it are of ranges of that version. */
static S3Status take_get_properties(const S3ResponseProperties *p, void *ctx)
{
    struct call *c = ctx;

    take_properties(p, c);
    if (c->whole->etag[0] == '\0') {
        *c->whole = c->info;
        c->end = c->info.size;
    } else if (c->info.size != c->end - c->at) { /* all of it, perhaps */
        err_set(&c->err, ERR_UPSTREAM, "http://%s knows no ranges", c->s->host);
        return give_up(c);
    }
    return S3StatusOK;
}

static S3Status take_data(int len, const char *data, void *ctx)
{
    struct call *c = ctx;

    if ((uint64_t)len > c->end - c->at) {
        err_set(&c->err, ERR_UPSTREAM, "http://%s sent more than it said", c->s->host);
        return give_up(c);
    }
    if (c->fn(c->ctx, data, (size_t)len, &c->err) != 0)
        return give_up(c);
    c->at += (uint64_t)len;
    c->moved_ms = now_ms(); /* after the sink: it may be slow */
    return S3StatusOK;
}

/* The library reads a list's times, which are UTC, as local ones. */
static int64_t mend_time(int64_t read)
{
    time_t t = (time_t)read;
    struct tm parts;

    return localtime_r(&t, &parts) != NULL ? timegm(&parts) : read;
}

static S3Status take_listed(int truncated, const char *next, int count,
                            const S3ListBucketContent *contents, int common_count,
                            const char **common, void *ctx)
{
    struct call *c = ctx;

    (void)next; /* comes only with a delimiter */
    (void)common_count;
    (void)common;
    c->moved_ms = now_ms();
    c->more = truncated;
    for (int i = 0; i < count && c->page_count < PAGE_MAX; i++) {
        struct listed *at = &c->page[c->page_count++];

        at->key = xstrdup(contents[i].key);
        at->info = (struct object_info){.size = contents[i].size,
                                        .modified = mend_time(contents[i].lastModified)};
        copy_etag(at->info.etag, contents[i].eTag != NULL ? contents[i].eTag : "");
    }
    return S3StatusOK;
}

/* ---- requests ---- */

typedef void start_fn(struct call *c, S3RequestContext *context);

static void start_put(struct call *c, S3RequestContext *context)
{
    static const S3PutObjectHandler handler = {{take_properties, take_end}, give_data};
    S3PutProperties properties = {.contentType = c->content_type, .expires = -1};

    c->sent = 0;
    S3_put_object(&c->s->context, c->key, object_source_size(c->source), &properties, context,
                  &handler, c);
}

static void start_get(struct call *c, S3RequestContext *context)
{
    static const S3GetObjectHandler handler = {{take_get_properties, take_end}, take_data};
    S3GetConditions conditions = {.ifModifiedSince = -1, .ifNotModifiedSince = -1};
    char etag[OBJECT_ETAG_MAX + 2];

    if (c->whole->etag[0] != '\0') {
        snprintf(etag, sizeof(etag), "\"%s\"", c->whole->etag);
        conditions.ifMatchETag = etag;
    }
    S3_get_object(&c->s->context, c->key, &conditions, c->at, c->end - c->at, context, &handler, c);
}

static void start_head(struct call *c, S3RequestContext *context)
{
    static const S3ResponseHandler handler = {take_properties, take_end};

    S3_head_object(&c->s->context, c->key, context, &handler, c);
}

static void start_remove(struct call *c, S3RequestContext *context)
{
    static const S3ResponseHandler handler = {take_properties, take_end};

    S3_delete_object(&c->s->context, c->key, context, &handler, c);
}

static void page_clear(struct call *c)
{
    for (size_t i = 0; i < c->page_count; i++)
        free(c->page[i].key);
    c->page_count = 0;
}

static void start_list(struct call *c, S3RequestContext *context)
{
    static const S3ListBucketHandler handler = {{take_properties, take_end}, take_listed};

    page_clear(c);
    c->more = false;
    S3_list_bucket(&c->s->context, c->prefix, c->marker, NULL, PAGE_MAX, context, &handler, c);
}

/* ---- running them ---- */

/* Until there is something to do.  Descriptors beyond FD_SETSIZE can't be waited for by the
 * library's means, nor those that a name's lookup has: then look again soon. */
static void wait_for_news(S3RequestContext *context)
{
    enum { BLIND_MS = 1, NEWS_MS = 100 };
    int64_t wait_ms = S3_get_request_context_timeout(context);
    fd_set in, out, bad;
    int last = -1;
    struct timeval limit;

    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&bad);
    if (S3_get_request_context_fdsets(context, &in, &out, &bad, &last) != S3StatusOK)
        last = -1;
    if (wait_ms < 0 || wait_ms > NEWS_MS)
        wait_ms = NEWS_MS;
    if (last < 0 && wait_ms > BLIND_MS)
        wait_ms = BLIND_MS;
    limit = (struct timeval){.tv_usec = wait_ms * 1000};
    select(last + 1, &in, &out, &bad, &limit);
}

static pthread_once_t initialised = PTHREAD_ONCE_INIT;
static S3Status initialised_how;
/* It dates a request by gmtime(), whose result is one for all threads. */
static struct lock making_request;

/* Its state is global, and its own counting of who uses it knows no threads: it stays for good. */
static void initialise(void)
{
    lock_init(&making_request, LOCK_LIBS3);
    initialised_how = S3_initialize("pannier", S3_INIT_ALL, S3_DEFAULT_HOSTNAME);
}

/* Once.  c->status says how it went. */
static void run(struct call *c, start_fn *start)
{
    S3RequestContext *context;
    int running = 1;

    c->status = S3_create_request_context(&context);
    if (c->status != S3StatusOK)
        return;
    c->moved_ms = now_ms();
    c->status = S3StatusInternalError;
    lock_take(&making_request);
    start(c, context); /* nothing is sent yet */
    lock_drop(&making_request);
    while (S3_runonce_request_context(context, &running) == S3StatusOK && running > 0 &&
           now_ms() - c->moved_ms < c->s->stall_ms && !atomic_load(&c->s->stopped))
        wait_for_news(context);
    S3_destroy_request_context(context); /* what still runs ends as interrupted */
}

static void pause_ms(const struct libs3 *s, uint64_t ms)
{
    enum { LOOK_MS = 100 };

    while (ms > 0 && !atomic_load(&s->stopped)) {
        uint64_t now = ms < LOOK_MS ? ms : LOOK_MS;

        nanosleep(&(struct timespec){.tv_nsec = (long)now * 1000000}, NULL);
        ms -= now;
    }
}

/* With repetitions, until it went well, can't, or the deadline passed.  A get goes on where it was,
 * and has as long again after each byte. */
static int perform(struct call *c, start_fn *start, struct err *err)
{
    enum { PAUSE_MIN_MS = 50, PAUSE_MAX_MS = 5000 };
    uint64_t began_ms = now_ms(), span_ms = PAUSE_MIN_MS;

    for (;;) {
        uint64_t before = c->at;
        uint16_t jitter;

        run(c, start);
        if (c->status == S3StatusOK && !c->failed)
            return 0;
        if (c->at > before) {
            began_ms = c->moved_ms;
            span_ms = PAUSE_MIN_MS;
        }
        must(getrandom(&jitter, sizeof(jitter), 0) == sizeof(jitter));
        if (c->failed || atomic_load(&c->s->stopped) || !worth_another_try(c->status) ||
            now_ms() + span_ms >= began_ms + c->s->deadline_ms)
            return tell(c, err);
        pause_ms(c->s, span_ms / 2 + jitter % (span_ms / 2 + 1));
        span_ms = span_ms * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : span_ms * 2;
    }
}

static struct call call_of(const struct libs3 *s, const char *key)
{
    return (struct call){.s = s, .key = xasprintf("%s%s", s->prefix, key)};
}

/* ---- head, put ---- */

static int spool_open(struct err *err)
{
    /* Not /tmp, which may be memory. */
    const char *folder = getenv("TMPDIR");
    char *path = xasprintf("%s/pannier-XXXXXX", folder != NULL ? folder : "/var/tmp");
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0)
        err_errno(err, ERR_STORAGE, "create %s", path);
    else
        unlink(path);
    free(path);
    return fd;
}

static int write_all(int fd, const char *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "write to a temporary file");
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* All of the stream, into a file; out->fd is yours to close. */
static int spool(const struct libs3 *s, const struct object_source *stream,
                 struct object_source *out, struct err *err)
{
    char *buf = xmalloc(COPY_SIZE);
    ssize_t n = 0;
    int rc = 0;

    *out = (struct object_source){.fd = spool_open(err)};
    if (out->fd < 0)
        rc = -1;
    while (rc == 0 && (n = stream->read(stream->ctx, buf, COPY_SIZE, err)) != 0) {
        rc = n > 0 ? write_all(out->fd, buf, (size_t)n, err) : -1;
        if (rc == 0 && atomic_load(&s->stopped))
            rc = object_store_cancelled(err);
        out->size += n > 0 ? (uint64_t)n : 0;
        if (rc == 0 && out->size > SINGLE_PUT_MAX)
            break; /* put_file() says what is wrong with that */
    }
    if (rc != 0 && out->fd >= 0)
        close(out->fd);
    free(buf);
    return rc;
}

static int libs3_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    struct call c = call_of(self, key);
    int rc = perform(&c, start_head, err);

    *out = c.info;
    free(c.key);
    return rc;
}

static int put_file(struct libs3 *s, const char *key, const struct object_source *source,
                    const struct object_put_options *options, struct object_info *out,
                    struct err *err)
{
    struct call c;
    int rc;

    if (object_source_size(source) > SINGLE_PUT_MAX)
        return err_set(err, ERR_REFUSED,
                       "libs3 has no multipart uploads, so an object has 5 GiB at most");
    c = call_of(s, key);
    c.source = source;
    c.content_type = options->content_type;
    rc = perform(&c, start_put, err);
    /* The library takes "100 Continue" for the answer, which has no etag. */
    if (rc == 0)
        rc = libs3_head(s, key, out, err);
    free(c.key);
    return rc;
}

static int libs3_put(void *self, const char *key, const struct object_source *source,
                     const struct object_put_options *options, struct object_info *out,
                     struct err *err)
{
    struct object_source file;
    int rc;

    if (source->fd >= 0)
        return put_file(self, key, source, options, out, err);
    if (spool(self, source, &file, err) != 0)
        return -1;
    rc = put_file(self, key, &file, options, out, err);
    close(file.fd);
    return rc;
}

/* ---- get, list, remove ---- */

static int libs3_get(void *self, const char *key, uint64_t offset, uint64_t length,
                     struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct call c;
    bool all = offset == 0 && length == UINT64_MAX;
    int rc = 0;

    /* The library doesn't pass on how long the object is that a range is of. */
    *info = (struct object_info){0};
    if (!all && libs3_head(self, key, info, err) != 0)
        return -1;
    if (offset > 0 && offset >= info->size)
        return err_set(err, ERR_LIMIT, "the range begins behind the end of %s", key);
    if (!all && length > info->size - offset)
        length = info->size - offset;
    if (length == 0)
        return 0;
    c = call_of(self, key);
    c.fn = fn;
    c.ctx = ctx;
    c.whole = info;
    c.at = offset;
    c.end = all ? 0 : offset + length;
    rc = perform(&c, start_get, err);
    if (rc == 0 && c.at != c.end)
        rc = err_set(err, ERR_UPSTREAM, "http://%s sent less than it said", c.s->host);
    free(c.key);
    return rc;
}

/* True: enough for fn. */
static bool hand_on_page(const struct call *c, const char *prefix, object_list_fn *fn, void *ctx)
{
    bool enough = false;

    for (size_t i = 0; !enough && i < c->page_count; i++) {
        const char *key = object_listed_key(c->page[i].key, c->s->prefix, prefix);

        enough = key != NULL && fn(ctx, key, &c->page[i].info) != 0;
    }
    return enough;
}

static int libs3_list(void *self, const char *prefix, object_list_fn *fn, void *ctx,
                      struct err *err)
{
    struct call c = call_of(self, prefix);
    char *marker = NULL;
    int rc;

    c.prefix = c.key;
    c.page = xcalloc(PAGE_MAX, sizeof(*c.page));
    for (;;) {
        const char *last;

        c.marker = marker;
        rc = perform(&c, start_list, err);
        if (rc != 0 || hand_on_page(&c, prefix, fn, ctx) || !c.more || c.page_count == 0)
            break;
        last = c.page[c.page_count - 1].key;
        if (marker != NULL && strcmp(last, marker) == 0) { /* it would go on for ever */
            rc = err_set(err, ERR_UPSTREAM, "http://%s: a page of a list brings nothing new",
                         c.s->host);
            break;
        }
        free(marker);
        marker = xstrdup(last);
    }
    page_clear(&c);
    free(marker);
    free(c.page);
    free(c.key);
    return rc;
}

static int libs3_remove(void *self, const char *key, struct err *err)
{
    struct call c = call_of(self, key);
    int rc = perform(&c, start_remove, err);

    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        rc = 0;
    free(c.key);
    return rc;
}

/* ---- the store ---- */

static void libs3_stop(void *self)
{
    struct libs3 *s = self;

    atomic_store(&s->stopped, true);
}

static void libs3_free(void *self)
{
    struct libs3 *s = self;

    free(s->host);
    free(s->bucket);
    free(s->prefix);
    free(s->access_key);
    free(s->secret_key);
    free(s);
}

/* What is asked for that it can't do; NULL: nothing. */
static const char *lacking(const struct object_store_config *c)
{
    if (strncmp(c->endpoint, "http://", 7) != 0)
        return "it doesn't check certificates, so only http is to be had";
    if (c->session_token != NULL)
        return "it has no session tokens";
    if (c->credentials_file != NULL)
        return "it reads no file with credentials";
    if (c->server_side_encryption != NULL || c->kms_key != NULL)
        return "it has no server-side encryption";
    if (strlen(c->endpoint) - 7 > S3_MAX_HOSTNAME_SIZE)
        return "the name of the host is too long for it";
    return NULL;
}

static char *key_or_env(const char *configured, const char *name)
{
    const char *found = configured != NULL ? configured : getenv(name);

    return found != NULL ? xstrdup(found) : NULL;
}

static struct libs3 *libs3_new(const struct object_store_config *config)
{
    struct libs3 *s = xcalloc(1, sizeof(*s));

    s->host = xstrdup(config->endpoint + strlen("http://"));
    s->bucket = xstrdup(config->bucket);
    s->prefix = xstrdup(config->prefix != NULL ? config->prefix : "");
    s->access_key = key_or_env(config->access_key, "AWS_ACCESS_KEY_ID");
    s->secret_key = key_or_env(config->secret_key, "AWS_SECRET_ACCESS_KEY");
    s->stall_ms = config->stall_timeout_ms > 0 ? config->stall_timeout_ms : STALL_DEFAULT_MS;
    s->deadline_ms = config->deadline_ms > 0 ? config->deadline_ms : DEADLINE_DEFAULT_MS;
    s->context = (S3BucketContext){
        .hostName = s->host,
        .bucketName = s->bucket,
        .protocol = S3ProtocolHTTP,
        .uriStyle = config->virtual_host ? S3UriStyleVirtualHost : S3UriStylePath,
        .accessKeyId = s->access_key,
        .secretAccessKey = s->secret_key,
    };
    return s;
}

int object_store_open_libs3(const struct object_store_config *config, struct object_store **out,
                            struct err *err)
{
    static const struct object_driver driver = {
        .put = libs3_put,
        .get = libs3_get,
        .head = libs3_head,
        .list = libs3_list,
        .remove = libs3_remove,
        .stop = libs3_stop,
        .free = libs3_free,
    };
    const char *lacks = lacking(config);
    struct libs3 *s;
    char *name;

    if (lacks != NULL)
        return err_set(err, ERR_REFUSED, "libs3 can't be used here: %s; use the driver s3", lacks);
    pthread_once(&initialised, initialise);
    if (initialised_how != S3StatusOK)
        return err_set(err, ERR_REFUSED, "libs3 does not start: %s",
                       S3_get_status_name(initialised_how));
    s = libs3_new(config);
    if (s->access_key == NULL || s->secret_key == NULL) {
        libs3_free(s);
        return err_set(err, ERR_INPUT,
                       "libs3 needs an access key and a secret key, from the settings or in "
                       "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    }
    name = xasprintf("libs3 %s/%s%s%s", config->endpoint, s->bucket,
                     s->prefix[0] != '\0' ? "/" : "", s->prefix);
    *out = object_store_new(&driver, s, name);
    free(name);
    return 0;
}

#endif
