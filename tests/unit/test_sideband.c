#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/sideband.h"

static void long_data_is_split_into_pkts_that_the_kind_allows(void **state)
{
    static const struct {
        enum sideband kind;
        size_t pkt_max;
    } rows[] = {{SIDEBAND_SMALL, 1000}, {SIDEBAND_64K, 65520}};
    const size_t len = 200000;
    char *data = xmalloc(len);

    (void)state;
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(i * 7);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes out;
        struct pkt pkt;
        struct err err;
        const char *p, *part;
        size_t left, n, seen = 0;
        enum band band;

        bytes_init(&out, 2 * len);
        assert_int_equal(sideband_add(&out, rows[i].kind, BAND_PACK, data, len), 0);
        p = out.data;
        left = out.len;
        while (pkt_next(&p, &left, &pkt, &err) == 1) {
            assert_true(pkt.len + PKT_HEADER <= rows[i].pkt_max);
            assert_true(sideband_split(&pkt, &band, &part, &n));
            assert_int_equal(band, BAND_PACK);
            assert_memory_equal(part, data + seen, n);
            seen += n;
        }
        assert_int_equal(seen, len);
        assert_int_equal(left, 0);
        bytes_clear(&out);
    }
    free(data);
}

static void the_keepalive_is_an_empty_progress_pkt(void **state)
{
    const char *p = SIDEBAND_KEEPALIVE, *data;
    size_t left = sizeof(SIDEBAND_KEEPALIVE) - 1, len;
    struct pkt pkt;
    struct err err;
    enum band band;

    (void)state;
    assert_int_equal(pkt_next(&p, &left, &pkt, &err), 1);
    assert_int_equal(left, 0);
    assert_true(sideband_split(&pkt, &band, &data, &len));
    assert_int_equal(band, BAND_PROGRESS);
    assert_int_equal(len, 0);
}

static void other_pkts_are_not_on_a_band(void **state)
{
    const struct pkt rows[] = {
        {PKT_FLUSH, NULL, 0}, {PKT_DATA, "", 0},    {PKT_DATA, "\0a", 2},
        {PKT_DATA, "\4", 1},  {PKT_DATA, "NAK", 3}, {PKT_DATA, "\xff", 1},
    };
    const char *data;
    size_t len;
    enum band band;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_false(sideband_split(&rows[i], &band, &data, &len));
}

static void a_full_buffer_is_told(void **state)
{
    struct bytes out;

    (void)state;
    bytes_init(&out, 10);
    assert_int_equal(sideband_add(&out, SIDEBAND_64K, BAND_ERROR, "123456", 6), -1);
    assert_int_equal(out.len, 0);
    assert_int_equal(sideband_add(&out, SIDEBAND_64K, BAND_ERROR, "12345", 5), 0);
    bytes_clear(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_data_is_split_into_pkts_that_the_kind_allows),
        cmocka_unit_test(the_keepalive_is_an_empty_progress_pkt),
        cmocka_unit_test(other_pkts_are_not_on_a_band),
        cmocka_unit_test(a_full_buffer_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
