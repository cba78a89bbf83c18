#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/table.h"

static const struct table_column columns[] = {{"NAME", false}, {"SIZE", true}, {"AGE", false}};

static void assert_printed(const struct table *t, const char *expected)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    table_print(t, out);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
    static const char *const rows[][3] = {{"a", "100000", "1 d"}, {"longer", "1", "1000 d"}};
    struct table *t = table_new(columns, ARRAY_LEN(columns));

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        table_add(t, rows[i]);
    assert_printed(t, "NAME      SIZE  AGE\n"
                      "a       100000  1 d\n"
                      "longer       1  1000 d\n");
    table_free(&t);
    assert_null(t);
}

static void letters_are_counted_not_bytes(void **state)
{
    static const char *const rows[][3] = {{"\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc", "1", "x"},
                                          {"uuuuu", "1", "x"}};
    struct table *t = table_new(columns, ARRAY_LEN(columns));

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        table_add(t, rows[i]);
    assert_printed(t, "NAME   SIZE  AGE\n"
                      "\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc     1  x\n"
                      "uuuuu     1  x\n");
    table_free(&t);
}

static void many_rows_fit(void **state)
{
    enum { ROWS = 1000 };
    static const char *const row[] = {"a", "1", "x"};
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    for (int i = 0; i < ROWS; i++)
        table_add(t, row);
    table_print(t, out);
    fclose(out);
    assert_int_equal(len, (ROWS + 1) * strlen("NAME  SIZE  AGE\n") - ROWS * strlen("GE"));
    free(text);
    table_free(&t);
}

static void without_rows_there_is_nothing(void **state)
{
    struct table *t = table_new(columns, ARRAY_LEN(columns));

    (void)state;
    assert_printed(t, "");
    table_free(&t);
}

static void a_name_says_nothing_to_the_terminal(void **state)
{
    static const struct {
        const char *name, *shown;
    } rows[] = {
        {"refs/heads/main", "refs/heads/main"},
        {"a\033[2Jb\r\nc\x7f", "a?[2Jb??c?"},
        {"a\xc2\x9b"
         "2Jb",
         "a?2Jb"},
        {"\xc3\xbc\xc2\xa0\xe2\x82\xac", "\xc3\xbc\xc2\xa0\xe2\x82\xac"},
        {"", ""},
        {"\xc2", "\xc2"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        print_name(rows[i].name, out);
        fclose(out);
        assert_string_equal(text, rows[i].shown);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
        cmocka_unit_test(letters_are_counted_not_bytes),
        cmocka_unit_test(many_rows_fit),
        cmocka_unit_test(without_rows_there_is_nothing),
        cmocka_unit_test(a_name_says_nothing_to_the_terminal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
