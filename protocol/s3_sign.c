#include "protocol/s3_sign.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

enum {
    CANONICAL_MAX = 256 * 1024, /* far above what any server takes; ours to keep */
    DAY_SIZE = 8,               /* of "20130524" */
};

static const char ALGORITHM[] = "AWS4-HMAC-SHA256";

/* Days since 1970 as a date (Howard Hinnant's civil_from_days): gmtime() is the clock's. */
static void write_time(int64_t now, char out[S3_TIME_SIZE])
{
    int64_t days = now / 86400, rest = now % 86400;
    int64_t z = days + 719468;
    int64_t era = z / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    int64_t month = mp < 10 ? mp + 3 : mp - 9;
    char text[64];

    must(now >= 0 && days < 2932897); /* the year 10000 */
    snprintf(text, sizeof(text), "%04d%02d%02dT%02d%02d%02dZ",
             (int)(yoe + era * 400 + (month <= 2)), (int)month, (int)(doy - (153 * mp + 2) / 5 + 1),
             (int)(rest / 3600), (int)(rest / 60 % 60), (int)(rest % 60));
    memcpy(out, text, S3_TIME_SIZE);
}

void s3_signer_init(struct s3_signer *s, const struct s3_keys *keys, const char *region,
                    const char *service, int64_t now)
{
    char *secret = xasprintf("AWS4%s", keys->secret_key);

    s->keys = *keys;
    s->region = region;
    s->service = service;
    write_time(now, s->time);
    key_hmac_text(secret, s->time, DAY_SIZE, &s->key);
    key_hmac(&s->key, region, strlen(region), &s->key);
    key_hmac(&s->key, service, strlen(service), &s->key);
    key_hmac(&s->key, "aws4_request", strlen("aws4_request"), &s->key);
    free(secret);
}

/* ---- escaping ---- */

static void add(struct bytes *b, const char *s)
{
    must(bytes_add_str(b, s) == 0);
}

static void add_escaped(struct bytes *b, const char *s, bool keep_slash)
{
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;

        if ((c < 128 && isalnum(c)) || strchr("-._~", c) != NULL || (c == '/' && keep_slash))
            must(bytes_add(b, s, 1) == 0);
        else
            must(bytes_addf(b, "%%%02X", c) == 0);
    }
}

struct pair {
    char *name, *value;
};

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order != 0 ? order : strcmp(x->value, y->value);
}

static char *escaped(const char *s)
{
    struct bytes b;

    bytes_init(&b, CANONICAL_MAX);
    add_escaped(&b, s, false);
    return bytes_take(&b, NULL);
}

/* Sorted by what is sent, that is escaped, and with a '=' even where no value is. */
static void add_query(struct bytes *b, const struct s3_field *query, size_t count)
{
    struct pair *pairs = xcalloc(count, sizeof(*pairs));

    for (size_t i = 0; i < count; i++) {
        pairs[i].name = escaped(query[i].name);
        pairs[i].value = escaped(query[i].value);
    }
    qsort(pairs, count, sizeof(*pairs), compare_pairs);
    for (size_t i = 0; i < count; i++) {
        must(bytes_addf(b, "%s%s=%s", i > 0 ? "&" : "", pairs[i].name, pairs[i].value) == 0);
        free(pairs[i].name);
        free(pairs[i].value);
    }
    free(pairs);
}

static void add_path(struct bytes *b, const struct s3_request *r)
{
    must(r->path[0] == '/');
    add_escaped(b, r->path, true);
}

char *s3_target(const struct s3_request *r)
{
    struct bytes b;

    bytes_init(&b, CANONICAL_MAX);
    add_path(&b, r);
    if (r->query_count > 0) {
        add(&b, "?");
        add_query(&b, r->query, r->query_count);
    }
    return bytes_take(&b, NULL);
}

/* ---- headers ---- */

