#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/fetch_response.h"
#include "protocol/pkt.h"
#include "real_git.h"

#define ID1 "1111111111111111111111111111111111111111"

static const size_t splits[] = {1, 7, 4096, SIZE_MAX};

static const struct fetch_response_shape V2 = {2, HASH_SHA1, SIDEBAND_64K, false, true};
static const struct fetch_response_shape V2_ROUND = {2, HASH_SHA1, SIDEBAND_64K, false, false};
static const struct fetch_response_shape V0 = {0, HASH_SHA1, SIDEBAND_64K, false, true};
static const struct fetch_response_shape V0_ROUND = {0, HASH_SHA1, SIDEBAND_64K, false, false};
static const struct fetch_response_shape V0_BARE = {0, HASH_SHA1, SIDEBAND_NONE, false, true};
static const struct fetch_response_shape V0_DEPTH = {0, HASH_SHA1, SIDEBAND_64K, true, true};
static const struct fetch_response_shape V0_DEPTH_ROUND = {0, HASH_SHA1, SIDEBAND_64K, true, false};

/* The empty pack, whole. */
static void add_pack(struct bytes *out)
{
    static const char head[] = "PACK\0\0\0\2\0\0\0";
    struct digest *d = digest_new(HASH_SHA1);
    uint8_t sum[DIGEST_MAX];

    digest_update(d, head, 12);
    digest_final(d, sum);
    digest_free(d);
    bytes_add(out, head, 12);
    bytes_add(out, sum, SHA1_SIZE);
}

/* A body from a short notation: pkts' texts separated by '|', where "-" is a flush, "," a
 * delimiter, "pack" and "half" sideband pkts with the empty pack or the start of one, "bare" the
 * pack without any pkt, ">text" progress, "!text" band 3, and "=text" text without any pkt. */
static void body_of(struct bytes *out, const char *notation)
{
    struct bytes pack;

    bytes_init(out, 1 << 20);
    bytes_init(&pack, 100);
    add_pack(&pack);
    while (*notation != '\0') {
        size_t n = strcspn(notation, "|");

        if (n == 1 && *notation == '-')
            pkt_add_flush(out);
        else if (n == 1 && *notation == ',')
            pkt_add_delim(out);
        else if (n == 4 && strncmp(notation, "pack", 4) == 0)
            sideband_add(out, SIDEBAND_64K, BAND_PACK, pack.data, pack.len);
        else if (n == 4 && strncmp(notation, "half", 4) == 0)
            sideband_add(out, SIDEBAND_64K, BAND_PACK, pack.data, 20);
        else if (n == 4 && strncmp(notation, "bare", 4) == 0)
            bytes_add(out, pack.data, pack.len);
        else if (*notation == '>')
            pkt_addf(out, "\2%.*s", (int)n - 1, notation + 1);
        else if (*notation == '!')
            pkt_addf(out, "\3%.*s", (int)n - 1, notation + 1);
        else if (*notation == '=')
            bytes_add(out, notation + 1, n - 1);
        else
            pkt_addf(out, "%.*s\n", (int)n, notation);
        notation += n;
        notation += *notation == '|';
    }
    bytes_clear(&pack);
}

static int gather(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)err;
    return bytes_add(ctx, data, len);
}

/* Feeds body in pieces; the watcher, and in *rc what the first failing feed said. */
static struct fetch_response *feed(const struct fetch_response_shape *shape,
                                   const struct bytes *body, size_t split, struct bytes *pack,
                                   int *rc, struct err *err)
{
    struct fetch_response *w = fetch_response_new(shape, pack != NULL ? gather : NULL, pack);

    *rc = 0;
    for (size_t at = 0; *rc == 0 && at < body->len;) {
        size_t n = body->len - at < split ? body->len - at : split;

        *rc = fetch_response_feed(w, body->data + at, n, err);
        at += n;
    }
    return w;
}

enum verdict { BROKEN, NOT_WHOLE, WHOLE };

static enum verdict verdict(const struct fetch_response_shape *shape, const struct bytes *body,
                            size_t split)
{
    struct err err = {0}, again;
    enum verdict v = WHOLE;
    int rc;
    struct fetch_response *w = feed(shape, body, split, NULL, &rc, &err);

    if (rc != 0) {
        v = BROKEN;
        assert_int_equal(fetch_response_feed(w, "0000", 4, &again), -1);
        assert_string_equal(err.text, again.text);
        assert_int_equal(fetch_response_finish(w, &again), -1);
    } else if (fetch_response_finish(w, &err) != 0) {
        v = NOT_WHOLE;
    }
    if (v != WHOLE)
        assert_int_equal(err.kind, ERR_UPSTREAM);
    else
        assert_int_equal(fetch_response_complete(w), body->len);
    fetch_response_free(w);
    return v;
}

