#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/fetch_request.h"
#include "protocol/fetch_response.h"
#include "protocol/pkt.h"
#include "real_git.h"

#define ID1   "1111111111111111111111111111111111111111"
#define ID2   "2222222222222222222222222222222222222222"
#define ID3   "3333333333333333333333333333333333333333"
#define ID256 "4444444444444444444444444444444444444444444444444444444444444444"

/* A body from a short notation: pkts' texts separated by '|', where "-" is a flush and "," a
 * delimiter. */
static void body_of(struct bytes *out, const char *notation)
{
    bytes_init(out, 1 << 20);
    while (*notation != '\0') {
        size_t n = strcspn(notation, "|");

        if (n == 1 && *notation == '-')
            pkt_add_flush(out);
        else if (n == 1 && *notation == ',')
            pkt_add_delim(out);
        else
            pkt_addf(out, "%.*s\n", (int)n, notation);
        notation += n;
        notation += *notation == '|';
    }
}

static int parse(int version, const char *notation, struct fetch_request *req, struct err *err)
{
    struct bytes body;
    int rc;

    body_of(&body, notation);
    rc = fetch_request_parse(version, body.data, body.len, req, err);
    bytes_clear(&body);
    return rc;
}

static void parse_well(int version, const char *notation, struct fetch_request *req)
{
    struct err err = {0};

    if (parse(version, notation, req, &err) != 0)
        fail_msg("%s: %s", notation, err.text);
}

static void key_of_body(int version, const char *notation, struct key *out)
{
    const struct key repo = {{1}};
    struct fetch_request req;

    parse_well(version, notation, &req);
    if (req.unknown)
        fail_msg("%s: unknown", notation);
    fetch_request_key(&req, &repo, out);
    fetch_request_clear(&req);
}

#define V2       "command=fetch|agent=git/2.39|object-format=sha1|,|"
#define V2_CLONE V2 "thin-pack|ofs-delta|want " ID1 "|want " ID2 "|done|-"
#define V0_CAPS  "multi_ack_detailed no-done side-band-64k thin-pack ofs-delta agent=git/2.39"
#define V0_CLONE "want " ID1 " " V0_CAPS "|want " ID2 "|-|done"

static void a_v2_clone_is_understood(void **state)
{
    struct fetch_request req;

    (void)state;
    parse_well(2, V2_CLONE, &req);
    assert_int_equal(req.version, 2);
    assert_int_equal(req.command, COMMAND_FETCH);
    assert_int_equal(req.sideband, SIDEBAND_64K);
    assert_int_equal(req.wants.count, 2);
    assert_true(req.thin_pack && req.ofs_delta && req.done && req.algo_named);
    assert_false(req.include_tag || req.no_progress || req.unknown);
    assert_true(fetch_request_keepable(&req));
    assert_true(fetch_request_is_closed(&req));
    assert_false(fetch_request_is_shallow(&req));
    fetch_request_clear(&req);
}

static void a_v0_clone_is_understood(void **state)
{
    struct fetch_request req;

    (void)state;
    for (int version = 0; version <= 1; version++) {
        parse_well(version, V0_CLONE, &req);
        assert_int_equal(req.version, 0);
        assert_int_equal(req.command, COMMAND_FETCH);
        assert_int_equal(req.sideband, SIDEBAND_64K);
        assert_int_equal(req.multi_ack, MULTI_ACK_DETAILED);
        assert_int_equal(req.wants.count, 2);
        assert_true(req.no_done && req.thin_pack && req.ofs_delta && req.done);
        assert_false(req.unknown);
        assert_true(fetch_request_keepable(&req));
        fetch_request_clear(&req);
    }
}

static void everything_that_limits_a_fetch_is_understood(void **state)
{
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {2, V2 "deepen 2147483647|deepen-since 5|deepen-not b|deepen-not a|deepen-not b|"
               "deepen-relative|filter tree:0|shallow " ID3 "|want " ID1 "|have " ID2 "|done|-"},
        {0, "want " ID1 " deepen-relative filter deepen-since deepen-not shallow|shallow " ID3
            "|deepen 2147483647|deepen-since 5|deepen-not b|deepen-not a|filter tree:0|-|"
            "have " ID2 "|done"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fetch_request req;

        parse_well(rows[i].version, rows[i].body, &req);
        assert_int_equal(req.depth, INT32_MAX);
        assert_int_equal(req.deepen_since, 5);
        assert_int_equal(req.deepen_not_count, 2);
        assert_string_equal(req.deepen_not[0], "a");
        assert_string_equal(req.deepen_not[1], "b");
        assert_true(req.deepen_relative);
        assert_string_equal(req.filter, "tree:0");
        assert_int_equal(req.shallow.count, 1);
        assert_int_equal(req.haves.count, 1);
        assert_false(req.unknown);
        assert_true(fetch_request_is_shallow(&req));
        assert_false(fetch_request_is_closed(&req));
        fetch_request_clear(&req);
    }
}

