#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/checksum.h"
#include "protocol/digest.h"

static void sum_of(struct checksum *c, const char *text, size_t step,
                   char hex[2 * CHECKSUM_SIZE + 1])
{
    uint8_t raw[CHECKSUM_SIZE];

    for (size_t at = 0, len = strlen(text); at < len; at += step)
        checksum_update(c, text + at, step < len - at ? step : len - at);
    checksum_take(c, raw);
    hex_encode(raw, sizeof(raw), hex);
}

/* As `xxhsum -H2` prints them. */
static void sums_are_those_of_xxh128_one_behind_the_other(void **state)
{
    static const struct {
        const char *text, *hex;
    } rows[] = {
        {"", "99aa06d3014798d86001c324468d497f"},
        {"abc", "06b05ab6733a618578af5f94892f3950"},
        {"pannier", "26512e1e77e9532abe05fba1b2151e88"},
    };
    struct checksum *c = checksum_new();

    (void)state;
    for (size_t step = 1; step <= 8; step += 7)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            char hex[2 * CHECKSUM_SIZE + 1];

            sum_of(c, rows[i].text, step, hex);
            assert_string_equal(hex, rows[i].hex);
        }
    checksum_free(c);
}

static void one_bit_makes_another_sum(void **state)
{
    uint8_t data[1000] = {0}, a[CHECKSUM_SIZE], b[CHECKSUM_SIZE];
    struct checksum *c = checksum_new();

    (void)state;
    checksum_update(c, data, sizeof(data));
    checksum_take(c, a);
    for (size_t bit = 0; bit < 8 * sizeof(data); bit += 37) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        checksum_update(c, data, sizeof(data));
        checksum_take(c, b);
        assert_memory_not_equal(a, b, CHECKSUM_SIZE);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    checksum_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_xxh128_one_behind_the_other),
        cmocka_unit_test(one_bit_makes_another_sum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