static void responses_are_whole_or_not_in_every_split(void **state)
{
    static const struct {
        const struct fetch_response_shape *shape;
        const char *body;
        enum verdict verdict;
    } rows[] = {
        {&V2, "packfile|>hello|pack|-", WHOLE},
        {&V2, "packfile|>|pack|>bye|-", WHOLE},
        {&V2, "shallow-info|shallow " ID1 "|,|packfile|pack|-", WHOLE},
        {&V2, "wanted-refs|" ID1 " refs/heads/main|,|shallow-info|,|packfile|pack|-", WHOLE},
        {&V2, "packfile-uris|x https://h/|,|packfile|pack|-", WHOLE},
        {&V2_ROUND, "acknowledgments|ACK " ID1 "|ready|,|packfile|pack|-", WHOLE},
        {&V2_ROUND, "acknowledgments|NAK|-", NOT_WHOLE},
        {&V2_ROUND, "acknowledgments|ACK " ID1 "|-", NOT_WHOLE},
        {&V2, "", NOT_WHOLE},
        {&V2, "packfile", NOT_WHOLE},
        {&V2, "packfile|pack", NOT_WHOLE},
        {&V2, "packfile|pack|=00", NOT_WHOLE},
        {&V2, "packfile|half|-", NOT_WHOLE},
        {&V2, "packfile|-", NOT_WHOLE}, /* ends in 0000 and is not whole */
        {&V2, "packfile|pack|!died|-", NOT_WHOLE},
        {&V2, "packfile|half|!died", NOT_WHOLE},
        {&V2, "packfile|half|ERR died", NOT_WHOLE},
        {&V2, "ERR no", NOT_WHOLE},
        {&V2, "ERR no|-", NOT_WHOLE},
        {&V2, "shallow-info|,|ERR no", NOT_WHOLE},
        {&V2, "acknowledgments|NAK|-", BROKEN},
        {&V2, "-", BROKEN},
        {&V2, "nonsense", BROKEN},
        {&V2, "packfile|pack|-|-", BROKEN},
        {&V2, "packfile|pack|-|=x", NOT_WHOLE},
        {&V2, "packfile|pack|-|=xxxx", BROKEN},
        {&V2, "packfile|pack|pack|-", BROKEN},
        {&V2, "packfile|pack|,", BROKEN},
        {&V2, "packfile|=0004", BROKEN},
        {&V2, "packfile|bare", BROKEN},
        {&V2, "shallow-info|-", BROKEN},
        {&V2, "shallow-info|,|shallow-info|,", BROKEN},
        {&V2, "=<html>", BROKEN},
        {&V2_ROUND, "acknowledgments|ACK nothing|-", BROKEN},
        {&V0, "NAK|>hello|pack|-", WHOLE},
        {&V0, "NAK|>|pack|-", WHOLE},
        {&V0, "ACK " ID1 "|pack|-", WHOLE},
        {&V0, "ACK " ID1 " common|ACK " ID1 " ready|NAK|ACK " ID1 "|pack|-", WHOLE},
        {&V0_ROUND, "ACK " ID1 " continue|NAK|ACK " ID1 "|pack|-", WHOLE},
        {&V0_ROUND, "NAK", NOT_WHOLE},
        {&V0_ROUND, "ACK " ID1 " common|NAK", NOT_WHOLE},
        {&V0_DEPTH, "shallow " ID1 "|unshallow " ID1 "|-|NAK|pack|-", WHOLE},
        {&V0_DEPTH, "-|NAK|pack|-", WHOLE},
        {&V0_DEPTH, "NAK|pack|-", WHOLE}, /* shallow lines, but no deepen */
        {&V0_DEPTH_ROUND, "shallow " ID1 "|-", NOT_WHOLE},
        {&V0_DEPTH, "shallow " ID1 "|-|ERR no", NOT_WHOLE},
        {&V0_DEPTH, "shallow " ID1 "|NAK|pack|-", BROKEN},
        {&V0_BARE, "NAK|bare", WHOLE},
        {&V0_BARE, "ACK " ID1 "|bare", WHOLE},
        {&V0_BARE, "NAK|=PACK", NOT_WHOLE},
        {&V0_BARE, "NAK|=PA", NOT_WHOLE},
        {&V0_BARE, "NAK|bare|=0000", BROKEN},
        {&V0_BARE, "bare", BROKEN},
        {&V0_BARE, "NAK|pack|-", BROKEN},
        {&V0, "NAK|bare", BROKEN},
        {&V0, "pack|-", BROKEN},
        {&V0, "NAK|-", BROKEN},
        {&V0, "-|NAK|pack|-", BROKEN},
        {&V0, "NAK|pack|NAK|-", BROKEN},
        {&V0, "ACK " ID1 " perhaps|pack|-", BROKEN},
        {&V0, "ERR upload-pack: not our ref", NOT_WHOLE},
        {&V0, "NAK|pack", NOT_WHOLE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes body;

        body_of(&body, rows[i].body);
        for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
            enum verdict v = verdict(rows[i].shape, &body, splits[s]);

            if (v != rows[i].verdict)
                fail_msg("row %zu '%s' in %zu: %d", i, rows[i].body, splits[s], v);
        }
        bytes_clear(&body);
    }
}

