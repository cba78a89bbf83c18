#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/inflate.h"
#include "proxy/encoded.h"

/* Passing answers: whoever writes them finds out when nobody reads. */
struct line {
    struct encoded encoded;
    struct answer_reader reader;
    struct bytes got;
};

static void on_wake(void *ctx)
{
    (void)ctx;
}

static void line_init(struct line *l, enum content_encoding encoding)
{
    struct err err;

    encoded_init(&l->encoded, answer_new_passing(), encoding);
    assert_int_equal(answer_reader_open(&l->reader, l->encoded.answer, on_wake, NULL, &err), 0);
    bytes_init(&l->got, 1 << 20);
}

static void line_clear(struct line *l)
{
    answer_reader_close(&l->reader);
    encoded_clear(&l->encoded);
    bytes_clear(&l->got);
}

static void append(struct line *l, size_t len)
{
    char *data = xmalloc(len);
    struct err err;

    memset(data, 'r', len);
    assert_int_equal(encoded_append(&l->encoded, data, len, &err), 0);
    free(data);
}

/* Takes what is there; returns how the answer stands behind it. */
static ssize_t take(struct line *l)
{
    char block[4096];
    ssize_t n;

    while ((n = answer_reader_read(&l->reader, block, sizeof(block))) > 0)
        assert_int_equal(bytes_add(&l->got, block, (size_t)n), 0);
    return n;
}

static size_t plain_len(const struct line *l, bool whole)
{
    struct bytes out;
    struct err err;
    size_t len;

    bytes_init(&out, 1 << 20);
    assert_int_equal(inflate_gzip(l->got.data, l->got.len, &out, &err), whole ? 0 : -1);
    len = out.len;
    bytes_clear(&out);
    return len;
}

static void a_body_that_is_not_worth_it_goes_as_it_is(void **state)
{
    struct line l;

    (void)state;
    line_init(&l, ENCODING_GZIP);
    append(&l, 1);
    assert_int_equal(take(&l), READER_WAIT);
    append(&l, ENCODING_WORTH - 1);
    assert_int_equal(take(&l), READER_WAIT);
    assert_int_equal(l.got.len, 0); /* one byte more, and it would be worth it */
    encoded_end(&l.encoded);
    assert_int_equal(take(&l), READER_END);
    assert_int_equal(l.got.len, ENCODING_WORTH);
    assert_null(encoded_header(&l.encoded));
    line_clear(&l);
}

static void a_longer_body_goes_encoded_before_its_end(void **state)
{
    struct line l;

    (void)state;
    line_init(&l, ENCODING_GZIP);
    append(&l, ENCODING_WORTH);
    append(&l, 1);
    assert_int_equal(take(&l), READER_WAIT);
    assert_string_equal(encoded_header(&l.encoded), "gzip");
    assert_int_equal(plain_len(&l, false), ENCODING_WORTH + 1);
    append(&l, 100000);
    encoded_end(&l.encoded);
    assert_int_equal(take(&l), READER_END);
    assert_int_equal(plain_len(&l, true), ENCODING_WORTH + 1 + 100000);
    line_clear(&l);
}

static void small_pieces_wait_for_each_other_until_nothing_comes(void **state)
{
    struct line l;
    struct err err;

    (void)state;
    line_init(&l, ENCODING_GZIP);
    append(&l, ENCODING_WORTH + 1);
    append(&l, 1000);
    assert_int_equal(take(&l), READER_WAIT);
    assert_int_equal(plain_len(&l, false), ENCODING_WORTH + 1);
    assert_int_equal(encoded_flush(&l.encoded, &err), 0);
    assert_int_equal(take(&l), READER_WAIT);
    assert_int_equal(plain_len(&l, false), ENCODING_WORTH + 1 + 1000);
    append(&l, ENCODED_FLUSH);
    assert_int_equal(take(&l), READER_WAIT);
    assert_int_equal(plain_len(&l, false), ENCODING_WORTH + 1 + 1000 + ENCODED_FLUSH);
    encoded_end(&l.encoded);
    line_clear(&l);
}

static void who_wants_it_plain_gets_each_byte_at_once(void **state)
{
    struct line l;

    (void)state;
    line_init(&l, ENCODING_IDENTITY);
    append(&l, 1);
    assert_int_equal(take(&l), READER_WAIT);
    assert_int_equal(l.got.len, 1);
    append(&l, 100000);
    encoded_end(&l.encoded);
    assert_int_equal(take(&l), READER_END);
    assert_int_equal(l.got.len, 100001);
    assert_null(encoded_header(&l.encoded));
    line_clear(&l);
}

static void a_failure_comes_behind_all_that_was_there(void **state)
{
    static const size_t sizes[] = {0, 100, 10000, 20000};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct err why = {ERR_UPSTREAM, "it broke off"};
        struct line l;

        line_init(&l, ENCODING_GZIP);
        append(&l, sizes[i] / 2);
        append(&l, sizes[i] / 2);
        encoded_fail(&l.encoded, &why);
        assert_int_equal(take(&l), READER_FAILED);
        if (encoded_header(&l.encoded) == NULL)
            assert_int_equal(l.got.len, sizes[i]);
        else /* and it doesn't look whole */
            assert_int_equal(plain_len(&l, false), sizes[i]);
        answer_why(l.encoded.answer, &why);
        assert_int_equal(why.kind, ERR_UPSTREAM);
        line_clear(&l);
    }
}

static void an_answer_that_nobody_reads_fails_and_stays_so(void **state)
{
    struct err err;
    struct line l;

    (void)state;
    line_init(&l, ENCODING_IDENTITY);
    answer_reader_close(&l.reader);
    assert_int_equal(encoded_append(&l.encoded, "x", 1, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_true(l.encoded.deserted);
    assert_int_equal(answer_state(l.encoded.answer), ANSWER_FAILED);
    assert_int_equal(encoded_append(&l.encoded, "x", 1, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    encoded_end(&l.encoded);
    encoded_fail(&l.encoded, &err);
    assert_int_equal(answer_state(l.encoded.answer), ANSWER_FAILED);
    line_clear(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_is_not_worth_it_goes_as_it_is),
        cmocka_unit_test(a_longer_body_goes_encoded_before_its_end),
        cmocka_unit_test(small_pieces_wait_for_each_other_until_nothing_comes),
        cmocka_unit_test(who_wants_it_plain_gets_each_byte_at_once),
        cmocka_unit_test(a_failure_comes_behind_all_that_was_there),
        cmocka_unit_test(an_answer_that_nobody_reads_fails_and_stays_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
