#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <time.h>

#include "cache/lock.h"
#include "cache/shared/object_store.h"
#include "protocol/digest.h"
#include "odd_s3.h"

/* What the s3 driver does when its endpoint is not as it should be.  What it does when it is,
 * test_object_store.c says, against a real one. */

#define EMPTY(status) "HTTP/1.1 " status "\r\nContent-Length: 0\r\n\r\n"
/* The length isn't counted: the connection ends behind it. */
#define XML(status, xml)                                                                           \
    "HTTP/1.1 " status "\r\nConnection: close\r\n\r\n<?xml version=\"1.0\"?>" xml
#define REFUSED(status, code)                                                                      \
    XML(status, "<Error><Code>" code "</Code><Message>m</Message></Error>")
#define SLOW_DOWN REFUSED("503 Slow Down", "SlowDown")
#define STORED    "HTTP/1.1 200 OK\r\nETag: \"e1\"\r\nContent-Length: 0\r\n\r\n"
#define SECRET    "a-secret-that-no-text-may-hold"

enum { MIB = 1024 * 1024 };

struct bench {
    struct odd_s3 odd;
    struct object_store_config config;
    struct object_store *store;
    struct scratch scratch;
    struct object_info info;
    struct bytes got;
    struct err err;
    char *object; /* what the endpoint's threads read, for as long as they run */
};

static const char *const VARIABLES[] = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
};

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));

    for (size_t i = 0; i < ARRAY_LEN(VARIABLES); i++)
        unsetenv(VARIABLES[i]);
    odd_s3_start(&b->odd);
    scratch_init(&b->scratch);
    bytes_init(&b->got, 64 * MIB);
    b->config = (struct object_store_config){
        .driver = "s3",
        .endpoint = b->odd.endpoint,
        .bucket = "b",
        .access_key = "AKEY",
        .secret_key = SECRET,
        .connect_timeout_ms = 5000,
        .stall_timeout_ms = 20000,
        .deadline_ms = 20000,
        .parallel = 4,
        .alone_rate_mb = UINT32_MAX, /* no connection is that fast */
    };
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    assert_null(strstr(b->err.text, SECRET));
    object_store_free(&b->store);
    odd_s3_stop(&b->odd);
    free(b->object);
    scratch_clear(&b->scratch);
    bytes_clear(&b->got);
    free(b);
    return 0;
}

static void open_store(struct bench *b)
{
    object_store_free(&b->store);
    if (object_store_open(&b->config, &b->store, &b->err) != 0)
        fail_msg("%s", b->err.text);
}

static ssize_t read_text(void *ctx, void *buf, size_t len, struct err *err)
{
    const char **left = ctx;
    size_t n = strlen(*left) < len ? strlen(*left) : len;

    (void)err;
    memcpy(buf, *left, n);
    *left += n;
    return (ssize_t)n;
}

static int put_text(struct bench *b, const char *key, const struct object_put_options *options)
{
    const char *left = "text";
    struct object_source source = {.fd = -1, .read = read_text, .ctx = &left};

    return object_put(b->store, key, &source, options, &b->info, &b->err);
}

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    struct bench *b = ctx;

    (void)err;
    assert_int_equal(bytes_add(&b->got, data, len), 0);
    return 0;
}

static int get_all(struct bench *b, const char *key)
{
    bytes_reset(&b->got);
    return object_get(b->store, key, 0, UINT64_MAX, &b->info, take, b, &b->err);
}

/* No two places of it look alike. */
static char *make_object(size_t size)
{
    char *object = xmalloc(size);

    for (size_t i = 0; i < size; i++)
        object[i] = (char)(i * 2654435761u >> 13 ^ i >> 7);
    return object;
}

static void expect(struct bench *b, int rc, enum err_kind kind, const char *words)
{
    assert_int_equal(rc, -1);
    if (b->err.kind != kind || strstr(b->err.text, words) == NULL)
        fail_msg("not %s, \"%s\", but %s: %s", err_kind_name(kind), words,
                 err_kind_name(b->err.kind), b->err.text);
}

/* ---- tries ---- */

static void who_is_asked_to_slow_down_comes_back(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", SLOW_DOWN, 2);
    odd_s3_on(&b->odd, "PUT /b/k", EMPTY("500 Oh"), 1);
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_string_equal(b->info.etag, "e1");
    assert_int_equal(b->info.size, 4);
    assert_int_equal(odd_s3_count(&b->odd, "PUT /b/k"), 4);
}

static void who_is_asked_to_slow_down_for_too_long_is_told(void **state)
{
    struct bench *b = *state;

    b->config.deadline_ms = 300;
    odd_s3_on(&b->odd, "GET /b/k", SLOW_DOWN, ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_BUSY, "slow down");
    assert_true(odd_s3_count(&b->odd, "GET /b/k") > 1);
}

static void a_wait_that_is_asked_for_is_kept_or_not_begun(void **state)
{
    struct bench *b = *state;

    b->config.deadline_ms = 5000;
    odd_s3_on(&b->odd, "GET /b/k",
              "HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n", ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_BUSY, "slow down");
    assert_int_equal(odd_s3_count(&b->odd, "GET /b/k"), 1);
}

