#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cache/lock.h"
#include "cache/shared/s3.h"
#include "protocol/base.h"
#include "protocol/s3_xml.h"

enum {
    SINGLE_MAX = 64 * 1024 * 1024, /* a longer file goes in parts */
    PART_SIZE = 16 * 1024 * 1024,  /* and a stream that is longer than one */
    PARTS_MAX = 10000,             /* the protocol's */
    UPLOAD_ID_MAX = 2048,
    /* What is left behind costs somebody money, so there is as much time for it at the end. */
    ABORT_GRACE_MS = 3000,
    NUMBER_SIZE = 16,
    PART_XML_MAX = 256,
};

/* One put: its condition, and the mark that tells our version from another's when an answer was
 * lost on its way. */
struct put {
    struct s3 *s;
    const char *key;
    const struct object_put_options *options;
    char mark[S3_MARK_SIZE];
    char if_match[OBJECT_ETAG_MAX + 2];
    bool bare; /* without quotes */
};

static void put_init(struct put *p, struct s3 *s, const char *key,
                     const struct object_put_options *options)
{
    uint8_t raw[(S3_MARK_SIZE - 1) / 2];

    *p = (struct put){.s = s, .key = key, .options = options, .bare = atomic_load(&s->bare_etags)};
    must(getrandom(raw, sizeof(raw), 0) == sizeof(raw));
    hex_encode(raw, sizeof(raw), p->mark);
}

static bool has_condition(const struct put *p)
{
    return p->options->only_new || p->options->if_match != NULL;
}

static void add_condition(struct put *p, struct s3_ask *ask)
{
    const char *quote = p->bare ? "" : "\"";

    if (p->options->only_new)
        s3_ask_header(ask, "if-none-match", "*");
    if (p->options->if_match == NULL)
        return;
    snprintf(p->if_match, sizeof(p->if_match), "%s%s%s", quote, p->options->if_match, quote);
    s3_ask_header(ask, "if-match", p->if_match);
}

/* What the object is to have, when it appears. */
static void add_properties(struct put *p, struct s3_ask *ask)
{
    s3_ask_header(ask, "content-type",
                  p->options->content_type != NULL ? p->options->content_type
                                                   : "application/octet-stream");
    s3_ask_header(ask, "x-amz-server-side-encryption", p->s->server_side_encryption);
    s3_ask_header(ask, "x-amz-server-side-encryption-aws-kms-key-id", p->s->kms_key);
    s3_ask_header(ask, "x-amz-meta-pannier-mark", p->mark);
}

/* True: the object that is there is ours, although an answer said otherwise or was lost. */
static bool is_ours(struct put *p, struct object_info *out)
{
    char mark[HTTP_WORD_MAX];
    struct object_info info;
    struct err unread;

    if (s3_head_mark(p->s, p->key, &info, mark, &unread) != 0 || strcmp(mark, p->mark) != 0)
        return false;
    *out = info;
    return true;
}

/* An endpoint that says 501 to a condition says so each time, while the same put without one would
 * do: whoever puts has to know. */
static void learn_of_conditions(struct put *p, const struct s3_answer *a, struct err *err)
{
    if (!has_condition(p) || a->reply.status != 501)
        return;
    atomic_store(&p->s->no_conditions, true);
    err_set(err, ERR_REFUSED, "s3 %s, bucket %s, %s: it has no conditional writes (501 %s)",
            p->s->endpoint, p->s->bucket, p->key, a->code);
}

bool s3_lacks_conditions(void *self)
{
    const struct s3 *s = self;

    return atomic_load(&s->no_conditions);
}

/* ---- in one request ---- */

static int try_single(struct put *p, const struct http_body *body, struct object_info *out,
                      struct err *err)
{
    struct s3_ask ask = {.method = "PUT", .key = p->key, .body = *body};
    struct s3_answer a;
    int rc;

    add_properties(p, &ask);
    add_condition(p, &ask);
    s3_answer_init(&a);
    rc = s3_ask(p->s, &ask, &a, err);
    if (rc == 0) {
        *out = (struct object_info){.size = body->size, .modified = a.reply.date};
        s3_copy_etag(a.reply.etag, out->etag);
    } else if (p->options->if_match != NULL && err->kind == ERR_NOT_FOUND) {
        err->kind = ERR_CONFLICT; /* the version that was to be replaced is gone */
    }
    if (rc != 0)
        learn_of_conditions(p, &a, err);
    if (rc != 0 && a.unsure && err->kind == ERR_CONFLICT && is_ours(p, out))
        rc = 0;
    s3_answer_clear(&a);
    return rc;
}