static void the_request_of_ci_is_understood(void **state)
{
    struct fetch_request req;

    (void)state;
    parse_well(2, V2 "thin-pack|no-progress|ofs-delta|deepen 1|want " ID1 "|done|-", &req);
    assert_int_equal(req.depth, 1);
    assert_int_equal(req.wants.count, 1);
    assert_true(fetch_request_keepable(&req));
    assert_false(fetch_request_is_closed(&req));
    fetch_request_clear(&req);
}

static void a_lone_flush_is_a_probe_in_every_version(void **state)
{
    (void)state;
    for (int version = 0; version <= 2; version++) {
        struct fetch_request req;

        parse_well(version, "-", &req);
        assert_int_equal(req.command, COMMAND_PROBE);
        assert_false(fetch_request_keepable(&req));
        assert_false(fetch_request_is_closed(&req));
        fetch_request_clear(&req);
    }
}

static void ls_refs_is_understood_and_written_canonically(void **state)
{
    struct fetch_request req;
    struct bytes out, expected;

    (void)state;
    parse_well(2,
               "agent=x|command=ls-refs|session-id=y|object-format=sha1|,|ref-prefix b|unborn|"
               "symrefs|ref-prefix a|ref-prefix b|peel|ref-prefix a|ref-prefix |-",
               &req);
    assert_int_equal(req.command, COMMAND_LS_REFS);
    assert_false(req.unknown);
    assert_false(fetch_request_keepable(&req));
    assert_int_equal(req.ls_prefix_count, 3);
    bytes_init(&out, 10000);
    fetch_request_write(&req, &out);
    body_of(&expected, "command=ls-refs|object-format=sha1|,|peel|symrefs|unborn|ref-prefix b|"
                       "ref-prefix a|ref-prefix |-");
    assert_string_equal(out.data, expected.data);
    bytes_clear(&out);
    bytes_clear(&expected);
    fetch_request_clear(&req);
    parse_well(2, "command=ls-refs|-", &req);
    assert_int_equal(req.command, COMMAND_LS_REFS);
    fetch_request_clear(&req);
}

static void what_is_not_known_is_forwarded_and_kept_from_none(void **state)
{
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {2, "command=object-info|,|size|oid " ID1 "|-"},
        {2, "command=fetch|server-option=x|,|want " ID1 "|done|-"},
        {2, "command=fetch|object-format=sha512|,|want " ID1 "|done|-"},
        {2, V2 "want-ref refs/heads/main|done|-"},
        {2, V2 "packfile-uris https|want " ID1 "|done|-"},
        {2, V2 "sideband-all|want " ID1 "|done|-"},
        {2, V2 "brand-new|want " ID1 "|done|-"},
        {2, V2 "want " ID1 "|filter sparse:path=x|done|-"},
        {2, "command=ls-refs|,|brand-new|-"},
        {0, "want " ID1 " side-band-64k brand-new|-|done"},
        {0, "want " ID1 " push-cert=x|-|done"},
        {0, "want " ID1 "|brand-new|-|done"},
        {0, "want " ID1 "|-|brand-new|done"},
        {0, "want " ID1 "|want " ID2 " object-format=sha256|-|done"},
        /* Each of these flushes has a NAK of its own in the answer. */
        {0, "want " ID1 " multi_ack|-|have " ID2 "|-|have " ID3 "|-|done"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fetch_request req;

        parse_well(rows[i].version, rows[i].body, &req);
        if (!req.unknown || fetch_request_keepable(&req) || fetch_request_is_closed(&req))
            fail_msg("%s is taken for known", rows[i].body);
        fetch_request_clear(&req);
    }
}