static void errors_of_upstream_keep_their_words(void **state)
{
    static const struct {
        const struct fetch_response_shape *shape;
        const char *body, *error;
        bool refused;
    } rows[] = {
        {&V2, "ERR upload-pack: not our ref", "upload-pack: not our ref", true},
        {&V0, "ERR slow down\tplease", "slow down please", true},
        {&V2, "shallow-info|,|ERR no", "no", false},
        {&V2, "packfile|!out of memory", "out of memory", false},
        {&V2, "ERR ", "", true},
        {&V2, "packfile|pack|-", NULL, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes body;

        body_of(&body, rows[i].body);
        for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
            struct err err;
            int rc;
            struct fetch_response *w = feed(rows[i].shape, &body, splits[s], NULL, &rc, &err);

            assert_int_equal(rc, 0);
            assert_int_equal(fetch_response_refused(w), rows[i].refused);
            if (rows[i].error != NULL) {
                assert_string_equal(fetch_response_error(w), rows[i].error);
                assert_int_equal(fetch_response_finish(w, &err), -1);
                assert_non_null(strstr(err.text, rows[i].error));
            } else {
                assert_null(fetch_response_error(w));
            }
            fetch_response_free(w);
        }
        bytes_clear(&body);
    }
}

static void only_whole_pkts_count_as_complete(void **state)
{
    struct fetch_response *w = fetch_response_new(&V2, NULL, NULL);
    struct err err;

    (void)state;
    assert_int_equal(fetch_response_feed(w, "000d", 4, &err), 0);
    assert_int_equal(fetch_response_complete(w), 0);
    assert_false(fetch_response_sideband_open(w));
    assert_int_equal(fetch_response_note_offset(w), -1);
    assert_int_equal(fetch_response_feed(w, "packfile\n000a", 13, &err), 0);
    assert_int_equal(fetch_response_complete(w), 13);
    assert_true(fetch_response_sideband_open(w));
    assert_int_equal(fetch_response_note_offset(w), 13);
    assert_int_equal(fetch_response_feed(w, "\2hell", 5, &err), 0);
    assert_int_equal(fetch_response_complete(w), 13);
    assert_int_equal(fetch_response_feed(w, "o00", 3, &err), 0);
    assert_int_equal(fetch_response_complete(w), 23);
    assert_int_equal(fetch_response_feed(w, "00", 2, &err), 0);
    assert_int_equal(fetch_response_complete(w), 27);
    assert_false(fetch_response_sideband_open(w));
    fetch_response_free(w);
}

static void the_place_for_a_note_is_before_the_first_sideband_pkt(void **state)
{
    static const struct {
        const struct fetch_response_shape *shape;
        const char *before, *behind;
    } rows[] = {
        {&V2, "shallow-info|shallow " ID1 "|,|packfile", "|pack|-"},
        {&V0, "NAK", "|>hello|pack|-"},
        {&V0_DEPTH, "shallow " ID1 "|-|NAK", "|pack|-"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *whole = xasprintf("%s%s", rows[i].before, rows[i].behind);
        struct bytes before, body;

        body_of(&before, rows[i].before);
        body_of(&body, whole);
        for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
            struct err err;
            int rc;
            struct fetch_response *w = feed(rows[i].shape, &body, splits[s], NULL, &rc, &err);

            assert_int_equal(fetch_response_note_offset(w), before.len);
            fetch_response_free(w);
        }
        bytes_clear(&before);
        bytes_clear(&body);
        free(whole);
    }
}