static void silence_ends_with_the_deadline(void **state)
{
    struct bench *b = *state;

    b->config.deadline_ms = 500;
    odd_s3_on(&b->odd, "GET /b/k", NULL, ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_TIMEOUT, b->odd.endpoint);
}

static void silence_in_the_middle_is_a_stall_and_tried_again(void **state)
{
    struct bench *b = *state;

    b->config.stall_timeout_ms = 300;
    odd_s3_on(&b->odd, "PUT /b/k", NULL, 1);
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
}

static void nobody_there_is_told_with_the_endpoint(void **state)
{
    struct bench *b = *state;

    b->config.deadline_ms = 300;
    b->config.endpoint = "http://127.0.0.1:1"; /* tcpmux, on no machine */
    open_store(b);
    expect(b, get_all(b, "k"), ERR_UPSTREAM, "http://127.0.0.1:1: it can't be reached");
}

static void a_connection_that_closes_in_the_head_is_tried_again(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", "HTTP/1.1 200 OK\r\nConnection: close\r\nETa", 1);
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, "PUT /b/k"), 2);
}

/* ---- reading ---- */

static void a_cut_body_goes_on_where_it_ended(void **state)
{
    struct bench *b = *state;
    size_t size = 300000;
    char *object = b->object = make_object(size);

    odd_add(&b->odd, &(struct odd_rule){.when = "GET /b/k",
                                        .object = object,
                                        .size = size,
                                        .etag = "v1",
                                        .cut_after = 100000,
                                        .times = 2});
    odd_add(&b->odd, &(struct odd_rule){.when = "if-match: \"v1\"",
                                        .object = object,
                                        .size = size,
                                        .etag = "v1",
                                        .times = ALWAYS});
    open_store(b);
    assert_int_equal(get_all(b, "k"), 0);
    assert_int_equal(b->info.size, size);
    assert_int_equal(b->got.len, size);
    assert_memory_equal(b->got.data, object, size);
    assert_int_equal(odd_s3_count(&b->odd, "range: bytes=100000-"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "range: bytes=200000-"), 1);
}

static void ranges_that_are_cut_still_come_in_their_order(void **state)
{
    struct bench *b = *state;
    size_t size = 50 * MIB + 12345;
    char *object = b->object = make_object(size);

    odd_add(&b->odd, &(struct odd_rule){.when = "GET /b/k",
                                        .object = object,
                                        .size = size,
                                        .etag = "v1",
                                        .cut_after = MIB,
                                        .times = 9});
    odd_add(&b->odd,
            &(struct odd_rule){
                .when = "GET /b/k", .object = object, .size = size, .etag = "v1", .times = ALWAYS});
    open_store(b);
    assert_int_equal(get_all(b, "k"), 0);
    assert_int_equal(b->got.len, size);
    assert_memory_equal(b->got.data, object, size);
    assert_true(odd_s3_count(&b->odd, "GET /b/k") >= 7 + 9);
}

static void a_connection_that_is_fast_enough_reads_all_by_itself(void **state)
{
    struct bench *b = *state;
    size_t size = 40 * MIB + 1;
    char *object = b->object = make_object(size);

    b->config.alone_rate_mb = 1;
    b->config.stall_timeout_ms = b->config.deadline_ms = 60 * 1000;
    odd_add(&b->odd, &(struct odd_rule){.when = "range: bytes=8388608-",
                                        .object = object,
                                        .size = size,
                                        .etag = "v1",
                                        .cut_after = 20 * MIB,
                                        .times = 1});
    odd_add(&b->odd,
            &(struct odd_rule){
                .when = "GET /b/k", .object = object, .size = size, .etag = "v1", .times = ALWAYS});
    open_store(b);
    assert_int_equal(get_all(b, "k"), 0);
    assert_int_equal(b->got.len, size);
    assert_memory_equal(b->got.data, object, size);
    assert_int_equal(odd_s3_count(&b->odd, "range: bytes=0-8388607"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "range: bytes=8388608-41943040"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "range: bytes=29360128-41943040"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "GET /b/k"), 3);
}

static void one_range_that_fails_fails_all(void **state)
{
    struct bench *b = *state;
    size_t size = 40 * MIB;
    char *object = b->object = make_object(size);

    odd_s3_on(&b->odd, "range: bytes=16777216-", REFUSED("403 No", "AccessDenied"), ALWAYS);
    odd_add(&b->odd,
            &(struct odd_rule){
                .when = "GET /b/k", .object = object, .size = size, .etag = "v1", .times = ALWAYS});
    open_store(b);
    expect(b, get_all(b, "k"), ERR_DENIED, "AccessDenied");
    assert_true(b->got.len <= 16 * MIB);
    assert_memory_equal(b->got.data, object, b->got.len);
}

static void an_object_that_is_replaced_while_it_is_read_is_a_conflict(void **state)
{
    struct bench *b = *state;
    char *object = b->object = make_object(1000);

    odd_add(&b->odd, &(struct odd_rule){.when = "GET /b/k",
                                        .object = object,
                                        .size = 1000,
                                        .etag = "v1",
                                        .cut_after = 100,
                                        .times = 1});
    odd_s3_on(&b->odd, "if-match: \"v1\"", REFUSED("412 No", "PreconditionFailed"), ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_CONFLICT, "replaced while it was read");
}

