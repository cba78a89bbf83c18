#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/pkt.h"

static int next(const char *body, struct pkt *pkt)
{
    const char *p = body;
    size_t left = strlen(body);
    struct err err;

    return pkt_next(&p, &left, pkt, &err);
}

static void lengths_are_read_as_git_reads_them(void **state)
{
    static const struct {
        const char *body;
        int rc;
        enum pkt_type type;
        size_t len;
    } rows[] = {
        {"", 0, 0, 0},
        {"000", 0, 0, 0},
        {"0000", 1, PKT_FLUSH, 0},
        {"0001", 1, PKT_DELIM, 0},
        {"0002", 1, PKT_RESPONSE_END, 0},
        {"0003", -1, 0, 0},
        {"0004", 1, PKT_DATA, 0},
        {"0005a", 1, PKT_DATA, 1},
        {"0006a", 0, 0, 0},
        {"000Ahello\n", 1, PKT_DATA, 6},
        {"000ahello\n", 1, PKT_DATA, 6},
        {"fff0", 0, 0, 0}, /* 65520 */
        {"fff1", -1, 0, 0},
        {"ffff", -1, 0, 0},
        {"00 4", -1, 0, 0},
        {"+004", -1, 0, 0},
        {"0x04", -1, 0, 0},
        {"PACK", -1, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pkt pkt = {0};

        assert_int_equal(next(rows[i].body, &pkt), rows[i].rc);
        if (rows[i].rc == 1) {
            assert_int_equal(pkt.type, rows[i].type);
            assert_int_equal(pkt.len, rows[i].len);
        }
    }
}

static void a_line_is_itself_with_and_without_its_newline(void **state)
{
    const struct pkt with = {PKT_DATA, "done\n", 5}, without = {PKT_DATA, "done", 4};
    const struct pkt flush = {PKT_FLUSH, NULL, 0};
    const char *rest;
    size_t len;

    (void)state;
    assert_true(pkt_is(&with, "done"));
    assert_true(pkt_is(&without, "done"));
    assert_false(pkt_is(&with, "don"));
    assert_false(pkt_is(&without, "done!"));
    assert_false(pkt_is(&flush, ""));
    assert_true(pkt_skip_prefix(&with, "do", &rest, &len));
    assert_int_equal(len, 2);
    assert_memory_equal(rest, "ne", 2);
}

/* Notes every pkt as "<type>:<payload>;". */
static int note(void *ctx, const struct pkt *pkt, struct err *err)
{
    (void)err;
    bytes_addf(ctx, "%d:", pkt->type);
    if (pkt->len > 0)
        bytes_add(ctx, pkt->data, pkt->len);
    bytes_add_str(ctx, ";");
    return 0;
}

static void a_reader_sees_the_same_pkts_in_every_split(void **state)
{
    static const char body[] = "0009hello0001000400000008done0002";
    const size_t len = sizeof(body) - 1;

    (void)state;
    for (size_t split = 1; split <= len; split++) {
        struct pkt_reader r;
        struct bytes seen;
        struct err err;

        pkt_reader_init(&r);
        bytes_init(&seen, 1000);
        for (size_t at = 0; at < len; at += split) {
            size_t n = len - at < split ? len - at : split;

            assert_int_equal(pkt_reader_feed(&r, body + at, n, note, &seen, &err), 0);
        }
        assert_string_equal(seen.data, "0:hello;2:;0:;1:;0:done;3:;");
        assert_true(pkt_reader_at_boundary(&r));
        bytes_clear(&seen);
        pkt_reader_clear(&r);
    }
}

static void a_reader_holds_what_is_unfinished(void **state)
{
    struct pkt_reader r;
    struct bytes seen;
    struct err err;

    (void)state;
    pkt_reader_init(&r);
    bytes_init(&seen, 100);
    assert_int_equal(pkt_reader_feed(&r, "0009he", 6, note, &seen, &err), 0);
    assert_false(pkt_reader_at_boundary(&r));
    assert_int_equal(seen.len, 0);
    assert_int_equal(pkt_reader_feed(&r, "", 0, note, &seen, &err), 0);
    assert_int_equal(pkt_reader_feed(&r, "llozzzz", 7, note, &seen, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    bytes_clear(&seen);
    pkt_reader_clear(&r);
}

static int stop(void *ctx, const struct pkt *pkt, struct err *err)
{
    (void)ctx;
    (void)pkt;
    return err_set(err, ERR_CANCELLED, "enough");
}

static void a_callback_s_error_keeps_its_kind(void **state)
{
    struct pkt_reader r;
    struct err err;

    (void)state;
    pkt_reader_init(&r);
    assert_int_equal(pkt_reader_feed(&r, "0000", 4, stop, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    pkt_reader_clear(&r);
}

static void what_is_written_is_read_again(void **state)
{
    struct bytes out;

    (void)state;
    bytes_init(&out, 100);
    assert_int_equal(pkt_addf(&out, "have %s\n", "x"), 0);
    assert_int_equal(pkt_add(&out, "", 0), 0);
    assert_int_equal(pkt_add_delim(&out), 0);
    assert_int_equal(pkt_add_flush(&out), 0);
    assert_string_equal(out.data, "000bhave x\n000400010000");
    bytes_clear(&out);
}

static void a_pkt_that_is_too_long_is_not_written(void **state)
{
    char *big = xcalloc(1, PKT_PAYLOAD_MAX + 1);
    struct bytes out;

    (void)state;
    bytes_init(&out, 2 * PKT_MAX);
    assert_int_equal(pkt_add(&out, big, PKT_PAYLOAD_MAX + 1), -1);
    assert_int_equal(out.len, 0);
    assert_int_equal(pkt_add(&out, big, PKT_PAYLOAD_MAX), 0);
    assert_int_equal(out.len, PKT_MAX);
    assert_int_equal(pkt_add(&out, big, PKT_PAYLOAD_MAX), 0);
    assert_int_equal(pkt_add(&out, big, 0), -1); /* the buffer is full: not even a head */
    assert_int_equal(out.len, 2 * PKT_MAX);
    bytes_clear(&out);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_read_as_git_reads_them),
        cmocka_unit_test(a_line_is_itself_with_and_without_its_newline),
        cmocka_unit_test(a_reader_sees_the_same_pkts_in_every_split),
        cmocka_unit_test(a_reader_holds_what_is_unfinished),
        cmocka_unit_test(a_callback_s_error_keeps_its_kind),
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(a_pkt_that_is_too_long_is_not_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