static void filters_are_known_or_not(void **state)
{
    static const struct {
        const char *filter;
        bool known;
    } rows[] = {
        {"blob:none", true},
        {"blob:limit=0", true},
        {"blob:limit=100", true},
        {"blob:limit=1k", true},
        {"blob:limit=5m", true},
        {"blob:limit=5g", true},
        {"tree:0", true},
        {"tree:17", true},
        {"object:type=commit", true},
        {"object:type=blob", true},
        {"sparse:oid=" ID1, true},
        {"sparse:oid=" ID256, true},
        {"combine:blob:none+tree:3", true},
        {"combine:blob%3anone+tree:3", true},
        {"combine:combine:blob:none%2btree:1+tree:3", true},
        {"blob:limit=", false},
        {"blob:limit=k", false},
        {"blob:limit=-1", false},
        {"blob:limit=1t", false},
        {"tree:", false},
        {"tree:x", false},
        {"object:type=", false},
        {"object:type=note", false},
        {"sparse:path=x", false},
        {"sparse:oid=main:spec", false}, /* means what main is that day */
        {"combine:", false},
        {"combine:blob:none+new:1", false},
        {"combine:blob:none+%zz", false},
        {"combine:combine:combine:combine:combine:combine:tree:0", false},
        {"auto", false},
        {"", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fetch_request req;
        char body[1000];

        snprintf(body, sizeof(body), V2 "want " ID1 "|filter %s|done|-", rows[i].filter);
        parse_well(2, body, &req);
        if (req.unknown == rows[i].known)
            fail_msg("%s", rows[i].filter);
        assert_string_equal(req.filter, rows[i].filter);
        fetch_request_clear(&req);
    }
}

static void answers_that_depend_on_more_than_the_request_are_not_kept(void **state)
{
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {2, V2 "want " ID1 "|have " ID2 "|-"},
        {2, V2 "want " ID1 "|-"},
        {2, V2 "want " ID1 "|deepen-not refs/heads/main|done|-"},
        {2, V2 "wait-for-done|have " ID2 "|done|-"},
        {2, "command=ls-refs|,|peel|-"},
        {0, "want " ID1 " multi_ack_detailed|-|have " ID2 "|-"},
        {0, "want " ID1 "|deepen 1|-"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fetch_request req;

        parse_well(rows[i].version, rows[i].body, &req);
        if (fetch_request_keepable(&req) || req.unknown)
            fail_msg("%s", rows[i].body);
        fetch_request_clear(&req);
    }
}

static void what_makes_no_sense_is_refused(void **state)
{
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {0, ""},
        {2, ""},
        {2, ",|-"},
        {2, "agent=x|-"},
        {2, "command=fetch"},
        {2, "command=fetch|command=fetch|,|want " ID1 "|done|-"},
        {2, "command=fetch|-"},
        {2, V2 "done|-"},
        {2, V2 "want " ID1 "|done"},
        {2, V2 "want " ID1 "|done|,"},
        {2, V2 "want " ID1 "|done|-|-"},
        {2, V2 "want " ID1 "x|done|-"},
        {2, V2 "want 1111|done|-"},
        {2, V2 "want|done|-|x"},
        {2, V2 "want " ID256 "|done|-"},
        {2, V2 "want " ID1 "|have x|done|-"},
        {2, V2 "want " ID1 "|filter tree:0|filter tree:0|done|-"},
        {2, V2 "want " ID1 "|deepen 0|done|-"},
        {2, V2 "want " ID1 "|deepen -1|done|-"},
        {2, V2 "want " ID1 "|deepen 0x10|done|-"},
        {2, V2 "want " ID1 "|deepen 2147483648|done|-"},
        {2, V2 "want " ID1 "|deepen 1|deepen 2|done|-"},
        {2, V2 "want " ID1 "|deepen-since 9223372036854775808|done|-"},
        {2, V2 "want " ID1 "|deepen-since now|done|-"},
        {2, V2 "want " ID1 "|deepen-not |done|-"},
        {0, "want " ID1},
        {0, "-|-"},
        {0, "-|done"},
        {0, "want " ID1 "|,|done"},
        {0, "want " ID1 "|-|done|-"},
        {0, "want " ID1 "|-|have " ID2},
        {0, "want " ID1 "|-|have nothing|done"},
        {0, "want " ID256 "|want " ID1 "|-|done"},
        {0, "want " ID1 "|want " ID256 "|-|done"},
        {0, "want " ID1 " object-format=sha256|-|done"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fetch_request req;
        struct err err = {0};

        if (parse(rows[i].version, rows[i].body, &req, &err) == 0)
            fail_msg("'%s' was taken", rows[i].body);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

static void bytes_that_are_no_pkts_are_refused(void **state)
{
    static const char *const rows[] = {"0",        "000",          "zzzz",         "0003",
                                       "0032want", "\x1f\x8b\b\0", "0007a\nb0000", "0006\0a0000"};

    (void)state;
    for (int version = 0; version <= 2; version++) {
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct fetch_request req;
            struct err err;
            size_t len = i == 7 ? 10 : strlen(rows[i]);

            assert_int_equal(fetch_request_parse(version, rows[i], len, &req, &err), -1);
            assert_int_equal(err.kind, ERR_INPUT);
        }
    }
}

static void long_ids_mean_sha256_in_v0(void **state)
{
    static const char body[] = "004awant " ID256 "\n"
                               "00000009done\n";
    struct fetch_request req;
    struct err err = {0};

    (void)state;
    assert_int_equal(fetch_request_parse(0, body, sizeof(body) - 1, &req, &err), 0);
    assert_int_equal(req.algo, HASH_SHA256);
    assert_int_equal(req.wants.count, 1);
    fetch_request_clear(&req);
}

static void too_many_lines_are_over_the_limit(void **state)
{
    struct fetch_request req;
    struct bytes body;
    struct err err;

    (void)state;
    bytes_init(&body, (size_t)60 * FETCH_LINES_MAX);
    bytes_add_str(&body, "0011command=fetch0001");
    for (size_t i = 0; i < FETCH_LINES_MAX; i++)
        bytes_add_str(&body, "0031want " ID1);
    bytes_add_str(&body, "0000");
    assert_int_equal(fetch_request_parse(2, body.data, body.len, &req, &err), 0);
    assert_int_equal(req.wants.count, 1);
    fetch_request_clear(&req);
    body.len -= 4;
    bytes_add_str(&body, "0031want " ID1 "0000");
    assert_int_equal(fetch_request_parse(2, body.data, body.len, &req, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    bytes_clear(&body);
}

static void the_longest_line_can_be_written_again(void **state)
{
    char *line = xmalloc(PKT_PAYLOAD_MAX);

    (void)state;
    memset(line, 'r', PKT_PAYLOAD_MAX);
    memcpy(line, "ref-prefix ", 11);
    for (size_t len = PKT_PAYLOAD_MAX - 2; len <= PKT_PAYLOAD_MAX; len++) {
        struct fetch_request req;
        struct bytes body, out;
        struct err err;

        bytes_init(&body, 1 << 20);
        bytes_init(&out, 1 << 20);
        bytes_add_str(&body, "0014command=ls-refs\n0001");
        pkt_add(&body, line, len);
        pkt_add_flush(&body);
        if (fetch_request_parse(2, body.data, body.len, &req, &err) == 0) {
            fetch_request_write(&req, &out);
            fetch_request_clear(&req);
            assert_true(len < PKT_PAYLOAD_MAX);
        } else {
            assert_int_equal(len, PKT_PAYLOAD_MAX);
        }
        bytes_clear(&body);
        bytes_clear(&out);
    }
    free(line);
}

static void equal_questions_have_equal_keys(void **state)
{
    static const struct {
        int version;
        const char *a, *b;
    } rows[] = {
        {2, V2_CLONE,
         "object-format=sha1|agent=git/2.50|session-id=7|command=fetch|,|done|want " ID2
         "|ofs-delta|want " ID1 "|no-progress|want " ID2 "|thin-pack|-"},
        {2, V2 "want " ID1 "|have " ID2 "|have " ID3 "|done|-",
         V2 "have " ID3 "|want " ID1 "|have " ID2 "|have " ID3 "|done|-"},
        {0, V0_CLONE,
         "want " ID2 " agent=x session-id=y ofs-delta thin-pack no-progress side-band-64k "
         "no-done multi_ack_detailed shallow|want " ID1 "|want " ID2 "|-|done"},
        {0, "want " ID1 " side-band side-band-64k|-|done", "want " ID1 " side-band-64k|-|done"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct key a, b;

        key_of_body(rows[i].version, rows[i].a, &a);
        key_of_body(rows[i].version, rows[i].b, &b);
        if (!key_equal(&a, &b))
            fail_msg("row %zu", i);
    }
}

static void all_that_changes_bytes_changes_the_key(void **state)
{
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {2, V2 "want " ID1 "|done|-"},
        {2, V2 "want " ID2 "|done|-"},
        {2, V2 "want " ID1 "|want " ID2 "|done|-"},
        {2, V2 "want " ID1 "|-"},
        {2, V2 "want " ID1 "|have " ID2 "|done|-"},
        {2, V2 "want " ID1 "|shallow " ID2 "|done|-"},
        {2, V2 "want " ID1 "|deepen 1|done|-"},
        {2, V2 "want " ID1 "|deepen 2|done|-"},
        {2, V2 "want " ID1 "|deepen 1|deepen-relative|done|-"},
        {2, V2 "want " ID1 "|deepen-since 1|done|-"},
        {2, V2 "want " ID1 "|deepen-not a|done|-"},
        {2, V2 "want " ID1 "|filter blob:none|done|-"},
        {2, V2 "want " ID1 "|filter tree:0|done|-"},
        {2, V2 "want " ID1 "|thin-pack|done|-"},
        {2, V2 "want " ID1 "|ofs-delta|done|-"},
        {2, V2 "want " ID1 "|include-tag|done|-"},
        {2, V2 "want " ID1 "|wait-for-done|done|-"},
        {2, "command=fetch|,|want " ID1 "|done|-"},
        {2, "command=fetch|object-format=sha256|,|want " ID256 "|done|-"},
        {2, "command=ls-refs|,|-"},
        {2, "command=ls-refs|,|peel|-"},
        {2, "command=ls-refs|,|symrefs|-"},
        {2, "command=ls-refs|,|unborn|-"},
        {2, "command=ls-refs|,|ref-prefix a|-"},
        {0, "want " ID1 "|-|done"},
        {0, "want " ID1 "|-"},
        {0, "want " ID1 " side-band|-|done"},
        {0, "want " ID1 " side-band-64k|-|done"},
        {0, "want " ID1 " multi_ack|-|done"},
        {0, "want " ID1 " multi_ack_detailed|-|done"},
        {0, "want " ID1 " no-done|-|done"},
        {0, "want " ID1 " thin-pack|-|done"},
        {0, "want " ID1 " ofs-delta|-|done"},
        {0, "want " ID1 " include-tag|-|done"},
        {0, "want " ID1 "|deepen 1|-|done"},
        {0, "want " ID1 " deepen-relative|deepen 1|-|done"},
        {0, "want " ID1 " filter|filter blob:none|-|done"},
        {0, "want " ID1 "|shallow " ID2 "|-|done"},
        {0, "want " ID1 "|-|have " ID2 "|done"},
        {0, "want " ID1 "|-|have " ID2 "|-"},
    };
    struct key keys[ARRAY_LEN(rows)];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        key_of_body(rows[i].version, rows[i].body, &keys[i]);
        for (size_t j = 0; j < i; j++) {
            if (key_equal(&keys[i], &keys[j]))
                fail_msg("%s = %s", rows[i].body, rows[j].body);
        }
    }
}

static void the_repository_changes_the_key(void **state)
{
    const struct key one = {{1}}, two = {{2}};
    struct fetch_request req;
    struct key a, b;

    (void)state;
    parse_well(2, V2_CLONE, &req);
    fetch_request_key(&req, &one, &a);
    fetch_request_key(&req, &two, &b);
    assert_false(key_equal(&a, &b));
    fetch_request_clear(&req);
}

/* Replace word in text wherever it stands. */
static char *replaced(const char *text, const char *word, const char *by)
{
    struct bytes out;
    const char *at;

    bytes_init(&out, 10000);
    while ((at = strstr(text, word)) != NULL) {
        bytes_add(&out, text, (size_t)(at - text));
        bytes_add_str(&out, by);
        text = at + strlen(word);
    }
    bytes_add_str(&out, text);
    return bytes_take(&out, NULL);
}

/* The canonical body, put to the real git; its answer must be whole. */
static void real_git_answers(const struct real_git *g, int version, const char *body)
{
    struct fetch_request req;
    struct fetch_response_shape shape;
    struct fetch_response *w;
    struct bytes canonical, answer;
    struct err err = {0};

    parse_well(version, body, &req);
    assert_false(req.unknown);
    bytes_init(&canonical, 1 << 20);
    bytes_init(&answer, REAL_GIT_OUTPUT_MAX);
    fetch_request_write(&req, &canonical);
    if (REAL_GIT(g, version == 2 ? "version=2" : NULL, canonical.data, canonical.len, &answer,
                 "git", "upload-pack", "--stateless-rpc", ".") != 0)
        fail_msg("git refused %s", body);
    fetch_response_shape_of(&req, &shape);
    w = fetch_response_new(&shape, NULL, NULL);
    if (fetch_response_feed(w, answer.data, answer.len, &err) != 0 ||
        (req.done && fetch_response_finish(w, &err) != 0))
        fail_msg("%s: %s", body, err.text);
    if (req.done)
        assert_true(fetch_response_objects(w) > 0);
    fetch_response_free(w);
    fetch_request_clear(&req);
    bytes_clear(&canonical);
    bytes_clear(&answer);
}

#define GIT_V2 "command=fetch|object-format=FORMAT|,|"
#define GIT_V0 "want TIP object-format=FORMAT "

static void canonical_bodies_are_taken_by_the_real_git(void **state)
{
    static const char *const formats[] = {"sha1", "sha256"};
    static const struct {
        int version;
        const char *body;
    } rows[] = {
        {2, GIT_V2 "want TIP|want OLD|done|-"},
        {2, GIT_V2 "thin-pack|ofs-delta|include-tag|want TIP|have OLD|done|-"},
        {2, GIT_V2 "deepen 1|want TIP|done|-"},
        {2, GIT_V2 "shallow OLD|deepen 1|deepen-relative|want TIP|done|-"},
        {2, GIT_V2 "shallow TIP|deepen 2147483647|want TIP|have TIP|done|-"},
        {2, GIT_V2 "deepen-since 1000000010|want TIP|done|-"},
        {2, GIT_V2 "filter blob:none|want TIP|done|-"},
        {2, GIT_V2 "want TIP|have OLD|-"},
        {2, GIT_V2 "wait-for-done|want TIP|have OLD|-"},
        {0, GIT_V0 "|-|done"},
        {0, GIT_V0 "side-band|-|done"},
        {0, GIT_V0 "side-band-64k ofs-delta include-tag|want TIP|-|done"},
        {0, GIT_V0 "side-band-64k multi_ack_detailed no-done thin-pack|-|have OLD|done"},
        {0, GIT_V0 "side-band-64k multi_ack|-|have OLD|done"},
        {0, GIT_V0 "side-band-64k|-|have OLD|done"},
        {0, GIT_V0 "|-|have OLD|done"},
        {0, GIT_V0 "side-band-64k multi_ack_detailed no-done|-|have OLD|-"},
        {0, GIT_V0 "side-band-64k|deepen 1|-|done"},
        {0, GIT_V0 "|deepen 1|-|done"},
        {0, GIT_V0 "side-band-64k|shallow OLD|-|done"},
        {0, GIT_V0 "side-band-64k deepen-relative|shallow OLD|deepen 2|-|done"},
        {0, GIT_V0 "side-band-64k|deepen-since 1000000010|-|done"},
        {0, GIT_V0 "side-band-64k|shallow TIP|deepen 2147483647|-|have TIP|done"},
        {0, GIT_V0 "side-band-64k filter|filter blob:none|-|done"},
        {0, GIT_V0 "side-band-64k|deepen 1|-"},
    };

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct real_git g;
        char tip[65], old[65];

        real_git_init(&g, formats[f]);
        real_git_id(&g, "main", tip);
        real_git_id(&g, "main~3", old);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            char *with_tip = replaced(rows[i].body, "TIP", tip);
            char *with_ids = replaced(with_tip, "OLD", old);
            char *body = replaced(with_ids, "FORMAT", formats[f]);

            real_git_answers(&g, rows[i].version, body);
            free(with_tip);
            free(with_ids);
            free(body);
        }
        real_git_clear(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_v2_clone_is_understood),
        cmocka_unit_test(a_v0_clone_is_understood),
        cmocka_unit_test(everything_that_limits_a_fetch_is_understood),
        cmocka_unit_test(the_request_of_ci_is_understood),
        cmocka_unit_test(a_lone_flush_is_a_probe_in_every_version),
        cmocka_unit_test(ls_refs_is_understood_and_written_canonically),
        cmocka_unit_test(what_is_not_known_is_forwarded_and_kept_from_none),
        cmocka_unit_test(filters_are_known_or_not),
        cmocka_unit_test(answers_that_depend_on_more_than_the_request_are_not_kept),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(long_ids_mean_sha256_in_v0),
        cmocka_unit_test(bytes_that_are_no_pkts_are_refused),
        cmocka_unit_test(too_many_lines_are_over_the_limit),
        cmocka_unit_test(the_longest_line_can_be_written_again),
        cmocka_unit_test(equal_questions_have_equal_keys),
        cmocka_unit_test(all_that_changes_bytes_changes_the_key),
        cmocka_unit_test(the_repository_changes_the_key),
        cmocka_unit_test(canonical_bodies_are_taken_by_the_real_git),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