static void who_ignores_the_condition_is_caught_by_the_etag(void **state)
{
    struct bench *b = *state;
    char *object = b->object = make_object(1000);

    odd_add(&b->odd, &(struct odd_rule){.when = "GET /b/k",
                                        .object = object,
                                        .size = 1000,
                                        .etag = "v1",
                                        .cut_after = 100,
                                        .times = 1});
    odd_add(&b->odd,
            &(struct odd_rule){
                .when = "GET /b/k", .object = object, .size = 1000, .etag = "v2", .times = ALWAYS});
    open_store(b);
    expect(b, get_all(b, "k"), ERR_CONFLICT, "replaced while it was read");
    assert_int_equal(b->got.len, 100);
}

static void another_range_than_was_asked_for_is_nonsense(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b/k",
              "HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nETag: \"e\"\r\n"
              "Content-Range: bytes 5-7/10\r\n\r\nabc",
              ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_UPSTREAM, "another range");
    assert_int_equal(b->got.len, 0);
}

static void who_knows_no_ranges_sends_all(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b/k",
              "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"e\"\r\n\r\n0123456789", ALWAYS);
    open_store(b);
    assert_int_equal(get_all(b, "k"), 0);
    assert_string_equal(b->got.data, "0123456789");
    bytes_reset(&b->got);
    assert_int_equal(object_get(b->store, "k", 0, 4, NULL, take, b, &b->err), 0);
    assert_string_equal(b->got.data, "0123");
    expect(b, object_get(b->store, "k", 2, 4, NULL, take, b, &b->err), ERR_UPSTREAM,
           "another range");
}

/* ---- refusals ---- */

static void every_refusal_has_its_kind_and_says_why(void **state)
{
    static const struct {
        const char *says;
        enum err_kind kind;
        const char *words;
    } rows[] = {
        {REFUSED("404 No", "NoSuchBucket"), ERR_REFUSED, "there is no such bucket"},
        {REFUSED("404 No", "NoSuchKey"), ERR_NOT_FOUND, "there is no such object"},
        {REFUSED("403 No", "InvalidAccessKeyId"), ERR_DENIED, "does not know the access key"},
        {REFUSED("403 No", "SignatureDoesNotMatch"), ERR_DENIED, "secret key"},
        {REFUSED("403 No", "AccessDenied"), ERR_DENIED, "no right"},
        {REFUSED("400 No", "ExpiredToken"), ERR_DENIED, "expired"},
        {REFUSED("403 No", "RequestTimeTooSkewed"), ERR_DENIED, "clock"},
        {REFUSED("501 No", "NotImplemented"), ERR_REFUSED, "can't do this"},
        {REFUSED("418 No", "Teapot"), ERR_UPSTREAM, "Teapot"},
        {"HTTP/1.1 403 No\r\nContent-Length: 11\r\n\r\n<html>no!\r\n", ERR_DENIED, "refuses"},
        {"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n",
         ERR_REFUSED, "it is in region eu-west-1, not in us-east-1"},
        {XML("400 No", "<Error><Code>AuthorizationHeaderMalformed</Code>"
                       "<Region>eu-west-2</Region></Error>"),
         ERR_REFUSED, "it is in region eu-west-2, not in us-east-1"},
        {EMPTY("307 Moved"), ERR_REFUSED, "not to be had at this endpoint"},
    };
    struct bench *b = *state;

    open_store(b);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        odd_s3_on(&b->odd, "GET /b/k", rows[i].says, 1);
        expect(b, get_all(b, "k"), rows[i].kind, rows[i].words);
        assert_null(strstr(b->err.text, SECRET));
    }
}

static void a_wrong_clock_is_named_with_its_error(void **state)
{
    struct bench *b = *state;
    time_t ahead = time(NULL) + 7200;
    struct tm tm;
    char date[64];
    char *says;

    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&ahead, &tm));
    says = b->object = xasprintf("HTTP/1.1 403 No\r\nDate: %s\r\nContent-Length: 0\r\n\r\n", date);
    odd_s3_on(&b->odd, "GET /b/k", says, ALWAYS);
    open_store(b);
    expect(b, get_all(b, "k"), ERR_DENIED, "s behind the endpoint's");
}

static void a_head_that_is_refused_asks_again_for_the_words(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "HEAD /b/k", EMPTY("404 No"), ALWAYS);
    odd_s3_on(&b->odd, "GET /b/k", REFUSED("404 No", "NoSuchBucket"), 1);
    odd_s3_on(&b->odd, "GET /b/k", REFUSED("404 No", "NoSuchKey"), ALWAYS);
    open_store(b);
    expect(b, object_head(b->store, "k", &b->info, &b->err), ERR_REFUSED, "no such bucket");
    expect(b, object_head(b->store, "k", &b->info, &b->err), ERR_NOT_FOUND, "no such object");
    /* Now the bucket is known to be there. */
    expect(b, object_head(b->store, "k", &b->info, &b->err), ERR_NOT_FOUND, "no such object");
    assert_int_equal(odd_s3_count(&b->odd, "GET /b/k"), 2);
}

