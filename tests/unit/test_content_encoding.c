#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <zstd.h>

#include "protocol/base.h"
#include "protocol/content_encoding.h"
#include "protocol/inflate.h"

/* ---- what the client takes ---- */

struct header_row {
    const char *header;
    enum content_encoding chosen;
};

static void check_rows(const struct header_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (content_encoding_choose(rows[i].header) != rows[i].chosen)
            fail_msg("%s: %d", rows[i].header, (int)content_encoding_choose(rows[i].header));
}

static void the_best_that_is_taken_is_chosen(void **state)
{
    static const struct header_row rows[] = {
        {"deflate, gzip, br, zstd", ENCODING_ZSTD}, /* git with Debian's curl */
        {"deflate, gzip", ENCODING_GZIP},
        {"gzip", ENCODING_GZIP},
        {"x-gzip", ENCODING_GZIP},
        {"GZip", ENCODING_GZIP},
        {"zstd", ENCODING_ZSTD},
        {"*", ENCODING_ZSTD},
        {"\tgzip\t,zstd ", ENCODING_ZSTD},
        {"gzip,,", ENCODING_GZIP},
        {"gzip;q=1, zstd;q=0.001", ENCODING_ZSTD}, /* weights don't rank */
        {"gzip ; Q=0.5", ENCODING_GZIP},
        {"gzip;q=1.000", ENCODING_GZIP},
    };

    (void)state;
    check_rows(rows, ARRAY_LEN(rows));
}

static void what_is_refused_or_not_known_is_not_chosen(void **state)
{
    static const struct header_row rows[] = {
        {NULL, ENCODING_IDENTITY},
        {"", ENCODING_IDENTITY},
        {",", ENCODING_IDENTITY},
        {"identity", ENCODING_IDENTITY},
        {"identity;q=0", ENCODING_IDENTITY}, /* better than nothing */
        {"br, deflate", ENCODING_IDENTITY},
        {"gzipped, zst", ENCODING_IDENTITY},
        {"gzip;q=0", ENCODING_IDENTITY},
        {"gzip;q=0.000", ENCODING_IDENTITY},
        {"gzip;q=0.", ENCODING_IDENTITY},
        {"zstd;q=0, gzip", ENCODING_GZIP},
        {"*, zstd;q=0", ENCODING_GZIP},
        {"zstd;q=0, gzip;q=0, *", ENCODING_IDENTITY},
        {"*;q=0", ENCODING_IDENTITY},
        {"*;q=0, gzip", ENCODING_GZIP},
        {"gzip, x-gzip;q=0", ENCODING_IDENTITY}, /* twice, refused once */
        {"gzip;q=0, gzip", ENCODING_IDENTITY},
    };

    (void)state;
    check_rows(rows, ARRAY_LEN(rows));
}

static void what_is_malformed_counts_as_no(void **state)
{
    static const struct header_row rows[] = {
        {"gzip;", ENCODING_IDENTITY},        {"gzip;q", ENCODING_IDENTITY},
        {"gzip;q=", ENCODING_IDENTITY},      {"gzip;q=2", ENCODING_IDENTITY},
        {"gzip;q=1.5", ENCODING_IDENTITY},   {"gzip;q=0.0001", ENCODING_IDENTITY},
        {"gzip;q=-1", ENCODING_IDENTITY},    {"gzip;q=05", ENCODING_IDENTITY},
        {"gzip;q=0.x", ENCODING_IDENTITY},   {"gzip;level=9", ENCODING_IDENTITY},
        {"gzip;q=1;q=0", ENCODING_IDENTITY}, {"gzip zstd", ENCODING_IDENTITY},
        {";q=1", ENCODING_IDENTITY},         {"zstd;q=9, gzip", ENCODING_GZIP},
    };

    (void)state;
    check_rows(rows, ARRAY_LEN(rows));
}

static void names_are_those_of_the_standards(void **state)
{
    (void)state;
    assert_string_equal(content_encoding_name(ENCODING_GZIP), "gzip");
    assert_string_equal(content_encoding_name(ENCODING_ZSTD), "zstd");
    assert_null(content_encoding_name(ENCODING_IDENTITY));
}

/* ---- encoding ---- */

static const enum content_encoding BOTH[] = {ENCODING_GZIP, ENCODING_ZSTD};

static char next_hex(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return "0123456789abcdef"[*seed >> 28];
}

/* Refs, each with an id of its own. */
static void add_refs(struct bytes *out, size_t count)
{
    uint32_t seed = 7;

    for (size_t i = 0; i < count; i++) {
        char oid[41] = "";

        for (size_t c = 0; c < 40; c++)
            oid[c] = next_hex(&seed);
        assert_int_equal(bytes_addf(out, "0045%s refs/heads/branch-%05zu\n", oid, i), 0);
    }
}

static void decode(enum content_encoding encoding, const struct bytes *in, struct bytes *out)
{
    struct err err;

    if (encoding == ENCODING_GZIP) {
        assert_int_equal(inflate_gzip(in->data, in->len, out, &err), 0);
    } else {
        char *block = xmalloc(16 << 20);
        ZSTD_DCtx *z = ZSTD_createDCtx();
        ZSTD_inBuffer from = {in->data, in->len, 0};
        ZSTD_outBuffer to = {block, 16 << 20, 0};

        assert_int_equal(ZSTD_decompressStream(z, &to, &from), 0); /* at its end */
        assert_int_equal(from.pos, in->len);
        assert_int_equal(bytes_add(out, block, to.pos), 0);
        ZSTD_freeDCtx(z);
        free(block);
    }
}

