/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "proxy/admin/page.h"

enum { ITEMS = 25, LIMIT = 4 };

/* Offers all in an order that is none, and appends what the page has to seen. */
static char *take_page(const char *cursor, bool descending, json_t *seen)
{
    struct page p;
    json_t *list;
    char *next;

    assert_int_equal(page_init(&p, LIMIT, cursor), 0);
    for (unsigned i = 0; i < ITEMS; i++) {
        unsigned n = i * 7 % ITEMS; /* each once */
        char key[24], id[16];

        page_number(n / 2, descending, key); /* two of each */
        snprintf(id, sizeof(id), "id%02u", n);
        page_offer(&p, key, id, json_integer(n));
    }
    list = page_end(&p, &next);
    assert_true(json_array_size(list) <= LIMIT);
    json_array_extend(seen, list);
    json_decref(list);
    return next;
}

static void walk(bool descending)
{
    json_t *seen = json_array();
    char *cursor = NULL;
    unsigned pages = 0;

    do {
        char *next = take_page(cursor, descending, seen);

        free(cursor);
        cursor = next;
        assert_true(++pages <= ITEMS);
    } while (cursor != NULL);
    assert_int_equal(json_array_size(seen), ITEMS);
    for (size_t i = 1; i < ITEMS; i++) {
        json_int_t a = json_integer_value(json_array_get(seen, i - 1)) / 2;
        json_int_t b = json_integer_value(json_array_get(seen, i)) / 2;

        assert_true(descending ? a >= b : a <= b);
    }
    json_decref(seen);
}

static void pages_have_everything_once_in_order(void **state)
{
    (void)state;
    walk(false);
    walk(true);
}

static void a_list_that_fits_has_no_next_page(void **state)
{
    struct page p;
    json_t *list;
    char *next;

    (void)state;
    assert_int_equal(page_init(&p, 2, NULL), 0);
    page_offer(&p, "b", "2", json_true());
    page_offer(&p, "a", "1", json_false());
    list = page_end(&p, &next);
    assert_null(next);
    assert_true(json_is_false(json_array_get(list, 0)));
    json_decref(list);
}

static void what_has_no_number_comes_last_in_either_order(void **state)
{
    (void)state;
    for (int descending = 0; descending <= 1; descending++) {
        char low[24], high[24];
        struct page p;
        json_t *list;
        char *next;

        page_number(0, descending, low);
        page_number(UINT64_MAX, descending, high);
        assert_int_equal(page_init(&p, 3, NULL), 0);
        page_offer(&p, low, "1", json_integer(1));
        page_offer(&p, PAGE_LAST, "0", json_null());
        page_offer(&p, high, "2", json_integer(2));
        list = page_end(&p, &next);
        assert_true(json_is_null(json_array_get(list, 2)));
        assert_int_equal(json_integer_value(json_array_get(list, 0)), descending ? 2 : 1);
        json_decref(list);
    }
}

/* Between two pages others come, go and change their places. */
static void what_keeps_its_place_comes_once_whatever_the_others_do(void **state)
{
    struct page p;
    json_t *list;
    char *next;

    (void)state;
    assert_int_equal(page_init(&p, 2, NULL), 0);
    for (int i = 1; i <= 4; i++) {
        char key[24];

        page_number((uint64_t)i * 10, false, key);
        page_offer(&p, key, "id", json_integer(i));
    }
    list = page_end(&p, &next);
    assert_non_null(next);
    json_decref(list);
    assert_int_equal(page_init(&p, 2, next), 0);
    free(next);
    for (int i = 3; i <= 4; i++) { /* 1 has gone, 2 went behind them, 0 is new */
        char key[24];

        page_number((uint64_t)i * 10, false, key);
        page_offer(&p, key, "id", json_integer(i));
    }
    page_offer(&p, "00000000000000000050", "id", json_integer(2));
    page_offer(&p, "00000000000000000005", "id", json_integer(0));
    list = page_end(&p, &next);
    assert_int_equal(json_integer_value(json_array_get(list, 0)), 3);
    assert_int_equal(json_integer_value(json_array_get(list, 1)), 4);
    free(next);
    json_decref(list);
    assert_int_equal(page_init(&p, 2, NULL), 0);
    page_offer(&p, "a", "1", json_true());
    page_drop(&p);
}

static void what_is_no_cursor_is_refused(void **state)
{
    static const char *const rows[] = {"", "a", "zz", "00", "6100", "61zz"};
    char *longer = xmalloc(2001);
    struct page p;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(page_init(&p, LIMIT, rows[i]), -1);
    memset(longer, '6', 2000);
    longer[2000] = '\0';
    assert_int_equal(page_init(&p, LIMIT, longer), -1);
    free(longer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_have_everything_once_in_order),
        cmocka_unit_test(a_list_that_fits_has_no_next_page),
        cmocka_unit_test(what_has_no_number_comes_last_in_either_order),
        cmocka_unit_test(what_keeps_its_place_comes_once_whatever_the_others_do),
        cmocka_unit_test(what_is_no_cursor_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