/* ---- writing ---- */

static void an_answer_that_is_lost_does_not_make_a_conflict_of_ours(void **state)
{
    struct object_put_options only_new = {.only_new = true};
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", "HTTP/1.1 200 OK\r\nConnection: close\r\nETa", 1);
    odd_s3_on(&b->odd, "PUT /b/k", REFUSED("412 No", "PreconditionFailed"), ALWAYS);
    odd_s3_on(&b->odd, "HEAD /b/k",
              "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"mine\"\r\n"
              "x-amz-meta-pannier-mark: @MARK@\r\n\r\n",
              1);
    odd_s3_on(&b->odd, "HEAD /b/k",
              "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"other\"\r\n"
              "x-amz-meta-pannier-mark: another\r\n\r\n",
              ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", &only_new), 0);
    assert_string_equal(b->info.etag, "mine");
    expect(b, put_text(b, "k", &only_new), ERR_CONFLICT, "another version");
}

static void an_etag_without_quotes_is_learnt(void **state)
{
    struct object_put_options over = {.if_match = "old"};
    struct bench *b = *state;

    odd_s3_on(&b->odd, "if-match: \"old\"", REFUSED("412 No", "PreconditionFailed"), ALWAYS);
    odd_s3_on(&b->odd, "if-match: old\r\n", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", &over), 0);
    assert_int_equal(put_text(b, "k", &over), 0);
    assert_int_equal(odd_s3_count(&b->odd, "if-match: \"old\""), 1);
    assert_int_equal(odd_s3_count(&b->odd, "if-match: old\r\n"), 2);
}

static void an_endpoint_without_conditions_is_known_from_its_first_refusal_on(void **state)
{
    const struct object_put_options only_new = {.only_new = true}, match = {.if_match = "e"};
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", REFUSED("501 No", "NotImplemented"), 1);
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    assert_true(object_store_has_conditions(b->store));
    expect(b, put_text(b, "k", &only_new), ERR_REFUSED,
           "no conditional writes (501 NotImplemented)");
    assert_false(object_store_has_conditions(b->store));
    expect(b, put_text(b, "k", &match), ERR_REFUSED, "no conditional writes");
    assert_int_equal(odd_s3_count(&b->odd, "PUT /b/k"), 1);
    assert_int_equal(put_text(b, "k", NULL), 0);
}

static void a_refusal_of_something_else_says_nothing_of_conditions(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", REFUSED("501 No", "NotImplemented"), ALWAYS);
    open_store(b);
    expect(b, put_text(b, "k", NULL), ERR_REFUSED, "can't do this");
    assert_true(object_store_has_conditions(b->store));
}

static void a_version_that_is_gone_is_a_conflict(void **state)
{
    struct object_put_options over = {.if_match = "old"};
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", REFUSED("404 No", "NoSuchKey"), ALWAYS);
    open_store(b);
    expect(b, put_text(b, "k", &over), ERR_CONFLICT, "no such object");
}

/* A sparse file that goes in five parts. */
static int put_large(struct bench *b, const struct object_put_options *options)
{
    char *path = scratch_path(&b->scratch, "large");
    struct object_source source = {.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600),
                                   .size = 65 * MIB};
    int rc;

    assert_true(source.fd >= 0);
    assert_int_equal(ftruncate(source.fd, 65 * MIB), 0);
    rc = object_put(b->store, "k", &source, options, &b->info, &b->err);
    close(source.fd);
    free(path);
    return rc;
}

#define BEGUN                                                                                      \
    XML("200 OK", "<InitiateMultipartUploadResult><UploadId>u/1</UploadId>"                        \
                  "</InitiateMultipartUploadResult>")
#define COMPLETED                                                                                  \
    XML("200 OK", "<CompleteMultipartUploadResult><ETag>&quot;whole-5&quot;</ETag>"                \
                  "</CompleteMultipartUploadResult>")

static void a_large_file_goes_in_parts_some_of_them_twice(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=2&", SLOW_DOWN, 2);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", STORED, ALWAYS);
    odd_s3_on(&b->odd, "POST /b/k?uploadId=u%2F1", COMPLETED, ALWAYS);
    open_store(b);
    if (put_large(b, NULL) != 0)
        fail_msg("%s", b->err.text);
    assert_string_equal(b->info.etag, "whole-5");
    assert_int_equal(b->info.size, 65 * MIB);
    assert_int_equal(odd_s3_count(&b->odd, "PUT /b/k?partNumber="), 5 + 2);
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k"), 0);
}

