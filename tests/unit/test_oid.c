#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/oid.h"

static const char HEX40[] = "0123456789abcdef0123456789ABCDEF01234567";
static const char HEX64[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static void an_id_has_exactly_its_algorithm_s_digits(void **state)
{
    struct oid oid;

    (void)state;
    assert_true(oid_from_hex(HASH_SHA1, HEX40, 40, &oid));
    assert_false(oid_from_hex(HASH_SHA1, HEX40, 39, &oid));
    assert_false(oid_from_hex(HASH_SHA1, HEX64, 64, &oid));
    assert_true(oid_from_hex(HASH_SHA256, HEX64, 64, &oid));
    assert_false(oid_from_hex(HASH_SHA256, HEX64, 40, &oid));
    assert_false(oid_from_hex(HASH_SHA1, "x123456789abcdef0123456789abcdef01234567", 40, &oid));
}

static void hex_comes_back_in_lower_case(void **state)
{
    struct oid oid;
    char hex[OID_HEX_SIZE];

    (void)state;
    assert_true(oid_from_hex(HASH_SHA1, HEX40, 40, &oid));
    oid_to_hex(HASH_SHA1, &oid, hex);
    assert_string_equal(hex, "0123456789abcdef0123456789abcdef01234567");
    for (size_t i = SHA1_SIZE; i < DIGEST_MAX; i++)
        assert_int_equal(oid.raw[i], 0);
}

static void the_zero_id_is_known(void **state)
{
    struct oid oid = {{0}};

    (void)state;
    assert_true(oid_is_zero(&oid));
    oid.raw[31] = 1;
    assert_false(oid_is_zero(&oid));
}

static void sorting_makes_a_set(void **state)
{
    static const uint8_t order[] = {5, 3, 5, 1, 9, 1, 1, 7, 3};
    static const uint8_t expected[] = {1, 3, 5, 7, 9};
    struct oid_list list = {0}, copy = {0};

    (void)state;
    oid_list_sort(&list);
    assert_int_equal(list.count, 0);
    for (size_t i = 0; i < sizeof(order); i++)
        oid_list_add(&list, &(struct oid){{order[i]}});
    oid_list_sort(&list);
    assert_int_equal(list.count, sizeof(expected));
    for (size_t i = 0; i < sizeof(expected); i++)
        assert_int_equal(list.items[i].raw[0], expected[i]);
    oid_list_copy(&list, &copy);
    assert_true(oid_list_contains(&copy, &(struct oid){{7}}));
    assert_false(oid_list_contains(&copy, &(struct oid){{8}}));
    oid_list_clear(&list);
    oid_list_clear(&copy);
    assert_false(oid_list_contains(&list, &(struct oid){{7}}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_id_has_exactly_its_algorithm_s_digits),
        cmocka_unit_test(hex_comes_back_in_lower_case),
        cmocka_unit_test(the_zero_id_is_known),
        cmocka_unit_test(sorting_makes_a_set),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