static void encode(enum content_encoding encoding, const struct bytes *in, size_t piece,
                   struct bytes *out)
{
    struct content_encoder *e = content_encoder_new(encoding);

    for (size_t at = 0; at < in->len; at += piece) {
        size_t n = in->len - at < piece ? in->len - at : piece;

        assert_int_equal(content_encoder_add(e, in->data + at, n, out), 0);
        assert_int_equal(content_encoder_flush(e, out), 0);
    }
    assert_int_equal(content_encoder_end(e, out), 0);
    content_encoder_free(&e);
}

static void what_was_encoded_decodes_to_what_it_was(void **state)
{
    static const size_t counts[] = {0, 1, 100, 30000};
    static const size_t pieces[] = {16384, 1000, SIZE_MAX / 4};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(BOTH) * ARRAY_LEN(counts) * ARRAY_LEN(pieces); i++) {
        enum content_encoding encoding = BOTH[i % 2];
        struct bytes plain, encoded, again;

        bytes_init(&plain, SIZE_MAX / 2);
        bytes_init(&encoded, SIZE_MAX / 2);
        bytes_init(&again, SIZE_MAX / 2);
        add_refs(&plain, counts[i / 2 % ARRAY_LEN(counts)]);
        encode(encoding, &plain, pieces[i / 2 / ARRAY_LEN(counts)], &encoded);
        decode(encoding, &encoded, &again);
        assert_int_equal(again.len, plain.len);
        if (plain.len > 0)
            assert_memory_equal(again.data, plain.data, plain.len);
        bytes_clear(&plain);
        bytes_clear(&encoded);
        bytes_clear(&again);
    }
}

/* 20 of a line's 70 bytes can't be had for less. */
static void refs_shrink_nearly_as_far_as_their_ids_allow(void **state)
{
    static const unsigned percent[] = {[ENCODING_GZIP] = 40, [ENCODING_ZSTD] = 36};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(BOTH); i++) {
        struct bytes plain, encoded;

        bytes_init(&plain, SIZE_MAX / 2);
        bytes_init(&encoded, SIZE_MAX / 2);
        add_refs(&plain, 100000);
        encode(BOTH[i], &plain, 32768, &encoded);
        print_message("%s: %.2f times\n", content_encoding_name(BOTH[i]),
                      (double)plain.len / (double)encoded.len);
        assert_true(encoded.len * 100 < plain.len * percent[BOTH[i]]);
        bytes_clear(&plain);
        bytes_clear(&encoded);
    }
}

/* A reader must not wait for bytes that are here already. */
static void what_was_flushed_can_be_read_at_once(void **state)
{
    struct bytes out;
    char text[64];

    (void)state;
    bytes_init(&out, 1 << 20);
    for (size_t i = 0; i < ARRAY_LEN(BOTH); i++) {
        struct content_encoder *e = content_encoder_new(BOTH[i]);
        struct bytes so_far;
        struct err err;

        bytes_reset(&out);
        assert_int_equal(content_encoder_add(e, "0008NAK\n", 8, &out), 0);
        assert_int_equal(content_encoder_flush(e, &out), 0);
        bytes_init(&so_far, 64);
        if (BOTH[i] == ENCODING_GZIP) {
            /* Not whole yet, and says so; what is there is there. */
            assert_int_equal(inflate_gzip(out.data, out.len, &so_far, &err), -1);
            assert_int_equal(err.kind, ERR_INPUT);
        } else {
            ZSTD_DCtx *z = ZSTD_createDCtx();
            ZSTD_inBuffer from = {out.data, out.len, 0};
            ZSTD_outBuffer to = {text, sizeof(text), 0};

            assert_true(ZSTD_decompressStream(z, &to, &from) > 0);
            bytes_add(&so_far, text, to.pos);
            ZSTD_freeDCtx(z);
        }
        assert_int_equal(so_far.len, 8);
        assert_memory_equal(so_far.data, "0008NAK\n", 8);
        bytes_clear(&so_far);
        content_encoder_free(&e);
    }
    bytes_clear(&out);
}

static void a_limit_that_is_reached_is_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(BOTH); i++) {
        struct content_encoder *e = content_encoder_new(BOTH[i]);
        struct bytes plain, out;

        bytes_init(&plain, SIZE_MAX / 2);
        bytes_init(&out, 100);
        add_refs(&plain, 100);
        assert_true(content_encoder_add(e, plain.data, plain.len, &out) != 0 ||
                    content_encoder_flush(e, &out) != 0);
        assert_true(out.len <= 100);
        bytes_clear(&plain);
        bytes_clear(&out);
        content_encoder_free(&e);
        content_encoder_free(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_that_is_taken_is_chosen),
        cmocka_unit_test(what_is_refused_or_not_known_is_not_chosen),
        cmocka_unit_test(what_is_malformed_counts_as_no),
        cmocka_unit_test(names_are_those_of_the_standards),
        cmocka_unit_test(what_was_encoded_decodes_to_what_it_was),
        cmocka_unit_test(refs_shrink_nearly_as_far_as_their_ids_allow),
        cmocka_unit_test(what_was_flushed_can_be_read_at_once),
        cmocka_unit_test(a_limit_that_is_reached_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