/* The answer to what is put comes after it was read, so the body is there. */
static void what_is_sent_again_has_its_head_again(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "small");
    struct object_source source = {.offset = 2, .size = 6, .head = "head ", .head_len = 5};
    struct key sha256;
    char hex[KEY_HEX_SIZE];

    put_file(path, "..behind..", 10);
    source.fd = open(path, O_RDONLY | O_CLOEXEC);
    odd_s3_on(&b->odd, "PUT /b/k", SLOW_DOWN, 2);
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    if (object_put(b->store, "k", &source, NULL, &b->info, &b->err) != 0)
        fail_msg("%s", b->err.text);
    assert_int_equal(b->info.size, 11);
    assert_true(odd_s3_had_body(&b->odd, "head behind", 11));
    key_of("head behind", 11, &sha256);
    key_to_hex(&sha256, hex);
    assert_int_equal(odd_s3_count(&b->odd, hex), 3);
    close(source.fd);
    free(path);
}

/* Parts are of 16 MiB; the second one is sent twice. */
static void a_part_that_is_sent_again_begins_where_it_did(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "large"), *head = pattern(0, 1000);
    struct object_source source = {.size = 70 * MIB, .head = head, .head_len = 1000};
    char *rest = pattern(1000, 70 * MIB);

    put_file(path, rest, 70 * MIB);
    source.fd = open(path, O_RDONLY | O_CLOEXEC);
    b->config.parallel = 1;
    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=1&", STORED, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=2&", SLOW_DOWN, 1);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=2&", REFUSED("403 No", "AccessDenied"), ALWAYS);
    odd_s3_on(&b->odd, "DELETE /b/k?uploadId=u%2F1", EMPTY("204 Gone"), ALWAYS);
    open_store(b);
    assert_int_equal(object_put(b->store, "k", &source, NULL, &b->info, &b->err), -1);
    assert_int_equal(odd_s3_count(&b->odd, "PUT /b/k?partNumber=2&"), 2);
    assert_true(odd_s3_had_body(&b->odd, rest + 16 * MIB - 1000, 16 * MIB));
    close(source.fd);
    free(rest);
    free(head);
    free(path);
}

static void a_part_that_fails_leaves_nothing_half(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=3&", REFUSED("403 No", "AccessDenied"), ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", STORED, ALWAYS);
    odd_s3_on(&b->odd, "DELETE /b/k?uploadId=u%2F1", EMPTY("204 Gone"), ALWAYS);
    open_store(b);
    expect(b, put_large(b, NULL), ERR_DENIED, "AccessDenied");
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k?uploadId=u%2F1"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "POST /b/k?uploadId="), 0);
}

static void a_complete_that_fails_in_a_200_has_failed(void **state)
{
    struct bench *b = *state;

    b->config.deadline_ms = 3000;
    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", STORED, ALWAYS);
    odd_s3_on(&b->odd, "POST /b/k?uploadId=", REFUSED("200 OK", "InternalError"), ALWAYS);
    odd_s3_on(&b->odd, "DELETE /b/k?uploadId=", EMPTY("204 Gone"), ALWAYS);
    open_store(b);
    expect(b, put_large(b, NULL), ERR_UPSTREAM, "InternalError");
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k?uploadId=u%2F1"), 1);
}

static void a_complete_whose_answer_is_lost_is_found_again(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", STORED, ALWAYS);
    odd_s3_on(&b->odd, "POST /b/k?uploadId=", "HTTP/1.1 200 OK\r\nConnection: close\r\nETa", 1);
    odd_s3_on(&b->odd, "POST /b/k?uploadId=", REFUSED("404 No", "NoSuchUpload"), ALWAYS);
    odd_s3_on(&b->odd, "HEAD /b/k",
              "HTTP/1.1 200 OK\r\nContent-Length: 68157440\r\nETag: \"whole-5\"\r\n"
              "x-amz-meta-pannier-mark: @MARK@\r\n\r\n",
              ALWAYS);
    open_store(b);
    assert_int_equal(put_large(b, NULL), 0);
    assert_string_equal(b->info.etag, "whole-5");
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k"), 0);
}

static void a_large_file_looks_before_it_completes_over_another(void **state)
{
    struct object_put_options only_new = {.only_new = true};
    struct bench *b = *state;

    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", STORED, ALWAYS);
    odd_s3_on(&b->odd, "HEAD /b/k",
              "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"other\"\r\n\r\n", ALWAYS);
    odd_s3_on(&b->odd, "DELETE /b/k?uploadId=", EMPTY("204 Gone"), ALWAYS);
    open_store(b);
    expect(b, put_large(b, &only_new), ERR_CONFLICT, "there is one already");
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k?uploadId="), 1);
}

static void encryption_is_asked_for_when_it_is_set(void **state)
{
    struct bench *b = *state;

    b->config.server_side_encryption = "aws:kms";
    b->config.kms_key = "key-1";
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, "x-amz-server-side-encryption: aws:kms\r\n"), 1);
    assert_int_equal(
        odd_s3_count(&b->odd, "x-amz-server-side-encryption-aws-kms-key-id: key-1\r\n"), 1);
    assert_int_equal(odd_s3_count(&b->odd, ";x-amz-server-side-encryption;"
                                           "x-amz-server-side-encryption-aws-kms-key-id,"),
                     1);
}

