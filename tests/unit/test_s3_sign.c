#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/s3_sign.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* The examples in S3's manual, all of Fri, 24 May 2013 00:00:00 GMT. */
enum { MANUAL_TIME = 1369353600 };
static const char HOST[] = "examplebucket.s3.amazonaws.com";
static const struct s3_keys KEYS = {
    .access_key = "AKIAIOSFODNN7EXAMPLE",
    .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};

static struct s3_signer manual_signer(void)
{
    struct s3_signer s;

    s3_signer_init(&s, &KEYS, "us-east-1", "s3", MANUAL_TIME);
    return s;
}

static void check_signature(const struct s3_request *r, const char *names, const char *signature)
{
    struct s3_signer s = manual_signer();
    char *got = s3_authorization(&s, r);
    char *want = xasprintf("AWS4-HMAC-SHA256 "
                           "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
                           "SignedHeaders=%s,Signature=%s",
                           names, signature);

    assert_string_equal(got, want);
    free(got);
    free(want);
}

static void a_get_with_a_range_is_signed_as_in_the_manual(void **state)
{
    struct s3_field headers[] = {{"range", "bytes=0-9"}};

    (void)state;
    check_signature(&(struct s3_request){.method = "GET",
                                         .host = HOST,
                                         .path = "/test.txt",
                                         .headers = headers,
                                         .header_count = 1,
                                         .payload_hash = EMPTY},
                    "host;range;x-amz-content-sha256;x-amz-date",
                    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void a_put_with_its_payload_is_signed_as_in_the_manual(void **state)
{
    static const char body[] = "Welcome to Amazon S3.";
    struct s3_field headers[] = {{"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                                 {"date", "Fri, 24 May 2013 00:00:00 GMT"}};
    struct key hash;
    char hex[KEY_HEX_SIZE];

    (void)state;
    key_of(body, strlen(body), &hash);
    key_to_hex(&hash, hex);
    check_signature(&(struct s3_request){.method = "PUT",
                                         .host = HOST,
                                         .path = "/test$file.text",
                                         .headers = headers,
                                         .header_count = 2,
                                         .payload_hash = hex},
                    "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void a_query_without_a_value_is_signed_as_in_the_manual(void **state)
{
    struct s3_field query[] = {{"lifecycle", ""}};

    (void)state;
    check_signature(&(struct s3_request){.method = "GET",
                                         .host = HOST,
                                         .path = "/",
                                         .query = query,
                                         .query_count = 1,
                                         .payload_hash = EMPTY},
                    "host;x-amz-content-sha256;x-amz-date",
                    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void a_list_is_signed_as_in_the_manual_whatever_its_order(void **state)
{
    struct s3_field query[] = {{"prefix", "J"}, {"max-keys", "2"}};

    (void)state;
    check_signature(&(struct s3_request){.method = "GET",
                                         .host = HOST,
                                         .path = "/",
                                         .query = query,
                                         .query_count = 2,
                                         .payload_hash = EMPTY},
                    "host;x-amz-content-sha256;x-amz-date",
                    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void a_presigned_get_is_the_manual_s(void **state)
{
    struct s3_signer s = manual_signer();
    struct s3_request r = {.method = "GET", .host = HOST, .path = "/test.txt"};
    char *target = s3_presigned(&s, &r, 86400);

    (void)state;
    assert_string_equal(
        target, "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
                "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
                "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
                "&X-Amz-Signature="
                "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    free(target);
}

static void a_session_token_is_signed_in_header_and_url(void **state)
{
    struct s3_keys keys = KEYS;
    struct s3_request r = {
        .method = "GET", .host = HOST, .path = "/test.txt", .payload_hash = S3_UNSIGNED_PAYLOAD};
    struct s3_signer s;
    char *value, *target;

    (void)state;
    keys.session_token = "a/token+of=some";
    s3_signer_init(&s, &keys, "us-east-1", "s3", MANUAL_TIME);
    value = s3_authorization(&s, &r);
    target = s3_presigned(&s, &r, 60);
    assert_non_null(strstr(value, "SignedHeaders=host;x-amz-content-sha256;x-amz-date;"
                                  "x-amz-security-token,"));
    assert_null(strstr(value, "a/token"));
    assert_non_null(strstr(target, "&X-Amz-Security-Token=a%2Ftoken%2Bof%3Dsome&"));
    free(value);
    free(target);
}

static void awkward_keys_are_escaped_once_and_in_upper_case(void **state)
{
    static const struct {
        const char *path, *target;
    } rows[] = {
        {"/", "/"},
        {"/b/a b", "/b/a%20b"},
        {"/b/a+b", "/b/a%2Bb"},
        {"/b/a%2Fb", "/b/a%252Fb"},
        {"/b/../c/./d//e", "/b/../c/./d//e"},
        {"/b/~tilde-_.", "/b/~tilde-_."},
        {"/b/!*'()&=@:,;$?#[]", "/b/%21%2A%27%28%29%26%3D%40%3A%2C%3B%24%3F%23%5B%5D"},
        {"/b/\xc3\xa9\xe2\x82\xac", "/b/%C3%A9%E2%82%AC"},
        {"/b/\x7f\x01", "/b/%7F%01"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *target = s3_target(&(struct s3_request){.path = rows[i].path});

        assert_string_equal(target, rows[i].target);
        free(target);
    }
}

static void a_query_is_sorted_by_its_escaped_bytes(void **state)
{
    /* '+' sorts behind 'a' as itself would not: as "%2B" it stands before every letter. */
    struct s3_field query[] = {
        {"uploadId", "x/y z"}, {"partNumber", "10"}, {"prefix", "a/"},
        {"uploads", ""},       {"prefix", "+"},
    };
    char *target = s3_target(
        &(struct s3_request){.path = "/b", .query = query, .query_count = ARRAY_LEN(query)});

    (void)state;
    assert_string_equal(target,
                        "/b?partNumber=10&prefix=%2B&prefix=a%2F&uploadId=x%2Fy%20z&uploads=");
    free(target);
}

static void blanks_in_a_header_do_not_count(void **state)
{
    struct s3_signer s = manual_signer();
    struct s3_field plain[] = {{"x-amz-meta-a", "one two"}};
    struct s3_field blanks[] = {{"x-amz-meta-a", "  one \t  two "}};
    struct s3_request r = {.method = "PUT",
                           .host = HOST,
                           .path = "/k",
                           .headers = plain,
                           .header_count = 1,
                           .payload_hash = EMPTY};
    char *one = s3_authorization(&s, &r), *other;

    (void)state;
    r.headers = blanks;
    other = s3_authorization(&s, &r);
    assert_string_equal(one, other);
    free(one);
    free(other);
}

static void dates_are_right_through_leap_years(void **state)
{
    static const struct {
        int64_t now;
        const char *text;
    } rows[] = {
        {0, "19700101T000000Z"},          {951782400, "20000229T000000Z"},
        {951868799, "20000229T235959Z"},  {1709251199, "20240229T235959Z"},
        {1735689599, "20241231T235959Z"}, {4107542400, "21000301T000000Z"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct s3_signer s;

        s3_signer_init(&s, &KEYS, "us-east-1", "s3", rows[i].now);
        assert_string_equal(s.time, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_get_with_a_range_is_signed_as_in_the_manual),
        cmocka_unit_test(a_put_with_its_payload_is_signed_as_in_the_manual),
        cmocka_unit_test(a_query_without_a_value_is_signed_as_in_the_manual),
        cmocka_unit_test(a_list_is_signed_as_in_the_manual_whatever_its_order),
        cmocka_unit_test(a_presigned_get_is_the_manual_s),
        cmocka_unit_test(a_session_token_is_signed_in_header_and_url),
        cmocka_unit_test(awkward_keys_are_escaped_once_and_in_upper_case),
        cmocka_unit_test(a_query_is_sorted_by_its_escaped_bytes),
        cmocka_unit_test(blanks_in_a_header_do_not_count),
        cmocka_unit_test(dates_are_right_through_leap_years),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
