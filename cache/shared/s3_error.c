#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/shared/s3.h"
#include "protocol/base.h"
#include "protocol/s3_xml.h"

enum {
    SKEW_MAX_S = 15 * 60, /* endpoints refuse signatures that are older or younger */
    MESSAGE_MAX = 160,
};

struct refusal {
    char code[S3_CODE_MAX];
    char message[MESSAGE_MAX];
    char region[HTTP_WORD_MAX];
};

/* Words of others go into our logs: printable ones only. */
static void copy_printable(char *out, size_t size, const char *text)
{
    size_t n = 0;

    for (; text[n] != '\0' && n + 1 < size; n++)
        out[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
    out[n] = '\0';
}

static int take_element(void *ctx, const char *path, const char *text)
{
    struct refusal *r = ctx;

    if (strcmp(path, "Error/Code") == 0)
        copy_printable(r->code, sizeof(r->code), text);
    else if (strcmp(path, "Error/Message") == 0)
        copy_printable(r->message, sizeof(r->message), text);
    else if (strcmp(path, "Error/Region") == 0)
        copy_printable(r->region, sizeof(r->region), text);
    return 0;
}

static const struct meaning {
    const char *code; /* NULL: any, of this status */
    int status;       /* 0: any */
    enum err_kind kind;
    bool again;
    const char *sentence;
} meanings[] = {
    {"NoSuchKey", 0, ERR_NOT_FOUND, false, "there is no such object"},
    {"NoSuchBucket", 0, ERR_REFUSED, false, "there is no such bucket"},
    {"InvalidBucketName", 0, ERR_REFUSED, false, "no bucket can have this name"},
    {"InvalidAccessKeyId", 0, ERR_DENIED, false, "it does not know the access key"},
    {"SignatureDoesNotMatch", 0, ERR_DENIED, false,
     "the secret key is not the access key's (the signature does not match)"},
    {"ExpiredToken", 0, ERR_DENIED, false, "the session token has expired"},
    {"TokenRefreshRequired", 0, ERR_DENIED, false, "the session token has expired"},
    {"InvalidToken", 0, ERR_DENIED, false, "the session token is not valid"},
    {"AccessDenied", 0, ERR_DENIED, false, "the keys have no right to this"},
    {"QuotaExceeded", 0, ERR_REFUSED, false, "the bucket's quota is used up"},
    {"EntityTooLarge", 0, ERR_REFUSED, false, "the object is too large for it"},
    {"PreconditionFailed", 0, ERR_CONFLICT, false, "another version of the object is there"},
    {"ConditionalRequestConflict", 0, ERR_CONFLICT, true, "somebody else writes the object"},
    {"OperationAborted", 0, ERR_CONFLICT, true, "somebody else writes the object"},
    {"InvalidRange", 0, ERR_LIMIT, false, "the range begins behind the object's end"},
    {"SlowDown", 0, ERR_BUSY, true, "it asks to slow down"},
    {"RequestTimeout", 0, ERR_UPSTREAM, true, "it waited too long for what was sent"},
    {"BadDigest", 0, ERR_UPSTREAM, true, "what was sent was damaged on its way"},
    {"XAmzContentSHA256Mismatch", 0, ERR_UPSTREAM, true, "what was sent was damaged on its way"},
    {"IncompleteBody", 0, ERR_UPSTREAM, true, "what was sent was cut on its way"},
    {"NotImplemented", 0, ERR_REFUSED, false, "it can't do this"},
    {NULL, 401, ERR_DENIED, false, "it refuses the keys"},
    {NULL, 403, ERR_DENIED, false, "it refuses the keys, or they have no right to this"},
    {NULL, 404, ERR_NOT_FOUND, false, "there is no such object"},
    {NULL, 409, ERR_CONFLICT, false, "another version of the object is there"},
    {NULL, 412, ERR_CONFLICT, false, "another version of the object is there"},
    {NULL, 416, ERR_LIMIT, false, "the range begins behind the object's end"},
    {NULL, 429, ERR_BUSY, true, "it asks to slow down"},
    {NULL, 500, ERR_UPSTREAM, true, "it failed"},
    {NULL, 501, ERR_REFUSED, false, "it can't do this"},
    {NULL, 502, ERR_UPSTREAM, true, "it failed"},
    {NULL, 503, ERR_BUSY, true, "it asks to slow down"},
    {NULL, 504, ERR_UPSTREAM, true, "it failed"},
};

static const struct meaning *find_meaning(const char *code, int status)
{
    static const struct meaning other = {NULL, 0, ERR_UPSTREAM, false,
                                         "its answer makes no sense here"};

    for (size_t i = 0; i < ARRAY_LEN(meanings); i++) {
        const struct meaning *m = &meanings[i];

        if (m->code != NULL ? strcmp(m->code, code) == 0 : m->status == status)
            return m;
    }
    return &other;
}

/* Seconds that the endpoint's clock is ahead. */
static int64_t skew_of(const struct http_reply *r, int64_t now)
{
    return r->has_date ? r->date - now : 0;
}

/* The bucket is in another region, or another endpoint's. */
static bool leads_away(const struct refusal *f, int status)
{
    return (status >= 300 && status < 400) || strcmp(f->code, "PermanentRedirect") == 0 ||
           strcmp(f->code, "AuthorizationHeaderMalformed") == 0 ||
           strcmp(f->code, "IllegalLocationConstraintException") == 0;
}

static int explain_region(const struct s3 *s, const struct http_reply *r, const struct refusal *f,
                          struct err *err)
{
    char region[HTTP_WORD_MAX];

    copy_printable(region, sizeof(region), r->region[0] != '\0' ? r->region : f->region);
    if (region[0] != '\0' && strcmp(region, s->region) != 0)
        return err_set(err, ERR_REFUSED, "s3 %s, bucket %s: it is in region %s, not in %s",
                       s->endpoint, s->bucket, region, s->region);
    return err_set(err, ERR_REFUSED, "s3 %s, bucket %s: it is not to be had at this endpoint (%s)",
                   s->endpoint, s->bucket, f->code[0] != '\0' ? f->code : "a redirect");
}

/* The clock first: many endpoints only say that access is denied. */
static bool explain_skew(const struct s3 *s, const struct s3_answer *a, int64_t now,
                         struct err *err)
{
    int64_t skew = skew_of(&a->reply, now);
    bool far = llabs(skew) > SKEW_MAX_S;

    if (strcmp(a->code, "RequestTimeTooSkewed") != 0 &&
        !(far && (a->reply.status == 403 || a->reply.status == 401)))
        return false;
    if (far)
        err_set(err, ERR_DENIED,
                "s3 %s: the clocks differ: this machine's is %" PRId64 " s %s the endpoint's",
                s->endpoint, (int64_t)llabs(skew), skew > 0 ? "behind" : "ahead of");
    else
        err_set(err, ERR_DENIED, "s3 %s: it says that this machine's clock is wrong", s->endpoint);
    return true;
}

enum s3_verdict s3_judge(struct s3 *s, const struct s3_ask *ask, struct s3_answer *a,
                         struct err *err)
{
    struct refusal f = {.code = ""};
    struct err unread;
    const struct meaning *m;

    /* What is no XML, as some proxies' pages, still has its status. */
    s3_xml_walk(a->reply.body.data != NULL ? a->reply.body.data : "", a->reply.body.len,
                take_element, &f, &unread);
    memcpy(a->code, f.code, sizeof(a->code));
    if (strcmp(f.code, "NoSuchKey") == 0)
        atomic_store(&s->bucket_seen, true);
    if (explain_skew(s, a, time(NULL), err))
        return S3_FAILED;
    if (leads_away(&f, a->reply.status)) {
        explain_region(s, &a->reply, &f, err);
        return S3_FAILED;
    }
    m = find_meaning(f.code, a->reply.status);
    err_set(err, m->kind, "s3 %s, bucket %s%s%s: %s (%s %d%s%s%s%s)", s->endpoint, s->bucket,
            ask->key != NULL ? ", " : "", ask->key != NULL ? ask->key : "", m->sentence,
            ask->method, a->reply.status, f.code[0] != '\0' ? " " : "", f.code,
            m->code == NULL && f.message[0] != '\0' ? ": " : "", m->code == NULL ? f.message : "");
    return m->again ? S3_AGAIN : S3_FAILED;
}