static void a_virtual_host_has_the_bucket_in_its_name(void **state)
{
    struct bench *b = *state;
    char *endpoint = xasprintf("http://localhost%s", strrchr(b->odd.endpoint, ':'));
    char *host = xasprintf("Host: b.localhost%s\r\n", strrchr(b->odd.endpoint, ':'));

    b->config.endpoint = endpoint;
    b->config.virtual_host = true;
    odd_s3_on(&b->odd, "PUT /k HTTP", STORED, ALWAYS);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, host), 1);
    free(host);
    free(endpoint);
}

/* ---- lists ---- */

static int add_key(void *ctx, const char *key, const struct object_info *info)
{
    (void)info;
    return bytes_addf(ctx, "%s ", key);
}

#define PAGE(more, xml)                                                                            \
    XML("200 OK", "<ListBucketResult><IsTruncated>" more "</IsTruncated>" xml "</"                 \
                  "ListBucketResult>")
#define OBJECT(key)                                                                                \
    "<Contents><Key>" key "</Key><Size>1</Size><LastModified>2013-05-24T00:00:00.000Z"             \
    "</LastModified><ETag>&quot;e&quot;</ETag></Contents>"

static void a_list_goes_on_and_leaves_out_what_is_no_key(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "continuation-token=t%2B1",
              PAGE("true", OBJECT("p/b%2Fc") OBJECT("p/d+e") OBJECT("p/f%20g") OBJECT("p/h%00")),
              ALWAYS);
    odd_s3_on(&b->odd, "start-after=p%2Ff%20g", PAGE("false", OBJECT("p/z")), ALWAYS);
    odd_s3_on(&b->odd, "GET /b?",
              PAGE("true", "<NextContinuationToken>t+1</NextContinuationToken>" OBJECT("p/a")),
              ALWAYS);
    b->config.prefix = "p/";
    open_store(b);
    if (object_list(b->store, "", add_key, &b->got, &b->err) != 0)
        fail_msg("%s", b->err.text);
    assert_string_equal(b->got.data, "a b/c z ");
}

/* Whoever empties one repository's prefix would else empty the bucket. */
static void what_was_not_asked_for_is_no_part_of_a_list(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b?", PAGE("false", OBJECT("p/a/1") OBJECT("p/b/2") OBJECT("q/a/3")),
              ALWAYS);
    b->config.prefix = "p/";
    open_store(b);
    if (object_list(b->store, "a/", add_key, &b->got, &b->err) != 0)
        fail_msg("%s", b->err.text);
    assert_string_equal(b->got.data, "a/1 ");
}

static void a_list_that_brings_nothing_new_ends(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b?",
              PAGE("true", "<NextContinuationToken>t</NextContinuationToken>" OBJECT("a")), ALWAYS);
    open_store(b);
    expect(b, object_list(b->store, "", add_key, &b->got, &b->err), ERR_UPSTREAM, "nothing new");
}

static void a_list_that_is_no_xml_is_nonsense(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b?", XML("200 OK", "<!DOCTYPE a []><a/>"), 1);
    odd_s3_on(&b->odd, "GET /b?", XML("200 OK", "<ListBucketResult>"), ALWAYS);
    open_store(b);
    expect(b, object_list(b->store, "", add_key, &b->got, &b->err), ERR_UPSTREAM, "document type");
    expect(b, object_list(b->store, "", add_key, &b->got, &b->err), ERR_UPSTREAM, "XML");
}

/* ---- keys ---- */

static void write_text(struct bench *b, const char *name, const char *text, char **path)
{
    FILE *f;

    *path = scratch_path(&b->scratch, name);
    f = fopen(*path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void without_keys(struct bench *b)
{
    b->config.access_key = b->config.secret_key = NULL;
    odd_s3_on(&b->odd, "PUT /b/k", STORED, ALWAYS);
}

static void keys_come_from_a_file(void **state)
{
    struct bench *b = *state;
    char *path;

    without_keys(b);
    write_text(b, "credentials",
               "[other]\naws_access_key_id = NO\n# a comment\n[ default ]\n"
               "aws_access_key_id=FILEKEY\n  aws_secret_access_key =  " SECRET "  \n"
               "aws_session_token = a-token\n[third]\naws_access_key_id = NO\n",
               &path);
    b->config.credentials_file = path;
    setenv("AWS_ACCESS_KEY_ID", "ENVKEY", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, "Credential=FILEKEY/"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "x-amz-security-token: a-token\r\n"), 1);
    free(path);
}

static void a_file_without_keys_is_one_sentence(void **state)
{
    struct bench *b = *state;
    char *path;

    without_keys(b);
    write_text(b, "credentials", "[default]\naws_access_key_id = A\n", &path);
    b->config.credentials_file = path;
    expect(b, object_store_open(&b->config, &b->store, &b->err), ERR_INPUT,
           "has no keys for profile default");
    b->config.credentials_file = "/there/is/none";
    expect(b, object_store_open(&b->config, &b->store, &b->err), ERR_INPUT, "can't be read");
    free(path);
}

static void keys_come_from_the_environment(void **state)
{
    struct bench *b = *state;

    without_keys(b);
    setenv("AWS_ACCESS_KEY_ID", "ENVKEY", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    open_store(b);
    assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, "Credential=ENVKEY/"), 1);
}