/* Ceph RGW compares what stands between the quotes with all of If-Match, so that a quoted one never
 * holds there; an unquoted one never holds where the standard is kept.  So the second form is
 * tried, too, before a condition counts as broken; what worked is remembered. */
static int put_single(struct put *p, const struct http_body *body, struct object_info *out,
                      struct err *err)
{
    struct err second;

    if (try_single(p, body, out, err) == 0)
        return 0;
    if (p->options->if_match == NULL || err->kind != ERR_CONFLICT)
        return -1;
    p->bare = !p->bare;
    if (try_single(p, body, out, &second) != 0)
        return -1;
    atomic_store(&p->s->bare_etags, p->bare);
    return 0;
}

/* ---- in parts ---- */

struct upload {
    struct put *put;
    char id[UPLOAD_ID_MAX];
    const struct object_source *source; /* of a file */
    uint64_t size;                      /* of the object that it makes */
    uint64_t part_size;
    unsigned part_count;
    char (*etags)[OBJECT_ETAG_MAX]; /* of each part */
    struct lock lock;
    unsigned next;
    bool failed;
    struct err err;
    atomic_bool stop;
};

static int take_id(void *ctx, const char *path, const char *text)
{
    struct upload *u = ctx;

    if (strcmp(path, "InitiateMultipartUploadResult/UploadId") == 0 && strlen(text) < sizeof(u->id))
        strcpy(u->id, text);
    return 0;
}

static int begin_upload(struct upload *u, struct err *err)
{
    struct put *p = u->put;
    struct s3_ask ask = {.method = "POST", .key = p->key};
    struct s3_answer a;
    int rc;

    s3_ask_query(&ask, "uploads", "");
    add_properties(p, &ask);
    s3_answer_init(&a);
    rc = s3_ask(p->s, &ask, &a, err);
    if (rc == 0)
        rc = s3_xml_walk(a.reply.body.data, a.reply.body.len, take_id, u, err);
    if (rc == 0 && u->id[0] == '\0')
        rc = err_set(err, ERR_UPSTREAM, "%s gave no id for an upload", p->s->endpoint);
    s3_answer_clear(&a);
    return rc;
}

/* Number from 0. */
static int send_part(struct upload *u, unsigned number, const struct http_body *body,
                     struct err *err)
{
    struct s3_ask ask = {.method = "PUT", .key = u->put->key, .body = *body, .stop = &u->stop};
    char text[NUMBER_SIZE];
    struct s3_answer a;
    int rc;

    snprintf(text, sizeof(text), "%u", number + 1);
    s3_ask_query(&ask, "partNumber", text);
    s3_ask_query(&ask, "uploadId", u->id);
    s3_answer_init(&a);
    rc = s3_ask(u->put->s, &ask, &a, err);
    if (rc == 0 && a.reply.etag[0] == '\0')
        rc = err_set(err, ERR_UPSTREAM, "%s gave no etag for a part", u->put->s->endpoint);
    if (rc == 0)
        s3_copy_etag(a.reply.etag, u->etags[number]);
    s3_answer_clear(&a);
    return rc;
}

static bool take_part(struct upload *u, unsigned *number)
{
    bool got;

    lock_take(&u->lock);
    got = !u->failed && u->next < u->part_count;
    if (got)
        *number = u->next++;
    lock_drop(&u->lock);
    return got;
}

static void *send_parts(void *ctx)
{
    struct upload *u = ctx;
    unsigned number;
    struct err err;

    while (take_part(u, &number)) {
        uint64_t at = number * u->part_size, left = u->size - at;
        struct http_body body = {
            .source = u->source, .offset = at, .size = left < u->part_size ? left : u->part_size};

        if (send_part(u, number, &body, &err) == 0)
            continue;
        lock_take(&u->lock);
        if (!u->failed)
            u->err = err; /* the first one's: others were stopped for it */
        u->failed = true;
        lock_drop(&u->lock);
        atomic_store(&u->stop, true);
    }
    return NULL;
}

/* This thread and others.  Fewer, if the system gives no more. */
static void send_parts_at_once(struct upload *u, unsigned parallel)
{
    pthread_t threads[S3_PARALLEL_MAX];
    unsigned count = 0;

    while (count + 1 < parallel && count + 1 < u->part_count &&
           pthread_create(&threads[count], NULL, send_parts, u) == 0)
        count++;
    send_parts(u);
    for (unsigned i = 0; i < count; i++)
        must(pthread_join(threads[i], NULL) == 0);
}

struct completed {
    char etag[OBJECT_ETAG_MAX];
    char code[S3_CODE_MAX];
};

