#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/pkt.h"
#include "protocol/refs.h"
#include "real_git.h"

#define ID1 "1111111111111111111111111111111111111111"
#define ID2 "2222222222222222222222222222222222222222"
#define ID0 "0000000000000000000000000000000000000000"

/* A body from lines; NULL is a flush. */
static void body_of(struct bytes *out, const char *const *lines, size_t count)
{
    bytes_init(out, 1 << 20);
    for (size_t i = 0; i < count; i++) {
        if (lines[i] == NULL)
            pkt_add_flush(out);
        else
            pkt_add(out, lines[i], strlen(lines[i]));
    }
}

#define BODY(out, ...)                                                                             \
    body_of(out, (const char *const[]){__VA_ARGS__},                                               \
            sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* A reader that was fed body in pieces of split bytes; *rc is what finish or the first failing
 * feed said. */
static struct refs_reader *read_split(enum refs_form form, const struct bytes *body, size_t split,
                                      int *rc, struct err *err)
{
    struct refs_reader *r = refs_reader_new(form, HASH_SHA1, 1000);

    *rc = 0;
    for (size_t at = 0; *rc == 0 && at < body->len; at += split)
        *rc = refs_reader_feed(r, body->data + at, body->len - at < split ? body->len - at : split,
                               err);
    if (*rc == 0)
        *rc = refs_reader_finish(r, err);
    return r;
}

static void a_v0_advertisement_gives_refs_and_capabilities(void **state)
{
    static const char first[] = ID1 " HEAD\0multi_ack filter symref=HEAD:refs/heads/main agent=x\n";
    const size_t splits[] = {1, 7, 4096};
    struct bytes body, rest;

    (void)state;
    BODY(&body, "# service=git-upload-pack\n", NULL);
    pkt_add(&body, first, sizeof(first) - 1);
    BODY(&rest, ID1 " refs/heads/main\n", ID2 " refs/tags/v1\n", ID1 " refs/tags/v1^{}\n",
         "shallow " ID2, NULL);
    bytes_add(&body, rest.data, rest.len);
    for (size_t i = 0; i < ARRAY_LEN(splits); i++) {
        struct err err;
        const char *value;
        size_t len;
        int rc;
        struct refs_reader *r = read_split(REFS_ADVERTISEMENT, &body, splits[i], &rc, &err);

        assert_int_equal(rc, 0);
        assert_int_equal(refs_reader_version(r), 0);
        assert_int_equal(refs_reader_ref_count(r), 3);
        assert_int_equal(refs_reader_oids(r)->count, 4);
        assert_true(refs_reader_capability(r, "filter", NULL, NULL));
        assert_true(refs_reader_fetch_feature(r, "filter"));
        assert_false(refs_reader_fetch_feature(r, "shallow"));
        assert_false(refs_reader_capability(r, "multi", NULL, NULL));
        assert_true(refs_reader_capability(r, "agent", &value, &len));
        assert_int_equal(len, 1);
        refs_reader_free(r);
    }
    bytes_clear(&body);
    bytes_clear(&rest);
}

static void a_v2_advertisement_gives_capabilities_only(void **state)
{
    struct bytes bodies[2];

    (void)state;
    BODY(&bodies[0], "# service=git-upload-pack\n", NULL, "version 2\n", "agent=git/x\n",
         "ls-refs=unborn\n", "fetch=shallow wait-for-done filter\n", "object-format=sha256\n",
         NULL);
    BODY(&bodies[1], "version 2\n", "ls-refs\n", "fetch=shallow wait-for-done filter\n",
         "object-format=sha256\n", NULL);
    for (size_t i = 0; i < 2; i++) {
        struct err err;
        int rc;
        struct refs_reader *r = read_split(REFS_ADVERTISEMENT, &bodies[i], 3, &rc, &err);

        assert_int_equal(rc, 0);
        assert_int_equal(refs_reader_version(r), 2);
        assert_int_equal(refs_reader_algo(r), HASH_SHA256);
        assert_true(refs_reader_capability(r, "ls-refs", NULL, NULL));
        assert_true(refs_reader_fetch_feature(r, "filter"));
        assert_true(refs_reader_fetch_feature(r, "wait-for-done"));
        assert_false(refs_reader_fetch_feature(r, "wait"));
        assert_false(refs_reader_fetch_feature(r, "sideband-all"));
        assert_int_equal(refs_reader_oids(r)->count, 0);
        refs_reader_free(r);
        bytes_clear(&bodies[i]);
    }
}

static void an_ls_refs_response_gives_refs_and_what_tags_peel_to(void **state)
{
    struct bytes body;
    struct err err;
    int rc;
    struct refs_reader *r;

    (void)state;
    BODY(&body, "unborn HEAD symref-target:refs/heads/main\n", ID1 " refs/heads/main\n",
         ID2 " refs/tags/v1 peeled:" ID1 "\n", NULL);
    r = read_split(REFS_LS_REFS, &body, 5, &rc, &err);
    assert_int_equal(rc, 0);
    assert_int_equal(refs_reader_ref_count(r), 3);
    assert_int_equal(refs_reader_oids(r)->count, 3);
    refs_reader_free(r);
    bytes_clear(&body);
}

static void an_empty_repository_has_no_refs(void **state)
{
    static const char line[] = ID0 " capabilities^{}\0agent=x";
    struct bytes body;
    struct err err;
    int rc;
    struct refs_reader *r;

    (void)state;
    bytes_init(&body, 1000);
    pkt_add(&body, line, sizeof(line) - 1);
    pkt_add_flush(&body);
    r = read_split(REFS_ADVERTISEMENT, &body, 100, &rc, &err);
    assert_int_equal(rc, 0);
    assert_int_equal(refs_reader_ref_count(r), 0);
    assert_int_equal(refs_reader_oids(r)->count, 0);
    refs_reader_free(r);
    bytes_clear(&body);
}

static void an_err_pkt_is_told_and_never_whole(void **state)
{
    struct bytes body;
    struct err err;
    int rc;
    struct refs_reader *r;

    (void)state;
    BODY(&body, "ERR slow down", NULL);
    r = read_split(REFS_LS_REFS, &body, 100, &rc, &err);
    assert_int_equal(rc, -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_string_equal(refs_reader_error(r), "slow down");
    refs_reader_free(r);
    bytes_clear(&body);
}

static void what_is_broken_is_not_whole(void **state)
{
    static const struct {
        enum refs_form form;
        const char *body;
    } rows[] = {
        {REFS_LS_REFS, ""},
        {REFS_LS_REFS, "00"},
        {REFS_LS_REFS, "0033" ID1 " a"},
        {REFS_LS_REFS, "00000000"},
        {REFS_LS_REFS, "0000x"},
        {REFS_LS_REFS, "0001"},
        {REFS_LS_REFS, "0009hello0000"},
        {REFS_LS_REFS, "002d" ID1 " 0000"},
        {REFS_LS_REFS, "<html>"},
        {REFS_ADVERTISEMENT, "<!DOCTYPE html>"},
        {REFS_ADVERTISEMENT, "001e# service=git-upload-pack\n000eversion 2\n0000"},
        {REFS_ADVERTISEMENT, "001e# service=git-upload-pack\n0000"},
        {REFS_ADVERTISEMENT, "000eversion 2\n0018object-format=sha512\n0000"},
        {REFS_ADVERTISEMENT, "000eversion 2\n0000000eversion 2\n"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes body;
        struct err err;
        int rc, rc1;

        bytes_init(&body, 1000);
        bytes_add_str(&body, rows[i].body);
        refs_reader_free(read_split(rows[i].form, &body, 1000, &rc, &err));
        refs_reader_free(read_split(rows[i].form, &body, 1, &rc1, &err));
        if (rc != -1 || rc1 != -1 || err.kind != ERR_UPSTREAM)
            fail_msg("row %zu was taken", i);
        bytes_clear(&body);
    }
}

static void past_the_bound_ids_are_dropped_and_that_is_told(void **state)
{
    struct refs_reader *r = refs_reader_new(REFS_LS_REFS, HASH_SHA1, 1);
    struct bytes body;
    struct err err;

    (void)state;
    BODY(&body, ID1 " a", ID2 " b", NULL);
    assert_int_equal(refs_reader_feed(r, body.data, body.len, &err), 0);
    assert_int_equal(refs_reader_finish(r, &err), 0);
    assert_true(refs_reader_overflowed(r));
    assert_int_equal(refs_reader_oids(r)->count, 1);
    assert_int_equal(refs_reader_ref_count(r), 2);
    refs_reader_free(r);
    bytes_clear(&body);
}

static void advertisements_of_the_real_git_are_read(void **state)
{
    static const char *const formats[] = {"sha1", "sha256"};
    static const struct {
        const char *protocol;
        int version;
        size_t refs;
    } rows[] = {{NULL, 0, 3}, {"version=1", 1, 3}, {"version=2", 2, 0}};

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct real_git g;

        real_git_init(&g, formats[f]);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct bytes body;
            struct refs_reader *r;
            struct err err = {0};
            int rc;

            bytes_init(&body, 1 << 20);
            assert_int_equal(REAL_GIT(&g, rows[i].protocol, "", 0, &body, "git", "upload-pack",
                                      "--stateless-rpc", "--advertise-refs", "."),
                             0);
            r = read_split(REFS_ADVERTISEMENT, &body, 11, &rc, &err);
            if (rc != 0)
                fail_msg("%s", err.text);
            assert_int_equal(refs_reader_version(r), rows[i].version);
            assert_int_equal(refs_reader_algo(r), f == 0 ? HASH_SHA1 : HASH_SHA256);
            assert_int_equal(refs_reader_ref_count(r), rows[i].refs);
            assert_true(refs_reader_fetch_feature(r, "filter"));
            refs_reader_free(r);
            bytes_clear(&body);
        }
        real_git_clear(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_v0_advertisement_gives_refs_and_capabilities),
        cmocka_unit_test(a_v2_advertisement_gives_capabilities_only),
        cmocka_unit_test(an_ls_refs_response_gives_refs_and_what_tags_peel_to),
        cmocka_unit_test(an_empty_repository_has_no_refs),
        cmocka_unit_test(an_err_pkt_is_told_and_never_whole),
        cmocka_unit_test(what_is_broken_is_not_whole),
        cmocka_unit_test(past_the_bound_ids_are_dropped_and_that_is_told),
        cmocka_unit_test(advertisements_of_the_real_git_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