#define ASSUMED(key, expires)                                                                      \
    XML("200 OK",                                                                                  \
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"        \
        "<AccessKeyId>" key "</AccessKeyId><SecretAccessKey>" SECRET "</SecretAccessKey>"          \
        "<SessionToken>t</SessionToken><Expiration>" expires "</Expiration></Credentials>"         \
        "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>")

static void keys_come_by_web_identity_and_are_changed_when_they_expire(void **state)
{
    struct bench *b = *state;
    char *path;

    without_keys(b);
    write_text(b, "token", "an.identity\n", &path);
    setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path, 1);
    setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r", 1);
    setenv("AWS_ENDPOINT_URL_STS", b->odd.endpoint, 1);
    odd_s3_on(&b->odd, "WebIdentityToken=an.identity", ASSUMED("SHORT", "2001-01-01T00:00:00Z"), 1);
    odd_s3_on(&b->odd, "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr",
              ASSUMED("LONG", "2101-01-01T00:00:00Z"), ALWAYS);
    open_store(b);
    for (int i = 0; i < 3; i++)
        assert_int_equal(put_text(b, "k", NULL), 0);
    assert_int_equal(odd_s3_count(&b->odd, "Credential=SHORT/"), 1);
    assert_int_equal(odd_s3_count(&b->odd, "Credential=LONG/"), 2);
    assert_int_equal(odd_s3_count(&b->odd, "AssumeRoleWithWebIdentity"), 2);
    free(path);
}

#define JSON(key)                                                                                  \
    "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"Code\":\"Success\",\"AccessKeyId\":\"" key     \
    "\",\"SecretAccessKey\":\"" SECRET                                                             \
    "\",\"Token\":\"t\",\"Expiration\":\"2101-01-01T00:00:00Z\"}"

static void keys_come_from_the_machine_and_are_changed_when_refused(void **state)
{
    struct bench *b = *state;

    b->config.access_key = b->config.secret_key = NULL;
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", b->odd.endpoint, 1);
    odd_s3_on(&b->odd, "PUT /latest/api/token", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntoken",
              ALWAYS);
    odd_s3_on(&b->odd, "security-credentials/ HTTP",
              "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrole", ALWAYS);
    odd_s3_on(&b->odd, "security-credentials/role HTTP", JSON("FIRST"), 1);
    odd_s3_on(&b->odd, "security-credentials/role HTTP", JSON("SECOND"), ALWAYS);
    odd_s3_on(&b->odd, "Credential=FIRST/", REFUSED("400 No", "ExpiredToken"), ALWAYS);
    odd_s3_on(&b->odd, "Credential=SECOND/", STORED, ALWAYS);
    open_store(b);
    if (put_text(b, "k", NULL) != 0)
        fail_msg("%s", b->err.text);
    assert_int_equal(odd_s3_count(&b->odd, "X-aws-ec2-metadata-token: token\r\n"), 4);
}

static void no_keys_anywhere_is_told(void **state)
{
    struct bench *b = *state;

    b->config.access_key = b->config.secret_key = NULL;
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", b->odd.endpoint, 1);
    open_store(b);
    expect(b, put_text(b, "k", NULL), ERR_DENIED, "no S3 keys in the configuration");
    expect(b, put_text(b, "k", NULL), ERR_DENIED, "no S3 keys in the configuration");
    assert_int_equal(odd_s3_count(&b->odd, "PUT /latest/api/token"), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* ---- the end ---- */

/* What is asked in a thread of its own, and its end. */
struct asking {
    struct bench *b;
    int (*ask)(struct bench *b);
    int rc;
};

static void *ask_it(void *ctx)
{
    struct asking *a = ctx;

    a->rc = a->ask(a->b);
    return NULL;
}

/* Stop the store when the endpoint has heard `heard` so many times; what was asked ends by that,
 * and long before its deadline. */
static void expect_stop(struct bench *b, int (*ask)(struct bench *b), const char *heard,
                        unsigned times)
{
    struct asking a = {.b = b, .ask = ask};
    uint64_t began = now_ms(), stopped;
    pthread_t thread;

    b->config.deadline_ms = b->config.stall_timeout_ms = 60 * 1000;
    open_store(b);
    assert_int_equal(pthread_create(&thread, NULL, ask_it, &a), 0);
    while (odd_s3_count(&b->odd, heard) < times && now_ms() - began < 20 * 1000)
        usleep(1000);
    assert_int_equal(odd_s3_count(&b->odd, heard), times);
    stopped = now_ms();
    object_store_stop(b->store);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(now_ms() - stopped < 20 * 1000);
    expect(b, a.rc, ERR_CANCELLED, "");
}

static int get_k(struct bench *b)
{
    return get_all(b, "k");
}

static int put_k(struct bench *b)
{
    return put_text(b, "k", NULL);
}

static int put_large_k(struct bench *b)
{
    return put_large(b, NULL);
}

static void a_get_that_hangs_ends_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b/k", NULL, ALWAYS);
    expect_stop(b, get_k, "GET /b/k", 1);
}

static void a_put_that_hangs_ends_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "PUT /b/k", NULL, ALWAYS);
    expect_stop(b, put_k, "PUT /b/k", 1);
}