static int take_completed(void *ctx, const char *path, const char *text)
{
    struct completed *c = ctx;

    if (strcmp(path, "CompleteMultipartUploadResult/ETag") == 0 && strlen(text) < OBJECT_ETAG_MAX)
        s3_copy_etag(text, c->etag);
    else if (strcmp(path, "Error/Code") == 0)
        snprintf(c->code, sizeof(c->code), "%s", text);
    return 0;
}

/* A Complete may fail in the body of a 200, as its head goes out before the work is done. */
static enum s3_verdict read_completed(struct put *p, const struct s3_ask *ask, struct s3_answer *a,
                                      struct completed *c, struct err *err)
{
    *c = (struct completed){.etag = ""};
    if (s3_xml_walk(a->reply.body.data != NULL ? a->reply.body.data : "", a->reply.body.len,
                    take_completed, c, err) != 0) {
        err_prefix(err, "%s", p->s->endpoint);
        return S3_FAILED;
    }
    if (c->code[0] == '\0' && c->etag[0] != '\0')
        return S3_DONE;
    a->reply.status = 500;
    return s3_judge(p->s, ask, a, err);
}

static int ask_to_complete(struct put *p, struct s3_ask *ask, struct s3_answer *a,
                           struct completed *c, struct err *err)
{
    struct s3_patience patience;

    s3_patience_init(&patience, p->s, NULL);
    for (;;) {
        enum s3_verdict verdict;

        if (s3_ask(p->s, ask, a, err) != 0)
            return -1;
        verdict = read_completed(p, ask, a, c, err);
        if (verdict == S3_DONE)
            return 0;
        a->unsure = true;
        patience.tries++;
        if (verdict == S3_FAILED || !s3_patience_wait(&patience, &a->reply, err))
            return -1;
    }
}

static char *list_parts(const struct upload *u, size_t *len)
{
    struct bytes b;

    bytes_init(&b, (size_t)PARTS_MAX * PART_XML_MAX);
    must(bytes_add_str(&b, "<CompleteMultipartUpload>") == 0);
    for (unsigned i = 0; i < u->part_count; i++)
        must(bytes_addf(&b, "<Part><PartNumber>%u</PartNumber><ETag>\"%s\"</ETag></Part>", i + 1,
                        u->etags[i]) == 0);
    must(bytes_add_str(&b, "</CompleteMultipartUpload>") == 0);
    return bytes_take(&b, len);
}

/* Servers that ignore a condition on Complete exist (Ceph RGW), so look first; between the look and
 * the Complete another's object may be lost there.  Who can't bear that puts small objects. */
static int check_condition(struct put *p, struct err *err)
{
    struct object_info info;
    int rc;

    if (!has_condition(p))
        return 0;
    rc = s3_head(p->s, p->key, &info, err);
    if (rc != 0 && err->kind != ERR_NOT_FOUND)
        return -1;
    if (p->options->only_new)
        return rc != 0 ? 0
                       : err_set(err, ERR_CONFLICT, "s3 %s, bucket %s, %s: there is one already",
                                 p->s->endpoint, p->s->bucket, p->key);
    return rc == 0 && strcmp(info.etag, p->options->if_match) == 0
               ? 0
               : err_set(err, ERR_CONFLICT, "s3 %s, bucket %s, %s: another version is there",
                         p->s->endpoint, p->s->bucket, p->key);
}

static int complete_upload(struct upload *u, uint64_t size, struct object_info *out,
                           struct err *err)
{
    struct put *p = u->put;
    struct s3_ask ask = {.method = "POST", .key = p->key};
    struct completed c;
    struct s3_answer a;
    size_t len;
    char *list;
    int rc;

    if (check_condition(p, err) != 0)
        return -1;
    list = list_parts(u, &len);
    ask.body.data = list;
    ask.body.size = len;
    s3_ask_query(&ask, "uploadId", u->id);
    add_condition(p, &ask);
    s3_answer_init(&a);
    rc = ask_to_complete(p, &ask, &a, &c, err);
    if (rc == 0) {
        *out = (struct object_info){.size = size, .modified = a.reply.date};
        memcpy(out->etag, c.etag, sizeof(c.etag));
    } else if (a.unsure && is_ours(p, out)) {
        rc = 0;
    } else {
        learn_of_conditions(p, &a, err);
    }
    s3_answer_clear(&a);
    free(list);
    return rc;
}

/* Nothing half is left.  If even this can't be sent, the parts stay until the bucket's rule for
 * incomplete uploads sweeps them; nobody sees them. */