static void pack_bytes_are_handed_on_before_their_pkt_is_whole(void **state)
{
    struct fetch_response *w;
    struct bytes pack;
    struct err err;

    (void)state;
    bytes_init(&pack, 1000);
    w = fetch_response_new(&V2, gather, &pack);
    assert_int_equal(fetch_response_feed(w, "000dpackfile\n1000\1PACK", 22, &err), 0);
    assert_string_equal(pack.data, "PACK");
    assert_int_equal(fetch_response_complete(w), 13);
    fetch_response_free(w);
    bytes_clear(&pack);
}

static int no_disk(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)ctx;
    (void)data;
    (void)len;
    return err_set(err, ERR_STORAGE, "disk full");
}

static void an_error_of_the_receiver_keeps_its_kind(void **state)
{
    struct fetch_response *w = fetch_response_new(&V2, no_disk, NULL);
    struct err err;

    (void)state;
    assert_int_equal(fetch_response_feed(w, "000dpackfile\n0009\1PACK", 22, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    assert_int_equal(fetch_response_finish(w, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    fetch_response_free(w);
}

/* A clone of the whole repository, as version says. */
static void real_clone(const struct real_git *g, int version, const char *format, const char *tip,
                       const char *capabilities)
{
    struct fetch_response_shape shape;
    struct fetch_request req;
    struct bytes body, answer, pack, again;
    struct err err = {0};

    bytes_init(&body, 10000);
    bytes_init(&answer, REAL_GIT_OUTPUT_MAX);
    bytes_init(&pack, REAL_GIT_OUTPUT_MAX);
    if (version == 2) {
        pkt_addf(&body, "command=fetch");
        pkt_addf(&body, "object-format=%s", format);
        pkt_add_delim(&body);
        pkt_addf(&body, "want %s", tip);
        pkt_addf(&body, "done");
        pkt_add_flush(&body);
    } else {
        pkt_addf(&body, "want %s object-format=%s %s\n", tip, format, capabilities);
        pkt_add_flush(&body);
        pkt_addf(&body, "done\n");
    }
    assert_int_equal(fetch_request_parse(version, body.data, body.len, &req, &err), 0);
    fetch_response_shape_of(&req, &shape);
    assert_int_equal(REAL_GIT(g, version == 2 ? "version=2" : NULL, body.data, body.len, &answer,
                              "git", "upload-pack", "--stateless-rpc", "."),
                     0);
    for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
        struct fetch_response *w;
        int rc;

        bytes_reset(&pack);
        w = feed(&shape, &answer, splits[s], &pack, &rc, &err);
        if (rc != 0 || fetch_response_finish(w, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(fetch_response_objects(w), 4 * REAL_GIT_COMMITS);
        assert_int_equal(fetch_response_complete(w), answer.len);
        fetch_response_free(w);
    }
    bytes_init(&again, 10000);
    assert_int_equal(REAL_GIT(g, NULL, pack.data, pack.len, &again, "git", "index-pack", "--stdin",
                              "--fix-thin"),
                     0);
    for (answer.len -= 1; answer.len > 0; answer.len -= answer.len < 997 ? answer.len : 997)
        assert_int_equal(verdict(&shape, &answer, SIZE_MAX), NOT_WHOLE);
    fetch_request_clear(&req);
    bytes_clear(&again);
    bytes_clear(&body);
    bytes_clear(&answer);
    bytes_clear(&pack);
}

static void responses_of_the_real_git_are_whole_until_cut(void **state)
{
    static const char *const formats[] = {"sha1", "sha256"};

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct real_git g;
        char tip[65];

        real_git_init(&g, formats[f]);
        real_git_id(&g, "main", tip);
        real_clone(&g, 2, formats[f], tip, NULL);
        real_clone(&g, 0, formats[f], tip, "side-band-64k ofs-delta multi_ack_detailed");
        real_clone(&g, 0, formats[f], tip, "side-band");
        real_clone(&g, 0, formats[f], tip, "");
        real_git_clear(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responses_are_whole_or_not_in_every_split),
        cmocka_unit_test(errors_of_upstream_keep_their_words),
        cmocka_unit_test(only_whole_pkts_count_as_complete),
        cmocka_unit_test(the_place_for_a_note_is_before_the_first_sideband_pkt),
        cmocka_unit_test(pack_bytes_are_handed_on_before_their_pkt_is_whole),
        cmocka_unit_test(an_error_of_the_receiver_keeps_its_kind),
        cmocka_unit_test(responses_of_the_real_git_are_whole_until_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