static void a_wait_between_tries_ends_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "GET /b/k",
              "HTTP/1.1 503 Slow Down\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n", ALWAYS);
    expect_stop(b, get_k, "GET /b/k", 1);
    assert_int_equal(odd_s3_count(&b->odd, "GET /b/k"), 1);
}

static void ranges_that_hang_end_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;
    struct odd_rule first = {.when = "range: bytes=0-", .times = ALWAYS, .etag = "e1"};

    first.size = 40 * MIB;
    first.object = b->object = make_object(first.size);
    odd_add(&b->odd, &first);
    odd_s3_on(&b->odd, "GET /b/k", NULL, ALWAYS);
    expect_stop(b, get_k, "GET /b/k", 5); /* four of them hang */
    assert_int_equal(b->got.len, 8 * MIB);
}

static void parts_that_hang_are_taken_back_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;

    odd_s3_on(&b->odd, "POST /b/k?uploads=", BEGUN, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=1&", STORED, ALWAYS);
    odd_s3_on(&b->odd, "PUT /b/k?partNumber=", NULL, ALWAYS);
    odd_s3_on(&b->odd, "DELETE /b/k?uploadId=u%2F1", EMPTY("204 Gone"), ALWAYS);
    expect_stop(b, put_large_k, "PUT /b/k?partNumber=", 5);
    assert_int_equal(odd_s3_count(&b->odd, "DELETE /b/k?uploadId=u%2F1"), 1);
}

static void keys_that_do_not_come_are_not_waited_for_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;

    without_keys(b);
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", b->odd.endpoint, 1);
    odd_s3_on(&b->odd, "PUT /latest/api/token", NULL, ALWAYS);
    expect_stop(b, get_k, "PUT /latest/api/token", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_is_asked_to_slow_down_comes_back),
        TEST(who_is_asked_to_slow_down_for_too_long_is_told),
        TEST(a_wait_that_is_asked_for_is_kept_or_not_begun),
        TEST(silence_ends_with_the_deadline),
        TEST(silence_in_the_middle_is_a_stall_and_tried_again),
        TEST(nobody_there_is_told_with_the_endpoint),
        TEST(a_connection_that_closes_in_the_head_is_tried_again),
        TEST(a_cut_body_goes_on_where_it_ended),
        TEST(ranges_that_are_cut_still_come_in_their_order),
        TEST(a_connection_that_is_fast_enough_reads_all_by_itself),
        TEST(one_range_that_fails_fails_all),
        TEST(an_object_that_is_replaced_while_it_is_read_is_a_conflict),
        TEST(who_ignores_the_condition_is_caught_by_the_etag),
        TEST(another_range_than_was_asked_for_is_nonsense),
        TEST(who_knows_no_ranges_sends_all),
        TEST(every_refusal_has_its_kind_and_says_why),
        TEST(a_wrong_clock_is_named_with_its_error),
        TEST(a_head_that_is_refused_asks_again_for_the_words),
        TEST(an_answer_that_is_lost_does_not_make_a_conflict_of_ours),
        TEST(an_etag_without_quotes_is_learnt),
        TEST(an_endpoint_without_conditions_is_known_from_its_first_refusal_on),
        TEST(a_refusal_of_something_else_says_nothing_of_conditions),
        TEST(a_version_that_is_gone_is_a_conflict),
        TEST(a_large_file_goes_in_parts_some_of_them_twice),
        TEST(what_is_sent_again_has_its_head_again),
        TEST(a_part_that_is_sent_again_begins_where_it_did),
        TEST(a_part_that_fails_leaves_nothing_half),
        TEST(a_complete_that_fails_in_a_200_has_failed),
        TEST(a_complete_whose_answer_is_lost_is_found_again),
        TEST(a_large_file_looks_before_it_completes_over_another),
        TEST(encryption_is_asked_for_when_it_is_set),
        TEST(a_virtual_host_has_the_bucket_in_its_name),
        TEST(a_list_goes_on_and_leaves_out_what_is_no_key),
        TEST(what_was_not_asked_for_is_no_part_of_a_list),
        TEST(a_list_that_brings_nothing_new_ends),
        TEST(a_list_that_is_no_xml_is_nonsense),
        TEST(keys_come_from_a_file),
        TEST(a_file_without_keys_is_one_sentence),
        TEST(keys_come_from_the_environment),
        TEST(keys_come_by_web_identity_and_are_changed_when_they_expire),
        TEST(keys_come_from_the_machine_and_are_changed_when_refused),
        TEST(no_keys_anywhere_is_told),
        TEST(a_get_that_hangs_ends_when_the_store_is_stopped),
        TEST(a_put_that_hangs_ends_when_the_store_is_stopped),
        TEST(a_wait_between_tries_ends_when_the_store_is_stopped),
        TEST(ranges_that_hang_end_when_the_store_is_stopped),
        TEST(parts_that_hang_are_taken_back_when_the_store_is_stopped),
        TEST(keys_that_do_not_come_are_not_waited_for_when_the_store_is_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