static void abort_upload(struct upload *u)
{
    struct s3_ask ask = {.method = "DELETE", .key = u->put->key, .grace_ms = ABORT_GRACE_MS};
    struct s3_answer a;
    struct err unread;

    if (u->id[0] == '\0')
        return;
    s3_ask_query(&ask, "uploadId", u->id);
    s3_answer_init(&a);
    s3_ask(u->put->s, &ask, &a, &unread);
    s3_answer_clear(&a);
}

static struct upload *upload_new(struct put *p, unsigned part_count)
{
    struct upload *u = xcalloc(1, sizeof(*u));

    u->put = p;
    u->part_count = part_count;
    u->etags = xcalloc(part_count, sizeof(*u->etags));
    lock_init(&u->lock, LOCK_S3_TRANSFER);
    return u;
}

static void upload_free(struct upload *u)
{
    lock_clear(&u->lock);
    free(u->etags);
    free(u);
}

static int put_file_in_parts(struct put *p, const struct object_source *source,
                             struct object_info *out, struct err *err)
{
    uint64_t part_size = PART_SIZE, size = object_source_size(source);
    struct upload *u;
    int rc;

    while ((size + part_size - 1) / part_size > PARTS_MAX)
        part_size *= 2;
    u = upload_new(p, (unsigned)((size + part_size - 1) / part_size));
    u->source = source;
    u->size = size;
    u->part_size = part_size;
    rc = begin_upload(u, err);
    if (rc == 0) {
        send_parts_at_once(u, p->s->parallel);
        if (u->failed) {
            *err = u->err;
            rc = -1;
        }
    }
    if (rc == 0)
        rc = complete_upload(u, size, out, err);
    if (rc != 0)
        abort_upload(u);
    upload_free(u);
    return rc;
}

/* ---- streams ---- */

/* Fill buf; *len < PART_SIZE: that was the end. */
static int gather(const struct object_source *source, char *buf, size_t *len, struct err *err)
{
    for (*len = 0; *len < PART_SIZE;) {
        ssize_t n = source->read(source->ctx, buf + *len, PART_SIZE - *len, err);

        if (n < 0)
            return -1;
        if (n == 0)
            return 0;
        *len += (size_t)n;
    }
    return 0;
}

/* buf is full of the first part. */
static int send_stream(struct upload *u, const struct object_source *source, char *buf,
                       uint64_t *size, struct err *err)
{
    size_t len = PART_SIZE;

    for (unsigned number = 0; len > 0; number++) {
        struct http_body body = {.data = buf, .size = len};

        if (number == PARTS_MAX)
            return err_set(err, ERR_REFUSED, "an S3 object in %d parts is as long as can be",
                           PARTS_MAX);
        if (send_part(u, number, &body, err) != 0)
            return -1;
        u->part_count = number + 1;
        *size += len;
        if (len < PART_SIZE)
            return 0;
        if (gather(source, buf, &len, err) != 0)
            return -1;
    }
    return 0;
}

static int put_stream_in_parts(struct put *p, const struct object_source *source, char *buf,
                               struct object_info *out, struct err *err)
{
    struct upload *u = upload_new(p, PARTS_MAX);
    uint64_t size = 0;
    int rc = begin_upload(u, err);

    if (rc == 0)
        rc = send_stream(u, source, buf, &size, err);
    if (rc == 0)
        rc = complete_upload(u, size, out, err);
    if (rc != 0)
        abort_upload(u);
    upload_free(u);
    return rc;
}

static int put_stream(struct put *p, const struct object_source *source, struct object_info *out,
                      struct err *err)
{
    char *buf = xmalloc(PART_SIZE);
    size_t len;
    int rc = gather(source, buf, &len, err);

    if (rc == 0 && len < PART_SIZE)
        rc = put_single(p, &(struct http_body){.data = buf, .size = len}, out, err);
    else if (rc == 0)
        rc = put_stream_in_parts(p, source, buf, out, err);
    free(buf);
    return rc;
}

int s3_put(void *self, const char *key, const struct object_source *source,
           const struct object_put_options *options, struct object_info *out, struct err *err)
{
    struct put p;

    put_init(&p, self, key, options);
    if (options->if_match != NULL && strlen(options->if_match) >= OBJECT_ETAG_MAX)
        return err_set(err, ERR_CONFLICT, "no object has an etag that long");
    if (source->fd < 0)
        return put_stream(&p, source, out, err);
    if (object_source_size(source) > SINGLE_MAX)
        return put_file_in_parts(&p, source, out, err);
    return put_single(&p, &(struct http_body){.source = source, .size = object_source_size(source)},
                      out, err);
}