static int compare_fields(const void *a, const void *b)
{
    const struct s3_field *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* Those of the request and `more`, sorted. */
static struct s3_field *sorted_headers(const struct s3_request *r, const struct s3_field *more,
                                       size_t more_count)
{
    struct s3_field *all = xcalloc(r->header_count + more_count, sizeof(*all));

    if (r->header_count > 0)
        memcpy(all, r->headers, r->header_count * sizeof(*all));
    memcpy(all + r->header_count, more, more_count * sizeof(*all));
    qsort(all, r->header_count + more_count, sizeof(*all), compare_fields);
    return all;
}

/* Without white space around it, and with one blank where there were several. */
static void add_trimmed(struct bytes *b, const char *value)
{
    bool blank = false, any = false;

    for (; *value != '\0'; value++) {
        if (*value == ' ' || *value == '\t') {
            blank = any;
            continue;
        }
        if (blank)
            add(b, " ");
        blank = false;
        any = true;
        must(bytes_add(b, value, 1) == 0);
    }
}

static char *names_of(const struct s3_field *headers, size_t count)
{
    struct bytes b;

    bytes_init(&b, CANONICAL_MAX);
    for (size_t i = 0; i < count; i++)
        must(bytes_addf(&b, "%s%s", i > 0 ? ";" : "", headers[i].name) == 0);
    return bytes_take(&b, NULL);
}

/* ---- the signature ---- */

/* "20130524/us-east-1/s3/aws4_request" */
static char *scope_of(const struct s3_signer *s)
{
    return xasprintf("%.*s/%s/%s/aws4_request", DAY_SIZE, s->time, s->region, s->service);
}

struct question {
    const struct s3_field *query;
    size_t query_count;
    const struct s3_field *headers; /* sorted */
    size_t header_count;
    const char *names; /* of them */
    const char *payload_hash;
};

static void sign(const struct s3_signer *s, const struct s3_request *r, const struct question *q,
                 char hex[KEY_HEX_SIZE])
{
    struct bytes b;
    struct key hash;
    char *scope = scope_of(s), *text;

    bytes_init(&b, CANONICAL_MAX);
    must(bytes_addf(&b, "%s\n", r->method) == 0);
    add_path(&b, r);
    add(&b, "\n");
    add_query(&b, q->query, q->query_count);
    add(&b, "\n");
    for (size_t i = 0; i < q->header_count; i++) {
        must(bytes_addf(&b, "%s:", q->headers[i].name) == 0);
        add_trimmed(&b, q->headers[i].value);
        add(&b, "\n");
    }
    must(bytes_addf(&b, "\n%s\n%s", q->names, q->payload_hash) == 0);
    key_of(b.data, b.len, &hash);
    bytes_clear(&b);
    key_to_hex(&hash, hex);
    text = xasprintf("%s\n%s\n%s\n%s", ALGORITHM, s->time, scope, hex);
    key_hmac(&s->key, text, strlen(text), &hash);
    key_to_hex(&hash, hex);
    free(text);
    free(scope);
}

char *s3_authorization(const struct s3_signer *s, const struct s3_request *r)
{
    const struct s3_field more[] = {
        {"host", r->host},
        {"x-amz-content-sha256", r->payload_hash},
        {"x-amz-date", s->time},
        {"x-amz-security-token", s->keys.session_token},
    };
    size_t more_count = ARRAY_LEN(more) - (s->keys.session_token == NULL);
    struct s3_field *headers = sorted_headers(r, more, more_count);
    size_t count = r->header_count + more_count;
    char *names = names_of(headers, count), *scope = scope_of(s), *value;
    struct question q = {r->query, r->query_count, headers, count, names, r->payload_hash};
    char hex[KEY_HEX_SIZE];

    sign(s, r, &q, hex);
    value = xasprintf("%s Credential=%s/%s,SignedHeaders=%s,Signature=%s", ALGORITHM,
                      s->keys.access_key, scope, names, hex);
    free(scope);
    free(names);
    free(headers);
    return value;
}

char *s3_presigned(const struct s3_signer *s, const struct s3_request *r, uint32_t expires_s)
{
    const struct s3_field host = {"host", r->host};
    struct s3_field *headers = sorted_headers(r, &host, 1);
    char *names = names_of(headers, r->header_count + 1), *scope = scope_of(s);
    char *credential = xasprintf("%s/%s", s->keys.access_key, scope);
    char *expires = xasprintf("%u", expires_s), *unsigned_target, *target;
    const struct s3_field more[] = {
        {"X-Amz-Algorithm", ALGORITHM}, {"X-Amz-Credential", credential},
        {"X-Amz-Date", s->time},        {"X-Amz-Expires", expires},
        {"X-Amz-SignedHeaders", names}, {"X-Amz-Security-Token", s->keys.session_token},
    };
    size_t more_count = ARRAY_LEN(more) - (s->keys.session_token == NULL);
    size_t count = r->query_count + more_count;
    struct s3_field *query = xcalloc(count, sizeof(*query));
    struct s3_request with_query = *r;
    char hex[KEY_HEX_SIZE];

    must(expires_s > 0 && expires_s <= S3_PRESIGNED_MAX_S);
    if (r->query_count > 0)
        memcpy(query, r->query, r->query_count * sizeof(*query));
    memcpy(query + r->query_count, more, more_count * sizeof(*query));
    with_query.query = query;
    with_query.query_count = count;
    sign(s, r,
         &(struct question){query, count, headers, r->header_count + 1, names, S3_UNSIGNED_PAYLOAD},
         hex);
    unsigned_target = s3_target(&with_query);
    target = xasprintf("%s&X-Amz-Signature=%s", unsigned_target, hex);
    free(unsigned_target);
    free(query);
    free(expires);
    free(credential);
    free(scope);
    free(names);
    free(headers);
    return target;
}
